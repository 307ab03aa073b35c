"""Parser of every command's command line: ``--name=value`` or ``--name value``."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import importlib.util
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pipeline.flags.flag import Flag, UsageError

Options = TypeVar("Options")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """A command line: the command's flags with their texts, in order, and Beam's own arguments, a token each."""

    given: tuple[tuple[str, str], ...]
    beam: tuple[str, ...] = ()

    def split(self, flags: Iterable[Flag]) -> tuple[Arguments, Arguments]:
        """Split the arguments into those of ``flags`` and all others."""
        names = {flag.name for flag in flags}
        own = tuple(pair for pair in self.given if pair[0] in names)
        return Arguments(own), Arguments(tuple(pair for pair in self.given if pair[0] not in names), self.beam)


def read_arguments(argv: Sequence[str], flags: Iterable[Flag], command: str, with_beams: bool) -> Arguments:
    """Read ``argv`` (without program and command), whose flags are ``flags`` and, ``with_beams``, Beam's where none of ours has the name.

    A message names an argument that is neither flag nor value by its position, never by its text, which may be a secret.

    Raises:
      UsageError: an unknown flag, or one without a value.
    """
    known = {flag.name: flag for flag in flags}
    given: list[tuple[str, str]] = []
    beam: list[str] = []
    place = 0
    while place < len(argv):
        argument = argv[place]
        place += 1
        if not argument.startswith("--") or argument == "--":
            raise UsageError(f"argument {place} after {command!r} is no flag; flags are given as --name=value")
        name, equals, text = argument[2:].partition("=")
        is_beams = name not in known and with_beams and name in beam_flags()
        if name not in known and not is_beams:
            raise UsageError(f"unknown flag --{name}{_nearest(name, known, command, with_beams)}")
        if is_beams and beam_flags()[name]:
            beam += _beam_switch(name, equals, text)
            continue
        if not equals:
            if place == len(argv) or argv[place].startswith("--"):
                expected = f", {known[name].allowed}" if name in known else ""
                raise UsageError(f"--{name} has no value: give --{name}=…{expected}")
            text = argv[place]
            place += 1
        if is_beams:
            beam.append(f"--{name}={text}")
        else:
            given.append((name, text))
    return Arguments(tuple(given), tuple(beam))


def read_values(flags: Sequence[Flag], given: Iterable[tuple[str, str]], required: Sequence[str] = ()) -> dict[str, Any]:
    """Read the values of ``flags``, by name, from ``given``, pairs of name and text; a flag that is not given has its default.

    Raises:
      UsageError: a bad value, a duplicate flag, one of ``required`` missing.
    """
    by_name = {flag.name: flag for flag in flags}
    values = {flag.name: flag.default for flag in flags}
    seen: set[str] = set()
    for name, text in given:
        if name in seen:
            raise UsageError(f"--{name} is given twice")
        seen.add(name)
        values[name] = by_name[name].read(text)
    for name in required:
        if not values[name]:
            raise UsageError(f"--{name} is missing: {by_name[name].help}")
    return values


def read_options(kind: type[Options], flags: Sequence[Flag], given: Iterable[tuple[str, str]], required: Sequence[str] = ()) -> Options:
    """Read the values of ``flags`` as ``read_values`` does, into ``kind``, a dataclass with a field a flag.

    Raises:
      UsageError: a bad value, a duplicate flag, one of ``required`` missing.
    """
    return kind(**read_values(flags, given, required))


def _beam_switch(name: str, equals: str, text: str) -> list[str]:
    """Write a switch of Beam's without its value: a template's launcher can only give it as ``--name=true``, which Beam refuses.

    Raises:
      UsageError: the value is neither true nor false.
    """
    if equals and text.lower() not in ("true", "false"):
        raise UsageError(f"--{name}={text}: expected --{name}, --{name}=true or --{name}=false")
    return [] if text.lower() == "false" else [f"--{name}"]


def _nearest(name: str, known: Mapping[str, Flag], command: str, with_beams: bool) -> str:
    """Return the end of the message on an unknown flag: the flag with the most similar name, or how to list the flags."""
    close = difflib.get_close_matches(name.replace("-", "_"), [*known], 1, 0.6)
    if not close and with_beams:
        close = difflib.get_close_matches(name, sorted(beam_flags()), 1, 0.8)
    return f"; did you mean --{close[0]}?" if close else f"; nightshift {command} --help lists the flags"


@functools.cache
def beam_flags() -> dict[str, bool]:
    """Return the flags of the installed Beam, and whether each is a switch without a value.

    They are read from Beam's source, and only where a flag is not ours: to import it takes seconds, to parse this file 0.13 s.

    Raises:
      UsageError: Beam is not installed.
    """
    spec = importlib.util.find_spec("apache_beam")
    if spec is None or spec.origin is None:
        raise UsageError("apache_beam is not installed; run 'make setup'")
    path = os.path.join(os.path.dirname(spec.origin), "options", "pipeline_options.py")
    with open(path, encoding="utf-8") as source:
        tree = ast.parse(source.read())
    return {
        argument.value[2:]: any(word.arg == "action" and "store_" in ast.unparse(word.value) for word in call.keywords)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr.endswith("argument")
        for argument in call.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str) and argument.value.startswith("--")
    }
