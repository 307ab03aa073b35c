"""The flags of ``nightshift check``: those of a run, and two of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pipeline.flags import options as flags
from pipeline.flags.arguments import read_arguments, read_values
from pipeline.flags.flag import Flag, UsageError
from pipeline.flags.options import Options
from pipeline.flags.table import FLAGS, MANY

MOST_ROWS = 100_000


def _rows(text: str) -> int:
    if not 1 <= int(text) <= MOST_ROWS:
        raise ValueError(text)
    return int(text)


CHECK_FLAGS = (
    Flag("sample_rows", "Check", "rows that are looked at, from up to four splits", f"a whole number from 1 to {MOST_ROWS}", _rows, 200),
    Flag("json", "Check", "where the findings go as JSON, too", "a file", default_help="nowhere"),
)


@dataclasses.dataclass(frozen=True)
class CheckOptions:
    """A run's options, and what ``check`` looks at and writes."""

    run: Options
    sample_rows: int
    json: str | None


def parse(argv: Sequence[str]) -> CheckOptions:
    """Reads ``argv`` (without program and command).

    Raises:
      UsageError: an unknown flag, a bad value, a flag missing.
    """
    own, others = read_arguments(argv, (*CHECK_FLAGS, *FLAGS), "check", with_beams=True).split(CHECK_FLAGS)
    values = read_values(CHECK_FLAGS, own.given)
    options = flags.make(others)
    many = next((name for name in MANY if options.values[name]), None)
    if many:
        raise UsageError(f"--{many}: a check looks at one job; give --model and --input of one of the tasks")
    if options.model_field is not None:
        raise UsageError("--model_field: a check looks at one model; give the folder of one of them as --model")
    return CheckOptions(options, values["sample_rows"], values["json"])


def help_text() -> str:
    """Gives ``nightshift check --help``."""
    own = ["Check:"]
    for flag in CHECK_FLAGS:
        own += [f"  --{flag.name:<20} {flag.help}", f"    {'':<20} {flag.allowed}; default: {flags.default_text(flag)}"]
    usage, _, rest = flags.help_text().partition("\n\n")
    usage = usage.replace("nightshift run", "nightshift check")
    rest = (
        rest.rpartition("Exit status:")[0]
        + "Exit status: 0 the job would run; 2 it would fail, or wrong flags. Nothing is written to the output."
    )
    return "\n".join([usage, "", *own, "", rest])
