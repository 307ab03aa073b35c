"""The formats that can be read: which files are of one, whether they can be cut, and what reads them.

To add a format: a file beside this one with a ``Reader``, an entry in ``FORMATS``, a row in docs/formats.md.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator
from typing import Any, Protocol

from transforms.elements.batches import InstanceBatch
from transforms.elements.failed_rows import FailedRow
from transforms.elements.splits import FileRange
from transforms.formats.blocks import compression_of
from transforms.formats.damage import DamagedFileError
from transforms.formats.first_bytes import contradiction
from transforms.rows.codes import Code, Stage
from transforms.rows.row_spec import RowSpec
from transforms.specs.table_name import is_table
from transforms.storage.pins import FileChangedError


class FormatError(ValueError):
    """A file whose format neither its name nor ``--input_format`` tells."""


class Reader(Protocol):
    """Makes batches of the files of one format; one a process and job."""

    def __init__(self, spec: RowSpec) -> None: ...

    def read(self, piece: FileRange, order: tuple[str, int]) -> Iterator[InstanceBatch]:
        """Gives the batches of ``piece``: every row of it is in one of them, as instance or failed row.

        Raises:
          DamagedFileError: after the batches of all rows before the damage were given.
        """
        ...

    def nothing(self, piece: FileRange, order: tuple[str, int]) -> InstanceBatch:
        """Gives a batch without rows."""
        ...


@dataclasses.dataclass(frozen=True)
class Format:
    """One format: the extensions of its files, and its reader as ``module:class``, imported when first used.

    ``cuts``: an uncompressed file can be cut at any byte; what begins in a part (a line, a block, a row group) is its own.
    ``uncut``: a function ``module:name`` that tells by a look into a file that it can't be cut after all.
    ``refusal``: one that gives, for a job and one of its files, why the job can't read it, or None.
    """

    name: str
    extensions: tuple[str, ...]
    reader: str
    cuts: bool = False
    uncut: str | None = None
    refusal: str | None = None

    def can_split(self, path: str) -> bool:
        return self.cuts and compression_of(path) is None

    def is_uncut(self, path: str) -> bool:
        """Whether the file ``path``, which may be read for that, is to be left whole though its format could be cut."""
        return self.uncut is not None and bool(_imported(self.uncut)(path))

    def refuse(self, spec: RowSpec, path: str) -> str | None:
        """Gives why a job can't read the file ``path``, as far as that shows before it starts, or None."""
        if reason := contradiction(path, self.name):
            return reason
        return _imported(self.refusal)(spec, path) if self.refusal else None

    def make_reader(self, spec: RowSpec) -> Reader:
        reader: Reader = _imported(self.reader)(spec)
        return reader


def _imported(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


FORMATS = {
    format.name: format
    for format in (
        Format("jsonl", ("jsonl", "ndjson", "json"), "transforms.formats.jsonl.reader:JsonLinesReader", cuts=True),
        Format(
            "parquet",
            ("parquet", "pq"),
            "transforms.formats.parquet.reader:ParquetReader",
            cuts=True,
            refusal="transforms.formats.parquet.reader:refusal",
        ),
        Format("avro", ("avro",), "transforms.formats.avro.reader:AvroReader", cuts=True, refusal="transforms.formats.avro.reader:refusal"),
        Format(
            "csv",
            ("csv",),
            "transforms.formats.csv.reader:CsvReader",
            cuts=True,
            uncut="transforms.formats.csv.checks:holds_quote",
            refusal="transforms.formats.csv.checks:refusal",
        ),
        Format(
            "tf-record",
            ("tfrecord", "tfrecords", "tfrec"),
            "transforms.formats.tfrecord.reader:RecordReader",
            refusal="transforms.formats.tfrecord.parse_examples:refusal",
        ),
        Format("bigquery", (), "transforms.plan_streams:StreamReader"),
        Format(
            "file-list",
            (),
            "transforms.formats.file_list.reader:FileListReader",
            cuts=True,
            refusal="transforms.formats.file_list.reader:refusal",
        ),
    )
}


def format_of(path: str, given: str | None) -> Format:
    """Gives the format of ``path`` by its extension, under any compression's, unless ``given``.

    Raises:
      FormatError: neither tells.
    """
    if is_table(path):
        return FORMATS["bigquery"]
    if given is not None:
        return FORMATS[given]
    name = path.rsplit("/", 1)[-1].lower()
    if compression_of(name):
        name = name.rsplit(".", 1)[0]
    extension = name.rsplit(".", 1)[-1] if "." in name else ""
    for format in FORMATS.values():
        if extension in format.extensions:
            return format
    known = ", ".join(f".{ending}" for format in FORMATS.values() for ending in format.extensions)
    raise FormatError(f"{path}: its extension is none of {known} (and .gz, .bz2, .zst after it); give --input_format")


class RangeReader:
    """Reads ranges of files of any format; damage of a file, and that it is no longer what was planned, become failed rows."""

    def __init__(self, spec: RowSpec, given: str | None) -> None:
        self.spec = spec
        self.given = given
        self.readers: dict[str, Reader] = {}

    def read(self, piece: FileRange, order: tuple[str, int]) -> Iterator[InstanceBatch]:
        """Gives the batches of one file range; damage or change of the file is a failed row in a last, empty batch."""
        reader = self._reader(piece)
        try:
            yield from reader.read(piece, order)
            return
        except DamagedFileError as damage:
            message = f"the file can't be read on from here, so how many rows are lost is unknown: {damage}"
            offset, code = damage.offset, Code.FILE_DAMAGED
        except FileChangedError as change:
            offset, code, message = piece.start, Code.FILE_CHANGED, str(change)
        failed = FailedRow(b"", piece.path, offset, Stage.READ, code, message, b"null")
        yield dataclasses.replace(reader.nothing(piece, order), failed=[failed])

    def nothing(self, piece: FileRange, order: tuple[str, int]) -> InstanceBatch:
        return self._reader(piece).nothing(piece, order)

    def _reader(self, piece: FileRange) -> Reader:
        format = format_of(piece.path, self.given)
        if format.name not in self.readers:
            self.readers[format.name] = format.make_reader(self.spec)
        return self.readers[format.name]
