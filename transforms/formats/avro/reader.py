"""Avro object container files, a block at a time."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from transforms.elements.batches import InstanceBatch
from transforms.elements.splits import FileRange
from transforms.formats.avro.blocks import NOT_AVRO, STUMBLES, SYNC_BYTES, Block, Decoder, Header, read_blocks, read_header
from transforms.formats.avro.schema import arrow_types, twins_of
from transforms.formats.damage import DamagedFileError, decoding
from transforms.formats.needed_columns import refuse_columns
from transforms.formats.record_batches import TableBatcher, batch_rows, needed_columns
from transforms.formats.source import open_source
from transforms.rows.codes import Code, RowError
from transforms.rows.row_spec import RowSpec

# Offsets of rows in blocks of fewer bytes than rows: beyond any byte of a file, room for files of 1 TB.
DENSE_BLOCK, MAX_DENSE_ROWS = 1 << 62, 1 << 22


def why_not(spec: RowSpec, path: str) -> str | None:
    """Return why a job can't use the file ``path``, as its schema shows, or None; a damaged one is seen when it is read."""
    try:
        with open_source(FileRange(path, 0, None, 0, path)) as stream:
            schema = read_header(stream).schema
    except DamagedFileError:
        return None
    if not isinstance(schema, dict) or schema.get("type") != "record":
        return f"{path}: its Avro schema is no record, so it has no columns: write rows as records"
    twins = twins_of(spec, schema)
    return f"{path}: {twins}" if twins else refuse_columns(spec, path, arrow_types(schema))


class AvroReader:
    """Reads the blocks of a file whose preceding sync marker begins inside a range; a row's offset is its
    block's, plus its number in the block, so that no two rows have one (``row_offsets``).

    Avro 1.11, "Object Container Files": the header ends with a marker, and each block is followed by the same.
    """

    def __init__(self, spec: RowSpec) -> None:
        self.spec = spec
        self.batcher = TableBatcher(spec)

    def read(self, file_range: FileRange) -> Iterator[InstanceBatch]:
        with open_source(file_range) as stream:
            header = read_header(stream)
            first = _find(stream, header.marker, file_range.start) if file_range.start > 0 else header.size_bytes - SYNC_BYTES
            stop = file_range.stop if file_range.stop is not None else file_range.size_bytes
            if first is None or first >= stop:
                return
            due = _Due(twins_of(self.spec, header.schema))
            try:
                for rows in self._read_records(stream, header, first + SYNC_BYTES, stop, due):
                    if len(due.records) >= rows or due.unpacked >= self.spec.limits.batch_bytes:
                        yield from self._batches(due, file_range)
                        due.clear()
            except DamagedFileError:
                if due.records:
                    yield from self._batches(due, file_range)
                raise
            if due.records:
                yield from self._batches(due, file_range)

    def _read_records(self, stream: BinaryIO, header: Header, start: int, stop: int, due: _Due) -> Iterator[int]:
        """Add the records of the blocks whose preceding marker begins before ``stop`` to ``due``; give how many of the like make a batch.

        Blocks are of 16 KB as writers make them: a model call for each would be most of the work, so that small ones are put together.
        """
        decoder = Decoder(header)
        for block in read_blocks(stream, header, start, self.spec.limits.unpacked_bytes):
            if block.offset - SYNC_BYTES >= stop:
                return
            rows = batch_rows(self.spec, len(block.data) / max(1, block.count))
            with decoding(block.offset, NOT_AVRO, STUMBLES):
                records = decoder.decode(block)
            first = 0
            while first < block.count:
                with decoding(block.offset, NOT_AVRO, STUMBLES):
                    decoded = list(itertools.islice(records, max(1, rows - len(due.records))))
                if not decoded:
                    raise DamagedFileError(block.offset, f"{NOT_AVRO}: the block has {first} records, not {block.count}")
                count = len(decoded)
                due.records += decoded
                due.offsets.append(row_offsets(block, first, count))
                due.size += block.size_bytes * count // block.count
                due.unpacked += len(block.data) * count // block.count
                first += count
                yield rows

    def _batches(self, due: _Due, file_range: FileRange) -> Iterator[InstanceBatch]:
        names = needed_columns(self.spec, list(due.records[0]))
        table = pa.RecordBatch.from_arrays([_column([record[name] for record in due.records]) for name in names], names)
        offsets = np.concatenate(due.offsets)
        if due.twins is not None:
            yield self.batcher.fail(table, offsets, file_range, due.size, RowError(Code.COLUMN_TWICE, due.twins))
            return
        yield from self.batcher.batches(table, offsets, file_range, due.size)


def row_offsets(block: Block, first: int, count: int) -> np.ndarray:
    """Give ``count`` rows of a block, from its row ``first`` on, offsets that no other row of the file has.

    A row's is its block's byte plus its number in the block, which stays below the next block's byte, unless compression has made the
    block fewer bytes than it has rows (100,000 equal rows of 8 bytes took 500): such rows have a bit and digits of their own.
    """
    numbers = np.arange(first, first + count, dtype=np.int64)
    if block.count <= block.size_bytes:
        return block.offset + numbers
    if block.count > MAX_DENSE_ROWS:
        raise DamagedFileError(block.offset, f"{NOT_AVRO}: a block of {block.count} rows; at most {MAX_DENSE_ROWS} are possible")
    return DENSE_BLOCK + block.offset * MAX_DENSE_ROWS + numbers


@dataclasses.dataclass
class _Due:
    """Records of some blocks that make one batch, and their places; what they take in the file, and unpacked.

    ``twins``: two fields of one name that the job needs, which fail them all.
    """

    twins: str | None
    records: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    offsets: list[np.ndarray] = dataclasses.field(default_factory=list)
    size: int = 0
    unpacked: int = 0

    def clear(self) -> None:
        self.records, self.offsets, self.size, self.unpacked = [], [], 0, 0


def _column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        # A union of types that Arrow has no one type for: as JSON texts, which no input but a string takes for its own.
        from transforms.formats.record_batches import json_text

        return pa.array([None if value is None else json_text(value) for value in values], pa.binary())


def _find(stream: BinaryIO, marker: bytes, start: int) -> int | None:
    """Return the place of the first sync marker at ``start`` or later."""
    stream.seek(start)
    place, window = start, b""
    while data := stream.read(1 << 20):
        window += data
        index = window.find(marker)
        if index >= 0:
            return place + index
        tail = min(len(window), SYNC_BYTES - 1)  # a marker may begin there
        place += len(window) - tail
        window = window[len(window) - tail :]
    return None
