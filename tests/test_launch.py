"""``nightshift launch`` and ``nightshift schedule``: Google's clients against stand-ins that check what they are sent."""

from __future__ import annotations

import base64
import json
import logging
from typing import Any

import launcher
import pytest
from gcp_fixtures import CloudStorage

from pipeline.dataflow import launch, template
from pipeline.main import main

TARGET = ("--template=gs://templates-here/nightshift.json", "--project=test-project", "--region=europe-west1")
JOB = (
    "--model=gs://data-here/model", "--input=gs://data-here/in/{date:%Y/%m/%d}/*", "--output=gs://data-here/out",
    "--time_zone=Europe/Berlin", "--key_field=id",
)  # fmt: skip
ENGINE = ("--machine_type=n2-standard-4", "--max_num_workers=20", "--flexrs_goal=COST_OPTIMIZED", "--no_use_public_ips")
OTHERS = ("--number_of_worker_harness_threads=2",)
SCHEDULE = ("--schedule=0 3 * * *", "--scheduler_account=scheduler@test-project.iam.gserviceaccount.com")
PARAMETERS = {flag.split("=")[0][2:]: flag.split("=", 1)[1] for flag in JOB}


IMAGE = "europe-west1-docker.pkg.dev/test-project/nightshift/nightshift:1"


@pytest.fixture(autouse=True, scope="module")
def places(gcs: CloudStorage) -> None:
    """The buckets and the template that the launches name."""
    for bucket in ("templates-here", "data-here"):
        gcs.client.create_bucket(bucket)
    gcs.write("gs://templates-here/nightshift.json", json.dumps(template.container_spec(IMAGE)).encode())


def sent(gcs: CloudStorage, path: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in gcs.stand_ins.service_requests()]
    return [line for line in lines if path in line["path"]]


def test_launch_sends_the_flags_as_they_are(gcs: CloudStorage, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["launch", *TARGET, "--job_name=as-they-are", *JOB, *ENGINE, *OTHERS]) == 0
    asked = sent(gcs, ":launch")[-1]
    assert asked["path"].split("?")[0] == "/v1b3/projects/test-project/locations/europe-west1/flexTemplates:launch"
    parameter = json.loads(asked["body"])["launchParameter"]
    assert parameter["parameters"] == PARAMETERS  # {date} too: it is each run's own
    launcher.check(template.metadata(), parameter["parameters"])
    assert (parameter["jobName"], parameter["containerSpecGcsPath"]) == ("as-they-are", "gs://templates-here/nightshift.json")
    environment = parameter["environment"]
    assert (environment["machineType"], environment["maxWorkers"]) == ("n2-standard-4", 20)
    assert environment["additionalPipelineOptions"] == ["number_of_worker_harness_threads=2"]
    assert "https://console.cloud.google.com/dataflow/jobs/europe-west1/2026-11-26_00_00_00-" in capsys.readouterr().out
    assert main(["launch", *TARGET, "--job_name=as-they-are", *JOB]) == 2  # the first is active still
    assert "Dataflow refused the launch: There is already an active job named as-they-are" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "status", "ended"), [("waited-for", 0, "done"), ("waited-for-fails", 1, "failed")])
def test_wait_shows_progress_and_gives_the_jobs_end(
    gcs: CloudStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, status: int, ended: str
) -> None:
    monkeypatch.setattr(launch, "POLL_SECONDS", 0.01)
    with caplog.at_level(logging.INFO, "nightshift"):
        assert main(["launch", *TARGET, f"--job_name={name}", "--wait=true", *JOB]) == status
    counters = "569 instances read, 566 predictions written, 3 rows failed key"
    assert caplog.messages == ["pending", f"running, {counters}", f"{ended}, {counters}"]


