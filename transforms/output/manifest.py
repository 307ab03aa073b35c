"""manifest.json: what ran, on which input and model, how many rows were read, predicted and failed, and every file published."""

from __future__ import annotations

import dataclasses
import datetime

import msgspec
from msgspec import UNSET, UnsetType

from transforms.accounts.accounts import Accounts, count_codes
from transforms.accounts.differences import describe
from transforms.elements.shards import Shard
from transforms.rows.codes import Code
from transforms.specs.job import JobSpec
from transforms.specs.manifest import (
    Counts,
    DuplicateEntry,
    EffortEntry,
    FileEntry,
    InputEntry,
    KeptResults,
    KeysEntry,
    Manifest,
    ModelEntry,
    ResumedEntry,
    TaskLine,
    decode_manifest,
    listed,
)
from transforms.specs.models import AnyModel
from transforms.specs.own_names import MANIFEST, SUCCESS
from transforms.specs.run import Plan, TasksRun
from transforms.staging import split_records
from transforms.statistics.effort import STEPS, Effort
from transforms.statistics.guard import EFFORT, guarded, warn
from transforms.storage import files, paths


def read_manifest(path: str) -> Manifest | None:
    """Read the manifest at ``path``; return None where there is no file, or one that is no JSON object."""
    if not files.exists(path):
        return None
    try:
        return decode_manifest(files.read_bytes(path))
    except (msgspec.DecodeError, RecursionError):
        return None


def find_done(folder: str, run_id: str, flags: dict[str, str], is_table: bool = False) -> Manifest | None:
    """Return the manifest in ``folder`` if an earlier launch of the run is done there with the same decisive flags, else None.

    Without ``_SUCCESS`` the folder is no complete output, whatever its manifest says; a table is loaded before either is written.
    """
    manifest = read_manifest(paths.join(folder, MANIFEST))
    if manifest is None or not manifest.is_done or manifest.run_id != run_id or manifest.flags is UNSET:
        return None
    if not is_table and not files.exists(paths.join(folder, SUCCESS)):
        return None
    return manifest if split_records.decisive(manifest.flags) == split_records.decisive(flags) else None


def make_manifest(
    job: JobSpec,
    accounts: Accounts,
    reason: str | None,
    results: dict[str, Shard],
    errors: dict[str, Shard],
    before: Manifest | None,
) -> Manifest:
    """Make the manifest of a job that is published (``reason`` None) or refused.

    ``results`` and ``errors`` are its shards by their published names, ``before`` is the manifest that it replaces.
    """
    finished = datetime.datetime.now(datetime.UTC)
    started = datetime.datetime.fromisoformat(job.started)
    manifest = Manifest(
        status="done" if reason is None else "failed",
        reason=reason,
        run_id=job.run_id,
        launch=job.launch,
        task=job.task,
        started=job.started,
        finished=finished.isoformat(timespec="seconds"),
        seconds=round((finished - started).total_seconds(), 1),
        counts=accounts.counted(),
        errors=count_codes([shard for shard in accounts.shards if shard.kind == "errors"]),
        input=_describe_input(job, accounts),
        resumed=_describe_resumed(accounts),
        keys=KeysEntry(
            fields=list(job.key.fields),
            duplicated=accounts.duplicated,
            listed=[DuplicateEntry(**dataclasses.asdict(duplicate)) for duplicate in accounts.places],
        ),
        model=_describe_model(job.model),
        results=list_shards(results),
        failed_rows=list_shards(errors),
        flags=dict(job.flags),
        kept_results=_find_kept_results(before) if reason is not None else UNSET,
    )
    _add_figures(manifest, job, accounts)
    return manifest


def _describe_input(job: JobSpec, accounts: Accounts) -> InputEntry:
    return InputEntry(
        patterns=list(job.input.patterns),
        query=UNSET if job.input.query is None else job.input.query,
        files=sum(count.files for count in accounts.counts),
        bytes=sum(count.bytes for count in accounts.counts),
        damaged=sorted({file.path for file in accounts.incomplete(Code.FILE_DAMAGED)}),
        changed=sorted({file.path for file in accounts.incomplete(Code.FILE_CHANGED)}),
    )


