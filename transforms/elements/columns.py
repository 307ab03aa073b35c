"""Columns of NumPy arrays: one row an instance, dense or ragged."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Sequence

import numpy as np


@dataclasses.dataclass
class Ragged:
    """A column whose rows differ in shape: one array a row."""

    rows: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: np.ndarray) -> Ragged:
        return Ragged([self.rows[i] for i in index])


Column = np.ndarray | Ragged


def cells_of(column: Column) -> list[np.ndarray]:
    """Return each row of ``column`` as an array.

    Slices, not items: an item of an array of bytes would come back as NumPy's own bytes, without its trailing zeros.
    """
    if isinstance(column, Ragged):
        return column.rows
    return [column[row : row + 1].reshape(column.shape[1:]) for row in range(len(column))]


def stack(cells: Sequence[np.ndarray], dtype: np.dtype, failed: Container[int] = ()) -> Column:
    """Make a column of one array a row: dense where all have one shape, else ragged. Cells of ``failed`` rows are unspecified."""
    shapes = {cell.shape for row, cell in enumerate(cells) if row not in failed}
    if len(shapes) != 1:
        return Ragged(list(cells))
    blank = np.zeros(shapes.pop(), dtype)
    return np.stack([blank if row in failed else cell for row, cell in enumerate(cells)])


def join(columns: Sequence[Column]) -> Column:
    """Put the rows of several columns one after the other: dense where all have one shape, else ragged."""
    if len(columns) == 1:
        return columns[0]
    dense = [column for column in columns if isinstance(column, np.ndarray)]
    if len(dense) == len(columns) and len({column.shape[1:] for column in dense}) == 1:
        return np.concatenate(dense)
    return Ragged([cell for column in columns for cell in cells_of(column)])


def spread(columns: Sequence[Column], places: Sequence[np.ndarray], count: int, dtype: np.dtype) -> Column:
    """Put the rows of several columns at their ``places`` among ``count`` rows; the cells of the others are unspecified."""
    if len(columns) == 1 and len(places[0]) == count:
        return columns[0]
    pairs = list(zip(columns, places, strict=True))
    pairs = [(column, rows) for column, rows in pairs if len(rows)] or pairs
    dense = [(column, rows) for column, rows in pairs if isinstance(column, np.ndarray)]
    shapes = {column.shape[1:] for column, _ in dense}
    if len(dense) == len(pairs) and len(shapes) <= 1:
        full = np.zeros((count, *(shapes.pop() if shapes else ())), dtype)
        for values, rows in dense:
            full[rows] = values
        return full
    cells: list[np.ndarray] = [np.zeros((), dtype)] * count
    for column, rows in pairs:
        for row, cell in zip(rows, cells_of(column), strict=True):
            cells[row] = cell
    return Ragged(cells)


def take(column: Column, index: np.ndarray) -> Column:
    """Return the rows of ``column`` at ``index``, integers [n]."""
    return column.take(index) if isinstance(column, Ragged) else column[index]
