"""Are the keys unique? Asked of their hashes; only where two are equal are the rows themselves read again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np

from transforms.elements import InstanceBatch, Split
from transforms.keys import LISTED_DUPLICATES, DuplicateKey, Duplicates
from transforms.read.instances import hashes_of, read_range, row_spec
from transforms.read.jsonl import LineParser
from transforms.specs import JobSpec


class _FindEqualHashes(beam.DoFn):
    def process(self, bucket: tuple[int, Iterable[bytes]]) -> Iterator[Duplicates]:
        everything = np.concatenate([np.frombuffer(packed, np.uint64) for packed in bucket[1]])
        values, counts = np.unique(everything, return_counts=True)
        equal = values[counts > 1]
        if len(equal):
            yield Duplicates(len(equal), tuple(int(value) for value in equal[:LISTED_DUPLICATES]))


def _merge(found: Iterable[Duplicates]) -> Duplicates:
    count = 0
    hashes: list[int] = []
    for some in found:
        count += some.count
        hashes += some.hashes
    return Duplicates(count, tuple(sorted(hashes)[:LISTED_DUPLICATES]))


def _first_places(places: Iterable[DuplicateKey | tuple[DuplicateKey, ...]]) -> tuple[DuplicateKey, ...]:
    flat: list[DuplicateKey] = []
    for place in places:
        flat += place if isinstance(place, tuple) else (place,)
    return tuple(sorted(flat)[:LISTED_DUPLICATES])


class _ListDuplicates(beam.DoFn):
    def __init__(self, job: JobSpec) -> None:
        self.job = job

    def process(self, split: Split, duplicates: Duplicates) -> Iterator[DuplicateKey]:
        if not duplicates.hashes:
            return
        parser = LineParser(row_spec(self.job))
        wanted = np.array(duplicates.hashes, np.uint64)
        for piece in split.ranges:
            for batch in read_range(parser, piece, split.order):
                yield from _places(batch, wanted)


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

    Expects: the ``hashes`` of ReadInstances, and the splits. Gives: the pair of one ``Duplicates`` (empty when all keys
    are unique) and one tuple of ``DuplicateKey``s, the first thousand places where they stand.
    Guarantees: 64-bit hashes are all that is shuffled; a split is read a second time only when some hashes are equal.
    """

    job: JobSpec
    splits: beam.PCollection

    def expand(self, hashes: beam.PCollection) -> tuple[beam.PCollection, beam.PCollection]:
        duplicates = (
            hashes
            | "GroupHashes" >> beam.GroupByKey()
            | "FindEqualHashes" >> beam.ParDo(_FindEqualHashes()).with_output_types(Duplicates)
            | "Merge" >> beam.CombineGlobally(_merge)
        )
        places = self.splits | "ListDuplicates" >> beam.ParDo(
            _ListDuplicates(self.job), beam.pvalue.AsSingleton(duplicates)
        ).with_output_types(DuplicateKey)
        return duplicates, places | "First" >> beam.CombineGlobally(_first_places)
