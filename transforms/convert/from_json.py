"""Columns ↔ tensors by signature.

Two ways lead to the same columns. ``json_type`` is the type that a whole block of rows is parsed with (msgspec, in C);
``json_values.normalize`` takes one row's value and either returns what the typed parse would have returned, or raises the error.
"""

from __future__ import annotations

import functools
import itertools
import math
import types
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import ml_dtypes
import msgspec
import numpy as np

from transforms.convert.json_values import B64, has_shape, innermost, integer_bounds, is_ones, json_shape, out_of_range, regular_shape, wrap
from transforms.elements.columns import Column, stack
from transforms.rows.codes import Code, RowError
from transforms.specs.signature import Shape, Signature, TensorSpec

# NumPy's arrays have at most 64 dimensions, and a column one more than a row.
MAX_DEPTH = 63


@functools.cache
def numpy_dtype(name: str) -> np.dtype:
    """Return the NumPy dtype of TensorFlow's dtype ``name``; strings are objects."""
    if name == "string":
        return np.dtype(object)
    return np.dtype(getattr(ml_dtypes, name)) if hasattr(ml_dtypes, name) else np.dtype(name)


def _scalar_type(dtype: str) -> Any:
    bounds = integer_bounds(dtype)
    if bounds is not None:
        if bounds[1] >= 2**63 - 1:  # msgspec can't bound these; NumPy refuses what does not fit
            return int
        return Annotated[int, msgspec.Meta(ge=bounds[0], le=bounds[1])]
    if dtype == "string":
        return str | B64
    if dtype.startswith("complex"):
        return Annotated[list[float], msgspec.Meta(min_length=2, max_length=2)]
    return bool if dtype == "bool" else float


def json_type(signature: Signature, spec: TensorSpec) -> Any:
    """Return the msgspec type of one row's value of input ``spec``; ``Any`` where the signature leaves the shape open."""
    shapes = signature.row_shapes(spec)
    if len(shapes) > 1 or shapes[0] is None:
        return Any
    scalar: Any = _scalar_type(spec.dtype)
    annotation: Any = scalar
    for dim in reversed(shapes[0]):
        annotation = types.GenericAlias(list, (annotation,))
        if dim is not None:
            annotation = Annotated[annotation, msgspec.Meta(min_length=dim, max_length=dim)]
    if is_ones(shapes[0]) and not spec.dtype.startswith("complex"):
        annotation = annotation | scalar
    return annotation


def make_column(values: Sequence[Any] | np.ndarray, signature: Signature, spec: TensorSpec) -> tuple[Column, dict[int, RowError]]:
    """Make the column of input ``spec`` from one value a row, each of ``json_type`` or normalized.

    Returns the column and, by row number, the errors of numbers that do not fit the dtype (cells of those rows are unspecified).
    Values already in an array are the column.
    """
    if isinstance(values, np.ndarray):
        return values, {}
    shapes = signature.row_shapes(spec)
    shape = shapes[0] if len(shapes) == 1 else None
    if spec.dtype.startswith("complex") and shape is not None:
        shape = (*shape, 2)
    if shape is None or None in shape:
        return _open_column(values, spec, shapes)
    dims = tuple(dim or 0 for dim in shape)
    if is_ones(dims) and not spec.dtype.startswith("complex"):
        values = [wrap(value, len(dims)) for value in values]
    flat: Iterable[Any] = values
    for _ in dims:
        flat = itertools.chain.from_iterable(flat)
    try:
        array = _fill(flat, len(values) * math.prod(dims), spec.dtype)
    except OverflowError:
        return _column_by_row(values, spec, dims)
    array = array.reshape((len(values), *dims))
    errors = _overflowed(array, values, spec)
    return _as_complex(array, spec.dtype), errors


def _fill(flat: Iterable[Any], count: int, dtype: str) -> np.ndarray:
    """Make a flat array of ``count`` values; floats too large for ``dtype`` become infinite.

    Raises:
      OverflowError: an integer does not fit the array's dtype.
    """
    if dtype == "string":
        array = np.empty(count, object)
        values = list(flat)
        array[:] = [value.b64 if type(value) is B64 else value for value in values] if B64 in set(map(type, values)) else values
        return array
    target = numpy_dtype(dtype)
    with np.errstate(over="ignore"):
        if dtype.startswith("complex"):
            return np.fromiter(flat, np.float64 if dtype == "complex128" else np.float32, count)
        if target.kind in "biufc":
            return np.fromiter(flat, target, count)
        if "int" in dtype:
            return np.fromiter(flat, np.int64, count).astype(target)
        return np.fromiter(flat, np.float64, count).astype(target)


