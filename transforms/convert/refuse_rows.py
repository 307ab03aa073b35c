"""Select, split and refuse rows of a batch of predictions before they are written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from transforms.convert.to_json import finite_rows
from transforms.elements.batches import PredictionBatch
from transforms.elements.columns import Column, Ragged, take
from transforms.rows.codes import Code, RowError

VALUE_BYTES = 20


def select(batch: PredictionBatch, rows: np.ndarray) -> PredictionBatch:
    """Return the batch with only the predictions at ``rows``, integers [n]."""
    outputs = {name: take(column, rows) for name, column in batch.outputs.items()}
    return dataclasses.replace(batch, instance_rows=batch.instance_rows[rows], outputs=outputs)


def cut_batch(batch: PredictionBatch, part_bytes: int) -> Iterator[PredictionBatch]:
    """Split a batch into batches of about ``part_bytes`` of text each."""
    values = sum(_values_per_row(column) for column in batch.outputs.values())
    rows = max(1, int(part_bytes // (VALUE_BYTES * max(1, values))))
    if 0 < len(batch) <= rows:
        yield batch
        return
    for start in range(0, len(batch), rows):
        yield select(batch, np.arange(start, min(start + rows, len(batch))))


def refuse(batch: PredictionBatch, code: Code, reasons: dict[int, str]) -> PredictionBatch:
    """Return the batch without the rows of ``reasons``, messages by row number; those rows fail with ``code``."""
    if not reasons:
        return batch
    rest = np.ones(len(batch), bool)
    rest[list(reasons)] = False
    failed = [batch.instances.failed_row(int(batch.instance_rows[row]), RowError(code, reasons[row])) for row in sorted(reasons)]
    return dataclasses.replace(select(batch, np.flatnonzero(rest)), failed=[*batch.failed, *failed])


def refuse_non_finite(batch: PredictionBatch) -> PredictionBatch:
    """Return the batch without rows that hold NaN or an infinity; those rows fail."""
    reasons: dict[int, str] = {}
    for name, column in batch.outputs.items():
        message = f"output {name!r} is NaN or infinite, and --nan=error was given"
        reasons = {int(row): message for row in np.flatnonzero(~finite_rows(column))} | reasons
    return refuse(batch, Code.NOT_FINITE, reasons)


def _values_per_row(column: Column) -> float:
    """Estimate a row's values in ``column``, a string counted as one plus a value for each ``VALUE_BYTES`` of it."""
    if isinstance(column, Ragged):
        return sum(row.size for row in column.rows) / max(1, len(column))
    per_row = column.size / max(1, len(column))
    if column.dtype.kind != "O" or not column.size:
        return per_row
    sample = column.reshape(-1)[:: max(1, column.size // 100)]
    return per_row * (1 + sum(len(value) for value in sample) / len(sample) / VALUE_BYTES)
