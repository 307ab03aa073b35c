"""Writers of failed rows: JSON-lines for a folder, Parquet for a load into BigQuery."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.convert.content_digest import Content
from transforms.convert.to_arrow import as_text
from transforms.elements.failed_rows import FailedRow
from transforms.formats.protocols import Sink
from transforms.rows.keys import readable
from transforms.specs.output import OutputSpec, TableOutput
from transforms.specs.table_name import is_table

SCHEMA = pa.schema([
    ("key", pa.string()), ("source", pa.string()), ("offset", pa.int64()), ("stage", pa.string()), ("code", pa.string()),
    ("message", pa.string()), ("instance", pa.string()),
])  # fmt: skip


class FailedRowWriter(Protocol):
    """Writes failed rows to files, one file after the other."""

    @property
    def content(self) -> str:
        """Return the digest of the rows in the current file; empty where no load compares it."""

    def open(self, stream: Sink) -> None:
        """Begin a file on ``stream``, which the caller closes."""

    def write(self, rows: Sequence[FailedRow]) -> None:
        """Write one or more rows to the current file."""

    def close(self) -> None:
        """End the current file; its stream stays open."""


class FailedLines:
    """Writes each failed row as one line of JSON."""

    content = ""

    def open(self, stream: Sink) -> None:
        self.stream = stream

    def write(self, rows: Sequence[FailedRow]) -> None:
        self.stream.write(b"".join(row.to_json() + b"\n" for row in rows))

    def close(self) -> None:
        """Do nothing: a file of lines has no end to write."""


class FailedTable:
    """Writes failed rows as Parquet of ``SCHEMA``: keys as text, since those of one job may have several types; instances as JSON text."""

    @property
    def content(self) -> str:
        return self._content.digest

    def open(self, stream: Sink) -> None:
        self._content = Content()
        self.writer = pq.ParquetWriter(stream, SCHEMA, compression="zstd")

    def write(self, rows: Sequence[FailedRow]) -> None:
        keys = as_text(pa.array([(row.key or b"null").decode() for row in rows], pa.string()))
        texts = [
            pa.array([text(row) for row in rows], pa.string())
            for text in (
                lambda row: str(row.stage),
                lambda row: str(row.code),
                lambda row: readable(row.message),
                lambda row: row.instance.decode(),
            )
        ]
        sources = pa.array([readable(row.source) for row in rows], pa.string())
        offsets = pa.array([row.offset for row in rows], pa.int64())
        columns = pa.RecordBatch.from_arrays([keys, sources, offsets, *texts], schema=SCHEMA)
        self.writer.write_batch(columns)
        # The source and offset of a table's row differ from launch to launch: each launch reads other streams.
        self._content.add(columns.drop_columns(["source", "offset"]) if is_table(rows[0].source) else columns)

    def close(self) -> None:
        self.writer.close()


def failed_row_writer(output: OutputSpec) -> FailedRowWriter:
    """Make the writer of a job's failed rows: Parquet where ``output`` is a table, else JSON-lines."""
    return FailedTable() if isinstance(output, TableOutput) else FailedLines()
