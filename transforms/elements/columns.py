"""Columns as NumPy has them: one row an instance, dense or ragged."""

from __future__ import annotations

import dataclasses

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


def take(column: Column, index: np.ndarray) -> Column:
    """Gives the rows of ``column`` at ``index``."""
    return column.take(index) if isinstance(column, Ragged) else column[index]
