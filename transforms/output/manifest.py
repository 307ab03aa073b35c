"""manifest.json: what ran, on which input and model, how many rows were read, predicted and failed, and every file published."""

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
from transforms.specs.own_names import MANIFEST, SUCCESS
from transforms.specs.run import Plan, TasksRun
from transforms.staging import split_records
from transforms.statistics.effort import STEPS, Effort
from transforms.statistics.guard import EFFORT, guarded, warn
from transforms.storage import files, paths


def encode_manifest(manifest: dict[str, Any]) -> bytes:
    """Encode a manifest as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def read_manifest(path: str) -> dict[str, Any] | None:
    """Read the manifest at ``path``; return None where there is no file, or one that is no JSON object."""
    if not files.exists(path):
        return None
    try:
        content = msgspec.json.decode(files.read_bytes(path))
    except msgspec.DecodeError:
        return None
    return content if isinstance(content, dict) else None


def find_done(folder: str, run_id: str, flags: dict[str, str], is_table: bool = False) -> dict[str, Any] | None:
    """Return the manifest in ``folder`` if an earlier launch of the run is done there with the same decisive flags, else None.

    Without ``_SUCCESS`` the folder is no complete output, whatever its manifest says; a table is loaded before either is written.
    """
    manifest = read_manifest(paths.join(folder, MANIFEST))
    if manifest is None or (manifest["status"], manifest["run_id"]) != ("done", run_id):
        return None
    if not is_table and not files.exists(paths.join(folder, SUCCESS)):
        return None
    return manifest if split_records.decisive(manifest["flags"]) == split_records.decisive(flags) else None


def make_manifest(
    job: JobSpec,
    accounts: Accounts,
    reason: str | None,
    results: dict[str, Shard],
    errors: dict[str, Shard],
    before: dict[str, Any] | None,
) -> dict[str, Any]:
    """Make the manifest of a job that is published (``reason`` None) or refused.

    ``results`` and ``errors`` are its shards by their published names, ``before`` is the manifest that it replaces.
    """
    finished = datetime.datetime.now(datetime.UTC)
    started = datetime.datetime.fromisoformat(job.started)
    signature = job.model.signature
    manifest = {
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
            "listed": [dataclasses.asdict(duplicate) for duplicate in accounts.places],
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
        **_figures(job, accounts),
        "results": list_shards(results),
        "failed_rows": list_shards(errors),
        "flags": dict(job.flags),
    }
    return manifest | (_kept_results(before) if reason is not None else {})


def _kept_results(before: dict[str, Any] | None) -> dict[str, Any]:
    """Return the entry that names the results a refused run leaves in place; the next run that publishes removes them by these names."""
    if before is None or not result_names(before):
        return {}
    return {"kept_results": {"run_id": before.get("kept_results", before).get("run_id"), "names": sorted(result_names(before))}}


def _figures(job: JobSpec, accounts: Accounts) -> dict[str, Any]:
    """Return the entries on effort, drift and comparison, and as ``warnings`` those that could not be made."""
    failures = dict(accounts.failures)
    figures: dict[str, Any] = {}
    if accounts.statistics is not None:
        with guarded(EFFORT, failures):
            figures["effort"] = describe_effort(accounts.statistics.effort)
    figures |= describe(job, accounts, failures)
    warn(figures, failures)
    return figures


def _resumed(accounts: Accounts) -> dict[str, Any]:
    """Return the entry that counts the splits and rows of earlier launches; empty where there are none."""
    resumed = [count for count in accounts.counts if count.resumed]
    entry = {"splits": len(accounts.counts), "splits_taken_up": len(resumed), "rows_taken_up": sum(count.rows for count in resumed)}
    return {"resumed": entry} if resumed else {}


def describe_effort(effort: Effort) -> dict[str, Any]:
    """Return the manifest's entry on effort: seconds added up over the processes, model calls, models loaded."""
    return {
        "processes": len(effort.workers),
        "seconds": {step: round(effort.seconds[step], 3) for step in STEPS},
        "model_calls": sum(effort.calls.values()),
        "models_loaded": effort.loads,
        "load_seconds": round(effort.load_seconds, 3),
        "longest_load_seconds": round(effort.longest_load_seconds, 3),
    }


def make_unplanned_manifest(run: TasksRun, plan: Plan, before: dict[str, Any] | None) -> dict[str, Any]:
    """Make the manifest of a task that could not be planned; ``before`` is the manifest that it replaces."""
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
        **_kept_results(before),
    }


def task_line(plan: Plan, manifest: dict[str, Any], accounts: Accounts) -> dict[str, Any]:
    """Return the line of a task in ``tasks-*.jsonl``.

    Its first fields are those of the task's line in the model map, so that the lines of failed tasks are a model map too.
    """
    assert plan.task is not None
    line = plan.task.as_line() | {
        "number": plan.task.number,
        "status": manifest["status"],
        "reason": manifest["reason"],
        "counts": manifest.get("counts") or accounts.counted(),
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
    """Return the manifest's entries of shards by their published names."""
    return [{"name": name, "rows": shard.rows, "bytes": shard.bytes, "crc32c": shard.crc32c} for name, shard in shards.items()]


def result_names(manifest: dict[str, Any] | None) -> set[str]:
    """Return the names of the results in a folder after the run of ``manifest``, without those that lead out of the folder."""
    if not manifest:
        return set()
    kept = manifest.get("kept_results", {}).get("names", [])
    names = {*(entry["name"] for entry in manifest.get("results", ())), *kept}
    return {name for name in names if ".." not in name.split("/") and not name.startswith("/")}
