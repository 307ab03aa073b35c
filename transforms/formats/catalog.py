"""The file formats: what each is called, what its files look like, what reads and what writes them.

To add a format: a folder beside this file, an entry in ``FORMATS``, its name in ``specs.job.INPUT_FORMATS`` or
``specs.output.OUTPUT_FORMATS``, a row in docs/formats.md. Readers and encoders are imported when first used, by the functions that make
them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa

from transforms.formats.blocks import compression_of
from transforms.formats.first_bytes import contradiction
from transforms.formats.protocols import Encoder, Reader
from transforms.rows.row_spec import RowSpec
from transforms.specs.errors import RefusedError
from transforms.specs.job import JobSpec
from transforms.specs.models import AnyModel
from transforms.specs.output import FolderOutput
from transforms.specs.signature import Signature


class FormatError(RefusedError):
    """A file whose format neither its name nor ``--input_format`` tells."""


@dataclasses.dataclass(frozen=True)
class Format:
    """One format of files.

    Attributes:
      name: as ``--input_format`` and ``--output_format`` have it.
      extensions: of its files, without a compression's.
      make_reader: makes a reader of a job's rows; None where the format is not read.
      encoder: makes an encoder of a signature's outputs, an output and key fields; None where the format is not written.
      magic: what its files begin with, if they all begin alike.
      unreadable: other beginnings, each with what such a file is.
      suffix: ends the names of results; those of JSON-lines have none, as AI Platform's.
      cuts: an uncompressed file can be cut at any byte; what begins in a part (a line, a block, a row group) is its own.
      is_uncut: tells by a look into a file that it can't be cut after all; None where that can't be.
      why_not: gives, for a job and one of its files, why the job can't read it, or None.
      field_types: the types of a file's fields by name, where it says them; those that a table's column can have.
      has_lines: its rows are lines of text.
      types_rows: the text of a row shows the types of its fields; else its reader types them by the signature.
      keeps_rows: a row can be kept as it is until its model is known (``--model_field``).
    """

    name: str
    extensions: tuple[str, ...]
    make_reader: Callable[[RowSpec], Reader] | None = None
    encoder: Callable[[Signature, FolderOutput, tuple[str, ...]], Encoder] | None = None
    magic: bytes = b""
    unreadable: Mapping[bytes, str] = dataclasses.field(default_factory=dict)
    suffix: str = ""
    cuts: bool = False
    is_uncut: Callable[[str], bool] | None = None
    why_not: Callable[[RowSpec, str], str | None] | None = None
    field_types: Callable[[str], dict[str, pa.DataType]] | None = None
    has_lines: bool = False
    types_rows: bool = True
    keeps_rows: bool = True

    def can_split(self, path: str) -> bool:
        """Return whether the file ``path`` can be cut, by its name."""
        return self.cuts and compression_of(path) is None

    def why_unreadable(self, spec: RowSpec, path: str) -> str | None:
        """Return why a job can't read the file ``path``, as far as that shows before it starts, or None."""
        if reason := contradiction(path, self.name, self.magic, self.unreadable, _beginnings()):
            return reason
        return self.why_not(spec, path) if self.why_not else None

    def mirrored_name(self, relative: str) -> str:
        """Return the output's name for an input file: the same, without a compression's extension.

        Where the name would then promise another format, this one's extension is added.
        """
        name = relative.rsplit(".", 1)[0] if compression_of(relative) else relative
        extension = name.rsplit("/", 1)[-1].lower().rpartition(".")[2]
        promises = any(extension in format.extensions for format in FORMATS.values())
        if extension in self.extensions or not (self.suffix or promises):
            return name
        return f"{name}.{self.extensions[0]}"


def format_of(path: str, given: str | None) -> Format:
    """Return the format of ``path`` by its extension, under any compression's, unless ``given``.

    Raises:
      FormatError: neither tells.
    """
    if given is not None:
        return FORMATS[given]
    name = path.rsplit("/", 1)[-1].lower()
    if compression_of(name):
        name = name.rsplit(".", 1)[0]
    extension = name.rsplit(".", 1)[-1] if "." in name else ""
    for format in FORMATS.values():
        if format.make_reader is not None and extension in format.extensions:
            return format
    known = ", ".join(f".{ending}" for format in FORMATS.values() for ending in format.extensions)
    raise FormatError(f"{path}: its extension is none of {known} (and .gz, .bz2, .zst after it); give --input_format")


def known_types(paths: Sequence[str], given: str | None) -> dict[str, pa.DataType]:
    """Return the fields' Arrow types as the first of each pattern's files, ``paths``, have them; those alone on which they agree.

    Files of texts know none. A file that can't be read is not judged here: reading it says what is wrong.
    """
    types_of_files = []
    for path in paths:
        field_types = format_of(path, given).field_types
        types_of_files.append({} if field_types is None else field_types(path))
    first = types_of_files[0] if types_of_files else {}
    return {name: kind for name, kind in first.items() if all(types.get(name) == kind for types in types_of_files)}


