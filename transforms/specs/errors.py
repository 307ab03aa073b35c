"""Errors that end a run before it starts or fail its model."""

from __future__ import annotations


class ModelError(Exception):
    """The model is missing, damaged or can't run: its own failure, not a row's."""


class SpecError(ValueError):
    """A value outside its range; ``flag`` is the flag that carries it."""

    def __init__(self, flag: str, message: str) -> None:
        super().__init__(f"--{flag}: {message}")
        self.flag = flag


def check_choice(flag: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raises SpecError where ``value`` is not one of ``allowed``."""
    if value not in allowed:
        raise SpecError(flag, f"{value!r} is not one of {', '.join(allowed)}")


def check_names(flag: str, names: tuple[str, ...]) -> None:
    """Raises SpecError where a name is empty or stands twice."""
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise SpecError(flag, f"{', '.join(twice)} is named twice")
    if not all(names):
        raise SpecError(flag, "holds an empty name; expected field names separated by single commas")
