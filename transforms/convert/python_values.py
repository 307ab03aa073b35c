"""Arrow values as Python values; dates, times and durations outside Python's range as texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

# Raised by ``as_py`` for a date before the year 1 or after 9999, and for a duration of more than 10**9 days.
BEYOND = (OverflowError, ValueError)


def python_values(array: pa.Array) -> list[Any]:
    """Return the values of ``array`` as ``to_pylist`` does; dates outside Python's range are texts of ISO 8601.

    A text's year may have a sign or more than four digits: a database's infinity becomes the last date of its type.
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
    """Write a date as NumPy does, but with four digits in a negative year: NumPy counts the sign as a digit."""
    text = str(date)
    return f"-{text[1:].zfill(len(text))}" if text[0] == "-" and text.index("-", 1) < 5 else text
