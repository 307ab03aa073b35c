"""What each op of TensorFlow can do to the machine that runs it, read from op_classes.tsv, which classify_ops writes."""

from __future__ import annotations

import dataclasses
import enum
import functools
from pathlib import Path

TABLE = Path(__file__).with_name("op_classes.tsv")
ALLOWED = frozenset(("safe", "state", "device"))
UNCLASSED = "unknown"
PYTHON = "python"


class Origin(enum.Enum):
    """Where a text that an op takes comes from."""

    CONSTANT = "the graph"
    ASSET = "<asset>"
    CHECKPOINT = "<checkpoint>"
    ANYTHING = "a computation"


@dataclasses.dataclass(frozen=True)
class Text:
    """The text of an attribute or input, as far as the graph tells it."""

    origin: Origin
    value: str = ""

    def is_one_of(self, allowed: tuple[str, ...]) -> bool:
        """Return whether this is one of the values of the table's column ``where``."""
        if self.origin is not Origin.CONSTANT:
            return self.origin.value in allowed
        named = ("" if value == "<empty>" else value for value in allowed if value not in ("<asset>", "<checkpoint>"))
        return any(self.value.startswith(value[:-1]) if value.endswith("*") else self.value == value for value in named)


@dataclasses.dataclass(frozen=True)
class Place:
    """The input or attribute of a refused op that makes it harmless where its text is ``allowed``."""

    input: int | None
    attribute: str
    allowed: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class OpClass:
    """A row of the table: ``calls`` are the attributes that hold functions."""

    op: str
    name: str
    where: tuple[Place, ...]
    calls: tuple[str, ...]
    reason: str

    @property
    def is_allowed(self) -> bool:
        """Whether the op may run whatever it is given."""
        return self.name in ALLOWED


def class_of(op: str) -> OpClass:
    """Return the class of a registered op; an op that is not in the table is refused.

    Ops of libraries that the deployer trusts would be let through here.
    """
    return _table().get(op) or OpClass(op, UNCLASSED, (), (), "no one has said what it can do")


@functools.cache
def _table() -> dict[str, OpClass]:
    rows = [line.split("\t") for line in TABLE.read_text(encoding="utf-8").splitlines()[1:]]
    return {op: OpClass(op, name, _places(where), tuple(calls.split()), reason) for op, name, where, calls, reason in rows}


def _places(where: str) -> tuple[Place, ...]:
    places = []
    for part in filter(None, where.split("; ")):
        place, _, values = part.partition(": ")
        kind, _, name = place.partition(" ")
        places.append(Place(int(name) if kind == "input" else None, name, tuple(values.split(" | "))))
    return tuple(places)
