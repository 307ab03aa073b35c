"""The formats that can be written: how their files are named, and what writes them.

To add a format: a file beside this one with an ``Encoder``, an entry in ``FORMATS``, its name in ``specs.OUTPUT_FORMATS``, a row in
docs/formats.md.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Sequence
from typing import Protocol

from transforms.elements.batches import PredictionBatch
from transforms.formats import reading as read_formats
from transforms.formats.blocks import compression_of
from transforms.formats.join_files import Sink
from transforms.specs.job import JobSpec, OutputSpec
from transforms.specs.signature import Signature


class Encoder(Protocol):
    """Writes predictions as files of one format, one after the other; one a process and job.

    Raises:
      SpecError: when it is made, if the format can't hold what the signature gives, or what the flags ask for.
    """

    def __init__(self, signature: Signature, output: OutputSpec, key_fields: tuple[str, ...]) -> None: ...

    @property
    def content(self) -> str:
        """The digest of the rows of the file (``content.py``), where a load needs it; else empty."""
        ...

    def open(self, stream: Sink) -> None:
        """Begins a file, which ends with ``close``."""
        ...

    def refuse(self, batch: PredictionBatch) -> PredictionBatch:
        """Gives the batch with the rows that the format can't hold failed."""
        ...

    def write(self, batch: PredictionBatch) -> None:
        """Writes each row of a batch, all of which the format can hold."""
        ...

    def close(self) -> None:
        """Writes what is still due; the file is whole then, also when it has no row. The stream stays open."""
        ...

    def join(self, paths: Sequence[str], stream: Sink) -> None:
        """Writes one file of the rows of several that this encoder wrote, in order."""
        ...


@dataclasses.dataclass(frozen=True)
class Format:
    """One format: its encoder as ``module:class``, imported when first used, and the extensions of its files.

    ``suffix`` ends the names of results; those of JSON-lines have none, as AI Platform's.
    """

    name: str
    encoder: str
    extensions: tuple[str, ...]
    suffix: str = ""

    def mirrored_name(self, relative: str) -> str:
        """Gives the output's name for an input file: the same, without a compression's extension.

        Where the name would then promise another format, this one's extension is added.
        """
        name = relative.rsplit(".", 1)[0] if compression_of(relative) else relative
        extension = name.rsplit("/", 1)[-1].lower().rpartition(".")[2]
        if extension in self.extensions or not (self.suffix or extension in _extensions()):
            return name
        return f"{name}.{self.extensions[0]}"


FORMATS = {
    format.name: format
    for format in (
        Format("jsonl", "transforms.formats.jsonl.writer:LineEncoder", ("jsonl", "ndjson", "json")),
        Format("parquet", "transforms.formats.parquet.writer:ParquetEncoder", ("parquet",), suffix=".parquet"),
        Format("bigquery", "transforms.bigquery.table_writer:TableEncoder", (), suffix=".parquet"),
        Format("csv", "transforms.formats.csv.writer:CsvEncoder", ("csv",), suffix=".csv"),
        Format("tf-record", "transforms.formats.tfrecord.writer:ExampleEncoder", ("tfrecord", "tfrecords"), suffix=".tfrecord"),
    )
}
# What any run's results can be called: a run in another format takes away those of the one before.
SUFFIXES = "|".join(re.escape(format.suffix) for format in FORMATS.values())


def _extensions() -> set[str]:
    """The extensions that promise some format."""
    written = {extension for format in FORMATS.values() for extension in format.extensions}
    return written | {extension for format in read_formats.FORMATS.values() for extension in format.extensions}


def make_encoder(job: JobSpec) -> Encoder:
    """Makes the encoder of a job's results.

    Raises:
      SpecError: the format can't hold what the signature gives, or what the flags ask for.
    """
    module, _, name = FORMATS[job.output.format].encoder.partition(":")
    encoder: Encoder = getattr(importlib.import_module(module), name)(job.output_signature, job.output, job.key.fields)
    return encoder
