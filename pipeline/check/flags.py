"""The flags of ``nightshift check``: those of a run, and two of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pipeline.flags.arguments import read_arguments, read_values
from pipeline.flags.flag import Flag, UsageError, integer
from pipeline.flags.help import job_help
from pipeline.flags.options import RunOptions
from pipeline.flags.parse import make_options
from pipeline.flags.table import FLAGS

MOST_ROWS = 100_000

CHECK_FLAGS = (
    Flag(
        "sample_rows", "Check", "rows that are looked at, from up to four splits", f"a whole number from 1 to {MOST_ROWS}",
        integer(1, MOST_ROWS), 200,
    ),
    Flag("json", "Check", "where the findings go as JSON, too", "a file", default_help="nowhere"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class CheckOptions:
    """A run's options, the number of rows to sample, and the file for the findings as JSON."""

    run: RunOptions
    sample_rows: int
    json: str | None


def parse(argv: Sequence[str]) -> CheckOptions:
    """Parse ``argv`` (without program and command).

    Raises:
      UsageError: a flag is unknown or missing, or has a bad value.
    """
    own, others = read_arguments(argv, (*CHECK_FLAGS, *FLAGS), "check", with_beams=True).split(CHECK_FLAGS)
    values = read_values(CHECK_FLAGS, own.given)
    options = make_options(others)
    if options.tasks_flag:
        raise UsageError(f"--{options.tasks_flag}: a check looks at one job; give --model and --input of one of the tasks")
    if options.model_field is not None:
        raise UsageError("--model_field: a check looks at one model; give the folder of one of them as --model")
    return CheckOptions(options, **values)


def help_text() -> str:
    """Return the text of ``nightshift check --help``."""
    ending = "Exit status: 0 the job would run; 2 it would fail, or wrong flags. Nothing is written to the output."
    return job_help("check", (*CHECK_FLAGS, *FLAGS), ending)
