"""The reader of a stream of a BigQuery read session."""

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


class StreamReader:
    """Reads the rows of a stream as batches; a row's offset is its number in the stream.

    After a lost connection Google's client reads on from the row where it stopped.
    """

    def __init__(self, spec: RowSpec) -> None:
        self.spec = spec
        self.batcher = TableBatcher(spec)

    def read(self, file_range: FileRange) -> Iterator[InstanceBatch]:
        """Yield the rows of a stream, whose name is the range's ``relative``, in batches."""
        row = 0
        for table in regroup(self._messages(file_range.relative), self.spec):
            offsets = np.arange(row, row + table.num_rows, dtype=np.int64)
            row += table.num_rows
            yield from self.batcher.batches(table, offsets, file_range, table.nbytes)

    def _messages(self, stream: str) -> Iterator[pa.RecordBatch]:
        """Yield the stream's messages as record batches of the columns that the job needs."""
        schema = None
        for message in read_client().read_rows(stream):
            if schema is None:  # only the first message brings it
                schema = pa.ipc.read_schema(pa.py_buffer(message.arrow_schema.serialized_schema))
            packed = pa.py_buffer(message.arrow_record_batch.serialized_record_batch)
            batch = pa.ipc.read_record_batch(packed, schema)
            yield batch.select(needed_columns(self.spec, schema.names))


def regroup(messages: Iterable[pa.RecordBatch], spec: RowSpec) -> Iterator[pa.RecordBatch]:
    """Yield the rows of ``messages`` in batches of about ``batch_rows`` rows each: the service's messages are smaller or larger."""
    waiting: list[pa.RecordBatch] = []
    for message in messages:
        if not message.num_rows:
            continue
        waiting.append(message)
        rows = batch_rows(spec, _row_bytes(waiting))
        if sum(table.num_rows for table in waiting) >= rows:
            yield from _cut(waiting, rows)
            waiting = []
    if waiting:
        yield from _cut(waiting, batch_rows(spec, _row_bytes(waiting)))


def _row_bytes(tables: Sequence[pa.RecordBatch]) -> float:
    return sum(table.nbytes for table in tables) / sum(table.num_rows for table in tables)


def _cut(tables: Sequence[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """Yield the rows of ``tables`` in slices of one size, of about ``rows`` rows."""
    whole = tables[0] if len(tables) == 1 else pa.concat_batches(tables)
    count = max(1, round(whole.num_rows / rows))
    borders = [whole.num_rows * number // count for number in range(count + 1)]
    for start, stop in itertools.pairwise(borders):
        yield whole.slice(start, stop - start)
