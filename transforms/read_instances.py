"""ReadInstances: splits to batches of instances, with each split's count of rows and the hashes of its keys."""

from __future__ import annotations

import dataclasses
import functools
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import msgspec
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput

from transforms.accounts.coders import AccountEntry
from transforms.elements.batches import InstanceBatch, JobInstances, SplitElement, SplitEnd
from transforms.elements.failed_rows import FailedRow
from transforms.elements.splits import FileRange, Incomplete, Split, SplitCount
from transforms.formats.catalog import FORMATS, format_of
from transforms.formats.damage import DamagedFileError
from transforms.formats.empty_batch import empty_batch
from transforms.formats.protocols import Reader
from transforms.rows.codes import INCOMPLETE, Code, RowError
from transforms.rows.keys import hash_keys
from transforms.rows.row_spec import RowSpec, row_spec
from transforms.runtime import metrics
from transforms.runtime.read_ahead import read_ahead
from transforms.specs.job import JobSpec
from transforms.specs.run import RunSpec
from transforms.specs.table_name import is_table
from transforms.staging import split_records
from transforms.statistics import stored
from transforms.statistics.statistics import Statistics
from transforms.storage.pins import FileChangedError

# The name of the reader of a table's streams, beside those of files by format.
TABLE = "bigquery"


class RangeReader:
    """Reads ranges of files of any format and streams of BigQuery; damage and change of a file become failed rows.

    ``format`` is that of all files; None: each has that of its name.
    """

    def __init__(self, spec: RowSpec, format: str | None) -> None:
        self.spec = spec
        self.format = format
        self.readers: dict[str, Reader] = {}

    def read(self, file_range: FileRange) -> Iterator[InstanceBatch]:
        """Yield the batches of one file range; damage or change of the file is a failed row in a last batch without instances."""
        try:
            yield from self._reader(file_range).read(file_range)
            return
        except DamagedFileError as damage:
            message = f"the file can't be read on from here, so how many rows are lost is unknown: {damage}"
            offset, code = damage.offset, Code.FILE_DAMAGED
        except FileChangedError as change:
            offset, code, message = file_range.start, Code.FILE_CHANGED, str(change)
        failed = FailedRow.of(RowError(code, message), file_range.path, offset, b"null")
        yield empty_batch(self.spec, file_range, [failed])

    def _reader(self, file_range: FileRange) -> Reader:
        name = TABLE if is_table(file_range.path) else format_of(file_range.path, self.format).name
        if name not in self.readers:
            self.readers[name] = self._make_reader(name)
        return self.readers[name]

    def _make_reader(self, name: str) -> Reader:
        if name == TABLE:
            from transforms.bigquery.stream_reader import StreamReader

            return StreamReader(self.spec)
        make_reader = FORMATS[name].make_reader
        assert make_reader is not None, "format_of returns only formats that can be read"
        return make_reader(self.spec)


# A reader holds types made for a signature, which takes milliseconds: jobs of one signature share one.
KEPT_READERS = 64


@functools.lru_cache(KEPT_READERS)
def _reader(spec: RowSpec, format: str | None, thread: int) -> RangeReader:
    return RangeReader(spec, format)


def range_reader(job: JobSpec) -> RangeReader:
    """Return the reader of the job's files; each thread has its own."""
    return _reader(row_spec(job), job.input.format, threading.get_ident())


class _ReadInstances(beam.DoFn):
    """Reads a split, or resumes it: passes on the shards that an earlier launch wrote of it."""

    def __init__(self, run: RunSpec, progress_folder: str | None) -> None:
        self.run, self.progress_folder = run, progress_folder

    def setup(self) -> None:
        self.progress = metrics.Progress(self.progress_folder)

    def process(self, split: Split) -> Iterator[JobInstances | SplitEnd | TaggedOutput]:
        job = self.run.job_of(split.plan)
        record = split_records.find(job, split, self.run.identity, self.run.resumed)
        if record is None:
            yield from self._read(job, split)
        else:
            yield from self._resume(job, split, record)

    def _resume(self, job: JobSpec, split: Split, record: split_records.SplitRecord) -> Iterator[TaggedOutput]:
        """Yield the accounts, statistics and hashes of a split that an earlier launch finished."""
        count = msgspec.structs.replace(record.count, resumed=True)
        predicted, failed = (sum(shard.rows for shard in record.shards if shard.kind == kind) for kind in ("results", "errors"))
        self.progress.add(count.rows, predicted, failed, sum(file_range.size_bytes for file_range in split.ranges))
        metrics.instances_read.inc(count.rows)
        for entry in (count, *record.shards):
            yield TaggedOutput("accounts", (job.task, entry))
        if job.report and count.rows:
            yield TaggedOutput("statistics", (job.task, stored.decode_or_say(record.statistics)))
        for bucket, hashes in by_bucket([np.frombuffer(record.hashes, np.uint64)], job.key_buckets):
            yield TaggedOutput("hashes", ((job.task, bucket), hashes.tobytes()))

    def _read(self, job: JobSpec, split: Split) -> Iterator[JobInstances | SplitEnd | TaggedOutput]:
        reader = range_reader(job)
        account = SplitAccount(job, split, self.progress)
        for file_range in split.ranges:
            batches = timed(reader.read(file_range))
            # A process that has more than one core to itself reads with one while it predicts with the others.
            ahead = read_ahead(batches) if job.model.threads > 1 and file_range.size_bytes > job.input.limits.block_bytes else batches
            for batch, seconds in ahead:
                account.add(file_range, batch)
                if len(batch) or batch.failed:
                    yield JobInstances(job, job.model, split.key, batch, seconds)
            account.end_range(file_range)
            if job.output.layout == "mirror":  # a file without rows has an output without rows
                yield JobInstances(job, job.model, split.key, empty_batch(reader.spec, file_range))
        count = account.finish()
        if self.run.identity and not any(file.code is Code.FILE_CHANGED for file in count.incomplete):
            yield SplitEnd(job, split_records.name_of(split), count, b"".join(hashes.tobytes() for hashes in account.hashes))
        yield from account.tagged(count)

    def finish_bundle(self) -> None:
        self.progress.write()


