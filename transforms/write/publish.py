"""The gate and what lies behind it: a job's shards become its output, whole, or the failed rows alone do."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import msgspec

from transforms import files
from transforms.coders import Piece, PieceCoder
from transforms.elements import Plan, Shard, SplitCount
from transforms.keys import LISTED_DUPLICATES, DuplicateKey, Duplicates
from transforms.own_names import COMPARISON, ERRORS, MANIFEST, RESULTS, STATS, SUCCESS
from transforms.specs import STAGING, JobSpec
from transforms.statistics.gather import MergeStatistics, Statistics
from transforms.tasks import RunSpec
from transforms.write import manifest, models
from transforms.write.commit import FolderChange, LostShardError, NameTwiceError, alone, commit
from transforms.write.differences import with_drift
from transforms.write.formats import FORMATS, SUFFIXES, make_encoder
from transforms.write.gate import Accounts, check_gate, count_codes, shard_order
from transforms.write.report import REPORT_FILES, report_files
from transforms.write.run import publish_run
from transforms.write.shards import Place, ShardFile

NUMBERED = rf"-\d+-of-\d+({SUFFIXES})"
PUBLISHED = re.compile(rf"({'|'.join(map(re.escape, (RESULTS, ERRORS, STATS, COMPARISON)))}){NUMBERED}")


class GateShutError(Exception):
    """The run's accounts do not allow its results to be published; the message says why."""


class Publisher:
    """Publishes one run; every step may have been done by an attempt before, at any point of it."""

    def __init__(self, job: JobSpec, accounts: Accounts) -> None:
        self.job, self.accounts = job, accounts
        self.folder = job.output.folder
        self.errors_folder = job.output.errors

    def publish(self) -> dict[str, Any]:
        """Gives the manifest.

        Raises:
          GateShutError: after the failed rows and a manifest that says so were published.
        """
        with alone(self.folder):
            report = published_by(self.job)
            if report is None:
                report = self._publish()
            elif report["status"] == "done":
                files.write_bytes(files.join(self.folder, SUCCESS), b"")  # an attempt may have ended between the two
            for folder in {self.folder, self.errors_folder}:
                files.delete_folder(files.join(folder, STAGING))
        if report["status"] != "done":
            raise GateShutError(report["reason"])
        return report

    def _publish(self) -> dict[str, Any]:
        before = manifest.read(files.join(self.folder, MANIFEST))
        self.accounts = with_drift(self.job, self.accounts)
        reason = check_gate(self.job, self.accounts)
        errors = self._shards("errors")
        placed_errors = {f"{ERRORS}-{number:05d}-of-{len(errors):05d}": shard for number, shard in enumerate(errors)}
        results = self._results() if reason is None else {}
        by_model, model_lines = models.account(self.job, self.accounts)
        report = manifest.make(self.job, self.accounts, reason, results, placed_errors, before) | by_model

        there = files.list_children(self.errors_folder)
        failed = FolderChange(
            self.errors_folder,
            placed={name: shard.path for name, shard in placed_errors.items()},
            written={f"{STATS}-00000-of-00001": _stats(errors)} if errors else {},
            removed=_published(there, ERRORS) | _published(there, STATS),
        )
        predicted = FolderChange(self.folder)
        if self.folder != self.errors_folder:
            there = files.list_children(self.folder)
        predicted.removed = {name for name in there if models.PUBLISHED.fullmatch(name)} - {*model_lines}
        if reason is None:
            predicted.placed = {name: shard.path for name, shard in results.items()}
            predicted.removed |= (_published(there, RESULTS) | manifest.result_names(before)) - {*results}
        compared = self._shards("comparison")
        placed = {f"{COMPARISON}-{number:05d}-of-{len(compared):05d}": shard.path for number, shard in enumerate(compared)}
        predicted.add(placed, {})
        predicted.removed |= _published(there, COMPARISON) - {*placed}
        described = report_files(self.job, report, self.accounts, model_lines)
        predicted.removed |= {*REPORT_FILES} - {*described}
        last = model_lines | described | {MANIFEST: manifest.encode(report)}
        if reason is None:
            last[SUCCESS] = b""
        if self.errors_folder == self.folder:  # one folder, one change
            predicted.add(failed.placed, failed.written)
            predicted.removed |= failed.removed
        else:
            commit(failed)
        predicted.add({}, last)
        commit(predicted)
        return report

    def _shards(self, kind: str) -> list[Shard]:
        return sorted((shard for shard in self.accounts.shards if shard.kind == kind), key=shard_order)

    def _results(self) -> dict[str, Shard]:
        """Gives the results by their names in the output."""
        shards = self._shards("results")
        format = FORMATS[self.job.output.format]
        if self.job.output.layout == "mirror":
            by_file: dict[str, list[Shard]] = {}
            for shard in shards:
                by_file.setdefault(format.mirrored_name(shard.relative), []).append(shard)
            return {name: pieces[0] if len(pieces) == 1 else self._join(pieces) for name, pieces in by_file.items()}
        if not shards:  # a consumer's pattern finds something also when there was nothing to predict
            shards = [self._nothing()]
        return {f"{RESULTS}-{number:05d}-of-{len(shards):05d}{format.suffix}": shard for number, shard in enumerate(shards)}

    def _nothing(self) -> Shard:
        """Makes a file without rows, valid as its format has it."""
        file, encoder = self._create((("", 0), "", "")), make_encoder(self.job)
        encoder.open(file)
        encoder.close()
        return file.finish(0)

    def _join(self, pieces: Sequence[Shard]) -> Shard:
        """Makes one file of the shards of one input file, in order."""
        file = self._create((pieces[0].order, pieces[0].relative, pieces[0].source))
        make_encoder(self.job).join([piece.path for piece in pieces], file)
        return file.finish(sum(piece.rows for piece in pieces))

    def _create(self, place: Place) -> ShardFile:
        return ShardFile("results", self.job.staging_in(self.folder), place)


