"""Output columns → JSON texts, a column at a time, in Arrow's kernels."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.convert.json_texts import quote
from transforms.elements.columns import Column, Ragged
from transforms.specs.signature import TensorSpec

NON_FINITE = {
    "null": {"nan": "null", "inf": "null", "-inf": "null"},
    "string": {"nan": '"NaN"', "inf": '"Infinity"', "-inf": '"-Infinity"'},
    "error": {},
}


def finite_rows(column: Column) -> np.ndarray:
    """Return a mask, bool [rows], of the rows that hold neither NaN nor an infinity."""
    if isinstance(column, Ragged):
        return np.array([finite_rows(row[np.newaxis])[0] for row in column.rows], bool)
    if column.dtype.kind in "biuO" or column.size == 0:
        return np.ones(len(column), bool)
    if column.dtype.kind == "V":  # bfloat16 and its kin
        column = column.astype(np.float32)
    return np.asarray(np.isfinite(column).reshape(len(column), -1).all(axis=1))


def json_texts(column: Column, spec: TensorSpec, nan: str) -> pa.Array:
    """Write each row of ``column`` as JSON text: nested lists by shape, numbers at full precision.

    A float is the shortest text that reads back as the same value of its dtype; ``nan`` says how NaN and infinities are written.
    Bytes are ``{"b64": ...}`` where the output's name ends in ``_bytes`` or they are not UTF-8. A complex number is
    the list of its two parts.
    """
    if isinstance(column, Ragged):
        texts = [json_texts(row[np.newaxis], spec, nan)[0].as_py() for row in column.rows]
        return pa.array(texts, pa.string())
    if column.dtype.kind == "c":
        parts = np.float32 if column.dtype == np.complex64 else np.float64
        column = np.ascontiguousarray(column).view(parts).reshape((*column.shape, 2))
    flat = np.ascontiguousarray(column).reshape(-1)
    texts = _scalar_texts(flat, spec, nan)
    for axis in range(column.ndim - 1, 0, -1):
        texts = _nest(texts, int(np.prod(column.shape[:axis], dtype=np.int64)), column.shape[axis])
    return texts


def _scalar_texts(flat: np.ndarray, spec: TensorSpec, nan: str) -> pa.Array:
    if flat.dtype.kind == "O":
        return _string_texts(flat.tolist(), spec.name.endswith("_bytes"))
    if flat.dtype.kind in "biu":
        return pc.cast(pa.array(flat), pa.string())
    if "int" in flat.dtype.name:  # int4, uint4
        return pc.cast(pa.array(flat.astype(np.int8)), pa.string())
    if flat.dtype.itemsize < 4:  # half precision and below: Arrow would write a double's digits
        flat = flat.astype(np.float32)
    return _float_texts(flat, nan)


def _float_texts(flat: np.ndarray, nan: str) -> pa.Array:
    texts = pc.cast(pa.array(flat), pa.string())
    with np.errstate(invalid="ignore"):
        whole = flat == np.rint(flat)  # infinities too
    finite = np.isfinite(flat)
    if (whole & finite).any():
        # Arrow writes 1.0 as "1", which reads back as an integer.
        mask = pa.array(whole & finite)
        texts = pc.replace_with_mask(texts, mask, pc.replace_substring_regex(texts.filter(mask), r"^(-?\d+)$", r"\1.0"))
    if not finite.all():
        mask = pa.array(~finite)
        words = NON_FINITE[nan]
        texts = pc.replace_with_mask(texts, mask, pa.array([words[text.as_py()] for text in texts.filter(mask)], pa.string()))
    return texts


def _string_texts(values: Sequence[bytes], as_base64: bool) -> pa.Array:
    if as_base64:
        return pa.array([msgspec.json.encode({"b64": bytes(value)}) for value in values], pa.binary()).cast(pa.string())
    try:
        strings = pa.array(values, pa.binary()).cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([_string_text(value) for value in values], pa.binary()).cast(pa.string())
    return quote(strings)


def _string_text(value: bytes | str) -> bytes:
    if isinstance(value, str):
        return msgspec.json.encode(value)
    try:
        return msgspec.json.encode(value.decode("utf-8"))
    except UnicodeDecodeError:
        return msgspec.json.encode({"b64": value})


def _nest(texts: pa.Array, lists: int, length: int) -> pa.Array:
    """Join each ``length`` texts to the text of a list, for ``lists`` lists."""
    offsets = pa.array(np.arange(lists + 1, dtype=np.int64) * length)
    nested = pa.LargeListArray.from_arrays(offsets, texts)
    return pc.binary_join_element_wise("[", pc.binary_join(nested, ", "), "]", "")
