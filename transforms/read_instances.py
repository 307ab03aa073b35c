"""Splits → batches of instances, with the split's own count of rows and the hashes of its keys."""

from __future__ import annotations

import dataclasses
import functools
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput

from transforms.accounts.coders import Piece
from transforms.elements.batches import InstanceBatch
from transforms.elements.failed_rows import FailedRow
from transforms.elements.splits import FileRange, Incomplete, Split, SplitCount, SplitEnd
from transforms.formats.blocks import BLOCK_BYTES
from transforms.formats.catalog import FORMATS, format_of
from transforms.formats.damage import DamagedFileError
from transforms.formats.protocols import Reader
from transforms.rows.codes import INCOMPLETE, Code, RowError
from transforms.rows.keys import hash_keys
from transforms.rows.row_spec import RowSpec, row_spec
from transforms.runtime import metrics
from transforms.runtime.read_ahead import read_ahead
from transforms.specs.job import JobSpec
from transforms.specs.run import RunSpec, job_of
from transforms.specs.table_name import is_table
from transforms.staging import split_records
from transforms.statistics import stored
from transforms.statistics.statistics import Statistics
from transforms.storage.pins import FileChangedError

# What reads a table's streams, beside the formats of files.
TABLE = "bigquery"


class RangeReader:
    """Reads ranges of files of any format and streams of BigQuery; damage and change of a file become failed rows."""

    def __init__(self, spec: RowSpec, given: str | None) -> None:
        self.spec = spec
        self.given = given
        self.readers: dict[str, Reader] = {}

    def read(self, piece: FileRange, order: tuple[str, int]) -> Iterator[InstanceBatch]:
        """Gives the batches of one file range; damage or change of the file is a failed row in a last, empty batch."""
        reader = self._reader(piece)
        try:
            yield from reader.read(piece, order)
            return
        except DamagedFileError as damage:
            message = f"the file can't be read on from here, so how many rows are lost is unknown: {damage}"
            offset, code = damage.offset, Code.FILE_DAMAGED
        except FileChangedError as change:
            offset, code, message = piece.start, Code.FILE_CHANGED, str(change)
        failed = FailedRow.of(RowError(code, message), piece.path, offset, b"null")
        yield dataclasses.replace(reader.nothing(piece, order), failed=[failed])

    def nothing(self, piece: FileRange, order: tuple[str, int]) -> InstanceBatch:
        return self._reader(piece).nothing(piece, order)

    def _reader(self, piece: FileRange) -> Reader:
        name = TABLE if is_table(piece.path) else format_of(piece.path, self.given).name
        if name not in self.readers:
            self.readers[name] = self._make_reader(name)
        return self.readers[name]

    def _make_reader(self, name: str) -> Reader:
        if name == TABLE:
            from transforms.bigquery.stream_reader import StreamReader

            return StreamReader(self.spec)
        make_reader = FORMATS[name].make_reader
        assert make_reader is not None, "format_of gives none that is not read"
        return make_reader(self.spec)


# Readers hold types made for a signature, which costs milliseconds: jobs of one signature share one.
KEPT_READERS = 64


@functools.lru_cache(KEPT_READERS)
def _reader(spec: RowSpec, format: str | None, thread: int) -> RangeReader:
    return RangeReader(spec, format)


def range_reader(job: JobSpec) -> RangeReader:
    """Gives the reader of the job's files; each thread has its own."""
    return _reader(row_spec(job), job.input.format, threading.get_ident())


class _ReadInstances(beam.DoFn):
    def __init__(self, spec: JobSpec | RunSpec) -> None:
        self.spec = spec

    def setup(self) -> None:
        self.progress = metrics.Progress(self.spec.progress_folder)

    def process(self, split: Split) -> Iterator[InstanceBatch | TaggedOutput]:
        job = job_of(self.spec, split.plan)
        record = split_records.find(job, split) if job.resumed else None
        if record is None:
            yield from self._read(job, split)
        else:
            yield from self._take_up(job, split, record)

    def _take_up(self, job: JobSpec, split: Split, record: split_records.SplitRecord) -> Iterator[TaggedOutput]:
        """Gives what an earlier launch made of the split as this one's."""
        count = dataclasses.replace(record.count, resumed=True)
        predicted, failed = (sum(shard.rows for shard in record.shards if shard.kind == kind) for kind in ("results", "errors"))
        self.progress.add(count.rows, predicted, failed, sum(piece.size_bytes for piece in split.ranges))
        metrics.instances_read.inc(count.rows)
        for piece in (count, *record.shards):
            yield TaggedOutput("pieces", (job.task, piece))
        if job.report and count.rows:
            yield TaggedOutput("statistics", (job.task, stored.decode_or_say(record.statistics)))
        for bucket, some in by_bucket([np.frombuffer(record.hashes, np.uint64)], job.key_buckets):
            yield TaggedOutput("hashes", ((job.task, bucket), some.tobytes()))

    def _read(self, job: JobSpec, split: Split) -> Iterator[InstanceBatch | TaggedOutput]:
        reader = range_reader(job)
        account = SplitAccount(job, split, self.progress)
        for piece in split.ranges:
            batches = timed(reader.read(piece, split.order))
            # A process that has more than one core to itself reads with one while it predicts with the others.
            ahead = read_ahead(batches) if job.model.threads > 1 and piece.size_bytes > BLOCK_BYTES else batches
            for batch in account.add(piece, ahead):
                batch.job = job
                if len(batch) or batch.failed:
                    yield batch
            if job.output.layout == "mirror":  # a file without rows has an output without rows
                yield dataclasses.replace(reader.nothing(piece, split.order), job=job)
        count = account.finish()
        if job.identity and not any(file.code is Code.FILE_CHANGED for file in count.incomplete):
            end = SplitEnd(split_records.name_of(split), count, b"".join(some.tobytes() for some in account.hashes))
            yield dataclasses.replace(reader.nothing(split.ranges[-1], split.order), job=job, end=end)
        yield from account.tagged(count)

    def finish_bundle(self) -> None:
        self.progress.write()


