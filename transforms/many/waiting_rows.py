"""Rows kept as they were read until their model is known: lines of text or Arrow columns, with their offsets in the file."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from transforms.elements.batches import InstanceBatch
from transforms.elements.failed_rows import FailedRow
from transforms.elements.splits import FileRange
from transforms.formats.blocks import Block
from transforms.formats.csv.reader import RowParser
from transforms.formats.csv.rows import CsvRows, Header, find_rows
from transforms.formats.jsonl.reader import LineParser
from transforms.formats.record_batches import TableBatcher, TableRows, batch_rows, without_dictionaries
from transforms.rows.row_spec import RowSpec
from transforms.specs.messagepack import packer


@dataclasses.dataclass(frozen=True)
class RowBlock:
    """Rows of one file that name one model.

    ``offsets`` are their places in the file (int64, one a row). ``rows`` are Arrow columns, or lines with their ends; lines of CSV have
    a ``header``. ``failed`` are rows that failed before their model was looked up.
    """

    source: str
    relative: str
    offsets: np.ndarray
    rows: bytes | pa.RecordBatch
    header: Header | None = None
    failed: tuple[FailedRow, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Return the size of the rows as text or in Arrow's memory."""
        return len(self.rows) if isinstance(self.rows, bytes) else int(self.rows.nbytes)


@dataclasses.dataclass(frozen=True, slots=True)
class _Message:
    """An encoded ``RowBlock``: offsets as little-endian int64, rows as ``lines`` or, in Arrow's stream format, as ``columns``."""

    source: str
    relative: str
    offsets: bytes
    lines: bytes | None
    columns: bytes | None
    header: Header | None
    failed: tuple[FailedRow, ...]


class RowBlockCoder(beam.coders.Coder):
    """Coder of ``RowBlock``, for the shuffle of ``--model_field``."""

    def encode(self, value: RowBlock) -> bytes:
        lines = value.rows if isinstance(value.rows, bytes) else None
        columns = None if isinstance(value.rows, bytes) else _write_columns(value.rows)
        offsets = value.offsets.astype("<i8", copy=False).tobytes()
        return packer(_Message).pack(_Message(value.source, value.relative, offsets, lines, columns, value.header, value.failed))

    def decode(self, encoded: bytes) -> RowBlock:
        message: _Message = packer(_Message).unpack(encoded)
        rows = _read_columns(message.columns) if message.lines is None else message.lines
        return RowBlock(message.source, message.relative, np.frombuffer(message.offsets, "<i8"), rows, message.header, message.failed)

    def is_deterministic(self) -> bool:
        return False

    def to_type_hint(self) -> type:
        return RowBlock

    def estimate_size(self, value: RowBlock) -> int:
        return value.size_bytes + value.offsets.nbytes


beam.coders.registry.register_coder(RowBlock, RowBlockCoder)


def _write_columns(table: pa.RecordBatch) -> bytes:
    stream = io.BytesIO()
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_batch(table)
    return stream.getvalue()


def _read_columns(content: bytes | None) -> pa.RecordBatch:
    with pa.ipc.open_stream(content) as reader:
        return reader.read_next_batch()


@dataclasses.dataclass(frozen=True)
class _ScatteredBlock(Block):
    """Lines that do not follow each other in the file: line ``i`` begins at ``starts[i]`` in the block, at ``offsets[i]`` in the file."""

    starts: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))
    offsets: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))

    def place(self, start: Any) -> Any:
        return self.offsets[np.searchsorted(self.starts, start, side="right") - 1]


def keep(batch: InstanceBatch, index: np.ndarray) -> RowBlock:
    """Return the rows of ``batch`` at ``index`` (integers), as they were read."""
    rows = batch.rows.take(index)
    block = RowBlock(batch.source, batch.relative, batch.offsets[index], b"")
    if isinstance(rows, TableRows):
        return dataclasses.replace(block, rows=without_dictionaries(rows.table))
    header, texts = (rows.header, rows.texts) if isinstance(rows, CsvRows) else (None, rows)
    # A field of CSV may end with a carriage return, which would be read as part of a bare newline.
    end = b"\n" if header is None else b"\r\n"
    return dataclasses.replace(block, rows=b"".join([texts[row] + end for row in range(len(index))]), header=header)


def keep_failed(batch: InstanceBatch, failed: Sequence[FailedRow]) -> RowBlock:
    """Return rows of ``batch`` that failed before their model was looked up."""
    return RowBlock(batch.source, batch.relative, np.empty(0, np.int64), b"", failed=tuple(failed))


class InstanceMaker:
    """Makes instances of kept rows by the signature of the model that they name; each thread has one a signature."""

    def __init__(self, spec: RowSpec) -> None:
        self.spec = spec
        self.lines = LineParser(spec)
        self.tables = TableBatcher(spec)

    def make(self, blocks: Sequence[RowBlock]) -> Iterator[InstanceBatch]:
        """Yield batches of the rows of ``blocks``, which are of one file and in its order: each row is an instance or a failed row."""
        first = blocks[0]
        file = FileRange(first.source, 0, None, 0, first.relative)
        offsets = np.concatenate([block.offsets for block in blocks])
        if isinstance(first.rows, pa.RecordBatch):
            yield from self._of_columns(pa.concat_batches([block.rows for block in blocks]), offsets, file)
            return
        data = b"".join([block.rows for block in blocks if isinstance(block.rows, bytes)])
        if first.header is not None:
            yield from self._of_csv(data, offsets, first.header, file)
            return
        ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
        lines = _ScatteredBlock(0, data, False, np.concatenate(([0], ends[:-1] + 1)), offsets)
        yield from self.lines.parse(lines, file)

    def _of_columns(self, table: pa.RecordBatch, offsets: np.ndarray, file: FileRange) -> Iterator[InstanceBatch]:
        rows = batch_rows(self.spec, table.nbytes / table.num_rows)
        for start in range(0, table.num_rows, rows):
            rows_of_batch = table.slice(start, rows)
            yield self.tables.batch(rows_of_batch, offsets[start : start + rows], file, int(rows_of_batch.nbytes))

    def _of_csv(self, data: bytes, offsets: np.ndarray, header: Header, file: FileRange) -> Iterator[InstanceBatch]:
        parser = RowParser(self.spec, header, self.lines)
        rows, _ = find_rows(data, 0, last=True, limits=self.spec.limits)
        assert len(rows.texts) == len(offsets)
        whole = dataclasses.replace(rows, scattered=offsets)
        for first in range(0, len(offsets), self.lines.max_rows):
            block = whole.slice(first, first + self.lines.max_rows)
            yield parser.parse(block, parser.find_plain(block), file)
