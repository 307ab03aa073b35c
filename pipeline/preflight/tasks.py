"""A run of many models: its tasks read and checked before anything starts."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterator
from typing import Any

import msgspec
from apache_beam.options.pipeline_options import PipelineOptions
from msgspec import UNSET

from pipeline.flags import specs_of
from pipeline.flags.options import RunOptions
from pipeline.preflight.engine import Engine, check_engine
from pipeline.preflight.job import (
    InputFound,
    PreflightError,
    check_writable,
    finish_publishing,
    make_run_id,
    memory_bytes,
    refuse_in_models,
)
from transforms.bigquery.client import ERRORS, client, reason
from transforms.many.tasks import OPTIONAL, REQUIRED, TaskError, check_tasks, make_tasks, read_tasks, write_tasks
from transforms.model.import_tensorflow import import_tensorflow
from transforms.output.manifest import read_manifest
from transforms.specs.output import TableOutput
from transforms.specs.run import Task, TasksRun, resolve
from transforms.specs.table_name import is_table, parse_table
from transforms.storage import files, paths


def prepare(options: RunOptions, beam_options: PipelineOptions) -> tuple[TasksRun, InputFound]:
    """Make the run and the summary of its input from the options; check its tasks, and that their outputs do not overlap.

    The workers check models and inputs, task by task: a missing one fails its task alone.

    Raises:
      RefusedError: a check fails; the message names the line of the tasks that is wrong and what to do.
    """
    engine = Engine(beam_options)
    check_engine(options, engine)
    import_tensorflow()
    now = datetime.datetime.now(datetime.UTC)
    try:
        tasks = list(_tasks(options, engine.project))
    except OSError as error:
        raise PreflightError(str(error)) from error
    output = specs_of.output_spec(options)
    if isinstance(output, TableOutput):
        raise PreflightError(
            f"--output={options.output}: the results of many tasks are folders, below one that gets the run's manifest; give a folder"
        )
    folder = options.output.rstrip("/") or options.output
    run = TasksRun(
        count=len(tasks),
        folder=folder,
        input=specs_of.input_spec(options),
        key=specs_of.key_spec(options),
        output=output,
        run_id=options.run_id or make_run_id(now),
        launch=uuid.uuid4().hex,
        started=now.isoformat(timespec="milliseconds"),
        models=specs_of.model_request(options, engine.threads),
        max_error_ratio=options.max_error_ratio,
        flags=options.given,
        model_memory_bytes=memory_bytes(options),
        processes=engine.processes,
        report=options.report,
        resume=options.resume,
    )
    check_tasks(tasks, run)
    for task in tasks if engine.has_workers_elsewhere else ():
        for name, places in (("model", (task.model,)), ("input", run.input_of(task).patterns)):
            for path in places:
                engine.check_path(f"task {task.number + 1}: {name}", path)
    refuse_in_models({task.model for task in tasks}, (folder, *(resolve(task.output, folder) for task in tasks)))
    if not tasks:
        raise PreflightError(f"{options.model_map or options.retry_failed} holds no task: there is nothing to run")
    if options.errors:
        raise PreflightError("--errors has no meaning with tasks: each task's failed rows stand beside its results; leave it out")
    finish_publishing(folder)
    check_writable(folder, run.staging_in(folder))
    files.write_bytes(run.tasks, write_tasks(tasks))
    return run, InputFound(0, 0, whole=False)


def _table_rows(name: str, project: str | None, location: str | None) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a table of tasks with their numbers, from 1, without columns that are null.

    Raises:
      TaskError: the table can't be read, or lacks a column.
    """
    columns = [*REQUIRED, *OPTIONAL]
    try:
        table = client(project, location).get_table(parse_table(name).dotted)
        fields = [field for field in table.schema if field.name in columns]
        missing = [column for column in REQUIRED if column not in {field.name for field in fields}]
        if missing:
            found = ", ".join(field.name for field in table.schema)
            raise TaskError(f"--model_map={name}: the table has no column {', '.join(missing)}; it has {found}")
        for number, row in enumerate(client(project, location).list_rows(table, selected_fields=fields), 1):
            yield number, {column: value for column, value in row.items() if value is not None}
    except ERRORS as error:
        raise TaskError(f"--model_map={name} can't be read: {reason(error)}") from error
    except ValueError as error:
        raise TaskError(f"--model_map={error}") from None


def _tasks(options: RunOptions, project: str | None) -> Iterator[Task]:
    if options.retry_failed is not None:
        return _failed_tasks(options.retry_failed)
    assert options.model_map is not None
    if is_table(options.model_map):
        return make_tasks(_table_rows(options.model_map, project, options.location), options.model_map)
    return read_tasks(options.model_map)


def _failed_tasks(path: str) -> Iterator[Task]:
    """Return the tasks that failed in the run whose manifest is at ``path``.

    Raises:
      TaskError: there is no such manifest.
    """
    manifest = read_manifest(path)
    if manifest is None or manifest.tasks is UNSET:
        raise TaskError(f"--retry_failed={path}: expected the manifest.json of a run of many tasks, found none there")
    folder = path.rpartition("/")[0] or "."
    return make_tasks(_failed_lines(folder, manifest.tasks.files), path)


def _failed_lines(folder: str, names: list[str]) -> Iterator[tuple[int, Any]]:
    for name in names:
        for number, line in enumerate(files.read_bytes(paths.join(folder, name)).splitlines(), 1):
            row = msgspec.json.decode(line)
            if row["status"] != "done":
                yield number, {field: row[field] for field in (*REQUIRED, *OPTIONAL) if field in row}
