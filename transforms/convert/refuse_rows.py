"""Which rows of a batch of predictions are written, and how many at once."""

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
    """Gives the batch with the predictions at ``rows`` only."""
    outputs = {name: take(column, rows) for name, column in batch.outputs.items()}
    return dataclasses.replace(batch, kept=batch.kept[rows], outputs=outputs)


def pieces(batch: PredictionBatch, piece_bytes: int) -> Iterator[PredictionBatch]:
    """Cuts a batch, so that what is made of a piece has about ``piece_bytes`` as text."""
    values = sum(_values_per_row(column) for column in batch.outputs.values())
    rows = max(1, int(piece_bytes // (VALUE_BYTES * max(1, values))))
    if 0 < len(batch) <= rows:
        yield batch
        return
    for start in range(0, len(batch), rows):
        yield select(batch, np.arange(start, min(start + rows, len(batch))))


def refuse(batch: PredictionBatch, code: Code, reasons: dict[int, str]) -> PredictionBatch:
    """Gives the batch with the predictions of ``reasons``, messages by row number, failed."""
    if not reasons:
        return batch
    stays = np.ones(len(batch), bool)
    stays[list(reasons)] = False
    failed = [batch.instances.failed_row(int(batch.kept[row]), RowError(code, reasons[row])) for row in sorted(reasons)]
    return dataclasses.replace(select(batch, np.flatnonzero(stays)), failed=[*batch.failed, *failed])


def refuse_non_finite(batch: PredictionBatch) -> PredictionBatch:
    """Gives the batch without rows that hold NaN or an infinity; they are failed."""
    reasons: dict[int, str] = {}
    for name, column in batch.outputs.items():
        message = f"output {name!r} is NaN or infinite, and --nan=error was given"
        reasons = {int(row): message for row in np.flatnonzero(~finite_rows(column))} | reasons
    return refuse(batch, Code.NOT_FINITE, reasons)


def _values_per_row(column: Column) -> float:
    if isinstance(column, Ragged):
        return sum(row.size for row in column.rows) / max(1, len(column))
    per_row = column.size / max(1, len(column))
    if column.dtype.kind != "O" or not column.size:
        return per_row
    some = column.reshape(-1)[:: max(1, column.size // 100)]
    return per_row * (1 + sum(len(value) for value in some) / len(some) / VALUE_BYTES)
