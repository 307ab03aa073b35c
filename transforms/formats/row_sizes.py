"""What the rows of a table take in memory, unpacked: seen before anything is made of them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt


def is_small(table: pa.RecordBatch, most_bytes: int) -> bool:
    """Return whether all rows of ``table`` together take at most ``most_bytes``; a look at its buffers, and at dictionaries."""
    coded = sum(longest_value(column) for column in table.columns if pt.is_dictionary(column.type))
    return bool(table.nbytes + coded * table.num_rows <= most_bytes)


def row_bytes(table: pa.RecordBatch) -> np.ndarray:
    """Return the bytes of each row of ``table``, int64, what a dictionary holds once counted for each row."""
    sizes = np.zeros(table.num_rows, np.int64)
    for column in table.columns:
        sizes += value_bytes(column)
    return sizes


def value_bytes(array: pa.Array) -> np.ndarray:
    """Return the bytes of each value of ``array``, int64."""
    kind = array.type
    if pt.is_dictionary(kind):
        sizes = value_bytes(array.dictionary)
        return np.append(sizes, 0)[array.indices.fill_null(len(sizes)).to_numpy(zero_copy_only=False)]
    if _is_text(kind):
        return _filled(pc.binary_length(array))
    if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        ends = np.concatenate(([0], np.cumsum(_filled(pc.list_value_length(array)))))
        before = np.concatenate(([0], np.cumsum(value_bytes(array.flatten()))))
        return np.diff(before[ends])
    if pt.is_struct(kind):
        return sum((value_bytes(array.field(place)) for place in range(kind.num_fields)), np.zeros(len(array), np.int64))
    return np.full(len(array), -(-array.nbytes // max(1, len(array))), np.int64)


def slices(sizes: np.ndarray, most_bytes: int) -> list[tuple[int, int]]:
    """Return the first and last row of parts that take ``most_bytes`` at most, or are one row."""
    ends = np.cumsum(sizes)
    parts, first = [], 0
    while first < len(sizes):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + most_bytes, side="right")))
        parts.append((first, last))
        first = last
    return parts


def longest_value(array: pa.Array) -> int:
    """Return the bytes of the longest value that the dictionary of ``array`` holds."""
    sizes = value_bytes(array.dictionary)
    return int(sizes.max()) if len(sizes) else 0


def _is_text(kind: pa.DataType) -> bool:
    return pt.is_string(kind) or pt.is_large_string(kind) or pt.is_binary(kind) or pt.is_large_binary(kind)


def _filled(lengths: pa.Array) -> np.ndarray:
    return pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False).astype(np.int64)
