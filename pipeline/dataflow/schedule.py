"""``nightshift schedule``: creates or changes the Cloud Scheduler job that launches the template every night."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from pipeline.dataflow import buckets
from pipeline.dataflow import launch as launching
from pipeline.flags.arguments import read_arguments, read_options
from pipeline.flags.flag import Flag, UsageError
from pipeline.flags.help import command_help
from pipeline.flags.table import FLAGS as RUN_FLAGS
from pipeline.process.terminal import say

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
FLAGS = (
    *launching.TARGET,
    Flag(
        "schedule", "Schedule", "when, in cron's five fields, by the clock of --time_zone", "such as '0 3 * * *'", default_help="required"
    ),
    Flag("scheduler_account", "Schedule", "the service account that launches", "an account's e-mail address", default_help="required"),
)
REQUIRED = (*launching.REQUIRED, "schedule", "scheduler_account")
USAGE = "schedule --schedule='0 3 * * *' --scheduler_account=EMAIL --template=gs://… --project=P --region=R --model=DIR … [--flag=value …]"
ENDING = "The job's flags are those of nightshift run; {date} in them is the day of each night's run."


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleOptions(launching.TargetOptions):
    """The values of the command's own flags."""

    schedule: str
    scheduler_account: str


def schedule(arguments: Sequence[str]) -> int:
    """Create or change the scheduler's job, which has the name of the Dataflow job; return 0 on success."""
    if {"--help", "-h"} & set(arguments):
        return 0 if say(command_help(USAGE, FLAGS, ENDING)) else 1
    mine, job = read_arguments(arguments, (*FLAGS, *RUN_FLAGS), "schedule", with_beams=True).split(FLAGS)
    own = read_options(ScheduleOptions, FLAGS, mine.given, REQUIRED)
    if len(own.schedule.split()) != 5:
        raise UsageError(f"--schedule={own.schedule}: expected five fields: minute, hour, day of the month, month, day of the week")
    launch = launching.read(own, job)
    zone = launch.body["launchParameter"]["parameters"].get("time_zone", "UTC")
    if own.dry_run:
        return 0 if say(json.dumps(scheduler_job(own, launch, zone) | {"body": launch.body}, indent=2, ensure_ascii=False)) else 1
    buckets.check(launch.project, launch.body["launchParameter"])
    say(f"{put(scheduler_job(own, launch, zone), launch)} {own.job_name}: {own.schedule}, {zone}")
    return 0


def scheduler_job(own: ScheduleOptions, launch: launching.Launch, zone: str) -> dict[str, Any]:
    """Return the scheduler's job as JSON, without the body of its request.

    Every night has the same job name, so that Dataflow refuses a second job while one is active. Google's own services take an
    ``oauthToken`` and no ``oidcToken``.
    """
    return {
        "name": f"projects/{launch.project}/locations/{launch.region}/jobs/{own.job_name}",
        "schedule": own.schedule,
        "timeZone": zone,
        "attemptDeadline": "180s",
        "retryConfig": {"retryCount": 3, "minBackoffDuration": "30s"},
        "httpTarget": {
            "uri": f"https://dataflow.googleapis.com/v1b3/projects/{launch.project}/locations/{launch.region}/flexTemplates:launch",
            "httpMethod": "POST",
            "headers": {"Content-Type": "application/json"},
            "oauthToken": {"serviceAccountEmail": own.scheduler_account, "scope": SCOPE},
        },
    }


def put(description: dict[str, Any], launch: launching.Launch) -> str:
    """Create the scheduler's job, or change the job of its name; return "created" or "changed".

    Raises:
      UsageError: Cloud Scheduler refuses it; the message is Cloud Scheduler's.
    """
    from google.api_core.exceptions import Conflict, GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError
    from google.cloud import scheduler_v1

    job = scheduler_v1.Job.from_json(json.dumps(description), ignore_unknown_fields=False)
    job.http_target.body = json.dumps(launch.body).encode()
    try:
        client = scheduler_v1.CloudSchedulerClient(transport="rest")
        try:
            client.create_job(parent=description["name"].rsplit("/jobs/", 1)[0], job=job)
            return "created"
        except Conflict:
            client.update_job(job=job)
            return "changed"
    except (GoogleAPICallError, GoogleAuthError) as error:
        raise UsageError(f"Cloud Scheduler refused the job: {launching.service_message(error)}") from error
