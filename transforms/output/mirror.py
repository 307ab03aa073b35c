"""Names of mirrored results: one file for each input file, with its name, which must differ from all others and from the program's own."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator

import apache_beam as beam

from transforms.formats.catalog import FORMATS
from transforms.specs.errors import SpecError
from transforms.specs.output import OutputSpec
from transforms.specs.own_names import is_own
from transforms.storage.files import FoundFile


class MirrorCheck:
    """Checks the names of mirrored results, input by input."""

    def __init__(self, output: OutputSpec) -> None:
        self.mirrored_name = FORMATS[output.format].mirrored_name
        self.sources: dict[str, str] = {}
        self.folders: dict[str, str] = {}

    def add(self, file: FoundFile) -> None:
        """Check the name of the results of ``file`` against those of the inputs before it.

        Raises:
          SpecError: the name is one of the program's own, is that of another input's results, or is a folder above them, or the other
            way round.
        """
        name = own_name(self.mirrored_name, file)
        folders = folders_of(name)
        other = (
            self.sources.get(name)
            or self.folders.get(name)
            or next((self.sources[folder] for folder in folders if folder in self.sources), None)
        )
        if other is not None:
            raise taken_twice(name, (other, file.path))
        self.sources[name] = file.path
        self.folders |= dict.fromkeys(folders, file.path)


def own_name(mirrored_name: Callable[[str], str], file: FoundFile) -> str:
    """Return the name of the results of ``file``.

    Raises:
      SpecError: it is one of the program's own names.
    """
    name = mirrored_name(file.relative)
    if is_own(name):
        raise SpecError(
            "output_layout",
            f"'mirror' would write the predictions of {file.path} to {name}, which is a name of the program's own in the output folder: "
            "rename the input, or leave --output_layout out",
        )
    return name


def folders_of(name: str) -> list[str]:
    """Return the folders above ``name`` in the output."""
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def taken_twice(name: str, paths: Iterable[str]) -> SpecError:
    """Return the error that the results of several inputs, at ``paths``, would all be named ``name``."""
    return SpecError(
        "output_layout",
        f"'mirror' would write {name} for several input files, {', '.join(sorted(paths)[:3])}: rename one of them, name as --input one "
        "folder that holds them all, or leave --output_layout out",
    )


# Marks a folder of results where the names of results are grouped.
FOLDER = FoundFile("", 0, "")


class _NameResults(beam.DoFn):
    """Pairs each input with the name of its results, and each folder above that with ``FOLDER``."""

    def __init__(self, output: OutputSpec) -> None:
        self.output = output

    def start_bundle(self) -> None:
        self.mirrored_name = FORMATS[self.output.format].mirrored_name
        self.folders: set[str] = set()

    def process(self, file: FoundFile) -> Iterator[tuple[bytes, FoundFile]]:
        name = own_name(self.mirrored_name, file)
        yield os.fsencode(name), file
        for folder in folders_of(name):
            if folder not in self.folders:
                self.folders.add(folder)
                yield os.fsencode(folder), FOLDER


def _the_one(group: tuple[bytes, Iterable[FoundFile]]) -> Iterator[FoundFile]:
    """Yield the one input whose results have the group's name; none where the name is a folder's."""
    name, files = os.fsdecode(group[0]), list(group[1])
    inputs = [file for file in files if file != FOLDER]
    if inputs and len(files) > 1:
        raise taken_twice(name, [file.path for file in inputs])
    yield from inputs


@dataclasses.dataclass
class CheckMirror(beam.PTransform):
    """Check that the mirrored results of each input have a name of their own.

    Expects: ``FoundFile``s, the inputs.
    Gives: the same.
    Guarantees: no input passes before the names of all are compared, by a grouping that need not fit on one machine; two results of
    one name fail the job.
    """

    output: OutputSpec

    def expand(self, inputs: beam.PCollection[FoundFile]) -> beam.PCollection[FoundFile]:
        return (
            inputs
            | "NameResults" >> beam.ParDo(_NameResults(self.output)).with_output_types(tuple[bytes, FoundFile])
            | "GroupByName" >> beam.GroupByKey()
            | "TheOne" >> beam.FlatMap(_the_one).with_output_types(FoundFile)
        )
