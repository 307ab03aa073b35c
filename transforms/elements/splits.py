"""What one worker reads in one go, and what the read step saw of it."""

from __future__ import annotations

import dataclasses

from transforms.rows.codes import Code
from transforms.specs.run import Plan
from transforms.storage.pins import Pin


@dataclasses.dataclass(frozen=True, order=True, slots=True)
class FileRange:
    """Bytes ``[start, stop)`` of one file; ``stop`` None: to its end (a compressed file has no known end).

    ``relative`` is the file's path below the fixed part of the pattern that matched it; ``pin`` is what the whole file was when the
    range was planned: who reads it compares.
    """

    path: str
    start: int
    stop: int | None
    size_bytes: int
    relative: str
    pin: Pin | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Split:
    """What one worker reads in one go: a range of a large file, or several whole small files.

    ``plan`` is its task's in a run of many; None where the run has one job.
    """

    ranges: tuple[FileRange, ...]
    plan: Plan | None = None

    @property
    def order(self) -> tuple[str, int]:
        """Where the split stands in the whole input."""
        return self.ranges[0].path, self.ranges[0].start


@dataclasses.dataclass(frozen=True, slots=True)
class SplitCount:
    """What the read step saw of one split: the other half of the job's accounts. ``resumed``: an earlier launch saw it."""

    order: tuple[str, int]
    rows: int
    bytes: int
    files: int
    incomplete: tuple[Incomplete, ...] = ()
    seconds: float = 0.0
    resumed: bool = False


@dataclasses.dataclass(frozen=True)
class SplitEnd:
    """All of a split's rows have gone by: ``record`` is the name under which what they came to is kept, ``hashes`` their keys'."""

    record: str
    count: SplitCount
    hashes: bytes


@dataclasses.dataclass(frozen=True, order=True, slots=True)
class Incomplete:
    """A file that could not be read as it was planned, so that nobody knows how many rows are missing: why, as its failed row has it."""

    path: str
    code: Code
    message: str
