"""Avro object container files, a block at a time."""

from __future__ import annotations

import dataclasses
import io
import itertools
import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import fastavro
import numpy as np
import pyarrow as pa

from transforms import files
from transforms.elements import FileRange, InstanceBatch
from transforms.read.blocks import DamagedFileError
from transforms.read.columns import refuse_columns
from transforms.read.row import RowSpec
from transforms.read.table import BATCH_BYTES, TableBatcher, batch_rows, needed_columns

SYNC_BYTES = 16
# What fastavro raises on bytes that are not what the header promises; it has no error of its own for that.
DAMAGE = (EOFError, ValueError, IndexError, KeyError, TypeError, StopIteration, struct.error, zlib.error, UnicodeDecodeError, MemoryError)


PRIMITIVES = {
    "null": pa.null(), "boolean": pa.bool_(), "int": pa.int32(), "long": pa.int64(), "float": pa.float32(), "double": pa.float64(),
    "bytes": pa.binary(), "string": pa.string(), "enum": pa.string(), "fixed": pa.binary(),
}  # fmt: skip


def refusal(spec: RowSpec, path: str) -> str | None:
    """Gives why a job can't use the file ``path``, as its schema shows, or None; a damaged one is seen when it is read."""
    with files.open_raw(path) as stream:
        try:
            schema = fastavro.reader(stream).writer_schema
        except DAMAGE:
            return None
    if not isinstance(schema, dict) or schema.get("type") != "record":
        return f"{path}: its Avro schema is no record, so it has no columns: write rows as records"
    return refuse_columns(spec, path, {field["name"]: _kinds(field["type"]) for field in schema["fields"]})


def _kinds(schema: Any) -> list[pa.DataType]:
    """The Arrow types that values of an Avro schema may have; null, which fits everything, for a type defined elsewhere."""
    if isinstance(schema, list):
        branches = [kind for branch in schema if branch != "null" for kind in _kinds(branch)]
        return branches or [pa.null()]
    if isinstance(schema, str):
        return [PRIMITIVES.get(schema, pa.null())]
    kind, logical = schema["type"], schema.get("logicalType")
    if logical == "decimal":
        return [pa.decimal128(schema["precision"], schema.get("scale", 0))]
    if logical is not None:
        return [pa.string(), pa.timestamp("us")]
    if kind == "array":
        return [pa.list_(item) for item in _kinds(schema["items"])]
    if kind in ("map", "record"):
        return [pa.struct([])]
    return _kinds(kind)


class AvroReader:
    """Reads the blocks of a file whose preceding sync marker begins inside a range; a row's offset is its
    block's, plus its number in the block, so that no two rows have one.

    Avro 1.11, "Object Container Files": the header ends with a marker, and each block is followed by the same.
    """

    def __init__(self, spec: RowSpec) -> None:
        self.spec = spec
        self.batcher = TableBatcher(spec)

    def nothing(self, piece: FileRange, order: tuple[str, int]) -> InstanceBatch:
        return self.batcher.nothing(piece, order)

    def read(self, piece: FileRange, order: tuple[str, int]) -> Iterator[InstanceBatch]:
        with files.open_raw(piece.path) as stream:
            try:
                header, marker = _read_header(stream)
            except DAMAGE as error:
                raise _damaged(0, error) from error
            first = _find(stream, marker, piece.start) if piece.start > 0 else len(header) - SYNC_BYTES
            stop = piece.stop if piece.stop is not None else piece.size_bytes
            if first is None or first >= stop:
                return
            stream.seek(first + SYNC_BYTES)
            yield from self._read_blocks(_AfterHeader(header, stream), first + SYNC_BYTES - len(header), stop, piece, order)

    def _read_blocks(self, joined: Any, shift: int, stop: int, piece: FileRange, order: tuple[str, int]) -> Iterator[InstanceBatch]:
        """``shift`` turns a place in ``joined`` into one in the file."""
        due = _Due()
        position = 0
        try:
            for block in fastavro.block_reader(joined):
                position = block.offset + shift
                if position - SYNC_BYTES >= stop:
                    break
                rows = batch_rows(self.spec, block.size / max(1, block.num_records))
                records: Iterator[Any] = iter(block)
                first = 0
                # Blocks are of 16 KB as writers make them: a model call for each would be most of the work.
                while some := list(itertools.islice(records, max(1, rows - len(due.records)))):
                    size = min(BATCH_BYTES, block.size * len(some) // max(1, block.num_records))
                    due.add(some, position + np.arange(first, first + len(some), dtype=np.int64), size)
                    first += len(some)
                    if len(due.records) >= rows or due.size >= BATCH_BYTES:
                        yield self._batch(due, piece, order)
                        due = _Due()
        except DAMAGE as error:
            if due.records:
                yield self._batch(due, piece, order)
            raise _damaged(position, error) from error
        if due.records:
            yield self._batch(due, piece, order)

    def _batch(self, due: _Due, piece: FileRange, order: tuple[str, int]) -> InstanceBatch:
        names = needed_columns(self.spec, list(due.records[0]))
        table = pa.RecordBatch.from_arrays([_column([record[name] for record in due.records]) for name in names], names)
        return self.batcher.batch(table, np.concatenate(due.offsets), piece, order, due.size)


@dataclasses.dataclass
class _Due:
    """Records of some blocks that make one batch, and their places."""

    records: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    offsets: list[np.ndarray] = dataclasses.field(default_factory=list)
    size: int = 0

    def add(self, records: list[dict[str, Any]], offsets: np.ndarray, size: int) -> None:
        self.records += records
        self.offsets.append(offsets)
        self.size += size


def _column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        # A union of types that Arrow has no one type for: as JSON texts, which no input but a string takes for its own.
        from transforms.read.table import json_text

        return pa.array([None if value is None else json_text(value) for value in values], pa.binary())


def _read_header(stream: BinaryIO) -> tuple[bytes, bytes]:
    """Gives the file's header, to the end of its sync marker, and the marker."""
    reader = fastavro.reader(stream)
    marker = reader._header["sync"]
    stream.seek(0)
    start = stream.read(1 << 16)
    while (end := start.find(marker)) < 0:
        more = stream.read(1 << 16)
        if not more:
            raise EOFError("the header does not end")
        start += more
    return start[: end + SYNC_BYTES], marker


def _find(stream: BinaryIO, marker: bytes, start: int) -> int | None:
    """Gives the place of the first sync marker at ``start`` or later."""
    stream.seek(start)
    place, window = start, b""
    while data := stream.read(1 << 20):
        window += data
        found = window.find(marker)
        if found >= 0:
            return place + found
        kept = min(len(window), SYNC_BYTES - 1)
        place += len(window) - kept
        window = window[len(window) - kept :]
    return None


class _AfterHeader(io.RawIOBase):
    """A file's header, and then the file from where it stands: what fastavro needs to begin in the middle."""

    def __init__(self, header: bytes, stream: BinaryIO) -> None:
        self.header, self.stream, self.position = io.BytesIO(header), stream, 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self.header.read(size)
        if len(data) < size or size < 0:
            data += self.stream.read(size - len(data) if size >= 0 else -1)
        self.position += len(data)
        return data

    def tell(self) -> int:
        return self.position


def _damaged(position: int, error: BaseException) -> DamagedFileError:
    return DamagedFileError(position, f"not a whole Avro file that can be read: {type(error).__name__}: {error}")
