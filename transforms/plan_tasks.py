"""Tasks → plans and splits: each model found and looked at once, its splits together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput

from transforms.accounts.coders import Piece
from transforms.elements.splits import FileRange, Split
from transforms.formats import splitting
from transforms.formats.catalog import FormatError, format_of, make_encoder
from transforms.formats.splitting import split_file
from transforms.many.tasks import read_tasks
from transforms.model.locate import locate_model
from transforms.output import journal, publisher
from transforms.output.manifest import find_done
from transforms.output.mirror import MirrorCheck
from transforms.plan_splits import PlanSplits
from transforms.plan_streams import PlanStreams
from transforms.rows.row_spec import row_spec
from transforms.specs.errors import RefusedError, SpecError
from transforms.specs.job import JobSpec, OutputSpec
from transforms.specs.own_names import is_own
from transforms.specs.run import Plan, RunSpec, Task
from transforms.storage import files
from transforms.storage.files import FoundFile

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
            yield TaggedOutput("plans", (task.number, Plan(task, published=published)))
            return
        try:
            plan, ranges = self._plan(task)
        except (RefusedError, OSError) as error:
            yield TaggedOutput("plans", (task.number, Plan(task, reason=str(error))))
            return
        yield TaggedOutput("plans", (task.number, plan))
        assert plan.model is not None
        location = plan.model.location
        small = [piece for piece in ranges if splitting.is_small(piece.size_bytes)]
        yield from ((location, Split((piece,), plan)) for piece in ranges if not splitting.is_small(piece.size_bytes))
        for packed in splitting.groups(small, lambda piece: piece.size_bytes, splitting.small_files()):
            yield location, Split(tuple(packed), plan)

    def _find_done(self, task: Task) -> dict[str, Any] | None:
        folder = self.run.output_of(task).folder
        if journal.read(folder) is not None:  # the task was cut off while it was published: that is finished first
            with journal.alone(folder):
                pass
        manifest = find_done(folder, self.run.run_id, dict(self.run.flags))
        if not manifest or manifest["input"]["patterns"] != list(self.run.input_of(task).patterns):
            return None
        publisher.sweep_task(folder, self.run.run_id)
        return manifest

    def _plan(self, task: Task) -> tuple[Plan, list[FileRange]]:
        run = self.run
        spec = run.input_of(task)
        if spec.is_bigquery:
            raise FormatError(f"input {task.input}: a task reads files; a table is read by a run of one job, with --input")
        model = locate_model(run.request_of(task), shares=True)
        found = list(files.match_once(spec.patterns))
        if not found:
            raise FormatError(f"input {task.input} matches no file")
        _check_outputs(found, run.output_of(task))
        ranges = [piece for one in found for piece in split_file(one, format_of(one.path, spec.format))]
        size = sum(piece.size_bytes for piece in ranges)
        plan = Plan(task, model, min(MAX_KEY_BUCKETS, 1 + size // KEY_BUCKET_BYTES))
        job = run.job_of(plan)
        reason = format_of(ranges[0].path, spec.format).why_unreadable(row_spec(job), ranges[0].path)
        if reason:
            raise FormatError(reason)
        make_encoder(job)  # refuses what the output's format can't hold
        return plan, ranges


def _check_outputs(found: Sequence[FoundFile], output: OutputSpec) -> None:
    """Raise SpecError where a task's results would replace one of its inputs, or be replaced themselves."""
    folder, mirrors = files.place(output.folder) + "/", MirrorCheck(output)
    for one in found:
        if one.place.startswith(folder) and (output.layout == "mirror" or is_own(one.place[len(folder) :])):
            raise SpecError("input", f"{one.path} lies in the task's output {output.folder}, where the run would replace it: give another")
        if output.layout == "mirror":
            mirrors.add(one)


class _CutGroups(beam.DoFn):
    """Cuts the splits of one model into groups of a size that one worker may take."""

    def process(self, model: tuple[str, Iterable[Split]]) -> Iterator[list[Split]]:
        def size_of(split: Split) -> int:
            return sum(piece.size_bytes for piece in split.ranges)

        yield from splitting.groups(model[1], size_of, splitting.Group(GROUP_BYTES, GROUP_SPLITS))


@dataclasses.dataclass
class PlanTasks(beam.PTransform):
    """Makes the splits of all tasks of a run.

    Expects: a pipeline. Gives: the pair of ``Split``s, those of a model one after the other and large inputs spread over the
    workers, and of pairs of task and ``Plan``.
    Guarantees: each task has one plan; the graph is the same whatever the number of tasks.
    """

    run: RunSpec

    def expand(self, pipeline: beam.Pipeline) -> tuple[beam.PCollection, beam.PCollection]:
        plan = beam.ParDo(_PlanTask(self.run)).with_output_types(tuple[str, Split], plans=tuple[int, Piece])
        planned = (
            pipeline
            | beam.Impulse()
            | "ReadTasks" >> beam.ParDo(_ReadTasks(self.run.tasks)).with_output_types(Task)
            | "SpreadTasks" >> beam.Reshuffle()
            | "PlanTask" >> plan.with_outputs("plans", main="splits")
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

    Expects: a pipeline. Gives: the pair of ``Split``s and of pairs of task (0) and an empty ``Plan``.
    """

    job: JobSpec

    def expand(self, pipeline: beam.Pipeline) -> tuple[beam.PCollection, beam.PCollection]:
        task = self.job.task
        plans = pipeline | beam.Impulse() | "Plan" >> beam.Map(lambda _: (task, Plan())).with_output_types(tuple[int, Piece])
        splits = pipeline | (PlanStreams(self.job) if self.job.input.is_bigquery else PlanSplits(self.job.input, self.job.output))
        return splits, plans
