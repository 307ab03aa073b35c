"""PlanSplits: patterns to files to splits, each what one worker reads at once."""

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
from transforms.specs.job import InputSpec
from transforms.specs.output import OutputSpec
from transforms.storage import files
from transforms.storage.files import FoundFile


class _MatchFiles(beam.DoFn):
    """Lists the files of each pattern, with the pattern's number."""

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self.patterns = patterns

    def process(self, _: bytes) -> Iterator[tuple[int, FoundFile]]:
        for number, pattern in enumerate(self.patterns):
            for file in files.match(pattern):
                yield number, file


def _by_place(numbered: tuple[int, FoundFile]) -> tuple[bytes, tuple[int, FoundFile]]:
    return os.fsencode(numbered[1].place), numbered  # as bytes: a local path need not be UTF-8


def _first(group: tuple[bytes, Iterable[tuple[int, FoundFile]]]) -> tuple[int, FoundFile]:
    """Return the file as the first pattern found it, so that its keys and the name of its results are the same on every run."""
    return min(group[1], key=lambda numbered: numbered[0])


class SplitFiles(beam.DoFn):
    """Cuts large files into ranges, and packs the small files of a bundle together."""

    def __init__(self, spec: InputSpec) -> None:
        self.spec = spec

    def start_bundle(self) -> None:
        self.small = splitting.small_files(self.spec.limits)

    def process(self, file: FoundFile) -> Iterator[Split]:
        ranges = list(split_file(file, format_of(file.path, self.spec.format), self.spec.limits))
        if len(ranges) > 1 or not splitting.is_small(file.size_bytes, self.spec.limits):
            yield from (Split((file_range,)) for file_range in ranges)
            return
        packed = self.small.add(ranges[0], file.size_bytes)
        if packed is not None:
            yield Split(tuple(packed))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self.small.items:
            yield WindowedValue(Split(tuple(self.small.take())), GlobalWindow().max_timestamp(), [GlobalWindow()])


@dataclasses.dataclass
class PlanSplits(beam.PTransform):
    """Plan the splits of an input's files.

    Expects: a pipeline.
    Gives: ``Split``s of about 32 MB or up to a thousand files, spread over the workers.
    Guarantees: each byte of each matched file is in exactly one split, even if patterns overlap or spell its path differently; a file
    has the path of the first pattern that matches it; where results are mirrored, those of two files never have one name; a million
    files need no memory where the job is launched.
    """

    spec: InputSpec
    output: OutputSpec | None = None

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection[Split]:
        match = beam.ParDo(_MatchFiles(self.spec.patterns)).with_output_types(tuple[int, FoundFile])
        matches = pipeline | beam.Impulse() | "MatchFiles" >> match
        if len(self.spec.patterns) > 1:  # several patterns may match one file
            placed = matches | "PlaceFiles" >> beam.Map(_by_place).with_output_types(tuple[bytes, tuple[int, FoundFile]])
            matches = placed | "EachOnce" >> beam.GroupByKey() | "FirstOfEach" >> beam.Map(_first).with_output_types(tuple[int, FoundFile])
        inputs = matches | "Files" >> beam.Map(lambda numbered: numbered[1]).with_output_types(FoundFile)
        if self.output is not None and self.output.layout == "mirror":
            inputs = inputs | CheckMirror(self.output)
        return inputs | "SplitFiles" >> beam.ParDo(SplitFiles(self.spec)).with_output_types(Split) | "Spread" >> beam.Reshuffle()
