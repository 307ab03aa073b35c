"""The time that a job took: seconds by step, rows by second, rows a model call, models loaded."""

from __future__ import annotations

import dataclasses
import os
import socket
import time
from collections import Counter

from transforms.elements.batches import JobPredictions

STEPS = ("read", "predict", "write")
# A timeline of more parts than this gets parts twice as wide.
MOST_PARTS = 240
LISTED_WORKERS = 1000


@dataclasses.dataclass
class Effort:
    """Seconds added up over all processes; ``calls`` counts model calls by rows, rounded up to a power of two.

    ``timeline`` counts rows by time since 1970, in parts of ``width`` seconds.
    """

    seconds: dict[str, float] = dataclasses.field(default_factory=lambda: dict.fromkeys(STEPS, 0.0))
    calls: Counter[int] = dataclasses.field(default_factory=Counter)
    timeline: Counter[int] = dataclasses.field(default_factory=Counter)
    width: int = 1
    loads: int = 0
    load_seconds: float = 0.0
    longest_load_seconds: float = 0.0
    workers: set[tuple[str, int]] = dataclasses.field(default_factory=set)

    def add(self, batch: JobPredictions, write_seconds: float) -> None:
        """Count one batch, which took ``write_seconds`` to write."""
        predictions = batch.predictions
        self.seconds["read"] += batch.read_seconds
        self.seconds["predict"] += predictions.seconds
        self.seconds["write"] += write_seconds
        self.calls.update(1 << (rows - 1).bit_length() for rows in predictions.calls)
        self.timeline[int(time.time()) // self.width] += len(predictions) + len(predictions.failed)
        for seconds in batch.load_seconds:
            self.loads += 1
            self.load_seconds += seconds
            self.longest_load_seconds = max(self.longest_load_seconds, seconds)
        self.workers.add(_worker())
        self.thin()

    def merge(self, other: Effort) -> None:
        for step, seconds in other.seconds.items():
            self.seconds[step] += seconds
        self.calls.update(other.calls)
        self.loads += other.loads
        self.load_seconds += other.load_seconds
        self.longest_load_seconds = max(self.longest_load_seconds, other.longest_load_seconds)
        if len(self.workers) < LISTED_WORKERS:
            self.workers |= other.workers
        width = max(self.width, other.width)
        self.timeline = _coarser(self.timeline, width // self.width)
        self.timeline.update(_coarser(other.timeline, width // other.width))
        self.width = width
        self.thin()

    def thin(self) -> None:
        while len(self.timeline) > MOST_PARTS or (self.timeline and max(self.timeline) - min(self.timeline) >= 2 * MOST_PARTS):
            self.timeline, self.width = _coarser(self.timeline, 2), self.width * 2

    def rows_a_second(self) -> list[tuple[float, float]]:
        """Return pairs of seconds since the first rows and rows a second in the part that begins then, without gaps."""
        if not self.timeline:
            return []
        first, last = min(self.timeline), max(self.timeline)
        return [(float((part - first) * self.width), self.timeline[part] / self.width) for part in range(first, last + 1)]


def _worker() -> tuple[str, int]:
    return socket.gethostname(), os.getpid()


def _coarser(timeline: Counter[int], factor: int) -> Counter[int]:
    if factor == 1:
        return timeline
    coarse: Counter[int] = Counter()
    for part, rows in timeline.items():
        coarse[part // factor] += rows
    return coarse
