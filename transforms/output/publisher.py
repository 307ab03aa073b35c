"""Publication of one job: the gate, and the change of its folders."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

import msgspec
from msgspec import UNSET

from transforms.accounts import by_model as models
from transforms.accounts.accounts import Accounts, count_codes, shard_order
from transforms.accounts.differences import with_drift
from transforms.accounts.gate import check_gate
from transforms.elements.shards import Shard
from transforms.formats.catalog import FORMATS, make_encoder
from transforms.formats.protocols import Encoder
from transforms.output import journal
from transforms.output.folder_change import Change, FolderChange, Prepared, entries, prepare, sync
from transforms.output.journal import Locks
from transforms.output.locks import LostLockError
from transforms.output.manifest import list_shards, make_manifest, read_manifest, result_names
from transforms.output.published_names import PUBLISHED, is_published, of_kind
from transforms.report.page import report_files
from transforms.specs.errors import RefusedError, UnpublishableError
from transforms.specs.job import STAGING, JobSpec
from transforms.specs.manifest import Manifest, encode_manifest
from transforms.specs.own_names import COMPARISON, ERRORS, MANIFEST, RESULTS, STATE, STATS, SUCCESS
from transforms.specs.run import RunSpec
from transforms.staging import removal
from transforms.staging.shard_file import Place, ShardFile
from transforms.storage import files, paths


class GateShutError(UnpublishableError):
    """The run's accounts do not allow its results to be published; the message says why."""

    exit_status = 3


class OccupiedError(RefusedError):
    """The output holds results already, and the run may not replace any (``--write_disposition=empty``)."""


class Publication:
    """A prepared publication, whose locks are held: ``end`` publishes it, ``close`` has to be called in any case."""

    def __init__(self, manifest: Manifest, locks: Locks, folders: Sequence[str], prepared: Prepared | None) -> None:
        self.manifest, self.locks, self.folders, self.prepared = manifest, locks, folders, prepared

    def unsynced(self) -> list[str]:
        """List the files and folders that have to be synchronized to the disk before ``end``."""
        return self.prepared.unsynced() if self.prepared is not None else []

    def parents(self) -> list[str]:
        """List the folders that have to be synchronized to the disk after ``end``."""
        return self.prepared.parents if self.prepared is not None else []

    def end(self) -> Manifest:
        """Make the change visible and delete staging; return the manifest.

        Raises:
          GateShutError: the results are refused; the failed rows and a manifest with the reason are published.
        """
        if self.prepared is not None:
            self.prepared.complete()
        with contextlib.suppress(LostLockError):  # then another run has its files there
            for folder in self.folders:
                self.locks.check()
                removal.remove(paths.join(folder, STAGING))
        if not self.manifest.is_done:
            raise GateShutError(self.manifest.reason)
        return self.manifest

    def close(self) -> None:
        """Release the locks."""
        self.locks.release()


