"""A sample of a few rows of several splits, taken through the run's own reader, model and encoder, without Beam, and timed."""

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
from transforms.specs.models import ModelSpec
from transforms.storage import files
from transforms.storage.files import FoundFile
from transforms.write_shards import make_encoder

SAMPLED_SPLITS = 4
LISTED_FILES = 10_000
# Enough for a measurement, and a short wait even for a slow model.
TIMED_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class InputPlan:
    """The files that a run would read, up to ``LISTED_FILES`` a pattern; ``whole`` is False where there are more."""

    files: int
    bytes: int
    splits: int
    formats: dict[str, int]
    whole: bool
    ranges: tuple[FileRange, ...]


@dataclasses.dataclass(frozen=True)
class Speed:
    """Seconds of one core for 1,000 rows on this machine; ``read`` is None where the format reads and converts at once."""

    read: float | None
    convert: float
    predict: float
    write: float

    @property
    def total(self) -> float:
        """Return the seconds of all steps."""
        return (self.read or 0.0) + self.convert + self.predict + self.write


@dataclasses.dataclass
class Sample:
    """The sampled rows: ``batches`` as they were read, the range of each, ``failed`` rows, and up to three predictions as ``lines``.

    ``rows_in_input`` is the number of rows of the whole input, exact if ``counted``, else estimated.
    """

    batches: list[InstanceBatch]
    ranges: list[FileRange]
    failed: list[FailedRow]
    rows: int
    rows_in_input: int
    counted: bool
    predicted: int = 0
    lines: tuple[str, ...] = ()
    speed: Speed | None = None
    model_mb: float = 0.0
    load_seconds: float = 0.0


def plan_input(job: JobSpec) -> InputPlan:
    """List the files, as far as ``LISTED_FILES``, and plan their splits by their names and sizes alone."""
    limits = job.input.limits
    ranges: list[FileRange] = []
    formats: dict[str, int] = {}
    size = large = packed = small = 0
    whole = True
    by_place: dict[str, FoundFile] = {}
    for pattern in job.input.patterns:
        matches = list(itertools.islice(files.match(pattern), LISTED_FILES))
        whole = whole and len(matches) < LISTED_FILES
        for file in matches:
            by_place.setdefault(file.place, file)  # under the path of the first pattern that matches it, as in a run
    for file in by_place.values():
        format = format_of(file.path, job.input.format)
        formats[format.name] = formats.get(format.name, 0) + 1
        size += file.size_bytes
        if format.is_uncut is None:
            file_ranges = list(split_file(file, format, limits))
        else:  # a run reads the whole file to know whether it can be cut; here its beginning is enough
            file_ranges = [FileRange(file.path, 0, file.size_bytes, file.size_bytes, file.relative, file.pin)]
        if len(file_ranges) > 1 or not splitting.is_small(file.size_bytes, limits):
            large += len(file_ranges) if format.is_uncut is None else max(1, round(file.size_bytes / limits.split_bytes))
        else:
            small, packed = small + 1, packed + file.size_bytes
        ranges += file_ranges
    splits = large + max(math.ceil(packed / limits.split_bytes), math.ceil(small / limits.split_files))
    return InputPlan(len(by_place), size, splits, formats, whole, tuple(ranges))


def _spread(ranges: tuple[FileRange, ...]) -> list[FileRange]:
    """Return up to ``SAMPLED_SPLITS`` of ``ranges``, from the first to the last at equal distances."""
    numbers = np.linspace(0, len(ranges) - 1, min(SAMPLED_SPLITS, len(ranges))).astype(int)
    return [ranges[number] for number in numbers]


def read_sample(job: JobSpec, plan: InputPlan, limit: int) -> Sample:
    """Read the first rows of several splits: ``limit`` rows in all, or all rows if there are fewer."""
    reader = range_reader(job)
    batches: list[InstanceBatch] = []
    ranges_read: list[FileRange] = []
    read_rows = stored_bytes = sampled_rows = 0
    ranges = _spread(plan.ranges)
    is_all = len(ranges) == len(plan.ranges) and plan.whole
    for number, file_range in enumerate(ranges):
        share = math.ceil((limit - sampled_rows) / (len(ranges) - number))
        for batch in reader.read(file_range):
            if share <= 0:
                is_all = False
                break
            read_rows += len(batch) + len(batch.failed)
            stored_bytes += _stored_bytes(file_range, batch)
            batches.append(_first(batch, share))
            ranges_read.append(file_range)
            rows = len(batches[-1]) + len(batches[-1].failed)
            share, sampled_rows = share - rows, sampled_rows + rows
    estimate = read_rows if is_all else round(plan.bytes * read_rows / max(1, stored_bytes))
    failed = [row for batch in batches for row in batch.failed]
    return Sample(batches, ranges_read, failed, sampled_rows, estimate, is_all)


def _stored_bytes(file_range: FileRange, batch: InstanceBatch) -> int:
    """Return the size of a batch in its file; in a compressed file, estimated by zlib on up to 1,000 of its rows."""
    if file_range.stop is not None or not len(batch):
        return batch.bytes
    text = b"\n".join(batch.rows[row] for row in range(min(len(batch), 1000)))
    return max(1, round(batch.bytes * len(zlib.compress(text)) / max(1, len(text))))


