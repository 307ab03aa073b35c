"""``nightshift launch``: starts the Flex Template on Dataflow with the flags of ``run``, and with ``--wait`` waits for its end."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import time
from collections.abc import Sequence
from typing import Any

from pipeline.dataflow import buckets, template
from pipeline.flags.arguments import Arguments, read_arguments, read_options
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

# Beam's flags that are members of a launch's environment; all others are sent as pipeline options.
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
MAX_DIGITS = 9  # the service's numbers have 32 bits
NUMBERS = ("numWorkers", "maxWorkers", "diskSizeGb")
# The role to ask for, by the permission whose lack a refusal names (docs/operations.md, "The project's parts").
ADVICE = {
    "iam.serviceAccounts.actAs": "the account that launches needs roles/iam.serviceAccountUser on that of --service_account_email",
    "dataflow.jobs.create": "the account that launches needs roles/dataflow.developer on the project",
    "cloudscheduler.jobs": "the account that schedules needs roles/cloudscheduler.admin on the project",
}
SET_BY_TEMPLATE = ("runner", "template_location", "setup_file", "requirements_file", "save_main_session")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TargetOptions:
    """The values of the flags ``TARGET``: which template is launched where."""

    template: str
    project: str
    region: str
    job_name: str
    dry_run: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaunchOptions(TargetOptions):
    """The values of the command's own flags."""

    wait: bool


@dataclasses.dataclass(frozen=True)
class Launch:
    """A request to Dataflow: ``body`` is a ``LaunchFlexTemplateRequest`` as JSON, without project and region."""

    project: str
    region: str
    body: dict[str, Any]


def read(own: TargetOptions, job: Arguments) -> Launch:
    """Make the request from the command's ``own`` options and the job's arguments, checking all that needs no service.

    Raises:
      UsageError, SpecError: a flag is wrong; the message names it.
    """
    if not own.template.startswith("gs://"):
        raise UsageError(f"--template={own.template}: expected a gs:// path, since Dataflow reads it")
    if not JOB_NAME.fullmatch(own.job_name):
        raise UsageError(f"--job_name={own.job_name}: expected a lower-case letter, then letters, digits and '-', 63 at most")
    options = make_options(job)
    parameters = dict(options.given)
    refusal = template.refuse({"metadata": template.metadata()}, parameters)
    if refusal:
        raise UsageError(refusal)
    parameter = {"jobName": own.job_name, "containerSpecGcsPath": own.template, "parameters": parameters}
    environment = _environment(options)
    if environment:
        parameter["environment"] = environment
    return Launch(own.project, own.region, {"launchParameter": parameter})


def _environment(options: RunOptions) -> dict[str, Any]:
    """Return the ``environment`` of a launch for the job's Beam flags."""
    members: dict[str, Any] = {}
    for argument in options.beam:
        name, _, text = argument.removeprefix("--").partition("=")
        if name in SET_BY_TEMPLATE:
            raise UsageError(f"--{name} is set by the template: leave it out")
        if name in ENVIRONMENT:
            members[ENVIRONMENT[name]] = _number(name, text) if ENVIRONMENT[name] in NUMBERS else text
        elif name == "flexrs_goal" and text in ("COST_OPTIMIZED", "SPEED_OPTIMIZED"):
            members["flexrsGoal"] = f"FLEXRS_{text}"
        elif name == "no_use_public_ips":
            members["ipConfiguration"] = "WORKER_IP_PRIVATE"
        else:
            members.setdefault("additionalPipelineOptions", []).append(argument.removeprefix("--"))
    return members


def _number(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > MAX_DIGITS:
        raise UsageError(f"--{name}={text}: expected a whole number")
    return int(text)


def launch(arguments: Sequence[str]) -> int:
    """Launch the job; return 0 when it is launched, or with ``--wait=true`` when it has succeeded."""
    if {"--help", "-h"} & set(arguments):
        return 0 if say(command_help(USAGE, FLAGS, ENDING)) else 1
    mine, job = read_arguments(arguments, (*FLAGS, *RUN_FLAGS), "launch", with_beams=True).split(FLAGS)
    own = read_options(LaunchOptions, FLAGS, mine.given, REQUIRED)
    request = read(own, job)
    if own.dry_run:
        content = {"projectId": request.project, "location": request.region, **request.body}
        return 0 if say(json.dumps(content, indent=2, ensure_ascii=False)) else 1
    buckets.check(request.project, request.body["launchParameter"])
    job_id = submit(request)
    say(f"launched {own.job_name}: https://console.cloud.google.com/dataflow/jobs/{request.region}/{job_id}?project={request.project}")
    return wait(request, job_id) if own.wait else 0


def submit(launch: Launch) -> str:
    """Send the request; return the job's id.

    Raises:
      UsageError: Dataflow refuses it; the message is Dataflow's.
    """
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError
    from google.cloud import dataflow_v1beta3 as dataflow

    request = dataflow.LaunchFlexTemplateRequest.from_json(json.dumps(launch.body), ignore_unknown_fields=False)
    request.project_id, request.location = launch.project, launch.region
    try:
        return dataflow.FlexTemplatesServiceClient(transport="rest").launch_flex_template(request).job.id
    except (GoogleAPICallError, GoogleAuthError) as error:
        raise UsageError(f"Dataflow refused the launch: {service_message(error)}") from error


def service_message(error: Any) -> str:
    """Return the service's message in a client's error, without the request, and what to do where a role or credentials are missing."""
    from google.auth.exceptions import GoogleAuthError

    if isinstance(error, GoogleAuthError):
        return f"{error}; run 'gcloud auth application-default login'"
    try:
        message = str(error.response.json()["error"]["message"])
    except (AttributeError, KeyError, TypeError, ValueError):  # an answer that is not the service's
        message = str(error.message)
    return message + next((f"; {advice}" for permission, advice in ADVICE.items() if permission in message), "")


def wait(launch: Launch, job_id: str) -> int:
    """Log state and counters until the job's end; return 0 when it has succeeded, else 1."""
    from google.cloud import dataflow_v1beta3 as dataflow

    jobs, metrics = dataflow.JobsV1Beta3Client(transport="rest"), dataflow.MetricsV1Beta3Client(transport="rest")
    place = {"project_id": launch.project, "location": launch.region, "job_id": job_id}
    last_text = ""
    while True:
        state = jobs.get_job(dataflow.GetJobRequest(**place)).current_state.name.removeprefix("JOB_STATE_")
        text = ", ".join([state.lower(), *_counters(metrics.get_job_metrics(dataflow.GetJobMetricsRequest(**place)))])
        if text != last_text:
            LOG.info("%s", text)
            last_text = text
        if state in ("DONE", "FAILED", "CANCELLED", "UPDATED", "DRAINED"):
            return 0 if state == "DONE" else 1
        time.sleep(POLL_SECONDS)


def _counters(job_metrics: Any) -> list[str]:
    """Return the job's own committed counters of rows, as texts."""
    names = ("instances_read", "predictions_written")
    return [
        f"{metric.scalar:,.0f} {metric.name.name.replace('_', ' ')}"
        for metric in job_metrics.metrics
        if (metric.name.name in names or metric.name.name.startswith("rows_failed_")) and "tentative" not in metric.name.context
    ]
