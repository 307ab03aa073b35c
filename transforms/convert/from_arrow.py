"""Arrow columns → the signature's columns, by the rules of JSON values where they apply.

Arrow's types are known before the values: a column of an unfit type fails every row at once. What differs from row to row (nulls,
lengths, numbers too large) is checked on whole columns; only lists of different lengths or with nulls are read row by row.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from transforms.convert.from_json import numpy_dtype
from transforms.convert.json_values import innermost, integer_bounds, is_ones, out_of_range, regular_shape
from transforms.convert.python_values import python_values
from transforms.elements.columns import Column, spread, stack
from transforms.rows.codes import Code, RowError
from transforms.specs.signature import Shape, Signature, TensorSpec, shape_text

Errors = dict[int, RowError]


def make_column(array: pa.Array, signature: Signature, spec: TensorSpec) -> tuple[Column, Errors]:
    """Make the column of input ``spec`` from one Arrow value a row.

    Returns the column (as many rows as ``array``, of the input's dtype) and the errors by row number; cells of failed rows are unspecified.
    """
    if pt.is_dictionary(array.type):
        array = array.dictionary_decode()
    leaf, depth = _leaf(array.type)
    if not _is_fit(leaf, spec.dtype):
        error = RowError.of_input(Code.WRONG_TYPE, spec.name, f"expected {spec.dtype}, found a column of {array.type}")
        return _blank(len(array), signature, spec), dict.fromkeys(range(len(array)), error)
    if array.null_count:
        is_valid = pc.is_valid(array).to_numpy(zero_copy_only=False)
        valid = np.flatnonzero(is_valid)
        null = RowError.of_input(Code.NULL_VALUE, spec.name, f"expected {spec.dtype}, found null")
        errors: Errors = dict.fromkeys((int(row) for row in np.flatnonzero(~is_valid)), null)
        values = array.take(pa.array(valid))
    else:
        values, valid, errors = array, np.arange(len(array)), {}
    shapes = signature.row_shapes(spec)
    if len(shapes) == 1 and shapes[0] is not None and (len(shapes[0]) == depth or (depth == 0 and is_ones(shapes[0]))):
        dense = _dense(values, spec, shapes[0])
    else:
        dense = None
    column, value_errors = dense if dense is not None else _by_row(values, spec, shapes)
    errors |= {int(valid[row]): error for row, error in value_errors.items()}
    return spread([column], [valid], len(array), numpy_dtype(spec.dtype)), errors


def fits(kind: pa.DataType, dtype: str) -> bool:
    """Return whether values of the Arrow type ``kind``, alone or in lists, can be values of an input of ``dtype``."""
    return _is_fit(_leaf(kind.value_type if pt.is_dictionary(kind) else kind)[0], dtype)


def _leaf(kind: pa.DataType) -> tuple[pa.DataType, int]:
    """Return the type of the innermost values, and how many levels of lists hold them."""
    depth = 0
    while pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        kind, depth = kind.value_type, depth + 1
    return kind, depth


def _is_text(kind: pa.DataType) -> bool:
    return pt.is_string(kind) or pt.is_large_string(kind) or pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_fixed_size_binary(kind)


def _is_fit(kind: pa.DataType, dtype: str) -> bool:
    """Return whether values of an Arrow type can be values of ``dtype``: no float is an integer, no text a number."""
    if pt.is_null(kind):
        return True
    if dtype == "string":
        return _is_text(kind) or pt.is_temporal(kind) or pt.is_decimal(kind)
    if dtype == "bool":
        return pt.is_boolean(kind)
    if integer_bounds(dtype) is not None:
        return pt.is_integer(kind) or (pt.is_decimal(kind) and kind.scale == 0)
    return "float" in dtype and (pt.is_floating(kind) or pt.is_integer(kind) or pt.is_decimal(kind))


def _blank(count: int, signature: Signature, spec: TensorSpec) -> Column:
    """Make a column of zeros for ``count`` rows, all of which fail."""
    shape = signature.row_shapes(spec)[0] or ()
    return np.zeros((count, *(dim or 0 for dim in shape)), numpy_dtype(spec.dtype))


def _dense(array: pa.Array, spec: TensorSpec, shape: tuple[int | None, ...]) -> tuple[Column, Errors] | None:
    """Convert rows of one known shape at once; return None where a list has another length or holds a null."""
    flat = array
    dims = tuple(dim if dim is not None else -1 for dim in shape)
    if pt.is_nested(array.type):
        for dim in dims:
            lengths = pc.list_value_length(flat)
            if lengths.null_count or pc.any(pc.not_equal(lengths, dim)).as_py():
                return None
            flat = flat.flatten()
    if flat.null_count or (not len(array) and -1 in dims):
        return None
    values, bad = _values(flat, spec)
    column = values.reshape((len(array), *dims))
    if not bad.any():
        return column, {}
    rows = np.flatnonzero(bad.reshape(len(array), -1).any(axis=1))
    per_row = math.prod(dims)
    return column, {int(row): out_of_range(spec, _first_bad(flat, bad, int(row), per_row)) for row in rows}


def _first_bad(flat: pa.Array, bad: np.ndarray, row: int, per_row: int) -> Any:
    """Return the first of the ``per_row`` values of ``row`` that does not fit its dtype."""
    place = row * per_row + int(np.flatnonzero(bad[row * per_row : (row + 1) * per_row])[0])
    return flat[place].as_py()


def _values(flat: pa.Array, spec: TensorSpec) -> tuple[np.ndarray, np.ndarray]:
    """Convert flat Arrow values to the input's dtype; return them and a mask, bool [values], of those that do not fit it."""
    kind = flat.type
    target = numpy_dtype(spec.dtype)
    if spec.dtype == "string":
        if not _is_text(kind):
            flat = _texts(flat)
        return _objects(flat), np.zeros(len(flat), bool)
    if pt.is_decimal(kind):
        flat = pc.cast(flat, pa.int64() if integer_bounds(spec.dtype) is not None else pa.float64(), safe=False)
    source = flat.to_numpy(zero_copy_only=False)
    bounds = integer_bounds(spec.dtype)
    if bounds is not None:
        bad = (source < bounds[0]) | (source > bounds[1])
        return np.where(bad, 0, source).astype(target), bad
    if spec.dtype == "bool":
        return source.astype(bool), np.zeros(len(flat), bool)
    with np.errstate(over="ignore", invalid="ignore"):
        values = source.astype(target)
        infinite = np.isinf(values if target.kind == "f" else values.astype(np.float32))
        # An infinity in the data is valid; only one that the conversion made is out of range.
        bad = infinite & ~np.isinf(source.astype(np.float64)) if infinite.any() else infinite
    return values, bad


def _texts(flat: pa.Array) -> pa.Array:
    """Write dates, times and decimals as texts; Arrow writes a placeholder for dates whose year has more than five digits."""
    texts = pc.cast(flat, pa.string())
    placeholders = pc.starts_with(texts, pattern="<value out of range")
    if pc.any(placeholders).as_py():
        dates = pa.array(list(map(str, python_values(flat.filter(placeholders)))), pa.string())
        texts = pc.replace_with_mask(texts, placeholders, dates)
    return texts


def _objects(flat: pa.Array) -> np.ndarray:
    values: np.ndarray = flat.to_numpy(zero_copy_only=False)
    return values


def _by_row(array: pa.Array, spec: TensorSpec, shapes: tuple[Shape, ...]) -> tuple[Column, Errors]:
    """Convert rows of unknown or differing shapes one by one, to a dense column where their shapes agree."""
    leaf, _ = _leaf(array.type)
    cells: list[np.ndarray] = []
    errors: Errors = {}
    for row, value in enumerate(python_values(array)):
        try:
            cells.append(_cell(value, leaf, spec, shapes))
        except RowError as error:
            errors[row] = error
            cells.append(np.zeros((), numpy_dtype(spec.dtype)))
    return stack(cells, numpy_dtype(spec.dtype), errors), errors


def _cell(value: Any, leaf: pa.DataType, spec: TensorSpec, shapes: tuple[Shape, ...]) -> np.ndarray:
    """Convert one row's value to an array of one of ``shapes``.

    Raises:
      RowError: WRONG_SHAPE, NULL_VALUE or OUT_OF_RANGE.
    """
    shape = regular_shape(value, spec.name)
    fitting = [one for one in shapes if one is None or _matches(shape, one)]
    if not fitting and shape == () and is_ones(shapes[0]):
        shape, fitting = (1,) * len(shapes[0] or ()), [shapes[0]]
    if not fitting:
        expected = " or ".join(map(shape_text, shapes))
        raise RowError.of_input(Code.WRONG_SHAPE, spec.name, f"expected {spec.dtype} of shape {expected}, found {shape_text(shape)}")
    flat = list(innermost(value))
    if any(item is None for item in flat):
        raise RowError.of_input(Code.NULL_VALUE, spec.name, f"expected {spec.dtype}, found a list with a null")
    values, bad = _values(pa.array(flat, leaf), spec)
    if bad.any():
        raise out_of_range(spec, flat[int(np.flatnonzero(bad)[0])])
    return values.reshape(shape)


def _matches(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(dim in (None, size) for size, dim in zip(shape, expected, strict=True))