class Publisher:
    """Publishes one job; an earlier attempt may have stopped after any step."""

    def __init__(self, job: JobSpec, accounts: Accounts) -> None:
        self.job, self.accounts = job, accounts
        self.folder = job.output.folder
        self.errors_folder = job.output.errors
        if files.place(self.errors_folder) == files.place(self.folder):  # one folder, in two spellings
            self.errors_folder = self.folder

    def publish(self) -> Manifest:
        """Publish the job; return its manifest.

        Raises:
          GateShutError: the results are refused; the failed rows and a manifest with the reason are published.
        """
        publication = self.begin()
        assert publication is not None
        try:
            sync(publication.unsynced())
            return publication.end()
        finally:
            sync(publication.parents())
            publication.close()

    def begin(self, wait: bool = True) -> Publication | None:
        """Lock the folders and prepare their change; None where another run holds a lock and ``wait`` is False."""
        folders = list(dict.fromkeys((self.folder, self.errors_folder)))
        locks = journal.lock(folders, wait)
        if locks is None:
            return None
        try:
            manifest, prepared = published_by(self.job), None
            if manifest is None:
                manifest, prepared = self._prepare(locks)
            elif manifest.is_done:
                self._mark_done()
        except BaseException:
            locks.release()
            raise
        return Publication(manifest, locks, folders, prepared)

    def _mark_done(self) -> None:
        """Complete a publication whose manifest says that it is done: nothing to do where marker and manifest change together."""

    def _prepare(self, locks: Locks) -> tuple[Manifest, Prepared | None]:
        """Check the gate and prepare the change of the folders; return the manifest and the change."""
        if self.job.output.write_disposition == "empty":
            for folder in {self.folder, self.errors_folder}:
                refuse_occupied(folder)
        before = read_manifest(paths.join(self.folder, MANIFEST))
        self.accounts = with_drift(self.job, self.accounts)
        reason = check_gate(self.job, self.accounts)
        errors = {f"{ERRORS}-{number:05d}-of-{count:05d}": shard for number, count, shard in self._numbered("errors")}
        compared = {f"{COMPARISON}-{number:05d}-of-{count:05d}": shard for number, count, shard in self._numbered("comparison")}
        results = self._results() if reason is None else {}
        manifest = make_manifest(self.job, self.accounts, reason, results, errors, before)
        manifest.models, model_lines = models.account(self.job, self.accounts)
        descriptions = model_lines | report_files(self.job, manifest, self.accounts, model_lines)
        stats = {f"{STATS}-00000-of-00001": _stats([*errors.values()])} if errors else {}
        manifest.failed_rows_stats = entries(stats)
        manifest.files = [*list_shards(compared), *entries(descriptions)]
        failed = FolderChange(self.errors_folder, self.job.staging_in(self.errors_folder), placed=dict(errors), written=stats)
        names = files.list_children(self.errors_folder)
        failed.removed = of_kind(names, ERRORS) | of_kind(names, STATS)
        change = FolderChange(self.folder, self.job.staging_in(self.folder))
        change.add(compared | results, descriptions)
        change.removed = self._stale(reason, before)
        if self.errors_folder == self.folder:
            change.add(failed.placed, failed.written)
            change.removed |= failed.removed
        else:
            manifest.failed_rows_folder = files.place(self.errors_folder)
        change.add({}, {MANIFEST: encode_manifest(manifest)} | ({SUCCESS: b""} if reason is None else {}))
        changes = [change] if self.errors_folder == self.folder else [change, failed]
        return manifest, prepare(Change(self.job.run_id, self.job.launch, self.job.task, changes, aside(self.job)), locks)

    def _stale(self, reason: str | None, before: Manifest | None) -> set[str]:
        """Return the names of an earlier run's files in the output folder that this run replaces or removes."""
        names = files.list_children(self.folder)
        stale = {name for name in names if is_published(name)}
        if reason is None:
            return stale | result_names(before)
        errors = of_kind(names, ERRORS) | of_kind(names, STATS)  # where this run's go to another folder, those here stay
        return (stale - of_kind(names, RESULTS) - (errors if self.errors_folder != self.folder else set())) | {SUCCESS}

    def _numbered(self, kind: str) -> list[tuple[int, int, Shard]]:
        shards = self._shards(kind)
        return [(number, len(shards), shard) for number, shard in enumerate(shards)]

    def _shards(self, kind: str) -> list[Shard]:
        return sorted((shard for shard in self.accounts.shards if shard.kind == kind), key=shard_order)

    def _results(self) -> dict[str, Shard]:
        """Return the results' shards by their published names, of which there is at least one."""
        shards = self._shards("results")
        if self.job.output.layout == "mirror":
            mirrored_name = FORMATS[self.job.output.format].mirrored_name
            by_file: dict[str, list[Shard]] = {}
            for shard in shards:
                by_file.setdefault(mirrored_name(shard.relative), []).append(shard)
            return {name: shards[0] if len(shards) == 1 else self._join(shards) for name, shards in by_file.items()}
        if not shards:  # a consumer's pattern matches a file even when there was nothing to predict
            shards = [self._empty_shard()]
        return {f"{RESULTS}-{number:05d}-of-{len(shards):05d}{self.suffix}": shard for number, shard in enumerate(shards)}

    @property
    def suffix(self) -> str:
        """Return the end of the results' names, such as ``.jsonl``."""
        return FORMATS[self.job.output.format].suffix

    def _make_encoder(self) -> Encoder:
        return make_encoder(self.job)

    def _empty_shard(self) -> Shard:
        """Write a valid file without rows."""
        file, encoder = self._create(Place(("", 0))), self._make_encoder()
        encoder.open(file)
        encoder.close()
        return file.finish(0)

    def _join(self, shards: Sequence[Shard]) -> Shard:
        """Join the shards of one input file, in their order, to one file."""
        file = self._create(Place(shards[0].split_key, shards[0].relative, shards[0].source))
        self._make_encoder().join([shard.path for shard in shards], file)
        return file.finish(sum(shard.rows for shard in shards))

    def _create(self, place: Place) -> ShardFile:
        return ShardFile("results", self.job.staging_in(self.folder), place)