class SplitAccount:
    """Counts what a split holds while its batches pass, for the job's accounts, its metrics and its progress."""

    def __init__(self, job: JobSpec, split: Split, progress: metrics.Progress) -> None:
        self.job, self.split, self.progress = job, split, progress
        self.started = time.monotonic()
        self.rows = self.size = 0
        self.incomplete: list[Incomplete] = []
        self.hashes: list[np.ndarray] = []

    def add(self, piece: FileRange, batches: Iterator[InstanceBatch]) -> Iterator[InstanceBatch]:
        """Give the batches of one range of the split, each counted."""
        for batch in batches:
            read = len(batch) + len(batch.failed)
            self.rows += read
            self.size += batch.bytes
            self.incomplete += [Incomplete(row.source, row.code, row.message) for row in batch.failed if row.code in INCOMPLETE]
            metrics.instances_read.inc(read)
            if self.job.key.fields or batch.key_hashes is not None:
                self.hashes.append(hashes_of(batch))
            if piece.stop is not None:
                self.progress.add(input_bytes=batch.bytes)
            yield batch
        if piece.stop is None:  # compressed: a batch's bytes are unpacked ones; how many were read shows only at the end
            self.progress.add(input_bytes=piece.size_bytes)

    def finish(self) -> SplitCount:
        """Return the split's counts, when all of its ranges were read."""
        files = sum(piece.start == 0 for piece in self.split.ranges)
        metrics.bytes_read.inc(self.size)
        metrics.files_read.inc(files)
        # Later steps work while this one waits in its yields: the seconds are those of reading, predicting and writing.
        return SplitCount(self.split.order, self.rows, self.size, files, tuple(self.incomplete), time.monotonic() - self.started)

    def tagged(self, count: SplitCount) -> Iterator[TaggedOutput]:
        """Give the split's counts and the hashes of its keys as the read step's other outputs."""
        yield TaggedOutput("pieces", (self.job.task, count))
        for bucket, some in by_bucket(self.hashes, self.job.key_buckets):
            yield TaggedOutput("hashes", ((self.job.task, bucket), some.tobytes()))


def timed(batches: Iterator[InstanceBatch]) -> Iterator[InstanceBatch]:
    """Gives ``batches``, each with the seconds it took to read and convert."""
    started = time.perf_counter()
    for batch in batches:
        batch.seconds = time.perf_counter() - started
        yield batch
        started = time.perf_counter()


def hashes_of(batch: InstanceBatch) -> np.ndarray:
    """Gives the hash of each key of ``batch``: the instances' first, then those of failed rows that have one."""
    if batch.key_hashes is not None:
        return batch.key_hashes
    failed = pa.array([row.key.decode() for row in batch.failed if row.key], pa.string())
    return np.concatenate((hash_keys(batch.keys), hash_keys(failed)))


def by_bucket(hashes: list[np.ndarray], count: int) -> Iterator[tuple[int, np.ndarray]]:
    """Gives the hashes of each bucket that has some, of ``count``."""
    if not hashes:
        return
    everything = np.concatenate(hashes)
    buckets = (everything % np.uint64(count)).astype(np.uint8)
    order = np.argsort(buckets, kind="stable")  # of bytes: a radix sort, in linear time
    ends = np.searchsorted(buckets[order], np.arange(count + 1))
    for bucket in range(count):
        if ends[bucket] < ends[bucket + 1]:
            yield bucket, everything[order[ends[bucket] : ends[bucket + 1]]]


# The accounts of a read step, as engines know them: what it counted, and packed hashes by task and bucket.
ACCOUNT_TYPES: dict[str, Any] = {"pieces": tuple[int, Piece], "hashes": tuple[tuple[int, int], bytes]}


class RowsRead(NamedTuple):
    """What a read step gives: ``batches`` (InstanceBatch, with the rows that failed on the way) and, as pairs whose first is the task's
    number, ``pieces`` (SplitCount, and the shards that an earlier launch left of a split) and ``statistics`` (of such splits); and
    ``hashes`` (pairs of (task, bucket) and packed 64-bit key hashes).
    """

    batches: beam.PCollection
    pieces: beam.PCollection
    hashes: beam.PCollection
    statistics: tuple[beam.PCollection, ...] = ()


@dataclasses.dataclass
class ReadInstances(beam.PTransform):
    """Reads the rows of each split and makes instances of them.

    Expects: ``Split``s. Gives: ``RowsRead``.
    Guarantees: every row that is not blank is in exactly one batch, as an instance or as a failed row, or in a shard of an earlier launch.
    """

    spec: JobSpec | RunSpec

    def expand(self, splits: beam.PCollection) -> RowsRead:
        types = ACCOUNT_TYPES | {"statistics": tuple[int, Statistics]}
        if isinstance(self.spec, JobSpec) and not self.spec.resumed:
            del types["statistics"]
        read = beam.ParDo(_ReadInstances(self.spec)).with_output_types(InstanceBatch, **types)
        given = splits | read.with_outputs(*types, main="batches")
        if "statistics" not in types:
            return RowsRead(given.batches, given.pieces, given.hashes)
        return RowsRead(given.batches, given.pieces, given.hashes, (given.statistics,))
