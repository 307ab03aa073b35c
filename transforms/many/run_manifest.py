"""Publication of a run of many: its manifest, and a line for each task."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import msgspec

from transforms.output.folder_change import Change, FolderChange, commit, entries
from transforms.output.journal import Locks, alone
from transforms.output.manifest import read_manifest, result_names
from transforms.output.published_names import is_published
from transforms.output.publisher import published_by
from transforms.report.page import run_report
from transforms.specs.job import STAGING
from transforms.specs.manifest import Counts, Manifest, TaskLine, TasksEntry, encode_manifest
from transforms.specs.own_names import MANIFEST, SUCCESS, TASKS
from transforms.specs.run import TasksRun
from transforms.staging import removal
from transforms.storage import files, paths

TASKS_A_FILE = 10_000
NAMED_FAILURES = 3


def publish_run(run: TasksRun, tasks: Sequence[TaskLine]) -> Manifest:
    """Write ``tasks-*.jsonl``, the report, the manifest and, where every task is done, ``_SUCCESS``; return the manifest.

    ``tasks`` are the tasks' lines, in any order; their own outputs are published already. A second call leaves the same files.
    """
    with alone(run.folder) as locks:
        manifest = published_by(run)
        if manifest is None:
            manifest = _publish(run, sorted(tasks, key=lambda line: line.number), locks)
        removal.remove(paths.join(run.folder, STAGING))
        return manifest


def _publish(run: TasksRun, ordered: Sequence[TaskLine], locks: Locks) -> Manifest:
    count = max(1, -(-len(ordered) // TASKS_A_FILE))
    lines = {
        f"{TASKS}-{number:05d}-of-{count:05d}.jsonl": b"".join(
            msgspec.json.encode(line) + b"\n" for line in ordered[number * TASKS_A_FILE : (number + 1) * TASKS_A_FILE]
        )
        for number in range(count)
    }
    manifest = make_run_manifest(run, ordered, list(lines))
    small = lines | run_report(run, manifest, ordered)
    manifest.files = entries(small)
    change = FolderChange(run.folder, run.staging_in(run.folder), written=small)
    before = read_manifest(paths.join(run.folder, MANIFEST))
    stale = {name for name in files.list_children(run.folder) if is_published(name)}
    change.removed = stale | result_names(before) | {SUCCESS}
    change.add({}, {MANIFEST: encode_manifest(manifest)} | ({SUCCESS: b""} if manifest.is_done else {}))
    # Never in exchange for a new folder: the outputs of all tasks are in this one.
    commit(Change(run.run_id, run.launch, -1, [change]), locks)
    return manifest


def make_run_manifest(run: TasksRun, tasks: Sequence[TaskLine], names: Sequence[str]) -> Manifest:
    """Make the manifest of a run of many from the tasks' lines; ``names`` are the files that hold these."""
    failed = [line for line in tasks if not line.is_done]
    lost = run.count - len(tasks)
    reason = None
    if lost:
        reason = f"{run.count} tasks were planned, and {len(tasks)} ended"
    elif failed:
        first = "; ".join(f"{line.model} on {line.input}: {line.reason}" for line in failed[:NAMED_FAILURES])
        reason = f"{len(failed)} of {len(tasks)} tasks failed, such as {first}"
    finished = datetime.datetime.now(datetime.UTC)
    seconds = (finished - datetime.datetime.fromisoformat(run.started)).total_seconds()
    counts = [line.counts for line in tasks]
    return Manifest(
        status="done" if reason is None else "failed",
        reason=reason,
        run_id=run.run_id,
        launch=run.launch,
        started=run.started,
        finished=finished.isoformat(timespec="seconds"),
        seconds=round(seconds, 1),
        counts=Counts(sum(each.read for each in counts), sum(each.predicted for each in counts), sum(each.failed for each in counts)),
        tasks=TasksEntry(count=len(tasks), done=len(tasks) - len(failed), failed=len(failed), files=list(names)),
        flags=dict(run.flags),
    )
