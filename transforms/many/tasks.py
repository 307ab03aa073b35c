"""A run of many: its tasks as data, and what each becomes."""

from __future__ import annotations

import csv
import functools
import io
import os
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from transforms.specs.errors import RefusedError
from transforms.specs.job import JobSpec
from transforms.specs.own_names import is_own
from transforms.specs.run import RunSpec, Task, resolve
from transforms.storage import files, paths

REQUIRED = ("model", "input", "output")
OPTIONAL = ("signature_name", "model_version", "key_field")


class TaskError(RefusedError):
    """A line of the tasks that names no task; the message says which line, what was expected and what was found."""


def read_tasks(path: str) -> Iterator[Task]:
    """Reads a model map: JSON-lines, or CSV with a header where the name ends in ``.csv``.

    Raises:
      TaskError: a line that is no task.
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
    """Makes tasks of objects with their line numbers.

    Raises:
      TaskError: a field is missing, unknown or no text.
    """
    known = {*REQUIRED, *OPTIONAL}
    for number, (line, row) in enumerate(rows):
        if not isinstance(row, dict):
            raise TaskError(f"{source}, line {line}: expected an object with {', '.join(REQUIRED)}, found {type(row).__name__}")
        missing = [name for name in REQUIRED if not row.get(name)]
        if missing:
            found = ", ".join(map(str, row)) or "no field"
            raise TaskError(f"{source}, line {line}: the task lacks {', '.join(missing)}; it has {found}")
        unknown = sorted(map(str, set(row) - known))
        if unknown:
            raise TaskError(f"{source}, line {line}: unknown field {', '.join(unknown)}; a task has {', '.join((*REQUIRED, *OPTIONAL))}")
        wrong = [name for name, value in row.items() if not isinstance(value, str) or "\0" in value]
        if wrong:
            raise TaskError(f"{source}, line {line}: {wrong[0]} is {row[wrong[0]]!r}, expected text without NUL")
        yield Task(number, **row)


def check_tasks(tasks: Iterable[Task], run: RunSpec) -> Iterator[Task]:
    """Gives the tasks, having checked that each can be one, and that no two write to one folder or one inside the other's.

    Raises:
      TaskError: naming the tasks.
    """
    outputs = _Outputs(run.folder)
    for task in tasks:
        try:
            run.input_of(task), run.key_of(task), run.output_of(task)
        except RefusedError as error:
            raise TaskError(f"task {task.number + 1}: {error}") from error
        outputs.add(task)
        yield task
    outputs.check_nested()


class _Outputs:
    """The places of the tasks' outputs: one folder in two spellings, or through a link, is one."""

    def __init__(self, folder: str) -> None:
        self.folder, self.run = folder, files.place(folder)
        self.real = functools.cache(files.place)
        self.taken: dict[str, int] = {}

    def add(self, task: Task) -> None:
        """Note a task's output.

        Raises:
          TaskError: it leaves its folder, is another task's too, or has a name that is the program's own.
        """
        said = f"task {task.number + 1}: output {task.output}"
        folder = resolve(task.output, self.folder)
        if ".." in folder.split("/"):
            raise TaskError(f"{said} leaves its folder; give a path without '..'")
        place = self._place(folder)
        if place in self.taken or place == self.run:
            other = f"task {self.taken[place] + 1}" if place in self.taken else "the run's own manifest"
            raise TaskError(f"{said} is {place}, the folder of {other} too; each task needs one of its own")
        if place.startswith(self.run + "/") and is_own(place[len(self.run) + 1 :]):
            raise TaskError(f"{said} is a name that the run itself uses in {self.folder}, and takes away; give another")
        self.taken[place] = task.number

    def _place(self, folder: str) -> str:
        """As ``files.place``, each folder above looked at once: 100,000 tasks lie side by side."""
        above, _, name = folder.rpartition("/")
        if paths.is_remote(folder) or name in ("", ".") or os.path.islink(folder):
            return files.place(folder)
        return os.path.join(self.real(above or "/"), name)

    def check_nested(self) -> None:
        """Raise TaskError where an output lies inside another, or holds the run's: one that changes places takes along what it holds."""
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
    """Gives tasks as JSON-lines."""
    return b"".join(msgspec.json.encode(task.as_line()) + b"\n" for task in tasks)


def folders(spec: JobSpec | RunSpec) -> list[str]:
    """Gives the folders that a run writes to."""
    if isinstance(spec, JobSpec):
        return sorted({spec.output.folder, spec.output.errors})
    try:
        outputs = [spec.output_of(task).folder for task in read_tasks(spec.tasks)]
    except (OSError, TaskError):  # the launch did not come as far, or the run is over
        outputs = []
    return [*outputs, spec.folder]
