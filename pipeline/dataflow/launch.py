"""``nightshift launch``: starts the Flex Template on Dataflow with the flags of ``run``, and waits for it if asked."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import time
from collections.abc import Sequence
from typing import Any

from pipeline.dataflow import buckets, template
from pipeline.flags.arguments import Arguments, read_arguments, read_values
from pipeline.flags.flag import Flag, UsageError, boolean
from pipeline.flags.help import command_help
from pipeline.flags.options import RunOptions
from pipeline.flags.parse import make_options
from pipeline.flags.table import FLAGS as RUN_FLAGS
from pipeline.process.terminal import say

LOG = logging.getLogger("nightshift")
POLL_SECONDS = 10.0

TARGET = (
    Flag("template", "Launch", "the container spec that 'make template' wrote", "a gs:// path", default_help="required"),
    Flag("project", "Launch", "the Google Cloud project", "a project's id", default_help="required"),
    Flag("region", "Launch", "where the job runs", "a region, such as europe-west1", default_help="required"),
    Flag(
        "job_name", "Launch", "the job's name; while a job of that name is active, Dataflow refuses another",
        "a lower-case letter, then letters, digits and '-'", default="nightshift",
    ),
    Flag("dry_run", "Launch", "print the request and send nothing", "true or false", boolean, False),
)  # fmt: skip
FLAGS = (*TARGET, Flag("wait", "Launch", "wait for the job's end and show its progress", "true or false", boolean, False))
REQUIRED = ("template", "project", "region")
USAGE = "launch --template=gs://… --project=P --region=R --model=DIR --input=FILES --output=DIR [--flag=value …]"
ENDING = "The job's own flags are those of nightshift run; Beam's (--machine_type, --max_num_workers, --flexrs_goal, …) are passed on."
JOB_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")

# Beam's flags that the service takes as a job's environment; all others go along as pipeline options.
ENVIRONMENT = {
    "num_workers": "numWorkers",
    "max_num_workers": "maxWorkers",
    "disk_size_gb": "diskSizeGb",
    "machine_type": "machineType",
    "worker_machine_type": "machineType",
    "service_account_email": "serviceAccountEmail",
    "temp_location": "tempLocation",
    "staging_location": "stagingLocation",
    "network": "network",
    "subnetwork": "subnetwork",
    "dataflow_kms_key": "kmsKeyName",
    "worker_region": "workerRegion",
    "worker_zone": "workerZone",
    "sdk_container_image": "sdkContainerImage",
}
MAX_DIGITS = 9  # the service's are of 32 bits
NUMBERS = ("numWorkers", "maxWorkers", "diskSizeGb")
# What a refusal for lack of a role asks for, by the permission that it names (docs/operations.md, "The project's parts").
ADVICE = {
    "iam.serviceAccounts.actAs": "whoever launches needs roles/iam.serviceAccountUser on the account of --service_account_email",
    "dataflow.jobs.create": "whoever launches needs roles/dataflow.developer on the project",
    "cloudscheduler.jobs": "whoever schedules needs roles/cloudscheduler.admin on the project",
}
THE_LAUNCHERS = ("runner", "template_location", "setup_file", "requirements_file", "save_main_session")


@dataclasses.dataclass(frozen=True)
class Launch:
    """What is asked of Dataflow: ``body`` is a ``LaunchFlexTemplateRequest`` in JSON, without project and region."""

    project: str
    region: str
    body: dict[str, Any]


def read(own: dict[str, Any], job: Arguments) -> Launch:
    """Makes the request of the command's ``own`` flags and the job's, having checked all that needs no service.

    Raises:
      UsageError, SpecError: naming what is wrong.
    """
    if not own["template"].startswith("gs://"):
        raise UsageError(f"--template={own['template']}: expected a gs:// path, since Dataflow reads it")
    if not JOB_NAME.fullmatch(own["job_name"]):
        raise UsageError(f"--job_name={own['job_name']}: expected a lower-case letter, then letters, digits and '-', 63 at most")
    options = make_options(job)
    parameters = dict(options.given)
    refusal = template.refuse({"metadata": template.metadata()}, parameters)
    if refusal:
        raise UsageError(refusal)
    parameter = {"jobName": own["job_name"], "containerSpecGcsPath": own["template"], "parameters": parameters}
    environment = _environment(options)
    if environment:
        parameter["environment"] = environment
    return Launch(own["project"], own["region"], {"launchParameter": parameter})


def _environment(options: RunOptions) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for argument in options.beam:
        name, _, text = argument.removeprefix("--").partition("=")
        if name in THE_LAUNCHERS:
            raise UsageError(f"--{name} is the template's own matter: leave it out")
        if name in ENVIRONMENT:
            found[ENVIRONMENT[name]] = _number(name, text) if ENVIRONMENT[name] in NUMBERS else text
        elif name == "flexrs_goal" and text in ("COST_OPTIMIZED", "SPEED_OPTIMIZED"):
            found["flexrsGoal"] = f"FLEXRS_{text}"
        elif name == "no_use_public_ips":
            found["ipConfiguration"] = "WORKER_IP_PRIVATE"
        else:
            found.setdefault("additionalPipelineOptions", []).append(argument.removeprefix("--"))
    return found


def _number(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > MAX_DIGITS:
        raise UsageError(f"--{name}={text}: expected a whole number")
    return int(text)


def launch(arguments: Sequence[str]) -> int:
    """Launches the job; gives 0 when it is launched, or with ``--wait=true`` when it is done."""
    if {"--help", "-h"} & set(arguments):
        return 0 if say(command_help(USAGE, FLAGS, ENDING)) else 1
    mine, job = read_arguments(arguments, (*FLAGS, *RUN_FLAGS), "launch", with_beams=True).split(FLAGS)
    own = read_values(FLAGS, mine.given, REQUIRED)
    asked = read(own, job)
    if own["dry_run"]:
        return (
            0 if say(json.dumps({"projectId": asked.project, "location": asked.region, **asked.body}, indent=2, ensure_ascii=False)) else 1
        )
    buckets.check(asked.project, asked.body["launchParameter"])
    job_id = submit(asked)
    say(f"launched {own['job_name']}: https://console.cloud.google.com/dataflow/jobs/{asked.region}/{job_id}?project={asked.project}")
    return wait(asked, job_id) if own["wait"] else 0


def submit(asked: Launch) -> str:
    """Sends the request; gives the job's id.

    Raises:
      UsageError: Dataflow refuses it; the message is Dataflow's.
    """
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError
    from google.cloud import dataflow_v1beta3 as dataflow

    request = dataflow.LaunchFlexTemplateRequest.from_json(json.dumps(asked.body), ignore_unknown_fields=False)
    request.project_id, request.location = asked.project, asked.region
    try:
        return dataflow.FlexTemplatesServiceClient(transport="rest").launch_flex_template(request).job.id
    except (GoogleAPICallError, GoogleAuthError) as error:
        raise UsageError(f"Dataflow refused the launch: {what_was_said(error)}") from error


def what_was_said(error: Any) -> str:
    """The service's own words in a client's error, without the request; what to do where there are no credentials."""
    from google.auth.exceptions import GoogleAuthError

    if isinstance(error, GoogleAuthError):
        return f"{error}; run 'gcloud auth application-default login'"
    try:
        said = str(error.response.json()["error"]["message"])
    except (AttributeError, KeyError, TypeError, ValueError):  # an answer that is not the service's
        said = str(error.message)
    return said + next((f"; {advice}" for words, advice in ADVICE.items() if words in said), "")


def wait(asked: Launch, job_id: str) -> int:
    """Shows state and counters until the job's end; gives 0 when it is done, else 1."""
    from google.cloud import dataflow_v1beta3 as dataflow

    jobs, metrics = dataflow.JobsV1Beta3Client(transport="rest"), dataflow.MetricsV1Beta3Client(transport="rest")
    where = {"project_id": asked.project, "location": asked.region, "job_id": job_id}
    shown = ""
    while True:
        state = jobs.get_job(dataflow.GetJobRequest(**where)).current_state.name.removeprefix("JOB_STATE_")
        text = ", ".join([state.lower(), *_counters(metrics.get_job_metrics(dataflow.GetJobMetricsRequest(**where)))])
        if text != shown:
            LOG.info("%s", text)
            shown = text
        if state in ("DONE", "FAILED", "CANCELLED", "UPDATED", "DRAINED"):
            return 0 if state == "DONE" else 1
        time.sleep(POLL_SECONDS)


def _counters(found: Any) -> list[str]:
    """What a person wants of a job's metrics: our own counters of rows, committed."""
    wanted = ("instances_read", "predictions_written")
    return [
        f"{metric.scalar:,.0f} {metric.name.name.replace('_', ' ')}"
        for metric in found.metrics
        if (metric.name.name in wanted or metric.name.name.startswith("rows_failed_")) and "tentative" not in metric.name.context
    ]
