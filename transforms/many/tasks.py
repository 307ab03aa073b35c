"""The tasks of a run of many (``--model_map``): read, checked, written as data."""

from __future__ import annotations

import csv
import functools
import io
import os
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from transforms.specs.errors import RefusedError
from transforms.specs.own_names import is_own
from transforms.specs.run import JobRun, RunSpec, Task, TasksRun, resolve
from transforms.storage import files, paths

REQUIRED = ("model", "input", "output")
OPTIONAL = ("signature_name", "model_version", "key_field")


class TaskError(RefusedError):
    """A line of a model map that is not a valid task; the message names the line, what is expected and what was found."""


def read_tasks(path: str) -> Iterator[Task]:
    """Read a model map: CSV with a header where the name ends in ``.csv``, else JSON-lines.

    Raises:
      TaskError: a line is not a valid task.
      OSError: the file can't be read.
    """
    content = files.read_bytes(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TaskError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None
    rows = _csv_rows(text, path) if path.lower().endswith(".csv") else _json_rows(text, path)
    return make_tasks(rows, path)


def _csv_rows(text: str, path: str) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            yield reader.line_num, {name: value for name, value in row.items() if value not in ("", None)}
    except csv.Error as error:
        raise TaskError(f"{path}, line {reader.line_num}: expected CSV with a header, found {error}") from None


def _json_rows(text: str, path: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, msgspec.json.decode(line)
            except msgspec.DecodeError as error:
                raise TaskError(f"{path}, line {number}: expected a JSON object, found {line[:60]!r} ({error})") from None


def make_tasks(rows: Iterable[tuple[int, Any]], source: str) -> Iterator[Task]:
    """Make tasks of pairs of line number and decoded JSON value; ``source`` names them in messages.

    Raises:
      TaskError: a value is not an object, or a field is missing, unknown or not text.
    """
    known = {*REQUIRED, *OPTIONAL}
    for number, (line, row) in enumerate(rows):
        if not isinstance(row, dict):
            raise TaskError(f"{source}, line {line}: expected an object with {', '.join(REQUIRED)}, found {type(row).__name__}")
        missing = [name for name in REQUIRED if not row.get(name)]
        if missing:
            fields = ", ".join(map(str, row)) or "no field"
            raise TaskError(f"{source}, line {line}: the task lacks {', '.join(missing)}; it has {fields}")
        unknown = sorted(map(str, set(row) - known))
        if unknown:
            raise TaskError(f"{source}, line {line}: unknown field {', '.join(unknown)}; a task has {', '.join((*REQUIRED, *OPTIONAL))}")
        wrong = [name for name, value in row.items() if not isinstance(value, str) or "\0" in value]
        if wrong:
            raise TaskError(f"{source}, line {line}: {wrong[0]} is {row[wrong[0]]!r}, expected text without NUL")
        yield Task(number, **row)


def check_tasks(tasks: Iterable[Task], run: TasksRun) -> None:
    """Check each task's values and output.

    Raises:
      TaskError: a task's values are not valid, or two outputs are one folder or one inside the other; the message names the tasks.
    """
    outputs = _Outputs(run.folder)
    for task in tasks:
        try:
            run.input_of(task), run.key_of(task), run.output_of(task)
        except RefusedError as error:
            raise TaskError(f"task {task.number + 1}: {error}") from error
        outputs.add(task)
    outputs.check_nested()


class _Outputs:
    """The folders of the tasks' outputs, compared by their real paths, whatever their spelling."""

    def __init__(self, folder: str) -> None:
        self.folder, self.run = folder, files.place(folder)
        self.real = functools.cache(files.place)
        self.taken: dict[str, int] = {}

    def add(self, task: Task) -> None:
        """Check a task's output against those before it.

        Raises:
          TaskError: the output leads out of the run's folder, is another task's, or has a name of the program's own.
        """
        subject = f"task {task.number + 1}: output {task.output}"
        folder = resolve(task.output, self.folder)
        if ".." in folder.split("/"):
            raise TaskError(f"{subject} leaves its folder; give a path without '..'")
        place = self._place(folder)
        if place in self.taken or place == self.run:
            other = f"task {self.taken[place] + 1}" if place in self.taken else "the run's own manifest"
            raise TaskError(f"{subject} is {place}, the folder of {other} too; each task needs one of its own")
        if place.startswith(self.run + "/") and is_own(place[len(self.run) + 1 :]):
            raise TaskError(f"{subject} is a name that the run itself uses in {self.folder}, and removes; give another")
        self.taken[place] = task.number

    def _place(self, folder: str) -> str:
        """Return ``files.place`` of a folder; the parent, which 100,000 tasks may share, is resolved once."""
        above, _, name = folder.rpartition("/")
        if paths.is_remote(folder) or name in ("", ".") or os.path.islink(folder):
            return files.place(folder)
        return os.path.join(self.real(above or "/"), name)

    def check_nested(self) -> None:
        """Check that no output is inside another or holds the run's folder: an output that is exchanged takes its content along.

        Raises:
          TaskError: one is.
        """
        for place, number in [*self.taken.items(), (self.run, -1)]:
            above = os.path.dirname(place)
            while above not in self.taken and above not in ("", "/"):
                above = os.path.dirname(above)
            if above in self.taken:
                inner = "the run's own folder" if number < 0 else f"the output of task {number + 1}"
                raise TaskError(
                    f"task {self.taken[above] + 1}: {inner}, {place}, lies inside its output {above}, which is replaced as a whole; "
                    "give folders of which none holds another"
                )


def write_tasks(tasks: Iterable[Task]) -> bytes:
    """Encode tasks as JSON-lines, which ``read_tasks`` reads."""
    return b"".join(msgspec.json.encode(task.as_line()) + b"\n" for task in tasks)


def written_folders(run: RunSpec) -> list[str]:
    """List the folders that a run writes to, those of its tasks included."""
    match run:
        case JobRun():
            return list(run.folders)
        case TasksRun():
            return [*_task_folders(run), *run.folders]


def _task_folders(run: TasksRun) -> list[str]:
    try:
        return [run.output_of(task).folder for task in read_tasks(run.tasks)]
    except (OSError, TaskError):  # the launch has not written its tasks yet, or the run has removed them
        return []
