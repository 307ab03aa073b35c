"""A few rows of several splits through the run's own reader, model and encoder, without Beam, on the clock."""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
import os
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from transforms.convert.refuse_rows import refuse_non_finite, select
from transforms.elements.batches import InstanceBatch, PredictionBatch
from transforms.elements.failed_rows import FailedRow
from transforms.elements.splits import FileRange
from transforms.formats import splitting
from transforms.formats.catalog import format_of
from transforms.formats.jsonl.writer import LineEncoder
from transforms.formats.protocols import Encoder
from transforms.formats.splitting import split_file
from transforms.model.calls import BatchRunner
from transforms.model.session import LoadedModel
from transforms.read_instances import range_reader
from transforms.specs.job import JobSpec
from transforms.storage import files
from transforms.storage.files import FoundFile
from transforms.write_shards import make_encoder

SAMPLED_SPLITS = 4
LISTED_FILES = 10_000
# Enough to be timed, not so much that a slow model keeps one waiting.
TIMED_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class InputPlan:
    """What a run would read: at most ``LISTED_FILES`` files a pattern are looked at; ``whole`` False: there are more."""

    files: int
    bytes: int
    splits: int
    formats: dict[str, int]
    whole: bool
    pieces: tuple[FileRange, ...]


@dataclasses.dataclass(frozen=True)
class Speed:
    """Seconds of one core a 1,000 rows on this machine; ``read`` None: its format reads and converts in one."""

    read: float | None
    convert: float
    predict: float
    write: float

    @property
    def total(self) -> float:
        return (self.read or 0.0) + self.convert + self.predict + self.write


@dataclasses.dataclass
class Sample:
    """Rows looked at: ``batches`` as they were read, ``failed`` those that did not become predictions, ``lines`` those that did."""

    batches: list[InstanceBatch]
    failed: list[FailedRow]
    rows: int
    rows_in_input: int
    counted: bool
    predicted: int = 0
    lines: tuple[str, ...] = ()
    speed: Speed | None = None
    model_mb: float = 0.0
    load_seconds: float = 0.0
    pieces: dict[tuple[str, int], FileRange] = dataclasses.field(default_factory=dict)  # by their batches' order


def plan_input(job: JobSpec) -> InputPlan:
    """Lists the files and how they would be split; nothing but their names and sizes is looked at."""
    pieces: list[FileRange] = []
    formats: dict[str, int] = {}
    size = number = large = packed = small = 0
    whole = True
    found_files: dict[str, FoundFile] = {}
    for pattern in job.input.patterns:
        some = list(itertools.islice(files.match(pattern), LISTED_FILES))
        whole = whole and len(some) < LISTED_FILES
        for found in some:
            found_files.setdefault(found.place, found)  # as the first pattern that names it has it: the run reads it so
    for found in found_files.values():
        format = format_of(found.path, job.input.format)
        formats[format.name] = formats.get(format.name, 0) + 1
        number, size = number + 1, size + found.size_bytes
        if format.is_uncut is None:
            ranges = list(split_file(found, format))
        else:  # to know whether it can be cut a run reads it all; its beginning is enough here
            ranges = [FileRange(found.path, 0, found.size_bytes, found.size_bytes, found.relative, found.pin)]
        if len(ranges) > 1 or not splitting.is_small(found.size_bytes):
            large += len(ranges) if format.is_uncut is None else max(1, round(found.size_bytes / splitting.SPLIT_BYTES))
        else:
            small, packed = small + 1, packed + found.size_bytes
        pieces += ranges
    splits = large + max(math.ceil(packed / splitting.SPLIT_BYTES), math.ceil(small / splitting.PACKED_FILES))
    return InputPlan(number, size, splits, formats, whole, tuple(pieces))


def _spread(pieces: tuple[FileRange, ...]) -> list[FileRange]:
    places = np.linspace(0, len(pieces) - 1, min(SAMPLED_SPLITS, len(pieces))).astype(int)
    return [pieces[place] for place in places]


def read_sample(job: JobSpec, found: InputPlan, limit: int) -> Sample:
    """Reads the first rows of several splits: ``limit`` in all, or all there are."""
    reader = range_reader(job)
    batches: list[InstanceBatch] = []
    read = size = compressed = taken = 0
    pieces = _spread(found.pieces)
    everything = len(pieces) == len(found.pieces) and found.whole
    for place, piece in enumerate(pieces):
        share = math.ceil((limit - taken) / (len(pieces) - place))
        for batch in reader.read(piece, (piece.path, piece.start)):
            rows = len(batch) + len(batch.failed)
            if share <= 0:
                everything = False
                break
            read, size = read + rows, size + batch.bytes
            compressed += _stored_bytes(piece, batch)
            batches.append(_first(batch, share))
            kept = len(batches[-1]) + len(batches[-1].failed)
            share, taken = share - kept, taken + kept
    estimate = read if everything else round(found.bytes * read / max(1, compressed))
    failed = [row for batch in batches for row in batch.failed]
    rows = sum(len(batch) + len(batch.failed) for batch in batches)
    return Sample(batches, failed, rows, estimate, everything, pieces={(piece.path, piece.start): piece for piece in pieces})


