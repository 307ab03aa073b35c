"""Arguments → the options of a run, with all checks that need no access to files, models or services."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.flags import dates
from pipeline.flags.arguments import Arguments, read_arguments, read_values
from pipeline.flags.flag import UsageError
from pipeline.flags.options import RunOptions
from pipeline.flags.specs_of import check_specs
from pipeline.flags.table import BY_NAME, FLAGS, MANY, REQUIRED
from transforms.specs.job import RUN_ID
from transforms.specs.limits import DEFAULT_LIMITS


def parse(argv: Sequence[str]) -> RunOptions:
    """Read ``argv``, without program and command.

    Raises:
      UsageError, SpecError: an unknown flag, a bad value, a flag missing, flags that don't go together.
    """
    return make_options(read_arguments(argv, FLAGS, "run", with_beams=True))


def make_options(arguments: Arguments) -> RunOptions:
    """Make the options of a run of its ``arguments``, before anything heavy is imported.

    Raises:
      UsageError, SpecError: a bad value, a flag missing, flags that don't go together.
    """
    given = arguments.given
    values = read_values(FLAGS, given)
    at = dates.moment(values["date"], values["time_zone"])
    values |= {name: BY_NAME[name].read(dates.fill(name, text, at)) for name, text in given if name in dates.FILLED}
    missing = [name for name in _required(values) if not values[name] and not (name == "input" and values["input_query"] is not None)]
    if missing:
        raise UsageError(f"--{missing[0]} is missing: {BY_NAME[missing[0]].help}")
    options = RunOptions(**values, given=given, beam=arguments.beam, limits=DEFAULT_LIMITS)
    check_specs(options)
    if options.resume and options.run_id is None:
        raise UsageError("--resume=true needs the --run_id of the run to go on with; its message, its manifest and the log name it")
    if options.run_id is not None and not RUN_ID.fullmatch(options.run_id):
        raise UsageError(f"--run_id={options.run_id}: expected {BY_NAME['run_id'].allowed}, beginning with a letter or digit")
    return options


def _required(values: Mapping[str, object]) -> tuple[str, ...]:
    """Return the required flags; a run of many takes models and inputs from its tasks.

    Raises:
      UsageError: flags of a run of many and of one model together.
    """
    many = [name for name in MANY if values[name]]
    if not many:
        return REQUIRED
    clash = [*many[1:], *(name for name in ("model", "input") if values[name])]
    if clash:
        raise UsageError(f"--{clash[0]} and --{many[0]} exclude each other: the tasks name models and inputs")
    return ("output",)
