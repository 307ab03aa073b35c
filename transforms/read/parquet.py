"""Parquet, a row group at a time, only the columns that are needed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow.parquet as pq

from transforms.elements import FileRange, InstanceBatch
from transforms.read.columns import find_nested_twins, find_twins, refuse_columns
from transforms.read.damage import DamagedFileError, decoding
from transforms.read.row import RowSpec
from transforms.read.source import open_source
from transforms.read.table import TableBatcher, batch_rows, needed_columns

NOT_PARQUET = "not a whole Parquet file that can be read"


def refusal(spec: RowSpec, path: str) -> str | None:
    """Gives why a job can't use the file ``path``, as its schema shows, or None; a damaged one is seen when it is read."""
    try:
        with open_source(FileRange(path, 0, None, 0, path)) as stream, decoding(0, NOT_PARQUET):
            schema = pq.read_schema(stream)
    except DamagedFileError:
        return None
    twins = find_twins(spec, schema.names) or find_nested_twins(spec, schema)
    return f"{path}: {twins}" if twins else refuse_columns(spec, path, {field.name: [field.type] for field in schema})


class ParquetReader:
    """Reads the row groups that begin inside a range of a file; a row's offset is its number in the file."""

    def __init__(self, spec: RowSpec) -> None:
        self.spec = spec
        self.batcher = TableBatcher(spec)

    def nothing(self, piece: FileRange, order: tuple[str, int]) -> InstanceBatch:
        return self.batcher.nothing(piece, order)

    def read(self, piece: FileRange, order: tuple[str, int]) -> Iterator[InstanceBatch]:
        with open_source(piece) as stream:
            with decoding(0, NOT_PARQUET):
                parquet = pq.ParquetFile(stream)
            first_row = 0
            for number in range(parquet.num_row_groups):
                group = parquet.metadata.row_group(number)
                if piece.start <= _begin(group) < (piece.stop if piece.stop is not None else piece.size_bytes):
                    yield from self._read_group(parquet, number, first_row, piece, order)
                first_row += group.num_rows

    def _read_group(
        self, parquet: pq.ParquetFile, number: int, first_row: int, piece: FileRange, order: tuple[str, int]
    ) -> Iterator[InstanceBatch]:
        group = parquet.metadata.row_group(number)
        columns = needed_columns(self.spec, parquet.schema_arrow.names)
        row_bytes = group.total_byte_size / max(1, group.num_rows)  # in memory; in the file they may be packed
        file_bytes = sum(group.column(place).total_compressed_size for place in range(group.num_columns)) / max(1, group.num_rows)
        rows = batch_rows(self.spec, row_bytes)
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
                yield self.batcher.batch(table, offsets, piece, order, int(file_bytes * table.num_rows))


def _begin(group: pq.RowGroupMetaData) -> int:
    """The first byte of a row group's data."""
    if not group.num_columns:
        return 0
    column = group.column(0)
    return min(offset for offset in (column.dictionary_page_offset, column.data_page_offset) if offset is not None)