def _first(batch: InstanceBatch, count: int) -> InstanceBatch:
    """Return the first ``count`` rows of a batch, instances and failed rows together, in the order of the file."""
    offsets = np.sort(np.concatenate((batch.offsets, np.array([row.offset for row in batch.failed], np.int64))))
    if len(offsets) <= count:
        return batch
    last = offsets[count - 1]
    instances = batch.take(np.flatnonzero(batch.offsets <= last))
    return dataclasses.replace(instances, failed=[row for row in batch.failed if row.offset <= last])


def predict_sample(job: JobSpec, sample: Sample, timed: bool = True) -> None:
    """Load the model, predict on the sample and, if ``timed``, measure each step on a larger batch.

    Raises:
      ModelError: the model can't be loaded or run.
    """
    before, started = _resident_mb(), time.perf_counter()
    assert isinstance(job.model, ModelSpec), "a check takes no --model_field"
    model = LoadedModel(job.model)
    sample.load_seconds = time.perf_counter() - started
    sample.model_mb = max(0.0, _resident_mb() - before)
    sample.failed = []
    lines: list[str] = []
    for batch in sample.batches:
        predictions = _without_unfit(job, BatchRunner(model).run(batch))
        sample.failed += predictions.failed
        sample.predicted += len(predictions)
        if len(predictions) and len(lines) < 3:
            lines += _to_lines(job, select(predictions, np.arange(min(3 - len(lines), len(predictions)))))
    sample.lines = tuple(lines)
    if timed and sample.predicted:
        sample.speed = _measure(job, sample, model)


def _without_unfit(job: JobSpec, predictions: PredictionBatch) -> PredictionBatch:
    """Return the predictions without those that the output can't hold, which become failed rows."""
    if job.output.nan == "error":
        predictions = refuse_non_finite(predictions)
    return make_encoder(job).refuse(predictions)


def _to_lines(job: JobSpec, predictions: PredictionBatch) -> Iterator[str]:
    """Yield predictions as lines of JSON in the job's style, whatever the output's format."""
    lines = LineEncoder(job.output_signature, job.output, job.key.fields)
    yield from _encode(lines, predictions).decode("utf-8", "replace").splitlines()


def _encode(encoder: Encoder, predictions: PredictionBatch) -> bytes:
    """Return the file that ``encoder`` writes of ``predictions``."""
    stream = io.BytesIO()
    encoder.open(stream)
    encoder.write(predictions)
    encoder.close()
    return stream.getvalue()


def _measure(job: JobSpec, sample: Sample, model: LoadedModel) -> Speed:
    """Measure the steps on the first batch of the largest sampled split."""
    first, file_range = max(zip(sample.batches, sample.ranges, strict=True), key=lambda pair: len(pair[0]))
    row_seconds = _core_seconds(lambda: BatchRunner(model).run(first)) / len(first)
    # Read twice: the second time types are made and the file is in the machine's memory.
    reader = range_reader(job)
    next(iter(reader.read(file_range)))
    batches: list[InstanceBatch] = []
    read_seconds = _core_seconds(lambda: batches.append(next(batch for batch in reader.read(file_range) if len(batch))))
    whole = batches[0]
    rows = len(whole) + len(whole.failed)
    fetch_seconds = None
    if format_of(first.source, job.input.format).has_lines:
        fetch_seconds = _seconds_to_fetch(first.source, file_range.start, whole.bytes)
    batch = _first(whole, max(len(first), int(TIMED_SECONDS / max(row_seconds, 1e-9))))
    predictions: list[PredictionBatch] = []
    predict_seconds = _core_seconds(lambda: predictions.append(_without_unfit(job, BatchRunner(model).run(batch))))
    (prediction_batch,) = predictions
    write_seconds = _core_seconds(lambda: _encode(make_encoder(job), prediction_batch))
    thousand = 1000 / rows
    return Speed(
        None if fetch_seconds is None else fetch_seconds * thousand,
        max(0.0, read_seconds - (fetch_seconds or 0.0)) * thousand,
        predict_seconds * 1000 / max(1, len(batch)),
        write_seconds * 1000 / max(1, len(prediction_batch)),
    )


def _core_seconds(work: Callable[[], Any]) -> float:
    """Return the CPU seconds that ``work`` takes."""
    started = time.process_time()
    work()
    return time.process_time() - started


def _seconds_to_fetch(path: str, start: int, count: int) -> float:
    """Return the seconds that reading ``count`` bytes of a file takes, without parsing."""
    started = time.perf_counter()
    with files.open_raw(path) as stream:
        stream.seek(start)
        stream.read(count)
    return time.perf_counter() - started


def _resident_mb() -> float:
    """Return the resident memory of this process, in MiB."""
    try:
        with open("/proc/self/statm", encoding="ascii") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:  # no /proc on this system: the figure is left out
        return 0.0
