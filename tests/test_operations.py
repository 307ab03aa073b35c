"""docs/operations.md runs as written, as far as it goes without Google; the files it names are what their services take."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from gcp_fixtures import CloudStorage

from pipeline.dataflow import template as templates
from pipeline.main import main
from pipeline.serve import service

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
VARIABLES = {"PROJECT": "test-project", "REGION": "europe-west1", "IMAGE": "europe-west1-docker.pkg.dev/p/nightshift/nightshift:1"}
# Terraform's registry can't be reached from a machine without a network; this package of npm holds the provider's schema, generated.
PROVIDER = "@cdktf/provider-google@16.12.1"


def commands(program: str, page: str = PAGE) -> list[list[str]]:
    """The page's command lines that call ``program``, with the variables filled in."""
    text = "\n".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL)).replace("\\\n", " ")
    for name, value in VARIABLES.items():
        text = text.replace(f"${name}", value)
    found = [line.strip().removesuffix("&") for line in text.splitlines() if line.startswith(program)]
    assert found, f"the page has no command of {program}"
    return [shlex.split(line) for line in found]


def without_proxies() -> dict[str, str]:
    """This process's variables without those that lead to the stand-ins."""
    led = ("_proxy", "_ca_bundle", "_certs", "ssl_cert_file")
    return {name: value for name, value in os.environ.items() if not name.lower().endswith(led)} | {"CHECKPOINT_DISABLE": "1"}


@pytest.mark.parametrize("command", ["launch", "schedule"])
def test_launch_and_schedule_as_written(gcs: CloudStorage, capsys: pytest.CaptureFixture[str], command: str) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for _, *arguments in [*commands(f".venv/bin/nightshift {command}"), *commands(f".venv/bin/nightshift {command}", readme)]:
        assert main([*(one for one in arguments if "dry_run" not in one), "--dry_run=true"]) == 0
        assert json.loads(capsys.readouterr().out)


def test_gcloud_launches_as_written(gcs: CloudStorage, tmp_path: Path) -> None:
    """The real gcloud, against a server that checks the body by the service's proto."""
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        pytest.skip("gcloud is not installed")
    (tmp_path / "token").write_text("none")
    (command,) = commands("gcloud dataflow")
    environment = without_proxies() | {
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_DATAFLOW": f"http://127.0.0.1:{gcs.stand_ins.port('services')}/",
        "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": str(tmp_path / "token"),
        "CLOUDSDK_CONFIG": str(tmp_path / "config"),
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
    }
    ended = subprocess.run([gcloud, *command[1:]], env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    asked = [json.loads(line) for line in gcs.stand_ins.service_requests() if ":launch" in line][-1]
    parameter = json.loads(asked["body"])["launchParameter"]
    assert parameter["jobName"] == "nightshift-first"
    assert parameter["parameters"]["input"] == "gs://test-project-nightshift/in/first.jsonl"
    assert parameter["environment"]["serviceAccountEmail"] == "nightshift-worker@test-project.iam.gserviceaccount.com"
    assert templates.refuse({"metadata": templates.metadata()}, parameter["parameters"]) is None


def test_the_makes_verbs_and_files_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for _, verb, *_ in commands("make "):
        assert f"\n{verb}:" in makefile
    for name in re.findall(r"(?<![\w/])templates/[\w/.-]+", PAGE):
        assert (ROOT / name.rstrip(".")).exists(), name


def test_the_service_knows_what_the_page_asks_of_it() -> None:
    (command,) = commands(".venv/bin/nightshift serve")
    given = {argument.split("=")[0].removeprefix("--") for argument in command[2:]}
    assert given <= {flag.name for flag in service.FLAGS}
    assert {"model", "input", "output"} <= set(service.PARAMETERS)


def test_every_role_of_terraform_is_explained_and_none_else() -> None:
    granted = set(re.findall(r'"(roles/[\w.]+)"', (ROOT / "templates/terraform/accounts.tf").read_text()))
    explained = set(re.findall(r"`(roles/[\w.]+)`", PAGE))
    assert granted <= explained
    assert explained - granted == {"roles/bigquery.dataEditor"}, "the one that the page says Terraform does not grant"


# --- files for Kubernetes, Cloud Run, Workflows ----------------------------------------------------------------------------


def run_flags(container: dict[str, Any]) -> list[str]:
    assert container["command"][-1] == "nightshift"
    return list(container["args"])


def test_places_without_dataflow_run_the_image_as_a_user_of_its_own() -> None:
    """Kubernetes has a field for it, Cloud Run has none: there the command gives root's rights up, as ``setpriv`` does here."""

    job = yaml.safe_load((ROOT / "templates/kubernetes/cronjob.yaml").read_text())
    context = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["securityContext"]
    assert context["runAsNonRoot"]
    user = context["runAsUser"]
    assert f"--uid {user} " in (ROOT / "templates/Dockerfile").read_text()
    for name in ("job", "service"):
        spec = yaml.safe_load((ROOT / f"templates/cloudrun/{name}.yaml").read_text())["spec"]["template"]["spec"]
        (container,) = spec.get("template", {"spec": spec})["spec"]["containers"]
        *drop, program = container["command"]
        assert (drop[:3], program) == (["setpriv", f"--reuid={user}", f"--regid={user}"], "nightshift")
        assert {"name": "HOME", "value": "/tmp"} in container["env"], "root's is closed to others"
        if os.geteuid() == 0 and shutil.which("setpriv"):
            status = subprocess.run([*drop, "cat", "/proc/self/status"], capture_output=True, text=True, check=True).stdout
            assert re.search(rf"^Uid:\s+{user}\s+{user}\s", status, re.MULTILINE)
            assert re.search(r"^Groups:\s*$", status, re.MULTILINE)
            assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
            assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)


