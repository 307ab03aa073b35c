"""Pins: the size and time of change, or generation, of a file when it was planned, which must be the same when it is read."""

from __future__ import annotations

import dataclasses
import datetime


@dataclasses.dataclass(frozen=True, order=True, slots=True)
class Pin:
    """Size and time of change of a file on a disk; size and generation of an object in a bucket.

    ``changed_ns`` is nanoseconds since 1970, 0 for an object; ``generation`` is 0 for a file.
    """

    size_bytes: int
    changed_ns: int = 0
    generation: int = 0

    def __str__(self) -> str:
        if self.generation:
            return f"generation {self.generation} of {self.size_bytes:,} bytes"
        seconds, nanoseconds = divmod(self.changed_ns, 10**9)
        moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
        return f"{self.size_bytes:,} bytes, changed at {moment:%Y-%m-%d %H:%M:%S}.{nanoseconds:09d} UTC"


class FileChangedError(Exception):
    """A file differs from its pin; the message begins with its path and tells both states.

    Not an ``OSError``, so that code which handles damaged files or storage failures does not catch it.
    """

    def __init__(self, path: str, then: Pin, now: Pin | None) -> None:
        super().__init__(path, then, now)
        self.path, self.then, self.now = path, then, now

    def __str__(self) -> str:
        now = "it is gone" if self.now is None else f"it is {self.now}"
        return f"{self.path} changed: when the run planned to read it, it was {self.then}; now {now}"