def _describe_model(model: AnyModel) -> ModelEntry:
    return ModelEntry(
        location=model.location,
        version=model.version,
        fingerprint=model.fingerprint,
        signature=model.signature.name,
        tags=list(model.signature.tags),
        inputs=[str(spec) for spec in model.signature.inputs],
        outputs=[str(spec) for spec in model.signature.outputs],
    )


def _find_kept_results(before: Manifest | None) -> KeptResults | UnsetType:
    """Return the entry that names the results a refused run leaves in place; the next run that publishes removes them by these names."""
    names = result_names(before)
    if before is None or not names:
        return UNSET
    run_id = before.run_id if before.kept_results is UNSET else before.kept_results.run_id
    return KeptResults(run_id, sorted(names))


def _add_figures(manifest: Manifest, job: JobSpec, accounts: Accounts) -> None:
    """Add the entries on effort, drift and comparison, and as ``warnings`` those that could not be made."""
    failures = dict(accounts.failures)
    if accounts.statistics is not None:
        with guarded(EFFORT, failures):
            manifest.effort = describe_effort(accounts.statistics.effort)
    describe(manifest, job, accounts, failures)
    warn(manifest, failures)


def _describe_resumed(accounts: Accounts) -> ResumedEntry | UnsetType:
    """Return the entry that counts the splits and rows of earlier launches; UNSET where there are none."""
    resumed = [count for count in accounts.counts if count.resumed]
    return ResumedEntry(len(accounts.counts), len(resumed), sum(count.rows for count in resumed)) if resumed else UNSET


def describe_effort(effort: Effort) -> EffortEntry:
    """Return the manifest's entry on effort: seconds added up over the processes, model calls, models loaded."""
    return EffortEntry(
        processes=len(effort.workers),
        seconds={step: round(effort.seconds[step], 3) for step in STEPS},
        model_calls=sum(effort.calls.values()),
        models_loaded=effort.loads,
        load_seconds=round(effort.load_seconds, 3),
        longest_load_seconds=round(effort.longest_load_seconds, 3),
    )


def make_unplanned_manifest(run: TasksRun, plan: Plan, before: Manifest | None) -> Manifest:
    """Make the manifest of a task that could not be planned; ``before`` is the manifest that it replaces."""
    assert plan.task is not None
    return Manifest(
        status="failed",
        reason=plan.reason,
        run_id=run.run_id,
        launch=run.launch,
        task=plan.task.number,
        started=run.started,
        counts=Counts(0, 0, 0),
        line=plan.task.as_line(),
        results=[],
        failed_rows=[],
        kept_results=_find_kept_results(before),
    )


def task_line(plan: Plan, manifest: Manifest, accounts: Accounts) -> TaskLine:
    """Return the line of a task whose outcome is that of ``manifest``."""
    assert plan.task is not None
    model = plan.model
    published = UNSET if plan.published is None else plan.published.model
    return TaskLine(
        **plan.task.as_line(),
        number=plan.task.number,
        status=manifest.status,
        reason=manifest.reason,
        counts=accounts.counted() if manifest.counts is UNSET else manifest.counts,
        seconds=round(sum(count.seconds for count in accounts.counts), 4),
        location=model.location if model is not None else None if published is UNSET else published.location,
        version=model.version if model is not None else None if published is UNSET else published.version,
    )


def list_shards(shards: dict[str, Shard]) -> list[FileEntry]:
    """Return the manifest's entries of shards by their published names."""
    return [FileEntry(name=name, rows=shard.rows, bytes=shard.bytes, crc32c=shard.crc32c) for name, shard in shards.items()]


def result_names(manifest: Manifest | None) -> set[str]:
    """Return the names of the results in a folder after the run of ``manifest``, without those that lead out of the folder."""
    if manifest is None:
        return set()
    kept = [] if manifest.kept_results is UNSET else manifest.kept_results.names
    names = {*(entry.name for entry in listed(manifest.results)), *kept}
    return {name for name in names if ".." not in name.split("/") and not name.startswith("/")}
