"""Patterns → files → splits: what one worker reads in one go."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from transforms.elements.splits import Split
from transforms.formats import splitting
from transforms.formats.catalog import format_of
from transforms.formats.splitting import split_file
from transforms.output.mirror import CheckMirror
from transforms.specs.job import InputSpec, OutputSpec
from transforms.storage import files
from transforms.storage.files import FoundFile


class _MatchFiles(beam.DoFn):
    def __init__(self, patterns: tuple[str, ...]) -> None:
        self.patterns = patterns

    def process(self, _: bytes) -> Iterator[tuple[int, FoundFile]]:
        for number, pattern in enumerate(self.patterns):
            for found in files.match(pattern):
                yield number, found


def _by_place(numbered: tuple[int, FoundFile]) -> tuple[bytes, tuple[int, FoundFile]]:
    return os.fsencode(numbered[1].place), numbered  # as bytes: a local path need not be UTF-8


def _first(placed: tuple[bytes, Iterable[tuple[int, FoundFile]]]) -> tuple[int, FoundFile]:
    """The file as the first pattern found it, so that its keys, and the name of what is made of it, are the same on every run."""
    return min(placed[1], key=lambda numbered: numbered[0])


class _SplitFiles(beam.DoFn):
    """Cuts large files and packs small ones, as many as come in one bundle."""

    def __init__(self, spec: InputSpec) -> None:
        self.spec = spec

    def start_bundle(self) -> None:
        self.small = splitting.small_files()

    def process(self, found: FoundFile) -> Iterator[Split]:
        ranges = list(split_file(found, format_of(found.path, self.spec.format)))
        if len(ranges) > 1 or not splitting.is_small(found.size_bytes):
            yield from (Split((piece,)) for piece in ranges)
            return
        packed = self.small.add(ranges[0], found.size_bytes)
        if packed is not None:
            yield Split(tuple(packed))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self.small.items:
            yield WindowedValue(Split(tuple(self.small.take())), GlobalWindow().max_timestamp(), [GlobalWindow()])


@dataclasses.dataclass
class PlanSplits(beam.PTransform):
    """Makes the splits of the job's input.

    Expects: a pipeline. Gives: ``Split``s, spread over the workers. Guarantees: each byte of each matched file is in
    exactly one split, also when patterns overlap or spell it differently, and has the path by which the first of them found it; where
    results are mirrored, no two files' have one name; a million files need no memory where the job is launched.
    """

    spec: InputSpec
    output: OutputSpec | None = None

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection:
        matched = beam.ParDo(_MatchFiles(self.spec.patterns)).with_output_types(tuple[int, FoundFile])
        found = pipeline | beam.Impulse() | "MatchFiles" >> matched
        if len(self.spec.patterns) > 1:  # one names each file once; several may overlap, and a file is read once all the same
            found = found | "PlaceFiles" >> beam.Map(_by_place).with_output_types(tuple[bytes, tuple[int, FoundFile]])
            found = found | "EachOnce" >> beam.GroupByKey() | "FirstOfEach" >> beam.Map(_first).with_output_types(tuple[int, FoundFile])
        found = found | "Files" >> beam.Map(lambda numbered: numbered[1]).with_output_types(FoundFile)
        if self.output is not None and self.output.layout == "mirror":
            found = found | CheckMirror(self.output)
        return found | "SplitFiles" >> beam.ParDo(_SplitFiles(self.spec)).with_output_types(Split) | "Spread" >> beam.Reshuffle()
