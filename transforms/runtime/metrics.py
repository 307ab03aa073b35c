"""Every counter and distribution of the job, by name, and the progress of a local run."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from apache_beam.metrics import Metrics

from transforms.rows.codes import Stage

NAMESPACE = "nightshift"

instances_read = Metrics.counter(NAMESPACE, "instances_read")
bytes_read = Metrics.counter(NAMESPACE, "bytes_read")
files_read = Metrics.counter(NAMESPACE, "files_read")
predictions_written = Metrics.counter(NAMESPACE, "predictions_written")
model_calls = Metrics.counter(NAMESPACE, "model_calls")
model_call_rows = Metrics.distribution(NAMESPACE, "model_call_rows")
model_load_milliseconds = Metrics.distribution(NAMESPACE, "model_load_milliseconds")
rows_failed = {stage: Metrics.counter(NAMESPACE, f"rows_failed_{stage}") for stage in Stage}

WRITE_EVERY_SECONDS = 0.2
_PROGRESS = struct.Struct("<4q")  # rows read, rows predicted, rows failed, input bytes read


class Progress:
    """Counts of this process, in a file of its own that the launching process reads while it waits.

    Beam gives the metrics of a local run only after its end. With None as the folder nothing is kept.
    """

    def __init__(self, folder: str | None) -> None:
        self._path = Path(folder) / f"{os.getpid()}-{id(self)}" if folder else None
        self._counts = [0, 0, 0, 0]
        self._written = 0.0

    def add(self, read: int = 0, predicted: int = 0, failed: int = 0, input_bytes: int = 0) -> None:
        """Add rows and bytes, and write the counts if the last write was ``WRITE_EVERY_SECONDS`` ago."""
        if self._path is None:
            return
        for index, count in enumerate((read, predicted, failed, input_bytes)):
            self._counts[index] += count
        if time.monotonic() - self._written >= WRITE_EVERY_SECONDS:
            self.write()

    def write(self) -> None:
        """Write the counts to the file now."""
        if self._path is None:
            return
        self._written = time.monotonic()
        try:
            self._path.write_bytes(_PROGRESS.pack(*self._counts))
        except OSError:  # a full or vanished temporary folder must not stop a run
            self._path = None


def read_progress(folder: str) -> tuple[int, int, int, int]:
    """Return rows read, predicted and failed, and input bytes read, added up over all processes of a local run."""
    totals = [0, 0, 0, 0]
    for counts in _each_process(folder):
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
    return totals[0], totals[1], totals[2], totals[3]


def _each_process(folder: str) -> Iterator[tuple[int, ...]]:
    for path in Path(folder).glob("*"):
        content = path.read_bytes()
        if len(content) == _PROGRESS.size:
            yield _PROGRESS.unpack(content)
