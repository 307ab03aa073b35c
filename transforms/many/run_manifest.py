"""The end of a run of many: its manifest and a line a task."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import msgspec

from transforms.output import manifest
from transforms.output.folder_change import Change, FolderChange, commit, entries
from transforms.output.journal import Locks, alone
from transforms.output.published_names import is_published
from transforms.output.publisher import published_by
from transforms.report.page import run_report
from transforms.specs.job import STAGING
from transforms.specs.own_names import MANIFEST, SUCCESS, TASKS
from transforms.specs.run import RunSpec
from transforms.staging import removal
from transforms.storage import files, paths

TASKS_A_FILE = 10_000
NAMED_FAILURES = 3


def publish_run(run: RunSpec, tasks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Writes ``tasks-*.jsonl``, the manifest and, where every task is done, ``_SUCCESS``; gives the manifest.

    The tasks' own outputs are published by then. Done twice, it ends the same.
    """
    with alone(run.folder) as locks:
        report = published_by(run)
        if report is None:
            report = _publish(run, sorted(tasks, key=lambda line: line["number"]), locks)
        removal.remove(paths.join(run.folder, STAGING))
        return report


def _publish(run: RunSpec, ordered: Sequence[dict[str, Any]], locks: Locks) -> dict[str, Any]:
    count = max(1, -(-len(ordered) // TASKS_A_FILE))
    lines = {
        f"{TASKS}-{number:05d}-of-{count:05d}.jsonl": b"".join(
            msgspec.json.encode(line) + b"\n" for line in ordered[number * TASKS_A_FILE : (number + 1) * TASKS_A_FILE]
        )
        for number in range(count)
    }
    report = make_report(run, ordered, list(lines))
    small = lines | run_report(run, report, ordered)
    report["files"] = entries(small)
    change = FolderChange(run.folder, run.staging_in(run.folder), written=small)
    there = files.list_children(run.folder)
    before = manifest.read(paths.join(run.folder, MANIFEST))
    change.removed = {name for name in there if is_published(name)} | manifest.result_names(before) | {SUCCESS}
    change.add({}, {MANIFEST: manifest.encode(report)} | ({SUCCESS: b""} if report["status"] == "done" else {}))
    # Never in exchange for a new folder: the outputs of all tasks are in this one.
    commit(Change(run.run_id, run.launch, -1, [change]), locks)
    return report


def make_report(run: RunSpec, tasks: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Gives the run's manifest."""
    failed = [line for line in tasks if line["status"] != "done"]
    lost = run.count - len(tasks)
    reason = None
    if lost:
        reason = f"{run.count} tasks were planned, and {len(tasks)} ended"
    elif failed:
        first = "; ".join(f"{line['model']} on {line['input']}: {line['reason']}" for line in failed[:NAMED_FAILURES])
        reason = f"{len(failed)} of {len(tasks)} tasks failed, such as {first}"
    finished = datetime.datetime.now(datetime.UTC)
    seconds = (finished - datetime.datetime.fromisoformat(run.started)).total_seconds()
    return {
        "status": "done" if reason is None else "failed",
        "reason": reason,
        "run_id": run.run_id,
        "launch": run.launch,
        "started": run.started,
        "finished": finished.isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "counts": {name: sum(line["counts"][name] for line in tasks) for name in ("read", "predicted", "failed")},
        "tasks": {"count": len(tasks), "done": len(tasks) - len(failed), "failed": len(failed), "files": list(names)},
        "flags": dict(run.flags),
    }
