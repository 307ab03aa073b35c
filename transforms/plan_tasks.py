"""PlanTasks and PlanJob: tasks, or one job, to plans and splits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput
from msgspec import UNSET

from transforms.accounts.coders import AccountEntry
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
from transforms.specs.job import JobSpec
from transforms.specs.manifest import Manifest
from transforms.specs.output import OutputSpec
from transforms.specs.own_names import is_own
from transforms.specs.run import Plan, Task, TasksRun
from transforms.storage import files
from transforms.storage.files import FoundFile

# Splits of one model that one worker gets together, so that it loads the model once.
GROUP_BYTES = 128 << 20
GROUP_SPLITS = 1000
KEY_BUCKET_BYTES = 64 << 20
MAX_KEY_BUCKETS = 64


class _ReadTasks(beam.DoFn):
    """Reads the file of tasks that the launch wrote."""

    def __init__(self, path: str) -> None:
        self.path = path

    def process(self, _: bytes) -> Iterator[Task]:
        yield from read_tasks(self.path)


class _PlanTask(beam.DoFn):
    """Finds a task's model and files; a task that can't run gets a plan with the reason, and the others go on."""

    def __init__(self, run: TasksRun) -> None:
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
        limits = self.run.input.limits
        small = [file_range for file_range in ranges if splitting.is_small(file_range.size_bytes, limits)]
        yield from ((location, Split((large,), plan)) for large in ranges if not splitting.is_small(large.size_bytes, limits))
        for packed in splitting.groups(small, lambda file_range: file_range.size_bytes, splitting.small_files(limits)):
            yield location, Split(tuple(packed), plan)

    def _find_done(self, task: Task) -> Manifest | None:
        """Return the manifest of the task if an earlier launch of the run has published it, else None."""
        folder = self.run.output_of(task).folder
        if journal.read(folder) is not None:  # a publication of the task was cut off: finish it first
            with journal.alone(folder):
                pass
        manifest = find_done(folder, self.run.run_id, dict(self.run.flags))
        if manifest is None or manifest.input is UNSET or manifest.input.patterns != list(self.run.input_of(task).patterns):
            return None
        publisher.sweep_task(folder, self.run.run_id)
        return manifest

    def _plan(self, task: Task) -> tuple[Plan, list[FileRange]]:
        """Find and check a task's model and files; return its plan and the ranges of its files.

        Raises:
          ModelError, FormatError, SpecError, BeamIOError, OSError: the task can't run.
        """
        run = self.run
        spec = run.input_of(task)
        if spec.is_bigquery:
            raise FormatError(f"input {task.input}: a task reads files; a table is read by a run of one job, with --input")
        model = locate_model(run.request_of(task), shares=True)
        inputs = list(files.match_once(spec.patterns))
        if not inputs:
            raise FormatError(f"input {task.input} matches no file")
        _check_outputs(inputs, run.output_of(task))
        ranges = [file_range for file in inputs for file_range in split_file(file, format_of(file.path, spec.format), spec.limits)]
        size = sum(file_range.size_bytes for file_range in ranges)
        plan = Plan(task, model, min(MAX_KEY_BUCKETS, 1 + size // KEY_BUCKET_BYTES))
        job = run.job_of(plan)
        reason = format_of(ranges[0].path, spec.format).why_unreadable(row_spec(job), ranges[0].path)
        if reason:
            raise FormatError(reason)
        make_encoder(job)  # refuses what the output's format can't hold
        return plan, ranges


def _check_outputs(inputs: Sequence[FoundFile], output: OutputSpec) -> None:
    """Check the names of a task's results.

    Raises:
      SpecError: they would replace one of the inputs, or each other.
    """
    folder, mirrors = files.place(output.folder) + "/", MirrorCheck(output)
    for file in inputs:
        if file.place.startswith(folder) and (output.layout == "mirror" or is_own(file.place[len(folder) :])):
            raise SpecError("input", f"{file.path} lies in the task's output {output.folder}, where the run would replace it: give another")
        if output.layout == "mirror":
            mirrors.add(file)


class _CutGroups(beam.DoFn):
    """Cuts the splits of one model into groups, each of a size for one worker."""

    def process(self, model: tuple[str, Iterable[Split]]) -> Iterator[list[Split]]:
        def size_of(split: Split) -> int:
            return sum(file_range.size_bytes for file_range in split.ranges)

        yield from splitting.groups(model[1], size_of, splitting.Group(GROUP_BYTES, GROUP_SPLITS))


@dataclasses.dataclass
class PlanTasks(beam.PTransform):
    """Plan all tasks of a run.

    Expects: a pipeline.
    Gives: a pair of collections: ``Split``s, those of a model one after the other and large inputs spread over the workers, and
    (task, ``Plan``).
    Guarantees: each task has one plan; the graph is the same for any number of tasks.
    """

    run: TasksRun

    def expand(self, pipeline: beam.Pipeline) -> tuple[beam.PCollection[Split], beam.PCollection[tuple[int, AccountEntry]]]:
        plan = beam.ParDo(_PlanTask(self.run)).with_output_types(tuple[str, Split], plans=tuple[int, AccountEntry])
        tasks = (
            pipeline
            | beam.Impulse()
            | "ReadTasks" >> beam.ParDo(_ReadTasks(self.run.tasks)).with_output_types(Task)
            | "SpreadTasks" >> beam.Reshuffle()
            | "PlanTask" >> plan.with_outputs("plans", main="splits")
        )
        splits = (
            tasks.splits
            | "GroupByModel" >> beam.GroupByKey()
            | "CutGroups" >> beam.ParDo(_CutGroups()).with_output_types(list[Split])
            | "SpreadGroups" >> beam.Reshuffle()
            | "EachSplit" >> beam.FlatMap(lambda group: group).with_output_types(Split)
        )
        return splits, tasks.plans


@dataclasses.dataclass
class PlanJob(beam.PTransform):
    """Plan a run of one job.

    Expects: a pipeline.
    Gives: a pair of collections: the ``Split``s of the job's files or table, and one (task 0, empty ``Plan``).
    Guarantees: those of ``PlanSplits`` and ``PlanStreams``.
    """

    job: JobSpec

    def expand(self, pipeline: beam.Pipeline) -> tuple[beam.PCollection[Split], beam.PCollection[tuple[int, AccountEntry]]]:
        task = self.job.task
        plans = pipeline | beam.Impulse() | "Plan" >> beam.Map(lambda _: (task, Plan())).with_output_types(tuple[int, AccountEntry])
        splits = pipeline | (PlanStreams(self.job) if self.job.input.is_bigquery else PlanSplits(self.job.input, self.job.output))
        return splits, plans
