"""Failed rows → files: JSON-lines in a folder, or the Parquet shards of a load into BigQuery."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.convert.content_digest import Content
from transforms.convert.to_arrow import as_text
from transforms.elements.failed_rows import FailedRow
from transforms.formats.join_files import Sink
from transforms.rows.keys import readable
from transforms.specs.job import OutputSpec
from transforms.specs.table_name import is_table

SCHEMA = pa.schema([
    ("key", pa.string()), ("source", pa.string()), ("offset", pa.int64()), ("stage", pa.string()), ("code", pa.string()),
    ("message", pa.string()), ("instance", pa.string()),
])  # fmt: skip


class FailedRowWriter(Protocol):
    """Writes failed rows as one file after the other."""

    @property
    def content(self) -> str: ...

    def open(self, stream: Sink) -> None: ...

    def write(self, rows: Sequence[FailedRow]) -> None: ...

    def close(self) -> None: ...


class FailedLines:
    """Writes a line of JSON a failed row."""

    content = ""

    def open(self, stream: Sink) -> None:
        self.stream = stream

    def write(self, rows: Sequence[FailedRow]) -> None:
        self.stream.write(b"".join(row.to_json() + b"\n" for row in rows))

    def close(self) -> None:
        """Leaves the stream open: its owner closes it."""


class FailedTable:
    """Writes failed rows as Parquet: the key as text, since keys of one job may be of several types, and ``instance`` as its JSON text."""

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
        places = pa.array([readable(row.source) for row in rows], pa.string()), pa.array([row.offset for row in rows], pa.int64())
        columns = pa.RecordBatch.from_arrays([keys, *places, *texts], schema=SCHEMA)
        self.writer.write_batch(columns)
        # A row of a table has no place that is the same on every launch: its stream is another one.
        self._content.add(columns.drop_columns(["source", "offset"]) if is_table(rows[0].source) else columns)

    def close(self) -> None:
        self.writer.close()


def failed_row_writer(output: OutputSpec) -> FailedRowWriter:
    """Gives what writes the failed rows of a job with ``output``."""
    return FailedLines() if output.table is None else FailedTable()
