"""Mirrored results: one file an input file, under its name, which no other input's results and no file of the program's own may have."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator

import apache_beam as beam

from transforms.formats.catalog import FORMATS
from transforms.specs.errors import SpecError
from transforms.specs.job import OutputSpec
from transforms.specs.own_names import is_own
from transforms.storage.files import FoundFile


class MirrorCheck:
    """Looks at inputs one by one, and remembers the names of their results."""

    def __init__(self, output: OutputSpec) -> None:
        self.mirrored_name = FORMATS[output.format].mirrored_name
        self.sources: dict[str, str] = {}
        self.folders: dict[str, str] = {}

    def add(self, found: FoundFile) -> None:
        """Note the results of ``found``.

        Raises:
          SpecError: their name is the program's own or another input's results', or is that of a folder of them, or the other way round.
        """
        name = own_name(self.mirrored_name, found)
        folders = folders_of(name)
        other = (
            self.sources.get(name) or self.folders.get(name) or next((self.sources[one] for one in folders if one in self.sources), None)
        )
        if other is not None:
            raise taken_twice(name, (other, found.path))
        self.sources[name] = found.path
        self.folders |= dict.fromkeys(folders, found.path)


def own_name(mirrored_name: Callable[[str], str], found: FoundFile) -> str:
    """Return the name of the results of ``found``.

    Raises:
      SpecError: it is one of the program's own.
    """
    name = mirrored_name(found.relative)
    if is_own(name):
        raise SpecError(
            "output_layout",
            f"'mirror' would write the predictions of {found.path} to {name}, which is a name of the program's own in the output folder: "
            "rename the input, or leave --output_layout out",
        )
    return name


def folders_of(name: str) -> list[str]:
    """Return the folders above ``name`` in the output."""
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def taken_twice(name: str, paths: Iterable[str]) -> SpecError:
    """Return the error that the results of several inputs would have one name."""
    return SpecError(
        "output_layout",
        f"'mirror' would write {name} for several input files, {', '.join(sorted(paths)[:3])}: rename one of them, name as --input one "
        "folder that holds them all, or leave --output_layout out",
    )


# Stands for a folder of results, where inputs are told apart by the names of their results.
FOLDER = FoundFile("", 0, "")


class _NameResults(beam.DoFn):
    """Pairs each input with the name of its results, and the folders above that with ``FOLDER``."""

    def __init__(self, output: OutputSpec) -> None:
        self.output = output

    def start_bundle(self) -> None:
        self.mirrored_name = FORMATS[self.output.format].mirrored_name
        self.folders: set[str] = set()

    def process(self, found: FoundFile) -> Iterator[tuple[bytes, FoundFile]]:
        name = own_name(self.mirrored_name, found)
        yield os.fsencode(name), found
        for folder in folders_of(name):
            if folder not in self.folders:
                self.folders.add(folder)
                yield os.fsencode(folder), FOLDER


def _the_one(named: tuple[bytes, Iterable[FoundFile]]) -> Iterator[FoundFile]:
    everything = list(named[1])
    inputs = [found for found in everything if found != FOLDER]
    if inputs and len(everything) > 1:
        raise taken_twice(os.fsdecode(named[0]), [found.path for found in inputs])
    yield from inputs


@dataclasses.dataclass
class CheckMirror(beam.PTransform):
    """Lets inputs through whose mirrored results each have a name of their own.

    Expects: ``FoundFile``s. Gives: the same. Guarantees: none goes on before the names of all are compared, by a grouping that no
    machine has to hold; two of one name fail the job.
    """

    output: OutputSpec

    def expand(self, found: beam.PCollection) -> beam.PCollection:
        return (
            found
            | "NameResults" >> beam.ParDo(_NameResults(self.output)).with_output_types(tuple[bytes, FoundFile])
            | "GroupByName" >> beam.GroupByKey()
            | "TheOne" >> beam.FlatMap(_the_one).with_output_types(FoundFile)
        )
