"""One flag: name, group, value and default."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from transforms.specs.errors import RefusedError


class UsageError(RefusedError):
    """A flag or its value is wrong; the message names flag, value, what is allowed and what to do."""


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag of ours; ``allowed`` is what a person reads of its values, ``parse`` what reads them."""

    name: str
    group: str
    help: str
    allowed: str
    parse: Callable[[str], Any] = str
    default: Any = None
    default_help: str = ""
    choices: tuple[str, ...] = ()

    def read(self, text: str) -> Any:
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
