"""A run as frozen, checked values: of one job, or of many tasks, with what these have in common and the plan of each."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from transforms.specs.job import InputSpec, JobSpec, KeySpec, staging_in
from transforms.specs.manifest import Manifest
from transforms.specs.models import EACH_TASKS_MODEL, NO_COMPARISON, CompareSpec, ModelRequest, ModelSpec
from transforms.specs.output import FolderOutput, OutputSpec
from transforms.storage import paths


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """One model on one input to one output, as a line of ``--model_map`` names them."""

    number: int
    model: str
    input: str
    output: str
    signature_name: str | None = None
    model_version: str | None = None
    key_field: str | None = None

    def as_line(self) -> dict[str, str]:
        """Return the fields that have a value, as a line of a model map."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "number" and value is not None}


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """A task's model, or the reason why the task can't run. A run of one job has one plan, without a task.

    Key hashes are compared in ``key_buckets`` parts. ``published`` is the manifest of a task that an earlier launch of the run
    has completed.
    """

    task: Task | None = None
    model: ModelSpec | None = None
    key_buckets: int = 1
    reason: str | None = None
    published: Manifest | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobRun:
    """A run of one task, whose ``job`` is made before the start.

    With an ``identity``, the hash of all that decides the predictions, finished splits are recorded in staging. ``resumed`` are the
    staging folders of the run's earlier launches, whose records count.
    """

    job: JobSpec
    model_memory_bytes: int | None = None
    processes: int = 1
    identity: str = ""
    resumed: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Return the folder that gets the manifest."""
        return self.job.folder

    @property
    def folders(self) -> tuple[str, ...]:
        """Return the folders whose content the run replaces, one or two."""
        return tuple(dict.fromkeys((self.output.folder, self.output.errors)))

    @property
    def output(self) -> OutputSpec:
        return self.job.output

    @property
    def run_id(self) -> str:
        return self.job.run_id

    @property
    def launch(self) -> str:
        return self.job.launch

    @property
    def flags(self) -> tuple[tuple[str, str], ...]:
        return self.job.flags

    @property
    def task(self) -> int:
        """Return the number of the task whose manifest is the run's."""
        return self.job.task

    @property
    def model(self) -> ModelSpec | None:
        """Return the model of all rows; None where each row names its own."""
        return self.job.model if isinstance(self.job.model, ModelSpec) else None

    @property
    def compare(self) -> CompareSpec:
        return self.job.compare

    @property
    def has_report(self) -> bool:
        """Return whether a report is written beside the manifest."""
        return self.job.report

    def staging_in(self, folder: str) -> str:
        """Return the folder inside ``folder`` for this launch's unfinished files."""
        return self.job.staging_in(folder)

    def job_of(self, plan: Plan | None) -> JobSpec:
        """Return the run's job: its splits have no plan."""
        return self.job


TASKS_A_FOLDER = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class TasksRun:
    """A run of ``count`` tasks: what they have in common, in a graph that is the same for one task and for 100,000.

    The run's ``folder`` gets its manifest; every task's output is a tree of its own with its own gate. ``models`` has what all tasks
    require of their models.
    """

    # Each task has its own manifest and model, and is resumed as a whole: its splits are not recorded.
    task: ClassVar[None] = None
    model: ClassVar[None] = None
    compare: ClassVar[CompareSpec] = NO_COMPARISON
    identity: ClassVar[str] = ""
    resumed: ClassVar[tuple[str, ...]] = ()

    count: int
    folder: str
    input: InputSpec
    key: KeySpec
    output: FolderOutput
    run_id: str
    launch: str
    started: str
    models: ModelRequest = EACH_TASKS_MODEL
    max_error_ratio: float = 0.1
    flags: tuple[tuple[str, str], ...] = ()
    model_memory_bytes: int | None = None
    processes: int = 1
    report: str = "true"
    resume: bool = False

    @property
    def tasks(self) -> str:
        """Return the file of JSON-lines in which the launch writes the tasks."""
        return paths.join(self.staging_in(self.folder), "tasks.jsonl")

    @property
    def folders(self) -> tuple[str, ...]:
        """Return the folders whose content the run replaces, without those of its tasks."""
        return (self.folder,)

    @property
    def has_report(self) -> bool:
        """Return whether a report is written beside the run's manifest."""
        return self.report != "false"

    def staging_in(self, folder: str) -> str:
        """Return the folder inside ``folder`` for this launch's unfinished files."""
        return staging_in(folder, self.run_id, self.launch)

    def staging_of(self, output: FolderOutput, task: Task) -> str | None:
        """Return the folder for a task's unfinished files, shared with other tasks; None where the task writes outside the run's folder.

        To make and remove three folders a task took a seventh of a small task's time. Buckets have no folders to make, and there a
        task's own prefix is shorter to list.
        """
        inside = not paths.is_remote(self.folder) and all(
            folder.startswith(self.folder.rstrip("/") + "/") for folder in (output.folder, output.errors)
        )
        return paths.join(self.staging_in(self.folder), f"tasks-{task.number // TASKS_A_FOLDER:05d}") if inside else None

    def input_of(self, task: Task) -> InputSpec:
        return dataclasses.replace(self.input, patterns=tuple(part.strip() for part in task.input.split(",")))

    def request_of(self, task: Task) -> ModelRequest:
        return dataclasses.replace(
            self.models,
            location=task.model,
            version=task.model_version or self.models.version,
            signature_name=task.signature_name or self.models.signature_name,
        )

    def key_of(self, task: Task) -> KeySpec:
        if task.key_field is None:
            return self.key
        return dataclasses.replace(self.key, fields=tuple(part.strip() for part in task.key_field.split(",")))

    def output_of(self, task: Task) -> FolderOutput:
        return dataclasses.replace(self.output, folder=resolve(task.output, self.folder))

    def job_of(self, plan: Plan | None) -> JobSpec:
        """Make the job of ``plan``, which has a task and a model. Plans are sent between workers, not their jobs, which hardly differ."""
        assert plan is not None
        task, model = plan.task, plan.model
        assert task is not None
        assert model is not None
        output = self.output_of(task)
        return JobSpec(
            input=self.input_of(task),
            key=self.key_of(task),
            model=model,
            output=output,
            staging=self.staging_of(output, task),
            run_id=self.run_id,
            launch=self.launch,
            started=self.started,
            max_error_ratio=self.max_error_ratio,
            flags=self.flags,
            task=task.number,
            report=self.report == "tasks",
            key_buckets=plan.key_buckets,
        )


RunSpec = JobRun | TasksRun


def resolve(output: str, folder: str) -> str:
    """Return a task's output folder: itself where it is absolute, else below the run's folder."""
    if paths.is_remote(output) or output.startswith("/"):
        return output.rstrip("/") or output
    return paths.join(folder, output.strip("/"))
