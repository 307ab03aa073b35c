"""Are the keys unique? Asked of their hashes; only where two are equal are the rows themselves read again."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam
import numpy as np

from transforms.accounts.coders import Piece
from transforms.elements.batches import InstanceBatch
from transforms.elements.splits import Split
from transforms.read_instances import hashes_of, range_reader
from transforms.rows.codes import Code
from transforms.rows.keys import LISTED_DUPLICATES, DuplicateKey, Duplicates
from transforms.specs.job import JobSpec
from transforms.specs.run import RunSpec, job_of


class _FindEqualHashes(beam.DoFn):
    def process(self, bucket: tuple[tuple[int, int], Iterable[bytes]]) -> Iterator[tuple[int, Duplicates]]:
        (task, _), packed_hashes = bucket
        everything = np.concatenate([np.frombuffer(packed, np.uint64) for packed in packed_hashes])
        values, counts = np.unique(everything, return_counts=True)
        equal = values[counts > 1]
        if len(equal):
            yield task, Duplicates(len(equal), tuple(int(value) for value in equal[:LISTED_DUPLICATES]))


def merge(found: Iterable[Duplicates]) -> Duplicates:
    """Gives the duplicates of all buckets as one; of their hashes, the first."""
    hashes = sorted(value for some in found for value in some.hashes)
    return Duplicates(sum(some.count for some in found), tuple(hashes[:LISTED_DUPLICATES]))


class _ListDuplicates(beam.DoFn):
    def __init__(self, spec: JobSpec | RunSpec) -> None:
        self.spec = spec

    def process(self, split: Split, duplicates: Sequence[tuple[int, Duplicates]]) -> Iterator[tuple[int, DuplicateKey]]:
        job = job_of(self.spec, split.plan)
        wanted = np.array(merge(some for task, some in duplicates if task == job.task).hashes, np.uint64)
        if len(wanted):
            for place in itertools.islice(self._places(split, job, wanted), LISTED_DUPLICATES):
                yield job.task, place

    def _places(self, split: Split, job: JobSpec, wanted: np.ndarray) -> Iterator[DuplicateKey]:
        reader = range_reader(job)
        for piece in split.ranges:
            places: list[DuplicateKey] = []
            for batch in reader.read(piece, split.order):
                places += itertools.islice(_places(batch, wanted), LISTED_DUPLICATES)
                if any(row.code is Code.FILE_CHANGED for row in batch.failed):  # these are no longer the rows that were predicted
                    places = []
            yield from places


def _places(batch: InstanceBatch, wanted: np.ndarray) -> Iterator[DuplicateKey]:
    failed = [row for row in batch.failed if row.key]
    for number in np.flatnonzero(np.isin(hashes_of(batch), wanted)):
        if number < len(batch):
            yield DuplicateKey(batch.keys[int(number)].as_py(), batch.source, int(batch.offsets[number]))
        else:
            row = failed[number - len(batch)]
            yield DuplicateKey(row.key.decode(), row.source, row.offset)


@dataclasses.dataclass
class CheckKeys(beam.PTransform):
    """Finds the keys that stand more than once.

    Expects: the ``hashes`` of ReadInstances, and the splits. Gives: the pair of ``Duplicates`` (none when all keys are
    unique) and ``DuplicateKey``s, the places where the first thousand of them stand; each with its task.
    Guarantees: 64-bit hashes are all that is shuffled; a split is read a second time only when some hashes are equal.
    """

    spec: JobSpec | RunSpec
    splits: beam.PCollection

    def expand(self, hashes: beam.PCollection) -> tuple[beam.PCollection, beam.PCollection]:
        duplicates = (
            hashes
            | "GroupHashes" >> beam.GroupByKey()
            | "FindEqualHashes" >> beam.ParDo(_FindEqualHashes()).with_output_types(tuple[int, Piece])
        )
        places = self.splits | "ListDuplicates" >> beam.ParDo(_ListDuplicates(self.spec), beam.pvalue.AsList(duplicates)).with_output_types(
            tuple[int, Piece]
        )
        return duplicates, places