def _as_complex(array: np.ndarray, dtype: str) -> np.ndarray:
    """Turn pairs along the last axis into complex numbers where ``dtype`` is complex."""
    return array.view(dtype)[..., 0] if dtype.startswith("complex") else array


def _overflowed(array: np.ndarray, values: Sequence[Any], spec: TensorSpec) -> dict[int, RowError]:
    """Return the errors of rows that hold an infinity: JSON has none, so a number was too large."""
    if array.dtype.kind in "biuO":
        return {}
    finite = np.isfinite(array if array.dtype.kind == "f" else array.astype(np.float32))
    if finite.all():
        return {}
    rows = np.flatnonzero(~finite.reshape(len(array), -1).all(axis=1))
    return {int(row): out_of_range(spec, _largest(values[int(row)])) for row in rows}


def _misfit(flat: Sequence[Any], dtype: str) -> Any:
    """Return the first integer outside the bounds of ``dtype``."""
    low, high = integer_bounds(dtype) or (0, 0)
    return next((value for value in flat if not low <= value <= high), None)


def _largest(value: Any) -> Any:
    flat = list(innermost(value))
    return max(flat, key=abs) if flat else value


def _column_by_row(values: Sequence[Any], spec: TensorSpec, dims: tuple[int, ...]) -> tuple[np.ndarray, dict[int, RowError]]:
    """Make the column row by row, to find the rows whose integers do not fit: slower than the whole block at once."""
    rows, errors = [], {}
    for number, value in enumerate(values):
        flat = list(innermost(value))
        try:
            rows.append(_fill(flat, len(flat), spec.dtype).reshape(dims))
        except OverflowError:
            errors[number] = out_of_range(spec, _misfit(flat, spec.dtype))
            rows.append(np.zeros(dims, numpy_dtype(spec.dtype)))
    array = np.stack(rows)
    return array, errors | _overflowed(array, values, spec)


def _open_column(values: Sequence[Any], spec: TensorSpec, shapes: tuple[Shape, ...]) -> tuple[Column, dict[int, RowError]]:
    """Make a column whose row shape the signature leaves open: dense where all rows have one shape, else ragged."""
    rows: list[np.ndarray] = []
    errors: dict[int, RowError] = {}
    for number, value in enumerate(values):
        try:
            rows.append(_row_array(value, spec, shapes))
        except RowError as error:
            errors[number] = error
            rows.append(np.zeros((), numpy_dtype(spec.dtype)))
    return stack(rows, numpy_dtype(spec.dtype), errors), errors


def _row_array(value: Any, spec: TensorSpec, shapes: tuple[Shape, ...]) -> np.ndarray:
    """Convert one row's value to an array.

    Raises:
      RowError: WRONG_SHAPE or OUT_OF_RANGE.
    """
    shape = list(regular_shape(value, spec.name))
    if 0 in shape:  # the dimensions inside an empty list are unknown
        full = [json_shape(one, spec.dtype) for one in shapes if one is not None and has_shape(value, json_shape(one, spec.dtype))]
        inner = full[0][len(shape) :] if full else (2,) if spec.dtype.startswith("complex") else ()
        shape += [dim or 0 for dim in inner]
    if spec.dtype.startswith("complex") and (not shape or shape[-1] != 2):
        raise RowError.of_input(Code.WRONG_SHAPE, spec.name, "a complex number is a list of two numbers")
    if len(shape) > MAX_DEPTH:
        raise RowError.of_input(Code.WRONG_SHAPE, spec.name, f"lists are nested {len(shape)} deep; at most {MAX_DEPTH} is possible")
    flat = list(innermost(value))
    try:
        array = _fill(flat, len(flat), spec.dtype).reshape(shape)
    except OverflowError:
        raise out_of_range(spec, _misfit(flat, spec.dtype)) from None
    overflow = _overflowed(array.reshape(1, -1), [value], spec)
    if overflow:
        raise overflow[0]
    return _as_complex(array, spec.dtype)
