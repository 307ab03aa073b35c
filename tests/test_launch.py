"""``nightshift launch`` and ``nightshift schedule``: Google's clients against stand-ins that check what they are sent."""

from __future__ import annotations

import base64
import json
import logging
from typing import Any

import launcher
import pytest
from gcp_fixtures import CloudStorage

from pipeline import launch, template
from pipeline.main import main

TARGET = ("--template=gs://bucket/nightshift.json", "--project=test-project", "--region=europe-west1")
JOB = ("--model=gs://b/model", "--input=gs://b/in/{date:%Y/%m/%d}/*", "--output=gs://b/out", "--time_zone=Europe/Berlin", "--key_field=id")
ENGINE = ("--machine_type=n2-standard-4", "--max_num_workers=20", "--flexrs_goal=COST_OPTIMIZED", "--no_use_public_ips")
OTHERS = ("--number_of_worker_harness_threads=2",)
SCHEDULE = ("--schedule=0 3 * * *", "--scheduler_account=scheduler@test-project.iam.gserviceaccount.com")
PARAMETERS = {flag.split("=")[0][2:]: flag.split("=", 1)[1] for flag in JOB}


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
    assert (parameter["jobName"], parameter["containerSpecGcsPath"]) == ("as-they-are", "gs://bucket/nightshift.json")
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
        ("launch", (*TARGET, *JOB, "--runner=DataflowRunner"), "--runner is the template's own matter"),
        ("launch", (*TARGET, *JOB, "--errors=gs://b/{date:%Q}"), "{date:%Q} holds %Q"),
        ("schedule", (*TARGET, *JOB, *SCHEDULE[1:], "--schedule=daily"), "--schedule=daily: expected five fields"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_sent(
    command: str, flags: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, *flags]) == 2
    assert words in capsys.readouterr().err
