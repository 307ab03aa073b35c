"""Flags of the commands beside ``run``: what their values may be, and how ``--help`` lists them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.flags.flag import Flag
from pipeline.flags.table import default_text


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


def help_text(usage: str, flags: Sequence[Flag], ending: str) -> str:
    """Gives what ``--help`` of a command prints."""
    lines = [f"usage: nightshift {usage}", ""]
    for flag in flags:
        lines.append(f"  --{flag.name:<20} {flag.help}")
        lines.append(f"    {'':<20} {flag.allowed}; default: {default_text(flag)}")
    return "\n".join([*lines, "", ending])
