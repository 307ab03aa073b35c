"""manifest.json: what ran, on what, how many of each, every shard."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

import msgspec

from transforms.accounts.accounts import Accounts, count_codes
from transforms.accounts.differences import describe
from transforms.elements.shards import Shard
from transforms.rows.codes import Code
from transforms.specs.job import JobSpec
from transforms.specs.own_names import MANIFEST
from transforms.specs.run import Plan, RunSpec
from transforms.staging import split_records
from transforms.statistics.effort import STEPS, Effort
from transforms.statistics.guard import EFFORT, guarded, warn
from transforms.storage import files, paths


def encode(report: dict[str, Any]) -> bytes:
    """Gives a manifest as a person reads it too."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def read(path: str) -> dict[str, Any] | None:
    """Gives the manifest at ``path``, or None where there is none that can be read."""
    if not files.exists(path):
        return None
    try:
        content = msgspec.json.decode(files.read_bytes(path))
    except msgspec.DecodeError:
        return None
    return content if isinstance(content, dict) else None


def find_done(folder: str, run_id: str, flags: dict[str, str]) -> dict[str, Any] | None:
    """Gives the manifest in ``folder`` if an earlier launch of the run has done there what ``flags`` ask for."""
    report = read(paths.join(folder, MANIFEST))
    if report is None or (report["status"], report["run_id"]) != ("done", run_id):
        return None
    return report if split_records.decisive(report["flags"]) == split_records.decisive(flags) else None


def make(
    job: JobSpec,
    accounts: Accounts,
    reason: str | None,
    results: dict[str, Shard],
    errors: dict[str, Shard],
    before: dict[str, Any] | None,
) -> dict[str, Any]:
    """Gives the manifest of a run whose gate opened (``reason`` None) or stayed shut."""
    finished = datetime.datetime.now(datetime.UTC)
    started = datetime.datetime.fromisoformat(job.started)
    signature = job.model.signature
    report = {
        "status": "done" if reason is None else "failed",
        "reason": reason,
        "run_id": job.run_id,
        "launch": job.launch,
        "task": job.task,
        "started": job.started,
        "finished": finished.isoformat(timespec="seconds"),
        "seconds": round((finished - started).total_seconds(), 1),
        "counts": accounts.counted(),
        "errors": count_codes([shard for shard in accounts.shards if shard.kind == "errors"]),
        "input": {
            "patterns": list(job.input.patterns),
            **({"query": job.input.query} if job.input.query is not None else {}),
            "files": sum(count.files for count in accounts.counts),
            "bytes": sum(count.bytes for count in accounts.counts),
            "damaged": sorted({file.path for file in accounts.incomplete(Code.FILE_DAMAGED)}),
            "changed": sorted({file.path for file in accounts.incomplete(Code.FILE_CHANGED)}),
        },
        **_resumed(accounts),
        "keys": {
            "fields": list(job.key.fields),
            "duplicated": accounts.duplicated,
            "listed": [dataclasses.asdict(place) for place in accounts.places],
        },
        "model": {
            "location": job.model.location,
            "version": job.model.version,
            "fingerprint": job.model.fingerprint,
            "signature": signature.name,
            "tags": list(signature.tags),
            "inputs": [str(spec) for spec in signature.inputs],
            "outputs": [str(spec) for spec in signature.outputs],
        },
        **_told(job, accounts),
        "results": list_shards(results),
        "failed_rows": list_shards(errors),
        "flags": dict(job.flags),
    }
    return report | (_kept(before) if reason is not None else {})


def _kept(before: dict[str, Any] | None) -> dict[str, Any]:
    """Give which results stay as they were, by the manifest before: the next run that publishes takes them away by these names."""
    if before is None or not result_names(before):
        return {}
    return {"kept_results": {"run_id": before.get("kept_results", before).get("run_id"), "names": sorted(result_names(before))}}


def _told(job: JobSpec, accounts: Accounts) -> dict[str, Any]:
    """Gives what the run took and how it compares, and as ``warnings`` what of its statistics could not be made."""
    failures = dict(accounts.failures)
    told: dict[str, Any] = {}
    if accounts.statistics is not None:
        with guarded(EFFORT, failures):
            told["effort"] = effort(accounts.statistics.effort)
    told |= describe(job, accounts, failures)
    warn(told, failures)
    return told


def _resumed(accounts: Accounts) -> dict[str, Any]:
    """Gives what of the run an earlier launch had done, if one had."""
    taken_up = [count for count in accounts.counts if count.resumed]
    whole = {"splits": len(accounts.counts), "splits_taken_up": len(taken_up), "rows_taken_up": sum(count.rows for count in taken_up)}
    return {"resumed": whole} if taken_up else {}


def effort(took: Effort) -> dict[str, Any]:
    """Gives what a job took: seconds added up over its processes, model calls, models loaded."""
    return {
        "processes": len(took.workers),
        "seconds": {step: round(took.seconds[step], 3) for step in STEPS},
        "model_calls": sum(took.calls.values()),
        "models_loaded": took.loads,
        "load_seconds": round(took.load_seconds, 3),
        "longest_load_seconds": round(took.longest_load_seconds, 3),
    }


def unplanned(run: RunSpec, plan: Plan, before: dict[str, Any] | None) -> dict[str, Any]:
    """Gives the manifest of a task that could not begin; ``before`` is the one that stands there."""
    assert plan.task is not None
    return {
        "status": "failed",
        "reason": plan.reason,
        "run_id": run.run_id,
        "launch": run.launch,
        "started": run.started,
        "counts": {"read": 0, "predicted": 0, "failed": 0},
        "task": plan.task.number,
        "line": plan.task.as_line(),
        "results": [],
        "failed_rows": [],
        **_kept(before),
    }


def task_line(plan: Plan, report: dict[str, Any], accounts: Accounts) -> dict[str, Any]:
    """Gives a task's line in the run's manifest; the first fields are the task's own, so that failed lines are tasks again."""
    assert plan.task is not None
    line = plan.task.as_line() | {
        "number": plan.task.number,
        "status": report["status"],
        "reason": report["reason"],
        "counts": report.get("counts") or accounts.counted(),
        "seconds": round(sum(count.seconds for count in accounts.counts), 4),
        "location": None,
        "version": None,
    }
    if plan.model is not None:
        line |= {"location": plan.model.location, "version": plan.model.version}
    elif plan.published is not None:
        line |= {name: plan.published["model"][name] for name in ("location", "version")}
    return line


def list_shards(shards: dict[str, Shard]) -> list[dict[str, Any]]:
    """Return the entries of files of rows, by name."""
    return [{"name": name, "rows": shard.rows, "bytes": shard.bytes, "crc32c": shard.crc32c} for name, shard in shards.items()]


def result_names(report: dict[str, Any] | None) -> set[str]:
    """Gives the names of the results that stood in a folder after the run of ``report``; none that leaves the folder."""
    if not report:
        return set()
    kept = report.get("kept_results", {}).get("names", [])
    names = {*(entry["name"] for entry in report.get("results", ())), *kept}
    return {name for name in names if ".." not in name.split("/") and not name.startswith("/")}
