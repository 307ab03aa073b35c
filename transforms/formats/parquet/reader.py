"""Parquet, a row group at a time, only the columns that are needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from transforms.elements.batches import InstanceBatch
from transforms.elements.splits import FileRange
from transforms.formats.damage import DamagedFileError, decoding
from transforms.formats.needed_columns import find_nested_twins, find_twins, refuse_columns
from transforms.formats.record_batches import TableBatcher, batch_rows, needed_columns
from transforms.formats.row_sizes import longest_value
from transforms.formats.source import open_source
from transforms.rows.row_spec import RowSpec

# A column of a row group that is both larger than this and packed by more than the ratio holds nothing but repetitions, and Arrow
# unpacks a page of it whole: 49 KB took 1 GB. Text of all kinds is packed to a tenth or a fiftieth.
MAX_PACKED_COLUMN_BYTES, MAX_PACKED_RATIO = 256 << 20, 1000
NOT_PARQUET = "not a whole Parquet file that can be read"
# Bytes of one value in memory by the physical types of parquet.thrift; others have lengths of their own.
WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 8, "FLOAT": 4, "DOUBLE": 8}


def why_not(spec: RowSpec, path: str) -> str | None:
    """Return why a job can't use the file ``path``, as its schema shows, or None; a damaged one is seen when it is read."""
    try:
        with open_source(FileRange(path, 0, None, 0, path)) as stream, decoding(0, NOT_PARQUET):
            schema = pq.read_schema(stream)
    except DamagedFileError:
        return None
    twins = find_twins(spec, schema.names) or find_nested_twins(spec, schema)
    return f"{path}: {twins}" if twins else refuse_columns(spec, path, {field.name: [field.type] for field in schema})


def field_types(path: str) -> dict[str, pa.DataType]:
    """Return the types of a file's fields by name; none of a file that can't be read."""
    try:
        with open_source(FileRange(path, 0, None, 0, path)) as stream, decoding(0, path):
            schema = pq.read_schema(stream)
    except DamagedFileError:
        return {}
    return dict(zip(schema.names, schema.types, strict=True))


class ParquetReader:
    """Reads the row groups that begin inside a range of a file; a row's offset is its number in the file."""

    def __init__(self, spec: RowSpec) -> None:
        self.spec = spec
        self.batcher = TableBatcher(spec)

    def read(self, file_range: FileRange) -> Iterator[InstanceBatch]:
        with open_source(file_range) as stream:
            with decoding(0, NOT_PARQUET):
                parquet = pq.ParquetFile(stream)
            first_row = 0
            for number in range(parquet.num_row_groups):
                group = parquet.metadata.row_group(number)
                if file_range.start <= _begin(group) < (file_range.stop if file_range.stop is not None else file_range.size_bytes):
                    yield from self._read_group((parquet, stream), number, first_row, file_range)
                first_row += group.num_rows

    def _read_group(
        self, opened: tuple[pq.ParquetFile, BinaryIO], number: int, first_row: int, file_range: FileRange
    ) -> Iterator[InstanceBatch]:
        parquet = opened[0]
        group = parquet.metadata.row_group(number)
        with decoding(first_row, NOT_PARQUET):
            columns = needed_columns(self.spec, parquet.schema_arrow.names)
        chunks = _chunks(parquet.schema, group, set(columns))
        _check_packing(chunks, first_row)
        # In memory: in the file rows may be packed, and a list of a million equal numbers be a few bytes of its pages.
        row_bytes = max(group.total_byte_size, sum(chunk.unpacked_bytes for chunk in chunks)) / max(1, group.num_rows)
        file_bytes = sum(group.column(place).total_compressed_size for place in range(group.num_columns)) / max(1, group.num_rows)
        rows, most_bytes = batch_rows(self.spec, row_bytes), self.spec.limits.unpacked_bytes
        names = [chunk.name for chunk in chunks if chunk.largest_bytes(min(rows, group.num_rows)) > most_bytes]
        if names:
            with decoding(first_row, f"{NOT_PARQUET}, from row {first_row} on"):
                parquet = _with_dictionaries(opened, number, names, most_bytes // rows)
        batches = parquet.iter_batches(rows, row_groups=[number], columns=columns, use_threads=False)
        row = first_row
        while True:
            with decoding(row, f"{NOT_PARQUET}, from row {row} on"):
                table = next(batches, None)
            if table is None:
                return
            if table.num_rows:
                offsets = np.arange(row, row + table.num_rows, dtype=np.int64)
                row += table.num_rows
                yield from self.batcher.batches(table, offsets, file_range, int(file_bytes * table.num_rows))


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """A column of a row group, as the file's footer describes it; ``is_text``: its values have lengths of their own."""

    name: str
    packed_bytes: int
    encoded_bytes: int
    unpacked_bytes: int
    is_list: bool
    is_text: bool
    has_dictionary: bool

    def largest_bytes(self, rows: int) -> int:
        """Return what ``rows`` values take at most, though the column is small: each may be the longest of a dictionary."""
        return rows * self.encoded_bytes if self.is_text and self.has_dictionary and not self.is_list else 0


def _chunks(schema: pq.ParquetSchema, group: pq.RowGroupMetaData, names: set[str]) -> list[_Chunk]:
    """Return the columns of a row group that lie in one of ``names``."""
    chunks = []
    for place in range(group.num_columns):
        column = group.column(place)
        name = column.path_in_schema.split(".")[0]
        if name in names:
            width = WIDTHS.get(column.physical_type)
            chunks.append(
                _Chunk(
                    name, column.total_compressed_size, column.total_uncompressed_size, (width or 0) * column.num_values,
                    schema.column(place).max_repetition_level > 0, width is None, bool(column.has_dictionary_page),
                )
            )  # fmt: skip
    return chunks


def _check_packing(chunks: list[_Chunk], row: int) -> None:
    """Raise a DamagedFileError about a column that a few bytes make larger than memory."""
    for chunk in chunks:
        unpacked = max(chunk.encoded_bytes, chunk.unpacked_bytes if chunk.is_list else 0)
        if unpacked > MAX_PACKED_COLUMN_BYTES and unpacked > MAX_PACKED_RATIO * chunk.packed_bytes:
            raise DamagedFileError(
                row,
                f"column {chunk.name!r} of the row group at row {row} packs {unpacked:,} bytes into {chunk.packed_bytes:,}; "
                f"more than {MAX_PACKED_COLUMN_BYTES >> 20} MiB may be packed by {MAX_PACKED_RATIO} at most: write smaller row groups",
            )


def _with_dictionaries(opened: tuple[pq.ParquetFile, BinaryIO], number: int, names: list[str], most_bytes: int) -> pq.ParquetFile:
    """Return the file to be read with the columns ``names`` as dictionaries where values are longer than ``most_bytes``, else as it is.

    Then a batch is as small as the file, and which of its rows are long is seen before a value is made for each. Only there: reading
    values that are all different so takes 0.3 us more for each.
    """
    parquet, stream = opened
    coded = pq.ParquetFile(stream, metadata=parquet.metadata, read_dictionary=names)
    first = next(coded.iter_batches(1, row_groups=[number], columns=names, use_threads=False), None)
    if first is None:
        return parquet
    longest = sum(longest_value(column) for column in first.columns if pt.is_dictionary(column.type))
    return coded if longest > most_bytes else parquet


def _begin(group: pq.RowGroupMetaData) -> int:
    """Return the first byte of a row group's data."""
    if not group.num_columns:
        return 0
    column = group.column(0)
    return min(offset for offset in (column.dictionary_page_offset, column.data_page_offset) if offset is not None)