def _published(names: Iterable[str], kind: str) -> set[str]:
    """Gives those of ``names`` that a run gives its files of ``kind``."""
    pattern = re.compile(re.escape(kind) + NUMBERED)
    return {name for name in names if pattern.fullmatch(name)}


def _stats(errors: Sequence[Shard]) -> bytes:
    rows = ({name: row[name] for name in ("code", "message", "count")} for row in count_codes(errors))
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)


def published_by(spec: JobSpec | RunSpec) -> dict[str, Any] | None:
    """Return the manifest that this very launch has published in the folder of ``spec``, or None.

    All tasks of a run share its launch: another task's manifest, or the run's own, is none of a task's.
    """
    report = manifest.read(files.join(spec.folder, MANIFEST))
    if report is None or report.get("launch") != spec.launch:
        return None
    is_its_own = report.get("task") == spec.task if isinstance(spec, JobSpec) else "tasks" in report
    return report if is_its_own else None


def _add_up(pieces: Iterable[Any]) -> tuple[Plan, Accounts]:
    """Gives a task's plan, and its accounts from the pieces that all steps before gave."""
    kinds: dict[type, list[Any]] = {kind: [] for kind in PieceCoder.NUMBERS}
    for piece in pieces:
        kinds[type(piece)].append(piece)
    (plan,) = kinds[Plan]
    places = tuple(sorted(kinds[DuplicateKey])[:LISTED_DUPLICATES])
    return plan, Accounts(tuple(kinds[Shard]), tuple(kinds[SplitCount]), tuple(kinds[Duplicates]), places, *kinds[Statistics])


class _PublishJob(beam.DoFn):
    """Publishes the one job of a run; a gate that stays shut fails the run."""

    def __init__(self, job: JobSpec, publisher: type[Publisher]) -> None:
        self.job, self.publisher = job, publisher

    def process(self, pieces: tuple[int, Iterable[Any]]) -> Iterator[dict[str, Any]]:
        _, accounts = _add_up(pieces[1])
        yield self.publisher(self.job, accounts).publish()


class _PublishTask(beam.DoFn):
    """Publishes one task of many; what fails it is a line of the run's manifest and holds back no other."""

    def __init__(self, run: RunSpec) -> None:
        self.run = run

    def process(self, pieces: tuple[int, Iterable[Any]]) -> Iterator[dict[str, Any]]:
        yield publish_task(self.run, *_add_up(pieces[1]))


class _PublishRun(beam.DoFn):
    def __init__(self, run: RunSpec) -> None:
        self.run = run

    def process(self, _: bytes, tasks: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        report = publish_run(self.run, tasks)
        if report["status"] != "done":
            raise GateShutError(report["reason"])
        yield report


def publish_task(run: RunSpec, plan: Plan, accounts: Accounts) -> dict[str, Any]:
    """Publishes a task as far as its gate allows; gives its line in the run's manifest."""
    assert plan.task is not None
    if plan.published is not None:
        return manifest.task_line(plan, plan.published, accounts)
    if plan.model is None:
        folder = run.output_of(plan.task).folder
        report = manifest.unplanned(run, plan)
        files.delete([files.join(folder, SUCCESS)])
        files.write_bytes(files.join(folder, MANIFEST), manifest.encode(report))
        return manifest.task_line(plan, report, accounts)
    job = run.job_of(plan)
    publisher = Publisher(job, accounts)
    try:
        report = publisher.publish()
    except (GateShutError, LostShardError, NameTwiceError) as shut:
        report = published_by(job) or {"status": "failed", "reason": str(shut)}
    return manifest.task_line(plan, report, accounts)


@dataclasses.dataclass
class Publish(beam.PTransform):
    """Opens the gates and publishes, as the last step of the graph, since a template's launcher is gone by then.

    Expects: all ``Shard``s. ``pieces``, ``duplicates`` and ``places`` come from the read step, ``plans`` from the first,
    ``statistics`` from the last, or also from the read step; each is a pair whose first is the task's number.
    Gives: the run's manifest.
    Guarantees: each job's output is whole, ending with ``_SUCCESS``, or not there; done twice, it ends the same.
    """

    spec: JobSpec | RunSpec
    plans: beam.PCollection
    pieces: beam.PCollection
    duplicates: beam.PCollection
    places: beam.PCollection
    statistics: tuple[beam.PCollection, ...]
    publisher: type[Publisher] = Publisher

    def expand(self, shards: beam.PCollection) -> beam.PCollection:
        gathered = self.statistics[0] if len(self.statistics) == 1 else self.statistics | "AllStatistics" >> beam.Flatten()
        merge = MergeStatistics().with_input_types(Statistics).with_output_types(Piece)
        statistics = gathered | beam.CombinePerKey(merge)
        # Each piece says by its type what it is: a join by name would tag and untag every one, in eight steps more.
        parts = (self.plans, shards, self.pieces, self.duplicates, self.places, statistics)
        grouped = parts | beam.Flatten().with_output_types(tuple[int, Piece]) | "GroupByTask" >> beam.GroupByKey()
        if isinstance(self.spec, JobSpec):
            return grouped | "PublishJob" >> beam.ParDo(_PublishJob(self.spec, self.publisher))
        tasks = grouped | "PublishTask" >> beam.ParDo(_PublishTask(self.spec))
        return shards.pipeline | "Once" >> beam.Impulse() | "PublishRun" >> beam.ParDo(_PublishRun(self.spec), beam.pvalue.AsList(tasks))
