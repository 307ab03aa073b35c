"""Splits → batches of instances, with the split's own count of rows and the hashes of its keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput

from transforms import metrics
from transforms.codes import Code
from transforms.elements import InstanceBatch, Split, SplitCount
from transforms.keys import BUCKETS, hash_keys
from transforms.read.ahead import read_ahead
from transforms.read.formats import RangeReader
from transforms.read.row import RowSpec
from transforms.specs import OWN_FIELDS, JobSpec


def row_spec(job: JobSpec) -> RowSpec:
    """Gives what the job takes from a row."""
    own = OWN_FIELDS[job.output.style]
    if job.output.style == "aiplatform":  # outputs stand beside the fields passed through: no name may stand twice
        own = (*own, *(spec.name for spec in job.model.signature.outputs))
    return RowSpec(
        signature=job.model.signature,
        key_fields=job.key.fields,
        passthrough_fields=job.output.passthrough_fields,
        include_fields=job.input.include_fields,
        exclude_fields=job.input.exclude_fields,
        own_fields=own,
    )


def range_reader(job: JobSpec) -> RangeReader:
    """Gives the reader of the job's files."""
    return RangeReader(row_spec(job), job.input.format)


class _ReadInstances(beam.DoFn):
    def __init__(self, job: JobSpec) -> None:
        self.job = job

    def setup(self) -> None:
        self.reader = range_reader(self.job)
        self.progress = metrics.Progress(self.job.progress_folder)

    def process(self, split: Split) -> Iterator[InstanceBatch | TaggedOutput]:
        rows, size, damaged = 0, 0, []
        hashes: list[np.ndarray] = []
        for piece in split.ranges:
            batches = self.reader.read(piece, split.order)
            # A process that has more than one core to itself reads with one while it predicts with the others.
            for batch in read_ahead(batches) if self.job.model.threads > 1 else batches:
                read = len(batch) + len(batch.failed)
                rows += read
                size += batch.bytes
                damaged += [row.source for row in batch.failed if row.code is Code.FILE_DAMAGED]
                metrics.instances_read.inc(read)
                if self.job.key.fields:
                    hashes.append(hashes_of(batch))
                if piece.stop is not None:
                    self.progress.add(input_bytes=batch.bytes)
                if read:
                    yield batch
            if self.job.output.layout == "mirror":  # a file without rows has an output without rows
                yield self.reader.nothing(piece, split.order)
            if piece.stop is None:  # compressed: how far it is shows only at its end
                self.progress.add(input_bytes=piece.size_bytes)
        self.progress.write()
        metrics.bytes_read.inc(size)
        first_pieces = [piece for piece in split.ranges if piece.start == 0]
        metrics.files_read.inc(len(first_pieces))
        yield TaggedOutput("counts", SplitCount(split.order, rows, size, len(first_pieces), tuple(damaged)))
        for bucket, some in _by_bucket(hashes):
            yield TaggedOutput("hashes", (bucket, some.tobytes()))


def hashes_of(batch: InstanceBatch) -> np.ndarray:
    """Gives the hash of each key of ``batch``: the instances' first, then those of failed rows that have one."""
    failed = pa.array([row.key.decode() for row in batch.failed if row.key], pa.string())
    return np.concatenate((hash_keys(batch.keys), hash_keys(failed)))


def _by_bucket(hashes: list[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    if not hashes:
        return
    everything = np.concatenate(hashes)
    buckets = (everything % np.uint64(BUCKETS)).astype(np.uint8)
    order = np.argsort(buckets, kind="stable")  # of bytes: a radix sort, in linear time
    ends = np.searchsorted(buckets[order], np.arange(BUCKETS + 1))
    for bucket in range(BUCKETS):
        if ends[bucket] < ends[bucket + 1]:
            yield bucket, everything[order[ends[bucket] : ends[bucket + 1]]]


@dataclasses.dataclass
class ReadInstances(beam.PTransform):
    """Reads the rows of each split and makes instances of them.

    Expects: ``Split``s. Gives: ``batches`` (InstanceBatch, with the rows that failed on the way), ``counts`` (one
    SplitCount a split) and ``hashes`` (pairs of bucket and packed 64-bit key hashes).
    Guarantees: every row that is not blank is in exactly one batch, as an instance or as a failed row.
    """

    job: JobSpec

    def expand(self, splits: beam.PCollection) -> beam.pvalue.DoOutputsTuple:
        read = beam.ParDo(_ReadInstances(self.job)).with_output_types(InstanceBatch)
        return splits | read.with_outputs("counts", "hashes", main="batches")
