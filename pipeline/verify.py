"""``nightshift verify``: compares the files in an output folder with its manifest, every byte, at any time after a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pipeline.flags.arguments import read_arguments, read_options
from pipeline.flags.flag import Flag, UsageError
from pipeline.process.terminal import complain, one_line, say

if TYPE_CHECKING:
    from transforms.specs.manifest import Manifest, TasksEntry

FLAGS = (Flag("output", "Verify", "the folder to compare", "a folder or gs://bucket/folder", default_help="required"),)
RIGHT, NOTHING_THERE, DIFFERS = 0, 2, 3
SHOWN = 20
HELP = """usage: nightshift verify OUT

Compares the files in OUT, a folder or gs://bucket/folder, with OUT/manifest.json: each file there, with its size and crc32c, no name
twice, no other file of a run's, rows that add up, and _SUCCESS. Of a run of many models, each task's output too. Nothing is written.

exit status: 0 all is right; 2 there is no manifest that can be read; 3 something differs, or the output is not complete; it is named
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """The folder to compare."""

    output: str


@dataclasses.dataclass
class _Seen:
    """Counts of what was compared."""

    outputs: int = 0
    files: int = 0
    rows: int = 0


def verify(arguments: Sequence[str]) -> int:
    """Compare an output folder with its manifest, print what differs, and return the exit status."""
    if {"--help", "-h"} & set(arguments):
        return RIGHT if say(HELP.rstrip()) else 1
    output = _read_options(arguments).output
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options.pipeline_options import PipelineOptions

    from transforms.output import verify as comparing

    FileSystems.set_options(PipelineOptions([]))
    folder, seen = output.rstrip("/") or output, _Seen()
    try:
        manifest = comparing.find(folder)
        if manifest is None:
            complain(f"{folder} has no manifest.json: no run has published there")
            return NOTHING_THERE
        found = list(_differences(folder, manifest, seen))
    except (comparing.MismatchError, OSError) as error:
        complain(f"{folder} can't be compared: {error}")
        return NOTHING_THERE
    lines = found[:SHOWN] + ([f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else [])
    what = f"{seen.files} files with {seen.rows} rows" + (f", of {seen.outputs} outputs" if seen.outputs > 1 else "")
    how = f"{len(found)} differences, in" if found else f"all is as run {manifest.run_id} left it:"
    said = say("\n".join(map(one_line, [*lines, f"{folder}: {how} {what}"])))
    return DIFFERS if found else RIGHT if said else 1


def _read_options(arguments: Sequence[str]) -> VerifyOptions:
    """Read the command line: one folder, with or without ``--output=`` before it.

    Raises:
      UsageError: there is none, several, an unknown flag, or a table.
    """
    named = [
        argument if argument.startswith("-") or before == "--output" else f"--output={argument}"
        for before, argument in zip(["", *arguments], arguments, strict=False)
    ]
    given = read_arguments(named, FLAGS, "verify", with_beams=False).given
    if len(given) != 1 or not given[0][1]:
        raise UsageError("verify takes one folder: nightshift verify OUT")
    options = read_options(VerifyOptions, FLAGS, given)
    if options.output.startswith("bq://"):
        raise UsageError(f"{options.output} is a table; verify compares folders with their manifest.json")
    return options


def _differences(folder: str, manifest: Manifest, seen: _Seen) -> Iterator[str]:
    """Yield what differs in one output and, of a run of many, in those of its tasks."""
    from msgspec import UNSET

    from transforms.output import journal
    from transforms.output import verify as comparing
    from transforms.specs.manifest import listed
    from transforms.specs.own_names import SUCCESS
    from transforms.storage import files, paths

    seen.outputs += 1
    lists = (manifest.results, manifest.failed_rows, manifest.failed_rows_stats, manifest.files)
    seen.files += sum(len(listed(entries)) for entries in lists)
    seen.rows += comparing.rows_of(listed(manifest.results))
    try:
        left = journal.pending(folder)
    except journal.JournalError as error:
        left = str(error)
    if left is not None:
        yield left
    if not manifest.is_done:
        yield f"{folder}: run {manifest.run_id} published no results: {manifest.reason}"
    elif not files.exists(paths.join(folder, SUCCESS)):
        yield f"{paths.join(folder, SUCCESS)} is missing: the output is not complete"
    yield from comparing.differences(manifest, folder, comparing.errors_folder(manifest), is_deep=True)
    if manifest.tasks is not UNSET:
        yield from _task_differences(folder, manifest.run_id, manifest.tasks, seen)


def _task_differences(folder: str, run_id: str | None, tasks: TasksEntry, seen: _Seen) -> Iterator[str]:
    import msgspec
    from msgspec import UNSET

    from transforms.output import verify as comparing
    from transforms.specs.manifest import TaskLine
    from transforms.specs.run import resolve
    from transforms.storage import files, paths

    number = 0
    for name in tasks.files:
        path = paths.join(folder, name)
        for text in files.read_bytes(path).splitlines() if files.exists(path) else ():
            number += 1
            try:
                line = msgspec.json.decode(text, type=TaskLine)
            except (msgspec.DecodeError, RecursionError) as error:
                yield f"{path}: the line of task {number} can't be read: {error}"
                continue
            if not line.is_done:
                continue
            output = resolve(line.output, folder)
            published = comparing.find(output)
            if published is None:
                yield f"{output} has no manifest.json, and task {number} is done"
            elif (published.run_id, published.counts) != (run_id, line.counts):
                found = None if published.counts is UNSET else msgspec.to_builtins(published.counts)
                expected = msgspec.to_builtins(line.counts)
                yield f"{output} is of run {published.run_id} with {found}, not of this run with {expected}"
            else:
                yield from _differences(output, published, seen)
    if number != tasks.count:
        yield f"{folder} lists {number} tasks, and counts {tasks.count}"