def test_kubernetes_takes_the_cron_job(capsys: pytest.CaptureFixture[str]) -> None:
    import kubernetes_validate

    job = yaml.safe_load((ROOT / "templates/kubernetes/cronjob.yaml").read_text())
    kubernetes_validate.validate(job, "1.29", strict=True)
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert main([*run_flags(container), "--nothing=1"]) == 2
    assert "unknown flag --nothing" in capsys.readouterr().err, "the last one is the first that is not known"
    assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
    assert container["securityContext"]["readOnlyRootFilesystem"]


@pytest.mark.parametrize("name", ["job", "service"])
def test_cloud_runs_flags_are_ours(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    spec = yaml.safe_load((ROOT / f"templates/cloudrun/{name}.yaml").read_text())["spec"]["template"]["spec"]
    (container,) = (spec["template"]["spec"] if name == "job" else spec)["containers"]
    flags = run_flags(container)
    assert main([*flags, "--nothing=1"]) == 2
    assert ("unknown flag --nothing" if name == "job" else "--nothing") in capsys.readouterr().err


def test_the_workflow_launches_what_the_template_knows() -> None:
    """Its expressions run on Google's machines only; here its request is held against the service's proto and the template's flags."""
    from google.cloud.dataflow_v1beta3.types import LaunchFlexTemplateRequest

    workflow = yaml.safe_load((ROOT / "templates/events/workflow.yaml").read_text())
    steps = {name: step for each in workflow["main"]["steps"] for name, step in each.items()}
    body = steps["launch"]["try"]["args"]["body"]
    parameters = next(one["parameters"] for one in steps["name"]["assign"] if "parameters" in one)
    filled = dict.fromkeys(parameters, "gs://bucket/x") | {"run_id": "event-1", "key_field": "id"}
    body["launchParameter"]["parameters"] = filled
    LaunchFlexTemplateRequest.from_json(json.dumps(body), ignore_unknown_fields=False)
    assert templates.refuse({"metadata": templates.metadata()}, filled) is None
    conditions = json.dumps(steps["launch"]["except"])
    assert "409" in conditions


# --- Terraform -------------------------------------------------------------------------------------------------------------


def blocks() -> list[tuple[str, str, dict[str, Any]]]:
    """Terraform's resources and data sources: kind, type, body."""
    import hcl2

    found = []
    for path in sorted((ROOT / "templates/terraform").glob("*.tf")):
        with path.open() as file:
            content = hcl2.load(file)
        for kind in ("resource", "data"):
            for each in content.get(kind, ()):
                for type_, named in each.items():
                    found += [(kind, type_.strip('"'), body) for body in named.values() if isinstance(body, dict)]
    return found


def test_terraform_files_are_formatted_and_whole() -> None:
    assert {type_ for _, type_, _ in blocks()} >= {
        "google_cloud_scheduler_job",
        "google_eventarc_trigger",
        "google_monitoring_alert_policy",
    }
    terraform = shutil.which("terraform")
    if terraform is None:
        pytest.skip("terraform is not installed: the format of its files is not looked at")
    command = [terraform, "fmt", "-check", "-diff", "templates/terraform"]
    ended = subprocess.run(command, cwd=ROOT, env=without_proxies(), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout


def test_the_schedules_request_is_the_launchs() -> None:
    from google.cloud.dataflow_v1beta3.types import LaunchFlexTemplateRequest

    text = (ROOT / "templates/terraform/schedule.tf").read_text()
    names = set(re.findall(r"^ {8,12}(\w+) += ", text[text.index("launchParameter") :], re.MULTILINE))
    assert names >= {"jobName", "containerSpecGcsPath", "parameters", "machineType", "maxWorkers", "serviceAccountEmail", "tempLocation"}
    known = {"jobName", "containerSpecGcsPath", "parameters", "environment"}
    environment = {name: 1 if name == "maxWorkers" else "x" for name in names - known - {"service_account_email", "scope"}}
    environment["flexrsGoal"] = "FLEXRS_COST_OPTIMIZED"
    LaunchFlexTemplateRequest.from_json(json.dumps({"launchParameter": {"environment": environment}}), ignore_unknown_fields=False)


META = {"__comments__", "__inline_comments__", "count", "for_each", "depends_on", "provider", "lifecycle", "__is_block__"}


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not os.environ.get("NIGHTSHIFT_TERRAFORM"):
        pytest.skip("asked for by 'make terraform-test': it fetches the provider's schema from npm")
    folder = tmp_path_factory.mktemp("provider")
    ended = subprocess.run(
        ["npm", "pack", "--silent", PROVIDER], cwd=folder, env=without_proxies(), capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package" / "lib"


def interfaces(path: Path) -> dict[str, dict[str, tuple[bool, str]]]:
    """The provider's blocks by name: attribute → whether it must be there, and its type."""
    text = path.read_text()
    found = {}
    for name, body in re.findall(r"export interface (\w+)[^{]*\{(.*?)\n\}", text, re.DOTALL):
        found[name] = {one: (not optional, kind) for one, optional, kind in re.findall(r"readonly (\w+)(\??): ([^;]+);", body)}
    return found


def check_block(body: dict[str, Any], name: str, known: dict[str, dict[str, tuple[bool, str]]], where: str) -> None:
    attributes = known[name]
    given = {re.sub(r"_(\w)", lambda m: m[1].upper(), key.strip('"')): value for key, value in body.items() if key not in META}
    assert set(given) <= set(attributes), f"{where}: {set(given) - set(attributes)} is unknown"
    assert {one for one, (needed, _) in attributes.items() if needed} <= set(given), f"{where} lacks something"
    for one, value in given.items():
        nested = re.search(rf"\b({name[:10]}\w+)", attributes[one][1])
        for block in value if isinstance(value, list) else [value]:
            if isinstance(block, dict) and "__is_block__" in block and nested and nested[1] in known:
                check_block(block, nested[1], known, f"{where}.{one}")


def test_the_provider_knows_every_attribute(provider: Path) -> None:
    checked = 0
    for kind, type_, body in blocks():
        parts = type_.removeprefix("google_").split("_")
        folder = "-".join((["data", "google"] if kind == "data" else []) + parts)
        name = ("DataGoogle" if kind == "data" else "") + "".join(part.capitalize() for part in parts) + "Config"
        known = interfaces(provider / folder / "index.d.ts")
        check_block(body, name, known, type_)
        checked += 1
    assert checked >= 15
