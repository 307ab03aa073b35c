"""Splits, which one worker reads at once, and the read step's counts of their rows."""

from __future__ import annotations

import dataclasses

import msgspec

from transforms.rows.codes import Code
from transforms.specs.run import Plan
from transforms.storage.pins import Pin

# A split's place in the whole input: the path and first byte of its first range.
SplitKey = tuple[str, int]


@dataclasses.dataclass(frozen=True, order=True, slots=True)
class FileRange:
    """Bytes ``[start, stop)`` of one file; ``stop`` None: to its end (a compressed file has no known end).

    ``relative`` is the file's path below the fixed part of the pattern that matched it. ``pin`` identifies the content of the whole file
    when the range was planned: the reader compares it.
    """

    path: str
    start: int
    stop: int | None
    size_bytes: int
    relative: str
    pin: Pin | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Split:
    """What one worker reads at once: a range of a large file, or several whole small files.

    ``plan`` is the plan of its task in a run of many; None where the run has one job.
    """

    ranges: tuple[FileRange, ...]
    plan: Plan | None = None

    @property
    def key(self) -> SplitKey:
        """Return the split's place in the whole input."""
        return self.ranges[0].path, self.ranges[0].start


class SplitCount(msgspec.Struct, frozen=True):
    """The read step's counts of one split, which the accounts compare with the written rows. ``resumed``: an earlier launch read it."""

    split_key: SplitKey = msgspec.field(name="order")  # as records of finished splits have it
    rows: int
    bytes: int
    files: int
    incomplete: tuple[Incomplete, ...] = ()
    seconds: float = 0.0
    resumed: bool = False


@dataclasses.dataclass(frozen=True, order=True, slots=True)
class Incomplete:
    """A file that could not be read as planned: an unknown number of its rows is missing. ``code`` and ``message`` are its failed row's."""

    path: str
    code: Code
    message: str
