"""Tasks → plans and splits: each model found and looked at once, its splits together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystem import BeamIOError
from apache_beam.pvalue import TaggedOutput

from transforms import files
from transforms.elements import FileRange, Split
from transforms.model.locate import locate_model
from transforms.modelspecs import SpecError
from transforms.read.bigquery import PlanStreams
from transforms.read.formats import FormatError, format_of
from transforms.read.instances import row_spec
from transforms.read.splits import SPLIT_BYTES, PlanSplits, split_file
from transforms.signature import ModelError
from transforms.specs import JobSpec
from transforms.tasks import Plan, RunSpec, Task, read_tasks
from transforms.write import manifest
from transforms.write.formats import make_encoder

# Splits that one worker gets in one go, so that it loads their model once.
GROUP_BYTES = 128 << 20
GROUP_SPLITS = 1000
KEY_BUCKET_BYTES = 64 << 20
MAX_KEY_BUCKETS = 64


class _ReadTasks(beam.DoFn):
    def __init__(self, path: str) -> None:
        self.path = path

    def process(self, _: bytes) -> Iterator[Task]:
        yield from read_tasks(self.path)


class _PlanTask(beam.DoFn):
    """Finds a task's model and files; a task that can't run says why and holds back no other."""

    def __init__(self, run: RunSpec) -> None:
        self.run = run

    def process(self, task: Task) -> Iterator[TaggedOutput | tuple[str, Split]]:
        published = self._find_done(task) if self.run.resume else None
        if published is not None:
            yield TaggedOutput("plans", (task.number, Plan(task, None, published=published)))
            return
        try:
            job, ranges = self._plan(task)
        except (ModelError, FormatError, SpecError, BeamIOError, OSError) as error:
            yield TaggedOutput("plans", (task.number, Plan(task, None, str(error))))
            return
        yield TaggedOutput("plans", (task.number, Plan(task, job)))
        packed: list[FileRange] = []
        for piece in ranges:
            if piece.size_bytes >= SPLIT_BYTES // 2:
                yield job.model.location, Split((piece,), job)
                continue
            packed.append(piece)
            if len(packed) >= GROUP_SPLITS or sum(one.size_bytes for one in packed) >= SPLIT_BYTES:
                yield job.model.location, Split(tuple(packed), job)
                packed = []
        if packed:
            yield job.model.location, Split(tuple(packed), job)

    def _find_done(self, task: Task) -> dict[str, Any] | None:
        report = manifest.find_done(self.run.output_of(task).folder, self.run.run_id, dict(self.run.flags))
        return report if report and report["input"]["patterns"] == list(self.run.input_of(task).patterns) else None

    def _plan(self, task: Task) -> tuple[JobSpec, list[FileRange]]:
        run = self.run
        spec = run.input_of(task)
        if spec.is_bigquery:
            raise FormatError(f"input {task.input}: a task reads files; a table is read by a run of one job, with --input")
        model = locate_model(
            task.model,
            version=task.model_version or run.model_version,
            signature_name=task.signature_name or run.signature_name,
            tags=run.tags,
            batch_size=run.batch_size,
            allow_unsafe_ops=run.allow_unsafe_ops,
            threads=run.threads,
            shares=True,
        )
        found = {one.path: one for pattern in spec.patterns for one in files.match(pattern)}
        if not found:
            raise FormatError(f"input {task.input} matches no file")
        ranges = [piece for one in found.values() for piece in split_file(one, format_of(one.path, spec.format))]
        size = sum(piece.size_bytes for piece in ranges)
        output = run.output_of(task)
        job = JobSpec(
            input=spec,
            key=run.key_of(task),
            model=model,
            output=output,
            staging=run.staging_of(output, task),
            run_id=run.run_id,
            launch=run.launch,
            started=run.started,
            max_error_ratio=run.max_error_ratio,
            flags=run.flags,
            task=task.number,
            report=run.report == "tasks",
            key_buckets=min(MAX_KEY_BUCKETS, 1 + size // KEY_BUCKET_BYTES),
        )
        reason = format_of(ranges[0].path, spec.format).refuse(row_spec(job), ranges[0].path)
        if reason:
            raise FormatError(reason)
        make_encoder(job)  # refuses what the output's format can't hold
        return job, ranges


class _CutGroups(beam.DoFn):
    """Cuts the splits of one model into groups of a size that one worker may take."""

    def process(self, model: tuple[str, Iterable[Split]]) -> Iterator[list[Split]]:
        group: list[Split] = []
        size = 0
        for split in model[1]:
            group.append(split)
            size += sum(piece.size_bytes for piece in split.ranges)
            if size >= GROUP_BYTES or len(group) >= GROUP_SPLITS:
                yield group
                group, size = [], 0
        if group:
            yield group


@dataclasses.dataclass
class PlanTasks(beam.PTransform):
    """Makes the splits of all tasks of a run.

    Expects: a pipeline. Gives: the pair of ``Split``s, those of a model one after the other and large inputs spread over the
    workers, and of pairs of task and ``Plan``.
    Guarantees: each task has one plan; the graph is the same whatever the number of tasks.
    """

    run: RunSpec

    def expand(self, pipeline: beam.Pipeline) -> tuple[beam.PCollection, beam.PCollection]:
        planned = (
            pipeline
            | beam.Impulse()
            | "ReadTasks" >> beam.ParDo(_ReadTasks(self.run.tasks)).with_output_types(Task)
            | "SpreadTasks" >> beam.Reshuffle()
            | "PlanTask" >> beam.ParDo(_PlanTask(self.run)).with_output_types(tuple[str, Split]).with_outputs("plans", main="splits")
        )
        splits = (
            planned.splits
            | "GroupByModel" >> beam.GroupByKey()
            | "CutGroups" >> beam.ParDo(_CutGroups()).with_output_types(list[Split])
            | "SpreadGroups" >> beam.Reshuffle()
            | "EachSplit" >> beam.FlatMap(lambda group: group).with_output_types(Split)
        )
        return splits, planned.plans


@dataclasses.dataclass
class PlanJob(beam.PTransform):
    """Makes the splits and the one plan of a run of one job.

    Expects: a pipeline. Gives: the pair of ``Split``s and of pairs of task (0) and ``Plan``.
    """

    job: JobSpec

    def expand(self, pipeline: beam.Pipeline) -> tuple[beam.PCollection, beam.PCollection]:
        plan = self.job.task, Plan(None, self.job)
        plans = pipeline | beam.Impulse() | "Plan" >> beam.Map(lambda _: plan).with_output_types(tuple[int, Plan])
        splits = pipeline | (PlanStreams(self.job) if self.job.input.is_bigquery else PlanSplits(self.job.input))
        return splits, plans
