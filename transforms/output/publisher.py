"""One job's publication: the gate, and what becomes of its folders."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import msgspec

from transforms.accounts import by_model as models
from transforms.accounts.accounts import Accounts, count_codes, shard_order
from transforms.accounts.differences import with_drift
from transforms.accounts.gate import check_gate
from transforms.elements.shards import Shard
from transforms.formats.catalog import FORMATS, make_encoder
from transforms.formats.protocols import Encoder
from transforms.output import journal, manifest
from transforms.output.folder_change import Change, FolderChange, Prepared, entries, prepare, sync
from transforms.output.journal import Locks
from transforms.output.locks import LostLockError
from transforms.output.published_names import PUBLISHED, is_published, of_kind
from transforms.report.page import report_files
from transforms.specs.errors import RefusedError, UnpublishableError
from transforms.specs.job import STAGING, JobSpec
from transforms.specs.own_names import COMPARISON, ERRORS, MANIFEST, RESULTS, STATE, STATS, SUCCESS
from transforms.specs.run import RunSpec
from transforms.staging import removal
from transforms.staging.shard_file import Place, ShardFile
from transforms.storage import files, paths


class GateShutError(UnpublishableError):
    """The run's accounts do not allow its results to be published; the message says why."""

    exit_status = 3


class OccupiedError(RefusedError):
    """Results are there already, and the run was told to replace none."""


class Publication:
    """A publication under way: locks are held, and all is ready but for the end. ``close`` it, whatever happens."""

    def __init__(self, report: dict[str, Any], locks: Locks, folders: Sequence[str], prepared: Prepared | None) -> None:
        self.report, self.locks, self.folders, self.prepared = report, locks, folders, prepared

    def unsynced(self) -> list[str]:
        """Return files and folders of the disk that have to be on it before the end."""
        return self.prepared.unsynced() if self.prepared is not None else []

    def parents(self) -> list[str]:
        """Return folders that have to be on the disk after the end."""
        return self.prepared.parents if self.prepared is not None else []

    def end(self) -> dict[str, Any]:
        """Make the change seen, and take staging away; return the manifest.

        Raises:
          GateShutError: after the failed rows and a manifest that says so were published.
        """
        if self.prepared is not None:
            self.prepared.complete()
        with contextlib.suppress(LostLockError):  # then another run has its files there
            for folder in self.folders:
                self.locks.check()
                removal.remove(paths.join(folder, STAGING))
        if self.report["status"] != "done":
            raise GateShutError(self.report["reason"])
        return self.report

    def close(self) -> None:
        """Give the locks back."""
        self.locks.release()


