"""Flags of the commands beside ``run``: each command lists its own, and they are read and explained alike."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from pipeline.flags import Flag, UsageError, default_text


def folders(text: str) -> tuple[str, ...]:
    found = tuple(part.strip() for part in text.split(","))
    if not all(found):
        raise ValueError(text)
    return found


def whole(low: int, high: int) -> dict[str, Any]:
    """What makes a flag one of whole numbers."""

    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return {"allowed": f"a whole number from {low} to {high}", "parse": parse}


def boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def take(flags: Sequence[Flag], arguments: Sequence[str], required: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Reads the flags of one command, ``--name=value`` each; gives their values, and the arguments that are none of them.

    Raises:
      UsageError: a bad value, a flag twice or missing.
    """
    by_name = {flag.name: flag for flag in flags}
    given: dict[str, Any] = {}
    others = []
    for argument in arguments:
        name, equals, text = argument.removeprefix("--").partition("=")
        if name not in by_name or not argument.startswith("--"):
            others.append(argument)
            continue
        if not equals:
            raise UsageError(f"--{name} has no value: give --{name}=…, {by_name[name].allowed}")
        if name in given:
            raise UsageError(f"--{name} is given twice")
        given[name] = by_name[name].read(text)
    for name in required:
        if not given.get(name):
            raise UsageError(f"--{name} is missing: {by_name[name].help}")
    return {flag.name: given.get(flag.name, flag.default) for flag in flags}, others


def refuse_others(command: str, flags: Sequence[Flag], others: Sequence[str]) -> None:
    """Refuses what is left when a command knows no other flags than its own."""
    if others:
        name = others[0].removeprefix("--").partition("=")[0]
        close = difflib.get_close_matches(name, [flag.name for flag in flags], 1, 0.6)
        hint = f"did you mean --{close[0]}?" if close else f"nightshift {command} --help lists the flags"
        raise UsageError(f"unknown flag {others[0].partition('=')[0]}; {hint}")


def help_text(usage: str, flags: Sequence[Flag], ending: str) -> str:
    """Gives what ``--help`` of a command prints."""
    lines = [f"usage: nightshift {usage}", ""]
    for flag in flags:
        lines.append(f"  --{flag.name:<20} {flag.help}")
        lines.append(f"    {'':<20} {flag.allowed}; default: {default_text(flag)}")
    return "\n".join([*lines, "", ending])
