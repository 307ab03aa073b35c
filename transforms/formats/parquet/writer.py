"""Batches of predictions → Parquet, typed from the signature."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.convert.output_columns import make_table
from transforms.convert.refuse_rows import cut_batch
from transforms.convert.to_arrow import make_columns, not_utf8, refuse_unfit
from transforms.elements.batches import PredictionBatch
from transforms.formats.protocols import Sink
from transforms.specs.output import OutputSpec
from transforms.specs.signature import Signature
from transforms.storage import files

# A row group is what a reader takes at once and what is held in memory until it is full.
ROW_GROUP_BYTES = 32 << 20
# What one list of Arrow's can hold, in values, is 2**31.
PART_BYTES = 1 << 30


@dataclasses.dataclass
class ParquetEncoder:
    """Writes predictions as Parquet files: one column an output, no value of which is turned into text."""

    signature: Signature
    output: OutputSpec
    key_fields: tuple[str, ...]
    group_rows: int = 1 << 20

    def __post_init__(self) -> None:
        self.table = make_table(self.signature, self.output, self.key_fields)
        self.schema = self.table.schema
        # A dictionary of numbers or keys that never repeat is made and thrown away: five times the time, and larger files.
        labels = [column.name for column in self.table.outputs if column.is_text and not column.rank]
        self._repeating = [*labels, *self.table.passthrough]

    @property
    def content(self) -> str:
        return ""

    def open(self, stream: Sink) -> None:
        self._writer = pq.ParquetWriter(stream, self.schema, compression="zstd", use_dictionary=self._repeating)
        self._due: list[pa.RecordBatch] = []
        self._due_bytes = self._due_rows = 0

    def refuse(self, batch: PredictionBatch) -> PredictionBatch:
        return refuse_unfit(batch, self.table, not_utf8)

    def write(self, batch: PredictionBatch) -> None:
        for part in cut_batch(batch, PART_BYTES):
            self._add(self._columns(part))

    def close(self) -> None:
        self._write_due()
        self._writer.close()

    def join(self, paths: Sequence[str], stream: Sink) -> None:
        """Row groups can't be moved as bytes, since they hold their places in the file: they are read and written again."""
        self.open(stream)
        for path in paths:
            with files.open_raw(path) as source, pq.ParquetFile(source) as file:
                for group in range(file.num_row_groups):
                    self._writer.write_table(file.read_row_group(group))
        self.close()

    def _columns(self, batch: PredictionBatch) -> pa.RecordBatch:
        """Return a batch as columns of ``schema``."""
        return make_columns(batch, self.table)

    def _add(self, rows: pa.RecordBatch) -> None:
        self._due.append(rows)
        self._due_bytes, self._due_rows = self._due_bytes + rows.nbytes, self._due_rows + len(rows)
        if self._due_bytes >= ROW_GROUP_BYTES or self._due_rows >= self.group_rows:
            self._write_due()

    def _write_due(self) -> None:
        rows = pa.Table.from_batches(self._due, self.schema)
        if len(rows):
            self._writer.write_table(rows, row_group_size=self.group_rows)
        self._due, self._due_bytes, self._due_rows = [], 0, 0
