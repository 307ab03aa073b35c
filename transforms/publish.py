"""Publish: shards and accounts to the output: complete where the gate allows it, else the failed rows alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from transforms.accounts.accounts import Accounts
from transforms.accounts.coders import AccountEntry, AccountEntryCoder
from transforms.elements.shards import Shard
from transforms.elements.splits import SplitCount
from transforms.many.run_manifest import publish_run
from transforms.output.publish_tasks import TaskGroup
from transforms.output.publisher import GateShutError, Publisher
from transforms.rows.keys import LISTED_DUPLICATES, DuplicateKey, Duplicates
from transforms.specs.manifest import Manifest, TaskLine
from transforms.specs.run import JobRun, Plan, RunSpec, TasksRun
from transforms.staging import cancelled
from transforms.statistics.statistics import MergeStatistics, Statistics


def _add_up(entries: Iterable[Any]) -> tuple[Plan, Accounts]:
    """Return a task's plan, and its accounts from the entries of all earlier steps."""
    kinds: dict[type, list[Any]] = {kind: [] for kind in AccountEntryCoder.NUMBERS}
    for entry in entries:
        kinds[type(entry)].append(entry)
    (plan,) = kinds[Plan]
    places = tuple(sorted(kinds[DuplicateKey])[:LISTED_DUPLICATES])
    return plan, Accounts(tuple(kinds[Shard]), tuple(kinds[SplitCount]), tuple(kinds[Duplicates]), places, *kinds[Statistics])


class _PublishJob(beam.DoFn):
    """Publishes the one job of a run; results that are refused fail the run."""

    def __init__(self, run: JobRun, publisher: type[Publisher]) -> None:
        self.run, self.publisher = run, publisher

    def process(self, task: tuple[int, Iterable[Any]]) -> Iterator[Manifest]:
        _, accounts = _add_up(task[1])
        cancelled.check(self.run)
        yield self.publisher(self.run.job, accounts).publish()


class _PublishTask(beam.DoFn):
    """Publishes tasks of a run of many; the failure of one is a line of the run's manifest, and the others go on."""

    def __init__(self, run: TasksRun) -> None:
        self.run = run

    def start_bundle(self) -> None:
        self.group = TaskGroup(self.run)

    def process(self, task: tuple[int, Iterable[Any]]) -> Iterator[TaskLine]:
        yield from self.group.add(*_add_up(task[1]))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for line in self.group.end():
            yield WindowedValue(line, GlobalWindow().max_timestamp(), [GlobalWindow()])


class PublishRun(beam.DoFn):
    """Publishes the manifest of a run of many, after all of its tasks."""

    def __init__(self, run: TasksRun) -> None:
        self.run = run

    def process(self, _: bytes, tasks: Sequence[TaskLine]) -> Iterator[Manifest]:
        cancelled.check(self.run)
        manifest = publish_run(self.run, tasks)
        if not manifest.is_done:
            raise GateShutError(manifest.reason)
        yield manifest


@dataclasses.dataclass
class Publish(beam.PTransform):
    """Check the accounts of each job and publish its output, in the last step of the graph: a template's launcher has ended by then.

    Expects: (task, ``Shard``) of all shards. The fields are collections of (task, …) too: ``plans`` of the first step, ``accounts`` of
    the read step, ``duplicates`` and ``places`` of CheckKeys, ``statistics`` of the write step and, in a resumed run, of the read step.
    Gives: the one manifest of the run.
    Guarantees: each job's output is complete, with ``_SUCCESS``, or absent; publishing again leaves the same files.
    """

    run: RunSpec
    plans: beam.PCollection[tuple[int, AccountEntry]]
    accounts: beam.PCollection[tuple[int, AccountEntry]]
    duplicates: beam.PCollection[tuple[int, AccountEntry]]
    places: beam.PCollection[tuple[int, AccountEntry]]
    statistics: tuple[beam.PCollection[tuple[int, Statistics]], ...]
    publisher: type[Publisher] = Publisher

    def expand(self, shards: beam.PCollection[tuple[int, AccountEntry]]) -> beam.PCollection[Manifest]:
        unmerged = self.statistics[0] if len(self.statistics) == 1 else self.statistics | "AllStatistics" >> beam.Flatten()
        merge = MergeStatistics().with_input_types(Statistics).with_output_types(AccountEntry)
        statistics = unmerged | beam.CombinePerKey(merge)
        # The entries are told apart by their types: a join by name would tag and untag each of them, in eight steps more.
        entries = (self.plans, shards, self.accounts, self.duplicates, self.places, statistics)
        by_task = entries | beam.Flatten().with_output_types(tuple[int, AccountEntry]) | "GroupByTask" >> beam.GroupByKey()
        match self.run:
            case JobRun() as run:
                return by_task | "PublishJob" >> beam.ParDo(_PublishJob(run, self.publisher))
            case TasksRun() as run:
                tasks = by_task | "PublishTask" >> beam.ParDo(_PublishTask(run)).with_output_types(TaskLine)
                return shards.pipeline | "Once" >> beam.Impulse() | "PublishRun" >> beam.ParDo(PublishRun(run), beam.pvalue.AsList(tasks))
