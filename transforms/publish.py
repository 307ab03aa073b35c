"""The gate and what lies behind it: a job's shards become its output, whole, or the failed rows alone do."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from transforms.accounts.accounts import Accounts
from transforms.accounts.coders import Piece, PieceCoder
from transforms.elements.shards import Shard
from transforms.elements.splits import SplitCount
from transforms.many.run_manifest import publish_run
from transforms.output.publish_tasks import TaskGroup
from transforms.output.publisher import GateShutError, Publisher
from transforms.rows.keys import LISTED_DUPLICATES, DuplicateKey, Duplicates
from transforms.specs.job import JobSpec
from transforms.specs.run import Plan, RunSpec
from transforms.staging import cancelled
from transforms.statistics.statistics import MergeStatistics, Statistics


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
        cancelled.check(self.job)
        yield self.publisher(self.job, accounts).publish()


class _PublishTask(beam.DoFn):
    """Publishes tasks of many; what fails one is a line of the run's manifest and holds back no other."""

    def __init__(self, run: RunSpec) -> None:
        self.run = run

    def start_bundle(self) -> None:
        self.group = TaskGroup(self.run)

    def process(self, pieces: tuple[int, Iterable[Any]]) -> Iterator[dict[str, Any]]:
        yield from self.group.add(*_add_up(pieces[1]))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for line in self.group.end():
            yield WindowedValue(line, GlobalWindow().max_timestamp(), [GlobalWindow()])


class _PublishRun(beam.DoFn):
    def __init__(self, run: RunSpec) -> None:
        self.run = run

    def process(self, _: bytes, tasks: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        cancelled.check(self.run)
        report = publish_run(self.run, tasks)
        if report["status"] != "done":
            raise GateShutError(report["reason"])
        yield report


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
