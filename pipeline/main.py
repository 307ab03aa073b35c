"""The entry point of the console script, ``python -m pipeline.main`` and the Flex Template: it only chooses the command."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import sys
from collections.abc import Sequence

from pipeline.check import flags as check_flags
from pipeline.flags import job_file
from pipeline.flags.flag import UsageError
from pipeline.flags.help import run_help
from pipeline.flags.parse import parse
from pipeline.process import stopping
from pipeline.process.terminal import complain, quiet_logs, say
from pipeline.run import DONE, INTERRUPTED, run, start, status_of
from transforms.specs.errors import NightshiftError, RefusedError
from transforms.specs.limits import DEFAULT_LIMITS, Limits

COMMANDS = ("run", "check", "verify", "launch", "schedule", "serve")
LOG = logging.getLogger("nightshift")


def main(argv: Sequence[str] | None = None, limits: Limits = DEFAULT_LIMITS) -> int:
    """Run a command in the calling process and return its exit status.

    ``argv`` is the command and its flags; without a command it is ``run``, as a Flex Template's launcher calls it. ``limits`` are
    those of the splits, blocks and rows of a run.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = arguments.pop(0) if arguments and not arguments[0].startswith("-") else "run"
    try:
        if command not in COMMANDS:
            raise UsageError(f"the first argument is no flag and no command; the commands are {', '.join(COMMANDS)}")
        return _run_or_check(command, arguments, limits) if command in ("run", "check") else _other_command(command, arguments)
    except (NightshiftError, OSError) as error:
        return status_of(error, complain)
    except KeyboardInterrupt:
        complain("interrupted; nothing was published")
        return INTERRUPTED


def _run_or_check(command: str, arguments: list[str], limits: Limits) -> int:
    if {"--help", "-h"} & set(arguments):
        return DONE if say(run_help() if command == "run" else check_flags.help_text()) else NightshiftError.exit_status
    arguments = job_file.expand(arguments)
    if command == "run":
        return run(dataclasses.replace(parse(arguments), limits=limits))
    options = check_flags.parse(arguments)
    beam_options = start(options.run)
    from pipeline.check.command import check

    return DONE if check(options, beam_options) else RefusedError.exit_status


def _other_command(command: str, arguments: list[str]) -> int:
    """Run a command that needs only its own imports, so that typos and ``--help`` import nothing heavy."""
    quiet_logs(False)
    if command == "serve":
        from pipeline.serve.service import serve

        return serve(arguments, run)
    if command == "launch":
        from pipeline.dataflow.launch import launch

        return launch(arguments)
    if command == "schedule":
        from pipeline.dataflow.schedule import schedule

        return schedule(arguments)
    from pipeline.verify import verify

    return verify(arguments)


def console(limits: Limits = DEFAULT_LIMITS) -> None:
    """End the process with the status of ``main``, without waiting for threads of an engine that was interrupted."""
    from pipeline.process.supervisor import supervise

    status = supervise(functools.partial(_work, limits))
    os._exit(status) if status == INTERRUPTED else sys.exit(status)


def _work(limits: Limits) -> int:
    stopping.interrupt_on_signals()
    try:
        return main(limits=limits)
    except Exception as error:  # a fault of the program itself: the last place that can report it in one line
        LOG.debug("where it failed", exc_info=True)
        complain(f"a fault of nightshift: {type(error).__name__}: {error}; --verbose=true shows where. Please report it")
        return NightshiftError.exit_status


if __name__ == "__main__":
    console()
