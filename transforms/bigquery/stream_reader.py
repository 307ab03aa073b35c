"""Read the rows of a BigQuery read stream as batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from transforms.bigquery.client import read_client
from transforms.elements.batches import InstanceBatch
from transforms.elements.splits import FileRange
from transforms.formats.record_batches import TableBatcher, batch_rows, needed_columns
from transforms.rows.row_spec import RowSpec

# --- rows --------------------------------------------------------------------------------------------------------------------


class StreamReader:
    """Reads one stream; a row's offset is its number in it.

    A connection that breaks off is taken up again by Google's client at the row where it broke.
    """

    def __init__(self, spec: RowSpec) -> None:
        self.spec = spec
        self.batcher = TableBatcher(spec)

    def nothing(self, piece: FileRange, order: tuple[str, int]) -> InstanceBatch:
        return self.batcher.nothing(piece, order)

    def read(self, piece: FileRange, order: tuple[str, int]) -> Iterator[InstanceBatch]:
        row = 0
        for table in regroup(self._messages(piece.relative), self.spec):
            offsets = np.arange(row, row + table.num_rows, dtype=np.int64)
            row += table.num_rows
            yield from self.batcher.batches(table, offsets, piece, order, table.nbytes)

    def _messages(self, stream: str) -> Iterator[pa.RecordBatch]:
        schema = None
        for message in read_client().read_rows(stream):
            if schema is None:  # only the first message brings it
                schema = pa.ipc.read_schema(pa.py_buffer(message.arrow_schema.serialized_schema))
            packed = pa.py_buffer(message.arrow_record_batch.serialized_record_batch)
            batch = pa.ipc.read_record_batch(packed, schema)
            yield batch.select(needed_columns(self.spec, schema.names))


def regroup(messages: Iterable[pa.RecordBatch], spec: RowSpec) -> Iterator[pa.RecordBatch]:
    """Gives the rows of ``messages`` in batches of the size that the model is best fed with: the service's are small, or large."""
    due: list[pa.RecordBatch] = []
    for message in messages:
        if not message.num_rows:
            continue
        due.append(message)
        rows = batch_rows(spec, sum(some.nbytes for some in due) / sum(some.num_rows for some in due))
        if sum(some.num_rows for some in due) >= rows:
            yield from _cut(due, rows)
            due = []
    if due:
        yield from _cut(due, batch_rows(spec, sum(some.nbytes for some in due) / sum(some.num_rows for some in due)))


def _cut(due: Sequence[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    whole = due[0] if len(due) == 1 else pa.concat_batches(due)
    pieces = max(1, round(whole.num_rows / rows))
    borders = [whole.num_rows * piece // pieces for piece in range(pieces + 1)]
    for start, stop in itertools.pairwise(borders):
        yield whole.slice(start, stop - start)