def _stats(errors: Sequence[Shard]) -> bytes:
    """Return a JSON line with code, an example's message and count for each kind of failed row."""
    rows = ({"code": row.code, "message": row.message, "count": row.count} for row in count_codes(errors))
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)


def published_by(spec: JobSpec | RunSpec) -> Manifest | None:
    """Return the manifest that this launch of ``spec`` has published in its folder, or None.

    All tasks of a run share its launch, so that the manifest of another task, or of the run, does not count as a task's. The one of a
    run of many names no task.
    """
    manifest = read_manifest(paths.join(spec.folder, MANIFEST))
    if manifest is None or manifest.launch != spec.launch or manifest.task != (UNSET if spec.task is None else spec.task):
        return None
    return manifest


def aside(job: JobSpec) -> str | None:
    """Return the path where a job's new folder is built, to be exchanged for the old one; None in a bucket."""
    if job.staging is not None:
        return paths.join(job.staging, f"aside-{job.task}")
    return _beside(job.folder)


def _beside(folder: str) -> str | None:
    """Return the path beside ``folder`` where what is exchanged for it is built; None in a bucket.

    The path is the same for each run, so that the next one removes what a killed one left.
    """
    if paths.is_remote(folder):
        return None
    above, name = os.path.split(os.path.realpath(folder))
    return os.path.join(above, f".{name}.nightshift")


def refuse_occupied(folder: str) -> None:
    """Refuse a folder that holds the results of a run.

    Raises:
      OccupiedError: it does.
    """
    names = [name for name in files.list_children(folder) if PUBLISHED.fullmatch(name) or name == SUCCESS]
    if names:
        raise OccupiedError(f"{folder} holds the results of a run already ({names[0]}), and --write_disposition=empty was given")


def ended(run: RunSpec) -> Manifest | None:
    """Return the manifest of this launch of ``run`` if its publication is complete, else None."""
    manifest = published_by(run)
    return manifest if manifest is not None and journal.read(run.folder) is None else None


def is_cut_off(run: RunSpec) -> bool:
    """Return whether this launch of ``run`` has left a journal in its folder: a publication that is not complete."""
    left = journal.read(run.folder)
    return left is not None and left.launch == run.launch


def sweep(run: RunSpec) -> None:
    """Delete what the launches of a finished run have left: unfinished files, and a folder that was exchanged for a new one."""
    with journal.alone(*run.folders):
        for folder in run.folders:
            _sweep(folder, run.run_id)
        exchanged = _beside(run.folder) if run.task is not None else None  # the folder of many tasks is never exchanged
        if exchanged is not None:
            files.delete_folder(exchanged)


def sweep_task(folder: str, run_id: str) -> None:
    """Delete what killed launches of a run have left in the folder of a finished task: staged files and a lock."""
    if {STAGING, STATE} & {*files.list_children(folder)}:
        with journal.alone(folder):
            _sweep(folder, run_id)


def _sweep(folder: str, run_id: str) -> None:
    removal.remove(paths.join(folder, STAGING, run_id))
    files.delete_empty(paths.join(folder, STAGING), folder)
