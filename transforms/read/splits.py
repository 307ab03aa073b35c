"""Patterns → files → splits: what one worker reads in one go."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from transforms import files
from transforms.elements import FileRange, Split
from transforms.files import FoundFile
from transforms.read.formats import Format, format_of
from transforms.specs import InputSpec

# A split is long enough that its fixed cost (open, seek, a shard of its own) is lost in it, and short enough that
# the last one does not keep one worker busy alone: 32 MB are parsed in about a fifth of a second.
SPLIT_BYTES = 32 << 20
# Opening a file costs some milliseconds, more from a bucket: a thousand of them are work enough for a split.
PACKED_FILES = 1000


def split_file(found: FoundFile, format: Format) -> Iterator[FileRange]:
    """Cuts a file into ranges of about ``SPLIT_BYTES``, if its format and compression allow that.

    A large file of CSV is searched for a quote first: with one in it a line end may be part of a field, and the file is left whole.
    """
    if not format.can_split(found.path):
        yield FileRange(found.path, 0, None, found.size_bytes, found.relative, found.updated)
        return
    pieces = max(1, round(found.size_bytes / SPLIT_BYTES))
    if pieces > 1 and format.is_uncut(found.path):
        pieces = 1
    borders = [found.size_bytes * piece // pieces for piece in range(pieces + 1)]
    for start, stop in itertools.pairwise(borders):
        yield FileRange(found.path, start, stop, stop - start, found.relative, found.updated)


class _MatchFiles(beam.DoFn):
    def __init__(self, patterns: tuple[str, ...]) -> None:
        self.patterns = patterns

    def process(self, _: bytes) -> Iterator[FoundFile]:
        for pattern in self.patterns:
            yield from files.match(pattern)


class _SplitFiles(beam.DoFn):
    """Cuts large files and packs small ones, as many as come in one bundle."""

    def __init__(self, spec: InputSpec) -> None:
        self.spec = spec

    def start_bundle(self) -> None:
        self.packed: list[FileRange] = []
        self.packed_bytes = 0

    def process(self, found: FoundFile) -> Iterator[Split]:
        ranges = list(split_file(found, format_of(found.path, self.spec.format)))
        if len(ranges) > 1 or ranges[0].size_bytes >= SPLIT_BYTES // 2:
            yield from (Split((piece,)) for piece in ranges)
            return
        self.packed += ranges
        self.packed_bytes += ranges[0].size_bytes
        if self.packed_bytes >= SPLIT_BYTES or len(self.packed) >= PACKED_FILES:
            yield self._pack()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self.packed:
            yield WindowedValue(self._pack(), GlobalWindow().max_timestamp(), [GlobalWindow()])

    def _pack(self) -> Split:
        split, self.packed, self.packed_bytes = Split(tuple(self.packed)), [], 0
        return split


@dataclasses.dataclass
class PlanSplits(beam.PTransform):
    """Makes the splits of the job's input.

    Expects: a pipeline. Gives: ``Split``s, spread over the workers. Guarantees: each byte of each matched file is in
    exactly one split, also when patterns overlap; a million files need no memory where the job is launched.
    """

    spec: InputSpec

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection:
        found = pipeline | beam.Impulse() | "MatchFiles" >> beam.ParDo(_MatchFiles(self.spec.patterns)).with_output_types(FoundFile)
        if len(self.spec.patterns) > 1:  # one names each file once; several may overlap, and a file is read once all the same
            found = (
                found
                | "NameFiles" >> beam.Map(lambda file: (os.fsencode(file.path), file)).with_output_types(tuple[bytes, FoundFile])
                | "EachOnce" >> beam.GroupByKey()
                | "OneOfEach" >> beam.Map(lambda named: next(iter(named[1]))).with_output_types(FoundFile)
            )
        return found | "SplitFiles" >> beam.ParDo(_SplitFiles(self.spec)).with_output_types(Split) | "Spread" >> beam.Reshuffle()