class Publisher:
    """Publishes one run; every step may have been done by an attempt before, at any point of it."""

    def __init__(self, job: JobSpec, accounts: Accounts) -> None:
        self.job, self.accounts = job, accounts
        self.folder = job.output.folder
        self.errors_folder = job.output.errors
        if files.place(self.errors_folder) == files.place(self.folder):  # one folder, in whatever spelling
            self.errors_folder = self.folder

    def publish(self) -> dict[str, Any]:
        """Gives the manifest.

        Raises:
          GateShutError: after the failed rows and a manifest that says so were published.
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
            report, prepared = published_by(self.job), None
            if report is None:
                report, prepared = self._prepare(locks)
            elif report["status"] == "done" and self.job.output.table is not None:
                files.write_bytes(paths.join(self.folder, SUCCESS), b"")  # an attempt may have ended between the two
        except BaseException:
            locks.release()
            raise
        return Publication(report, locks, folders, prepared)

    def _prepare(self, locks: Locks) -> tuple[dict[str, Any], Prepared | None]:
        """Decide, and prepare the change; return the manifest with it."""
        if self.job.output.write_disposition == "empty":
            for folder in {self.folder, self.errors_folder}:
                refuse_occupied(folder)
        before = manifest.read(paths.join(self.folder, MANIFEST))
        self.accounts = with_drift(self.job, self.accounts)
        reason = check_gate(self.job, self.accounts)
        errors = {f"{ERRORS}-{number:05d}-of-{count:05d}": shard for number, count, shard in self._numbered("errors")}
        compared = {f"{COMPARISON}-{number:05d}-of-{count:05d}": shard for number, count, shard in self._numbered("comparison")}
        results = self._results() if reason is None else {}
        by_model, model_lines = models.account(self.job, self.accounts)
        report = manifest.make(self.job, self.accounts, reason, results, errors, before) | by_model
        described = model_lines | report_files(self.job, report, self.accounts, model_lines)
        stats = {f"{STATS}-00000-of-00001": _stats([*errors.values()])} if errors else {}
        report["failed_rows_stats"] = entries(stats)
        report["files"] = [*manifest.list_shards(compared), *entries(described)]
        failed = FolderChange(self.errors_folder, self.job.staging_in(self.errors_folder), placed=dict(errors), written=stats)
        there = files.list_children(self.errors_folder)
        failed.removed = of_kind(there, ERRORS) | of_kind(there, STATS)
        change = FolderChange(self.folder, self.job.staging_in(self.folder))
        change.add(compared | results, described)
        change.removed = self._stale(reason, before)
        if self.errors_folder == self.folder:
            change.add(failed.placed, failed.written)
            change.removed |= failed.removed
        else:
            report["failed_rows_folder"] = files.place(self.errors_folder)
        change.add({}, {MANIFEST: manifest.encode(report)} | ({SUCCESS: b""} if reason is None else {}))
        both = [change] if self.errors_folder == self.folder else [change, failed]
        return report, prepare(Change(self.job.run_id, self.job.launch, self.job.task, both, aside(self.job)), locks)

    def _stale(self, reason: str | None, before: dict[str, Any] | None) -> set[str]:
        """Return the names in the output folder that an earlier run may have left, and this one replaces or takes away."""
        there = files.list_children(self.folder)
        stale = {name for name in there if is_published(name)}
        if reason is None:
            return stale | manifest.result_names(before)
        errors = of_kind(there, ERRORS) | of_kind(there, STATS)  # where they go elsewhere, those here are of an earlier run, and stay
        return (stale - of_kind(there, RESULTS) - (errors if self.errors_folder != self.folder else set())) | {SUCCESS}

    def _numbered(self, kind: str) -> list[tuple[int, int, Shard]]:
        shards = self._shards(kind)
        return [(number, len(shards), shard) for number, shard in enumerate(shards)]

    def _shards(self, kind: str) -> list[Shard]:
        return sorted((shard for shard in self.accounts.shards if shard.kind == kind), key=shard_order)

    def _results(self) -> dict[str, Shard]:
        """Gives the results by their names in the output."""
        shards = self._shards("results")
        if self.job.output.layout == "mirror":
            mirrored_name = FORMATS[self.job.output.format].mirrored_name
            by_file: dict[str, list[Shard]] = {}
            for shard in shards:
                by_file.setdefault(mirrored_name(shard.relative), []).append(shard)
            return {name: pieces[0] if len(pieces) == 1 else self._join(pieces) for name, pieces in by_file.items()}
        if not shards:  # a consumer's pattern finds something also when there was nothing to predict
            shards = [self._nothing()]
        return {f"{RESULTS}-{number:05d}-of-{len(shards):05d}{self.suffix}": shard for number, shard in enumerate(shards)}

    @property
    def suffix(self) -> str:
        """What the names of results end with."""
        return FORMATS[self.job.output.format].suffix

    def _make_encoder(self) -> Encoder:
        return make_encoder(self.job)

    def _nothing(self) -> Shard:
        """Makes a file without rows, valid as its format has it."""
        file, encoder = self._create((("", 0), "", "")), self._make_encoder()
        encoder.open(file)
        encoder.close()
        return file.finish(0)

    def _join(self, pieces: Sequence[Shard]) -> Shard:
        """Makes one file of the shards of one input file, in order."""
        file = self._create((pieces[0].order, pieces[0].relative, pieces[0].source))
        self._make_encoder().join([piece.path for piece in pieces], file)
        return file.finish(sum(piece.rows for piece in pieces))

    def _create(self, place: Place) -> ShardFile:
        return ShardFile("results", self.job.staging_in(self.folder), place)


def _stats(errors: Sequence[Shard]) -> bytes:
    rows = ({name: row[name] for name in ("code", "message", "count")} for row in count_codes(errors))
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)


def published_by(spec: JobSpec | RunSpec) -> dict[str, Any] | None:
    """Return the manifest that this very launch has published in the folder of ``spec``, or None.

    All tasks of a run share its launch: another task's manifest, or the run's own, is none of a task's.
    """
    report = manifest.read(paths.join(spec.folder, MANIFEST))
    if report is None or report.get("launch") != spec.launch:
        return None
    is_its_own = report.get("task") == spec.task if isinstance(spec, JobSpec) else "tasks" in report
    return report if is_its_own else None


def aside(job: JobSpec) -> str | None:
    """Return where a job's new folder is built, to change places with the old one: the next run there takes away what a kill leaves."""
    if paths.is_remote(job.folder):
        return None
    if job.staging is not None:
        return paths.join(job.staging, f"aside-{job.task}")
    folder = os.path.realpath(job.folder)
    return os.path.join(os.path.dirname(folder), f".{os.path.basename(folder)}.nightshift")


def refuse_occupied(folder: str) -> None:
    """Raise OccupiedError where the results of a run are in ``folder``."""
    there = [name for name in files.list_children(folder) if PUBLISHED.fullmatch(name) or name == SUCCESS]
    if there:
        raise OccupiedError(f"{folder} holds the results of a run already ({there[0]}), and --write_disposition=empty was given")


def ended(spec: JobSpec | RunSpec) -> dict[str, Any] | None:
    """Return the manifest that this very launch has published to the end, or None."""
    report = published_by(spec)
    return report if report is not None and journal.read(spec.folder) is None else None


def is_cut_off(spec: JobSpec | RunSpec) -> bool:
    """Return whether this very launch has left a journal in its folder: a change that is not made to its end."""
    found = journal.read(spec.folder)
    return found is not None and found.launch == spec.launch


def sweep(spec: JobSpec | RunSpec) -> None:
    """Take away what launches of a run that is done have left: unfinished files, and a folder that was exchanged for another."""
    folders = list(dict.fromkeys((spec.folder, spec.output.errors))) if isinstance(spec, JobSpec) else [spec.folder]
    with journal.alone(*folders):
        for folder in folders:
            _sweep(folder, spec.run_id)
        beside = aside(spec) if isinstance(spec, JobSpec) else None
        if beside is not None:
            files.delete_folder(beside)


def sweep_task(folder: str, run_id: str) -> None:
    """Take away what launches of a run have left in the folder of a task that is done: staged files and a lock, if they were killed."""
    if {STAGING, STATE} & {*files.list_children(folder)}:
        with journal.alone(folder):
            _sweep(folder, run_id)


def _sweep(folder: str, run_id: str) -> None:
    removal.remove(paths.join(folder, STAGING, run_id))
    files.delete_empty(paths.join(folder, STAGING), folder)
