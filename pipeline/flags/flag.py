"""One flag: name, group, value and default; and the parsers of values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from transforms.specs.errors import RefusedError


class UsageError(RefusedError):
    """A flag or its value is wrong; the message names flag, value, what is allowed and what to do."""


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag of ours; ``allowed`` describes its values for messages and help, ``parse`` reads them."""

    name: str
    group: str
    help: str
    allowed: str
    parse: Callable[[str], Any] = str
    default: Any = None
    default_help: str = ""
    choices: tuple[str, ...] = ()

    def read(self, text: str) -> Any:
        """Read the flag's value from its text.

        Raises:
          UsageError: the text is no value of the flag.
        """
        if "\0" in text:  # from a file of --job; no file's name can have it
            raise UsageError(f"--{self.name}: expected text without NUL")
        if not _is_utf8(text):
            raise UsageError(
                f"--{self.name}={text}: expected UTF-8, as manifest.json lists the flags; give another name, or * in its place"
            )
        if text.rstrip("/") in NO_PLACE:
            raise UsageError(f"--{self.name}={text}: expected a name after {text.partition(':')[0]}://, found none")
        try:
            return self.parse(text)
        except ValueError:
            raise UsageError(f"--{self.name}={text}: expected {self.allowed}") from None


# A scheme alone; without the slashes at its end it would be a folder of that name here.
NO_PLACE = ("gs:", "bq:")


def _is_utf8(text: str) -> bool:
    """Return whether ``text`` has no lone surrogate, as Python spells bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- parsers of a flag's text; a ValueError becomes a message with the allowed values ------------------------------------------


def names(text: str) -> tuple[str, ...]:
    """Read texts separated by commas."""
    return tuple(part.strip() for part in text.split(","))


def whole_names(text: str) -> tuple[str, ...]:
    """Read texts separated by commas, none of which is empty."""
    if not all(names(text)):
        raise ValueError(text)
    return names(text)


def boolean(text: str) -> bool:
    """Read ``true`` or ``false``, in any case."""
    words = {"true": True, "false": False}
    if text.lower() not in words:
        raise ValueError(text)
    return words[text.lower()]


def integer(low: int, high: int) -> Callable[[str], int]:
    """Return the parser of a whole number from ``low`` to ``high``."""

    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return parse


def number(low: float, high: float) -> Callable[[str], float]:
    """Return the parser of a number from ``low`` to ``high``."""

    def parse(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return parse


def choice(*allowed: str) -> Callable[[str], str]:
    """Return the parser of one of the texts ``allowed``."""

    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(text)
        return text

    return parse
