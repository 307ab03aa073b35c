"""A run of many tasks as frozen, checked values: what its tasks have in common, and the plan of each."""

from __future__ import annotations

import dataclasses
from typing import Any

from transforms.specs.job import InputSpec, JobSpec, KeySpec, OutputSpec, staging_in
from transforms.specs.models import EACH_TASKS_MODEL, NO_COMPARISON, CompareSpec, ModelRequest, ModelSpec
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

    def as_line(self) -> dict[str, Any]:
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
    published: dict[str, Any] | None = None


TASKS_A_FOLDER = 1000


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """A run of many tasks: the file that lists them, and what they have in common.

    ``tasks`` is a file of JSON-lines that the launch wrote, so that the graph is the same for one task and for 100,000. The run's
    ``folder`` gets its manifest; every task's output is a tree of its own with its own gate. ``models`` has what all tasks require of
    their models.
    """

    tasks: str
    count: int
    folder: str
    input: InputSpec
    key: KeySpec
    output: OutputSpec
    run_id: str
    launch: str
    started: str
    models: ModelRequest = EACH_TASKS_MODEL
    max_error_ratio: float = 0.1
    flags: tuple[tuple[str, str], ...] = ()
    progress_folder: str | None = None
    model_memory_bytes: int | None = None
    processes: int = 1
    report: str = "true"
    compare: CompareSpec = NO_COMPARISON
    resume: bool = False

    def staging_in(self, folder: str) -> str:
        """Return the folder inside ``folder`` for this launch's unfinished files."""
        return staging_in(folder, self.run_id, self.launch)

    def staging_of(self, output: OutputSpec, task: Task) -> str | None:
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

    def output_of(self, task: Task) -> OutputSpec:
        return dataclasses.replace(self.output, folder=resolve(task.output, self.folder))

    def job_of(self, plan: Plan) -> JobSpec:
        """Make the job of ``plan``, which has a task and a model. Plans are sent between workers, not their jobs, which hardly differ."""
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


def resolve(output: str, folder: str) -> str:
    """Return a task's output folder: itself where it is absolute, else below the run's folder."""
    if paths.is_remote(output) or output.startswith("/"):
        return output.rstrip("/") or output
    return paths.join(folder, output.strip("/"))


def job_of(spec: JobSpec | RunSpec, plan: Plan | None) -> JobSpec:
    """Return ``spec`` where it is a job, else the job of ``plan``."""
    if isinstance(spec, JobSpec):
        return spec
    assert plan is not None
    return spec.job_of(plan)