class SplitAccount:
    """Counts the rows and bytes of a split while it is read, for the job's accounts, metrics and progress."""

    def __init__(self, job: JobSpec, split: Split, progress: metrics.Progress) -> None:
        self.job, self.split, self.progress = job, split, progress
        self.started = time.monotonic()
        self.rows = self.size = 0
        self.incomplete: list[Incomplete] = []
        self.hashes: list[np.ndarray] = []

    def add(self, file_range: FileRange, batch: InstanceBatch) -> None:
        """Count a batch of one range of the split."""
        read = len(batch) + len(batch.failed)
        self.rows += read
        self.size += batch.bytes
        self.incomplete += [Incomplete(row.source, row.code, row.message) for row in batch.failed if row.code in INCOMPLETE]
        metrics.instances_read.inc(read)
        if self.job.key.fields or batch.key_hashes is not None:
            self.hashes.append(hashes_of(batch))
        if file_range.stop is not None:
            self.progress.add(input_bytes=batch.bytes)

    def end_range(self, file_range: FileRange) -> None:
        """Count a range of the split as read."""
        if file_range.stop is None:  # compressed: the bytes of a batch are unpacked ones, and those of the file are known only at its end
            self.progress.add(input_bytes=file_range.size_bytes)

    def finish(self) -> SplitCount:
        """Return the split's counts, once all of its ranges are read."""
        files = sum(file_range.start == 0 for file_range in self.split.ranges)
        metrics.bytes_read.inc(self.size)
        metrics.files_read.inc(files)
        # Later steps work while this one waits in its yields: the seconds include predicting and writing.
        return SplitCount(self.split.key, self.rows, self.size, files, tuple(self.incomplete), time.monotonic() - self.started)

    def tagged(self, count: SplitCount) -> Iterator[TaggedOutput]:
        """Yield the split's counts and the hashes of its keys as the read step's other outputs."""
        yield TaggedOutput("accounts", (self.job.task, count))
        for bucket, hashes in by_bucket(self.hashes, self.job.key_buckets):
            yield TaggedOutput("hashes", ((self.job.task, bucket), hashes.tobytes()))


def timed(batches: Iterator[InstanceBatch]) -> Iterator[tuple[InstanceBatch, float]]:
    """Yield ``batches``, each with the seconds that reading and converting it took."""
    started = time.perf_counter()
    for batch in batches:
        yield batch, time.perf_counter() - started
        started = time.perf_counter()


def hashes_of(batch: InstanceBatch) -> np.ndarray:
    """Return the hashes of the keys of ``batch`` (uint64): those of its instances, then those of its failed rows that have a key."""
    if batch.key_hashes is not None:
        return batch.key_hashes
    failed = pa.array([row.key.decode() for row in batch.failed if row.key], pa.string())
    return np.concatenate((hash_keys(batch.keys), hash_keys(failed)))


def by_bucket(hashes: list[np.ndarray], count: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the hashes (uint64) of each of ``count`` buckets that has any."""
    if not hashes:
        return
    joined = np.concatenate(hashes)
    buckets = (joined % np.uint64(count)).astype(np.uint8)
    order = np.argsort(buckets, kind="stable")  # of bytes: a radix sort, in linear time
    ends = np.searchsorted(buckets[order], np.arange(count + 1))
    for bucket in range(count):
        if ends[bucket] < ends[bucket + 1]:
            yield bucket, joined[order[ends[bucket] : ends[bucket + 1]]]


# The types of a read step's other outputs: (task, count or shard), and packed hashes by (task, bucket).
ACCOUNT_TYPES: dict[str, Any] = {"accounts": tuple[int, AccountEntry], "hashes": tuple[tuple[int, int], bytes]}


class RowsRead(NamedTuple):
    """The outputs of a read step.

    ``batches`` are ``JobInstances``, with the rows that failed on the way, and a ``SplitEnd`` after those of a recorded split.
    ``accounts`` are (task, ``SplitCount``), and (task, ``Shard``) of splits that an earlier launch finished, whose statistics are in
    ``statistics``. ``hashes`` are packed uint64 hashes of keys by (task, bucket).
    """

    batches: beam.PCollection[SplitElement]
    accounts: beam.PCollection[tuple[int, AccountEntry]]
    hashes: beam.PCollection[tuple[tuple[int, int], bytes]]
    statistics: tuple[beam.PCollection[tuple[int, Statistics]], ...] = ()


@dataclasses.dataclass
class ReadInstances(beam.PTransform):
    """Read the rows of each split and make instances of them.

    Expects: ``Split``s.
    Gives: ``RowsRead``.
    Guarantees: every row that is not blank is in exactly one batch, as an instance or as a failed row, or in a shard of an earlier launch.
    """

    run: RunSpec
    progress_folder: str | None = None

    def expand(self, splits: beam.PCollection[Split]) -> RowsRead:
        types = ACCOUNT_TYPES | {"statistics": tuple[int, Statistics]}
        if not self.run.resumed:
            del types["statistics"]
        read = beam.ParDo(_ReadInstances(self.run, self.progress_folder)).with_output_types(SplitElement, **types)
        outputs = splits | read.with_outputs(*types, main="batches")
        if "statistics" not in types:
            return RowsRead(outputs.batches, outputs.accounts, outputs.hashes)
        return RowsRead(outputs.batches, outputs.accounts, outputs.hashes, (outputs.statistics,))