def test_schedule_is_made_then_changed(gcs: CloudStorage, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["schedule", *TARGET, "--job_name=nightly", *SCHEDULE, *JOB, *ENGINE]
    assert main(command) == 0
    assert main([*command, "--max_error_ratio=0.5"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "created nightly: 0 3 * * *, Europe/Berlin",
        "changed nightly: 0 3 * * *, Europe/Berlin",
    ]
    requests = sent(gcs, "/v1/projects/test-project/locations/europe-west1/jobs")
    assert [request["method"] for request in requests] == ["POST", "POST", "PATCH"]
    job = json.loads(requests[-1]["body"])
    assert (job["schedule"], job["timeZone"]) == ("0 3 * * *", "Europe/Berlin")
    target = job["httpTarget"]
    assert target["uri"] == "https://dataflow.googleapis.com/v1b3/projects/test-project/locations/europe-west1/flexTemplates:launch"
    assert target["oauthToken"]["serviceAccountEmail"] == "scheduler@test-project.iam.gserviceaccount.com"
    assert "oidcToken" not in target
    body = json.loads(base64.b64decode(target["body"]))
    assert body["launchParameter"]["parameters"] == PARAMETERS | {"max_error_ratio": "0.5"}
    assert body["launchParameter"]["jobName"] == "nightly"
    assert body["launchParameter"]["environment"]["flexrsGoal"] == "FLEXRS_COST_OPTIMIZED"


def test_dry_runs_print_the_request_and_send_nothing(gcs: CloudStorage, capsys: pytest.CaptureFixture[str]) -> None:
    from google.cloud import dataflow_v1beta3 as dataflow

    before = gcs.stand_ins.service_requests()
    assert main(["launch", *TARGET, "--dry_run=true", *JOB, *ENGINE]) == 0
    read = dataflow.LaunchFlexTemplateRequest.from_json(capsys.readouterr().out, ignore_unknown_fields=False)
    assert (read.project_id, read.launch_parameter.environment.max_workers) == ("test-project", 20)
    assert read.launch_parameter.environment.ip_configuration.name == "WORKER_IP_PRIVATE"
    assert main(["schedule", *TARGET, "--dry_run=true", *SCHEDULE, *JOB]) == 0
    assert json.loads(capsys.readouterr().out)["body"]["launchParameter"]["parameters"] == PARAMETERS
    assert gcs.stand_ins.service_requests() == before


@pytest.mark.parametrize(
    ("command", "flags", "words"),
    [
        ("launch", (*TARGET, *JOB[1:]), "--model is missing"),
        ("launch", (*TARGET[1:], *JOB), "--template is missing"),
        ("launch", ("--template=spec.json", *TARGET[1:], *JOB), "--template=spec.json: expected a gs:// path"),
        ("launch", (*TARGET, "--job_name=Night", *JOB), "--job_name=Night: expected a lower-case letter"),
        ("launch", (*TARGET, "--model=/models/m", *JOB[1:]), "--model=/models/m: the template expects a match of"),
        ("launch", (*TARGET, *JOB, "--output_formt=csv"), "unknown flag --output_formt; did you mean --output_format?"),
        ("launch", (*TARGET, *JOB, "--max_num_workers=many"), "--max_num_workers=many: expected a whole number"),
        ("launch", (*TARGET, *JOB, "--runner=DataflowRunner"), "--runner is set by the template"),
        ("launch", (*TARGET, *JOB, "--errors=gs://data-here/{date:%Q}"), "{date:%Q} holds %Q"),
        ("schedule", (*TARGET, *JOB, *SCHEDULE[1:], "--schedule=daily"), "--schedule=daily: expected five fields"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_sent(
    command: str, flags: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, *flags]) == 2
    assert words in capsys.readouterr().err


def old_template() -> dict[str, Any]:
    """A template of a version that had no --compare_model."""
    spec = template.container_spec(IMAGE)
    spec["metadata"]["parameters"] = [one for one in spec["metadata"]["parameters"] if one["name"] != "compare_model"]
    return spec


@pytest.mark.parametrize("command", ["launch", "schedule"])
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ("--template=gs://templates-here/absent.json",),
            "gs://templates-here/absent.json: there is no such object; 'make template",
        ),
        (("--template=gs://no-such-bucket/t.json",), "--template=gs://no-such-bucket/t.json: there is no such object"),
        (("--template=gs://templates-here/broken.json",), "is no container spec: expected JSON with an image"),
        (("--template=gs://templates-here/old.json", "--compare_model=gs://data-here/m"), "--compare_model is not known to the template"),
        (("--errors=gs://no-such-errors/x",), "--errors: there is no bucket gs://no-such-errors; make it, or correct the name"),
        (("--input=gs://data-here/a/*,gs://no-such-input/*",), "--input: there is no bucket gs://no-such-input"),
        (("--temp_location=gs://no-such-temp/x",), "--temp_location: there is no bucket gs://no-such-temp"),
    ],
)
def test_what_is_not_there_is_named_and_nothing_is_sent(
    gcs: CloudStorage, capsys: pytest.CaptureFixture[str], command: str, flags: tuple[str, ...], words: str
) -> None:
    gcs.write("gs://templates-here/broken.json", b"[]")
    gcs.write("gs://templates-here/old.json", json.dumps(old_template()).encode())
    given = {flag.split("=")[0]: flag for flag in (*TARGET, *JOB, *(SCHEDULE if command == "schedule" else ()), *flags)}
    before = gcs.stand_ins.service_requests()
    assert main([command, "--job_name=not-sent", *given.values()]) == 2
    assert words in capsys.readouterr().err
    assert gcs.stand_ins.service_requests() == before


def test_a_missing_role_is_named(gcs: CloudStorage, capsys: pytest.CaptureFixture[str]) -> None:
    account = "--service_account_email=nobody@test-project.iam.gserviceaccount.com"
    assert main(["launch", *TARGET, "--job_name=no-role", *JOB, account]) == 2
    said = capsys.readouterr().err
    assert "cannot act as service account nobody@test-project.iam.gserviceaccount.com" in said
    assert "the account that launches needs roles/iam.serviceAccountUser on that of --service_account_email" in said


def test_what_may_not_be_looked_at_from_here_is_said_and_launched(
    gcs: CloudStorage, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with gcs.stand_ins.faults("403", share=1.0), caplog.at_level(logging.WARNING, "nightshift"):
        assert main(["launch", *TARGET, "--job_name=seen-by-others", *JOB]) == 0
    assert "the account that launches needs roles/storage.objectViewer" in caplog.messages[0]
    assert any("the workers' account needs roles/storage.objectUser" in message for message in caplog.messages)