def _stored_bytes(piece: FileRange, batch: InstanceBatch) -> int:
    """Bytes of the file that a batch came from; of a compressed one, as many as zlib makes of the rows."""
    if piece.stop is not None or not len(batch):
        return batch.bytes
    text = b"\n".join(batch.rows[row] for row in range(min(len(batch), 1000)))
    return max(1, round(batch.bytes * len(zlib.compress(text)) / max(1, len(text))))


def _first(batch: InstanceBatch, count: int) -> InstanceBatch:
    """Gives the first ``count`` rows of a batch, instances and failed rows in the order of the file."""
    offsets = np.sort(np.concatenate((batch.offsets, np.array([row.offset for row in batch.failed], np.int64))))
    if len(offsets) <= count:
        return batch
    last = offsets[count - 1]
    kept = batch.take(np.flatnonzero(batch.offsets <= last))
    return dataclasses.replace(kept, failed=[row for row in batch.failed if row.offset <= last])


def predict_sample(job: JobSpec, sample: Sample, timed: bool = True) -> None:
    """Loads the model, predicts on the sample and, if ``timed``, measures each step on a larger batch.

    Raises:
      ModelError: the model can't be loaded or run.
    """
    before, started = _resident_mb(), time.perf_counter()
    model = LoadedModel(job.model)
    sample.load_seconds = time.perf_counter() - started
    sample.model_mb = max(0.0, _resident_mb() - before)
    sample.failed = []
    lines: list[str] = []
    for batch in sample.batches:
        predictions = _refused(job, BatchRunner(model).run(batch))
        sample.failed += predictions.failed
        sample.predicted += len(predictions)
        if len(predictions) and len(lines) < 3:
            lines += _shown(job, select(predictions, np.arange(min(3 - len(lines), len(predictions)))))
    sample.lines = tuple(lines)
    if timed and sample.predicted:
        sample.speed = _measure(job, sample, model)


def _refused(job: JobSpec, predictions: PredictionBatch) -> PredictionBatch:
    if job.output.nan == "error":
        predictions = refuse_non_finite(predictions)
    return make_encoder(job).refuse(predictions)


def _shown(job: JobSpec, predictions: PredictionBatch) -> Iterator[str]:
    """Gives predictions as lines: in the job's style, those of a format with columns or of a table as JSON-lines would have them."""
    lines = LineEncoder(job.output_signature, job.output, job.key.fields)
    yield from _encoded(lines, predictions).decode("utf-8", "replace").splitlines()


def _encoded(encoder: Encoder, predictions: PredictionBatch) -> bytes:
    stream = io.BytesIO()
    encoder.open(stream)
    encoder.write(predictions)
    encoder.close()
    return stream.getvalue()


def _measure(job: JobSpec, sample: Sample, model: LoadedModel) -> Speed:
    """Measures the steps on the first batch of the largest sampled split, in seconds of one core a 1,000 rows."""
    first = max((batch for batch in sample.batches if len(batch)), key=len)
    small = _core_seconds(lambda: BatchRunner(model).run(first)) / len(first)
    # Read once more, now that types are made and files are in the machine's memory.
    piece = sample.pieces[first.order]
    reader = range_reader(job)
    next(iter(reader.read(piece, first.order)))
    kept: list[InstanceBatch] = []
    reading = _core_seconds(lambda: kept.append(next(batch for batch in reader.read(piece, first.order) if len(batch))))
    whole = kept[0]
    rows = len(whole) + len(whole.failed)
    raw = None
    if format_of(first.source, job.input.format).has_lines:
        raw = _seconds_to_fetch(first.source, first.order[1], whole.bytes)
    batch = _first(whole, max(len(first), int(TIMED_SECONDS / max(small, 1e-9))))
    predictions: list[PredictionBatch] = []
    predicting = _core_seconds(lambda: predictions.append(_refused(job, BatchRunner(model).run(batch))))
    predicted = predictions[0]
    writing = _core_seconds(lambda: _encoded(make_encoder(job), predicted))
    thousand = 1000 / rows
    return Speed(
        None if raw is None else raw * thousand,
        max(0.0, reading - (raw or 0.0)) * thousand,
        predicting * 1000 / max(1, len(batch)),
        writing * 1000 / max(1, len(predicted)),
    )


def _core_seconds(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _seconds_to_fetch(path: str, start: int, count: int) -> float:
    started = time.perf_counter()
    with files.open_raw(path) as stream:
        stream.seek(start)
        stream.read(count)
    return time.perf_counter() - started


def _resident_mb() -> float:
    try:
        with open("/proc/self/statm", encoding="ascii") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:  # no /proc on this system: the figure is left out
        return 0.0
