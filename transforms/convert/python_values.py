"""Arrow's values as Python's; dates, times and spans of time beyond Python's own as texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

# What ``as_py`` raises for a date before the year 1 or after 9999, and for a span of time of more than 10**9 days.
BEYOND = (OverflowError, ValueError)


def python_values(array: pa.Array) -> list[Any]:
    """Return the values of ``array`` as Python's, as ``to_pylist`` does; what Python has no date for is a text of ISO 8601.

    Its year has as many digits as it takes, or a sign: infinity in a database becomes the last date of its type.
    """
    try:
        values: list[Any] = array.to_pylist()
    except BEYOND:
        return [_value(scalar) for scalar in array]
    return values


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except BEYOND:
        kind = scalar.type
    if pt.is_struct(kind):
        return {kind.field(place).name: _value(scalar[place]) for place in range(kind.num_fields)}
    if pt.is_map(kind):
        return [tuple(pair.values()) for pair in python_values(scalar.values)]
    if pt.is_nested(kind):
        return python_values(scalar.values)
    if pt.is_dictionary(kind):
        return _value(scalar.value)
    if pt.is_date32(kind):
        return _iso(np.datetime64(scalar.value, "D"))
    if pt.is_date64(kind):
        return _iso(np.datetime64(scalar.value, "ms").astype("datetime64[D]"))
    if pt.is_timestamp(kind):
        return _iso(np.datetime64(scalar.value, kind.unit)) + ("Z" if kind.tz is not None else "")
    return str(scalar.value)


def _iso(date: np.datetime64) -> str:
    """Return a date as NumPy writes it, with four digits of a year before Christ, of which NumPy takes the sign for one."""
    text = str(date)
    return f"-{text[1:].zfill(len(text))}" if text[0] == "-" and text.index("-", 1) < 5 else text
