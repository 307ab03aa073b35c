"""The class of each op of TensorFlow: what it can do to the machine that runs it. Read from op_classes.tsv, which classify_ops writes."""

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
    """The origin of a text that an op receives."""

    CONSTANT = "the graph"
    ASSET = "<asset>"
    CHECKPOINT = "<checkpoint>"
    ANYTHING = "a computation"


@dataclasses.dataclass(frozen=True)
class Text:
    """The text of an attribute or input; its value is known only if it is a constant of the graph."""

    origin: Origin
    value: str = ""

    def is_one_of(self, allowed: tuple[str, ...]) -> bool:
        """Return whether this is one of the values of the table's column ``where``."""
        if self.origin is not Origin.CONSTANT:
            return self.origin.value in allowed
        named = ("" if value == "<empty>" else value for value in allowed if value not in ("<asset>", "<checkpoint>"))
        return any(self.value.startswith(value[:-1]) if value.endswith("*") else self.value == value for value in named)


@dataclasses.dataclass(frozen=True)
class Condition:
    """A condition under which a refused op is harmless: the text of an input or attribute is one of ``allowed``."""

    input: int | None
    attribute: str
    allowed: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class OpClass:
    """A row of the table: the op, the name of its class, and ``calls``, the attributes that hold functions."""

    op: str
    name: str
    where: tuple[Condition, ...]
    calls: tuple[str, ...]
    reason: str

    @property
    def is_allowed(self) -> bool:
        """Return whether the op may run with any input."""
        return self.name in ALLOWED


def class_of(op: str) -> OpClass:
    """Return the class of a registered op; an op that is not in the table is refused.

    This is the place to allow ops of libraries that the deployer trusts.
    """
    return load_table().get(op) or OpClass(op, UNCLASSED, (), (), "it has not been classified")


@functools.cache
def load_table() -> dict[str, OpClass]:
    rows = [line.split("\t") for line in TABLE.read_text(encoding="utf-8").splitlines()[1:]]
    return {op: OpClass(op, name, _conditions(where), tuple(calls.split()), reason) for op, name, where, calls, reason in rows}


def _conditions(where: str) -> tuple[Condition, ...]:
    conditions = []
    for part in filter(None, where.split("; ")):
        subject, _, values = part.partition(": ")
        kind, _, name = subject.partition(" ")
        conditions.append(Condition(int(name) if kind == "input" else None, name, tuple(values.split(" | "))))
    return tuple(conditions)
