"""CheckKeys: key hashes to duplicate keys; the rows are read again only where hashes are equal."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam
import numpy as np

from transforms.accounts.coders import AccountEntry
from transforms.elements.batches import InstanceBatch
from transforms.elements.splits import Split
from transforms.read_instances import hashes_of, range_reader
from transforms.rows.codes import Code
from transforms.rows.keys import LISTED_DUPLICATES, DuplicateKey, Duplicates
from transforms.specs.job import JobSpec
from transforms.specs.run import RunSpec


class _FindEqualHashes(beam.DoFn):
    """Compares the hashes of one bucket of one task."""

    def process(self, bucket: tuple[tuple[int, int], Iterable[bytes]]) -> Iterator[tuple[int, Duplicates]]:
        (task, _), packed_hashes = bucket
        hashes = np.concatenate([np.frombuffer(packed, np.uint64) for packed in packed_hashes])
        values, counts = np.unique(hashes, return_counts=True)
        equal = values[counts > 1]
        if len(equal):
            yield task, Duplicates(len(equal), tuple(int(value) for value in equal[:LISTED_DUPLICATES]))


def merge(buckets: Sequence[Duplicates]) -> Duplicates:
    """Add up the duplicates of all buckets of a task, with the first ``LISTED_DUPLICATES`` of their hashes."""
    hashes = sorted(value for bucket in buckets for value in bucket.hashes)
    return Duplicates(sum(bucket.count for bucket in buckets), tuple(hashes[:LISTED_DUPLICATES]))


class ListDuplicates(beam.DoFn):
    """Reads a split again and lists the places of the keys whose hashes are equal."""

    def __init__(self, run: RunSpec) -> None:
        self.run = run

    def process(self, split: Split, duplicates: Sequence[tuple[int, Duplicates]]) -> Iterator[tuple[int, DuplicateKey]]:
        job = self.run.job_of(split.plan)
        equal_hashes = np.array(merge([bucket for task, bucket in duplicates if task == job.task]).hashes, np.uint64)
        if len(equal_hashes):
            for place in itertools.islice(self._places(split, job, equal_hashes), LISTED_DUPLICATES):
                yield job.task, place

    def _places(self, split: Split, job: JobSpec, equal_hashes: np.ndarray) -> Iterator[DuplicateKey]:
        reader = range_reader(job)
        for file_range in split.ranges:
            places: list[DuplicateKey] = []
            for batch in reader.read(file_range):
                places += itertools.islice(_places(batch, equal_hashes), LISTED_DUPLICATES)
                if any(row.code is Code.FILE_CHANGED for row in batch.failed):  # these are no longer the rows that were predicted
                    places = []
            yield from places


def _places(batch: InstanceBatch, equal_hashes: np.ndarray) -> Iterator[DuplicateKey]:
    """Yield the keys of a batch whose hash is one of ``equal_hashes`` (uint64), with their places."""
    failed = [row for row in batch.failed if row.key]
    for number in np.flatnonzero(np.isin(hashes_of(batch), equal_hashes)):
        if number < len(batch):
            yield DuplicateKey(batch.keys[int(number)].as_py(), batch.source, int(batch.offsets[number]))
        else:
            row = failed[number - len(batch)]
            yield DuplicateKey(row.key.decode(), row.source, row.offset)


@dataclasses.dataclass
class CheckKeys(beam.PTransform):
    """Find keys that occur more than once.

    Expects: the ``hashes`` of ReadInstances, packed uint64 by (task, bucket); ``splits``, the splits that were read.
    Gives: a pair of collections of (task, ``Duplicates``), one for each bucket that has any, and of (task, ``DuplicateKey``), the
    places of the first thousand duplicate keys.
    Guarantees: only 64-bit hashes are shuffled; a split is read a second time only if hashes of its task are equal.
    """

    run: RunSpec
    splits: beam.PCollection[Split]

    def expand(
        self, hashes: beam.PCollection[tuple[tuple[int, int], bytes]]
    ) -> tuple[beam.PCollection[tuple[int, AccountEntry]], beam.PCollection[tuple[int, AccountEntry]]]:
        duplicates = (
            hashes
            | "GroupHashes" >> beam.GroupByKey()
            | "FindEqualHashes" >> beam.ParDo(_FindEqualHashes()).with_output_types(tuple[int, AccountEntry])
        )
        places = self.splits | "ListDuplicates" >> beam.ParDo(ListDuplicates(self.run), beam.pvalue.AsList(duplicates)).with_output_types(
            tuple[int, AccountEntry]
        )
        return duplicates, places