def make_encoder(job: JobSpec, model: AnyModel | None = None) -> Encoder:
    """Make the encoder of the files of a job's results, those of ``model``, which rows name; None: of its own.

    Raises:
      SpecError: the format can't hold what the signature gives, or what the flags ask for.
    """
    encoder = FORMATS[job.output.format].encoder
    assert isinstance(job.output, FolderOutput), "a load's files are written by transforms.bigquery"
    assert encoder is not None, "specs.output.OUTPUT_FORMATS has none that is not written"
    return encoder(job.output_signature_of(model or job.model), job.output, job.key.fields)


def _beginnings() -> dict[str, bytes]:
    return {format.name: format.magic for format in FORMATS.values() if format.magic}


# --- readers and encoders, imported when first used --------------------------------------------------------------------------


def _read_jsonl(spec: RowSpec) -> Reader:
    from transforms.formats.jsonl.reader import JsonLinesReader

    return JsonLinesReader(spec)


def _write_jsonl(signature: Signature, output: FolderOutput, key_fields: tuple[str, ...]) -> Encoder:
    from transforms.formats.jsonl.writer import LineEncoder

    return LineEncoder(signature, output, key_fields)


def _read_csv(spec: RowSpec) -> Reader:
    from transforms.formats.csv.reader import CsvReader

    return CsvReader(spec)


def _write_csv(signature: Signature, output: FolderOutput, key_fields: tuple[str, ...]) -> Encoder:
    from transforms.formats.csv.writer import CsvEncoder

    return CsvEncoder(signature, output, key_fields)


def _holds_quote(path: str) -> bool:
    from transforms.formats.csv.checks import holds_quote

    return holds_quote(path)


def _why_not_csv(spec: RowSpec, path: str) -> str | None:
    from transforms.formats.csv.checks import why_not

    return why_not(spec, path)


def _read_parquet(spec: RowSpec) -> Reader:
    from transforms.formats.parquet.reader import ParquetReader

    return ParquetReader(spec)


def _write_parquet(signature: Signature, output: FolderOutput, key_fields: tuple[str, ...]) -> Encoder:
    from transforms.formats.parquet.writer import ParquetEncoder

    return ParquetEncoder(signature, output, key_fields)


def _why_not_parquet(spec: RowSpec, path: str) -> str | None:
    from transforms.formats.parquet.reader import why_not

    return why_not(spec, path)


def _parquet_types(path: str) -> dict[str, pa.DataType]:
    from transforms.formats.parquet.reader import field_types

    return field_types(path)


def _read_avro(spec: RowSpec) -> Reader:
    from transforms.formats.avro.reader import AvroReader

    return AvroReader(spec)


def _why_not_avro(spec: RowSpec, path: str) -> str | None:
    from transforms.formats.avro.reader import why_not

    return why_not(spec, path)


def _avro_types(path: str) -> dict[str, pa.DataType]:
    from transforms.formats.avro.schema import field_types

    return field_types(path)


def _read_records(spec: RowSpec) -> Reader:
    from transforms.formats.tfrecord.reader import RecordReader

    return RecordReader(spec)


def _write_examples(signature: Signature, output: FolderOutput, key_fields: tuple[str, ...]) -> Encoder:
    from transforms.formats.tfrecord.writer import ExampleEncoder

    return ExampleEncoder(signature, output, key_fields)


def _why_not_records(spec: RowSpec, path: str) -> str | None:
    from transforms.formats.tfrecord.parse_examples import why_not

    return why_not(spec, path)


def _read_list(spec: RowSpec) -> Reader:
    from transforms.formats.file_list.reader import FileListReader

    return FileListReader(spec)


def _why_not_list(spec: RowSpec, path: str) -> str | None:
    from transforms.formats.file_list.reader import why_not

    return why_not(spec, path)


FORMATS = {
    format.name: format
    for format in (
        Format("jsonl", ("jsonl", "ndjson", "json"), _read_jsonl, _write_jsonl, cuts=True, has_lines=True),
        Format(
            "parquet",
            ("parquet", "pq"),
            _read_parquet,
            _write_parquet,
            magic=b"PAR1",
            unreadable={b"PARE": "an encrypted Parquet file, and there is no key for it here: write it without encryption"},
            suffix=".parquet",
            cuts=True,
            why_not=_why_not_parquet,
            field_types=_parquet_types,
        ),
        Format("avro", ("avro",), _read_avro, magic=b"Obj\x01", cuts=True, why_not=_why_not_avro, field_types=_avro_types),
        Format(
            "csv",
            ("csv",),
            _read_csv,
            _write_csv,
            suffix=".csv",
            cuts=True,
            is_uncut=_holds_quote,
            why_not=_why_not_csv,
            has_lines=True,
            types_rows=False,
        ),
        Format(
            "tf-record",
            ("tfrecord", "tfrecords", "tfrec"),
            _read_records,
            _write_examples,
            suffix=".tfrecord",
            why_not=_why_not_records,
            types_rows=False,
            keeps_rows=False,
        ),
        Format("file-list", (), _read_list, cuts=True, why_not=_why_not_list, types_rows=False, keeps_rows=False),
    )
}
# What any run's results can be called: a run in another format takes away those of the one before.
SUFFIXES = "|".join(re.escape(format.suffix) for format in FORMATS.values() if format.encoder is not None)
