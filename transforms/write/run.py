"""The end of a run of many: its manifest and a line a task."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import msgspec

from transforms import files
from transforms.own_names import MANIFEST, SUCCESS, TASKS
from transforms.specs import STAGING
from transforms.tasks import RunSpec
from transforms.write import manifest
from transforms.write.commit import alone
from transforms.write.report import REPORT_FILES, run_report

TASKS_A_FILE = 10_000
NAMED_FAILURES = 3


def publish_run(run: RunSpec, tasks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Writes ``tasks-*.jsonl``, the manifest and, where every task is done, ``_SUCCESS``; gives the manifest.

    The tasks' own outputs are published by then. Done twice, it ends the same.
    """
    with alone(run.folder):
        return _publish(run, sorted(tasks, key=lambda line: line["number"]))


def _publish(run: RunSpec, ordered: Sequence[dict[str, Any]]) -> dict[str, Any]:
    before = {name for name in files.list_children(run.folder) if name.startswith(f"{TASKS}-") and name.endswith(".jsonl")}
    count = max(1, -(-len(ordered) // TASKS_A_FILE))
    names = [f"{TASKS}-{number:05d}-of-{count:05d}.jsonl" for number in range(count)]
    report = make_report(run, ordered, names)
    files.delete([files.join(run.folder, SUCCESS)])
    for number, name in enumerate(names):
        some = ordered[number * TASKS_A_FILE : (number + 1) * TASKS_A_FILE]
        files.write_bytes(files.join(run.folder, name), b"".join(msgspec.json.encode(line) + b"\n" for line in some))
    files.delete([files.join(run.folder, name) for name in sorted(before - {*names})])
    described = run_report(run, report, ordered)
    files.delete([files.join(run.folder, name) for name in {*REPORT_FILES} - {*described}])
    for name, content in described.items():
        files.write_bytes(files.join(run.folder, name), content)
    files.write_bytes(files.join(run.folder, MANIFEST), manifest.encode(report))
    if report["status"] == "done":
        files.write_bytes(files.join(run.folder, SUCCESS), b"")
    files.delete_folder(files.join(run.folder, STAGING))
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
