"""Batches of predictions → Arrow columns, from NumPy's memory, a column at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.convert.from_json import numpy_dtype
from transforms.convert.output_columns import WIDER, OutputColumn, TableSpec
from transforms.convert.refuse_rows import refuse
from transforms.elements.batches import PredictionBatch
from transforms.elements.columns import Column, Ragged
from transforms.rows.codes import Code
from transforms.rows.keys import split_keys

# A check of a column's values returns messages by row number.
Check = Callable[[Column, OutputColumn], dict[int, str]]


def refuse_unfit(batch: PredictionBatch, table: TableSpec, *checks: Check) -> PredictionBatch:
    """Return the batch without rows that a column can't hold, by shape, dtype or one of ``checks``; those rows fail."""
    batch = _refuse(batch, table, (_wrong_type,))
    return _refuse(batch, table, checks)


def _refuse(batch: PredictionBatch, table: TableSpec, checks: Sequence[Check]) -> PredictionBatch:
    if not len(batch):
        return batch
    reasons: dict[int, str] = {}
    for column in table.outputs:
        for check in checks:
            reasons = check(batch.outputs[column.name], column) | reasons
    return refuse(batch, Code.OUTPUT_DOES_NOT_FIT, reasons)


def _wrong_type(values: Column, column: OutputColumn) -> dict[int, str]:
    """Return messages for rows of another dtype or rank than the signature says.

    A signature may be wrong about its outputs, and a row fed as a whole fixed batch returns a whole batch of predictions.
    """
    rows = values.rows if isinstance(values, Ragged) else [values[0]] * len(values)
    if isinstance(values, np.ndarray) and _is_fit(values[0], column):
        return {}
    return {
        row: f"output {column.name!r}: expected {column.dtype} of {column.rank} dimensions a row, as the signature says, "
        f"found {value.dtype if value.dtype != object else 'string'} of shape {list(value.shape)}"
        for row, value in enumerate(map(np.asarray, rows))
        if not _is_fit(value, column)
    }


def _is_fit(value: np.ndarray, column: OutputColumn) -> bool:
    value = np.asarray(value)
    extra = value.ndim - column.rank
    if extra < 0 or any(dim != 1 for dim in value.shape[:extra]):
        return False
    if column.dtype == "string":
        return value.dtype.kind in "OS"
    return value.dtype == numpy_dtype(column.dtype)


def not_utf8(values: Column, column: OutputColumn) -> dict[int, str]:
    """Return messages for rows with strings that are not UTF-8, which a column of text can't hold."""
    if not column.is_text:
        return {}
    message = f"output {column.name!r}: not UTF-8, so no text; bytes are written where an output's name ends in _bytes, and by jsonl"
    if isinstance(values, np.ndarray) and _is_utf8(values):
        return {}
    rows = values.rows if isinstance(values, Ragged) else values.reshape(len(values), -1)
    return {row: message for row, strings in enumerate(rows) if not _is_utf8(strings)}


def _is_utf8(values: np.ndarray) -> bool:
    try:
        pa.array(values.reshape(-1).tolist(), pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:
        return False
    return True


# --- outputs ---------------------------------------------------------------------------------------------------------------


def output_array(values: Column, column: OutputColumn) -> pa.Array:
    """Convert an output's column, each row of which fits, to its Arrow type; numbers are not copied."""
    flat, shapes = flatten(values, column)
    array = scalar_array(flat, column)
    for axis in range(column.rank - 1, -1, -1):
        array = pa.ListArray.from_arrays(pa.array(list_offsets(shapes, axis)), array)
    return array


def flatten(values: Column, column: OutputColumn) -> tuple[np.ndarray, np.ndarray]:
    """Return all scalars of a column as one flat array, and the shape of each row: int64 ``[rows, rank]``.

    Leading dimensions of 1 that the signature does not have are dropped.
    """
    if isinstance(values, Ragged):
        shapes = np.array([row.shape[row.ndim - column.rank :] for row in values.rows], np.int64).reshape(len(values), column.rank)
        return np.concatenate([row.reshape(-1) for row in values.rows]), shapes
    shape = values.shape[values.ndim - column.rank :]
    return np.ascontiguousarray(values).reshape(-1), np.broadcast_to(np.array(shape, np.int64), (len(values), column.rank))


def list_offsets(shapes: np.ndarray, axis: int) -> np.ndarray:
    """Return the offsets, int32 [lists + 1], of the lists at depth ``axis`` of rows of ``shapes``."""
    if not shapes.strides[0]:  # all rows of one shape
        lists = len(shapes) * int(shapes[0, :axis].prod())
        return np.arange(lists + 1, dtype=np.int32) * np.int32(shapes[0, axis])
    lengths = np.repeat(shapes[:, axis], shapes[:, :axis].prod(axis=1))
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def scalar_array(flat: np.ndarray, column: OutputColumn) -> pa.Array:
    """Convert flat scalars to the Arrow type of ``column``'s scalars."""
    if column.dtype == "string":
        array = pa.array(flat.tolist(), pa.binary())
        return array.cast(pa.string()) if column.is_text else array
    if column.dtype.startswith("complex"):
        parts = flat.view(np.float32 if column.dtype == "complex64" else np.float64).reshape(-1, 2)
        return pa.StructArray.from_arrays([pa.array(np.ascontiguousarray(parts[:, place])) for place in (0, 1)], ["real", "imag"])
    if column.dtype in WIDER:
        flat = flat.astype(WIDER[column.dtype])
    return pa.array(flat)


# --- keys and passthrough fields ---------------------------------------------------------------------------------------------


def text_columns(batch: PredictionBatch, table: TableSpec) -> tuple[dict[str, pa.Array], dict[str, pa.Array]]:
    """Return the columns of the key and those of the passthrough fields, as plain texts by name."""
    rows = pa.array(batch.instance_rows)
    keys = batch.instances.keys.take(rows)
    key_columns = {name: as_text(texts) for name, texts in split_keys(keys, table.keys).items()}
    passthrough = {name: as_text(batch.instances.passthrough[name].take(rows)) for name in table.passthrough}
    return key_columns, passthrough


def as_text(texts: pa.Array) -> pa.Array:
    """Convert JSON texts to plain ones: a string to its value, null to null; any other value stays JSON text."""
    quoted = pc.starts_with(texts, pattern='"')
    plain = pc.binary_slice(texts.view(pa.binary()), 1, -1).view(pa.string())
    if not pc.all(quoted).as_py():
        plain = pc.if_else(quoted, plain, texts)
        plain = pc.if_else(pc.equal(texts, "null"), pa.scalar(None, pa.string()), plain)
    escaped = pc.and_(quoted, pc.match_substring(texts, "\\"))
    if pc.any(escaped).as_py():
        decoded = [msgspec.json.decode(text, type=str) for text in texts.filter(escaped).to_pylist()]
        plain = pc.replace_with_mask(plain, escaped, pa.array(decoded, pa.string()))
    return plain


def make_columns(batch: PredictionBatch, table: TableSpec) -> pa.RecordBatch:
    """Convert a batch, all rows of which fit, to the columns of ``table.schema``."""
    keys, passthrough = text_columns(batch, table)
    outputs = {column.name: output_array(batch.outputs[column.name], column) for column in table.outputs}
    return pa.RecordBatch.from_arrays([*keys.values(), *outputs.values(), *passthrough.values()], schema=table.schema)
