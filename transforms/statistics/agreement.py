"""A second model's predictions beside the first one's: on how many rows they agree, how far apart they are, which keys moved most."""

from __future__ import annotations

import dataclasses
import heapq
import math
from typing import Any

import datasketches
import numpy as np

from transforms.elements.batches import PredictionBatch
from transforms.elements.columns import Column, Ragged, take
from transforms.statistics.sketches import QUANTILE_K

MOST_CHANGED = 20
QUANTILES = (0.5, 0.9, 0.99)


@dataclasses.dataclass
class Aligned:
    """The rows that both models predicted: ``rows`` are their places in the batch, ``first`` and ``second`` those in the outputs."""

    rows: np.ndarray
    first: np.ndarray
    second: np.ndarray


def align(batch: PredictionBatch) -> Aligned:
    """Finds the rows of ``batch`` that the second model predicted too."""
    assert batch.compared is not None
    rows, first, second = np.intersect1d(batch.kept, batch.compared.kept, assume_unique=True, return_indices=True)
    return Aligned(rows, first, second)


@dataclasses.dataclass
class Difference:
    """What two models' values of one output, of ``n`` rows, are apart.

    ``agrees`` is a flag a row; ``apart`` the largest absolute difference of its values, and ``times`` how many tolerances that is,
    both of numbers only (``times`` of texts that differ is infinite); ``same_class`` where the largest value stands in one place.
    """

    agrees: np.ndarray
    apart: np.ndarray | None
    times: np.ndarray
    same_class: np.ndarray | None = None


def differ(first: Column, second: Column, tolerance: float) -> Difference:
    """Compares two columns row by row: numbers agree within ``tolerance`` (absolute, or relative to the first's), all else as it is."""
    if isinstance(first, Ragged) or isinstance(second, Ragged) or first.shape != second.shape:
        return _differ_by_row(first, second, tolerance)
    rows = len(first)
    if first.dtype.kind not in "fiu" and not _is_small_float(first.dtype):
        agrees = (first == second).reshape(rows, -1).all(axis=1) if first.size else np.ones(rows, bool)
        return Difference(agrees.astype(bool), None, np.where(agrees, 0.0, math.inf))
    one, other = (column.astype(np.float64).reshape(rows, -1) for column in (first, second))
    both_nan = np.isnan(one) & np.isnan(other)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.where(both_nan | (one == other), 0.0, np.abs(one - other))
    if first.dtype.kind in "iu" and first.dtype.itemsize == 8 and first.dtype == second.dtype:
        apart = _integers_apart(first, second).reshape(rows, -1)
    apart[np.isnan(apart)] = math.inf  # one of them is a number
    with np.errstate(invalid="ignore"):
        times = apart / (tolerance * (1 + np.abs(np.where(np.isfinite(one), one, 0.0))) if tolerance else 1.0)
    if not tolerance:
        times = np.where(apart > 0, math.inf, 0.0)
    same = (one.argmax(axis=1) == other.argmax(axis=1)) if first.ndim == 2 and first.shape[1] > 1 and first.dtype.kind == "f" else None
    nothing = np.zeros(rows)
    furthest = times.max(axis=1) if one.shape[1] else nothing
    return Difference(furthest <= 1, apart.max(axis=1) if one.shape[1] else nothing, furthest, same)


def _integers_apart(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Gives how far integers of 64 bits are apart: two that differ may be one double."""
    greater, lesser = np.maximum(first, second), np.minimum(first, second)
    return (greater.astype(np.uint64) - lesser.astype(np.uint64)).astype(np.float64)


def _is_small_float(dtype: np.dtype) -> bool:
    return dtype.kind == "V" and "float" in dtype.name  # bfloat16 and its like, of ml_dtypes


def _differ_by_row(first: Column, second: Column, tolerance: float) -> Difference:
    """Rows of different shapes have no column: they are looked at one by one."""
    found = []
    for row in range(len(first)):
        one, other = (np.asarray(column.rows[row] if isinstance(column, Ragged) else column[row])[np.newaxis] for column in (first, second))
        found.append(differ(one, other, tolerance) if one.shape == other.shape else None)
    agrees = np.array([bool(each is not None and each.agrees[0]) for each in found], bool)
    times = np.array([each.times[0] if each is not None else math.inf for each in found])
    apart = np.array([each.apart[0] if each is not None and each.apart is not None else math.inf for each in found])
    numeric = any(each is not None and each.apart is not None for each in found)
    return Difference(agrees, apart if numeric else None, times)


@dataclasses.dataclass
class OutputComparison:
    """One output over many rows."""

    rows: int = 0
    agreed: int = 0
    classed: int = 0
    same_class: int = 0
    largest: float = 0.0
    apart: datasketches.kll_doubles_sketch | None = None

    def add(self, difference: Difference) -> None:
        self.rows += len(difference.agrees)
        self.agreed += int(np.count_nonzero(difference.agrees))
        if difference.same_class is not None:
            self.classed += len(difference.same_class)
            self.same_class += int(np.count_nonzero(difference.same_class))
        if difference.apart is not None and len(difference.apart):
            self.largest = max(self.largest, float(difference.apart.max()))
            self._sketch().update(difference.apart[np.isfinite(difference.apart)])

    def _sketch(self) -> datasketches.kll_doubles_sketch:
        if self.apart is None:
            self.apart = datasketches.kll_doubles_sketch(QUANTILE_K)
        return self.apart

    def merge(self, other: OutputComparison) -> None:
        for name in ("rows", "agreed", "classed", "same_class"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.largest = max(self.largest, other.largest)
        if other.apart is not None:
            self._sketch().merge(other.apart)

    def describe(self) -> dict[str, Any]:
        said: dict[str, Any] = {"agreement": self.agreed / self.rows if self.rows else 1.0}
        if self.classed:
            said["same_class"] = self.same_class / self.classed
        if self.apart is not None and self.apart.n:
            said["difference"] = {f"p{100 * share:g}": float(self.apart.get_quantile(share, True)) for share in QUANTILES}
            said["difference"]["largest"] = self.largest if math.isfinite(self.largest) else None
        return said

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"apart": None if self.apart is None else self.apart.serialize()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if state["apart"] is not None:
            self.apart = datasketches.kll_doubles_sketch.deserialize(state["apart"])


@dataclasses.dataclass
class Comparison:
    """Both models over many rows; ``changed`` are the rows that are furthest apart: how far, and the row's line of the comparison."""

    rows: int = 0
    agreed: int = 0
    first_only: int = 0
    outputs: dict[str, OutputComparison] = dataclasses.field(default_factory=dict)
    changed: list[tuple[float, str]] = dataclasses.field(default_factory=list)

    def merge(self, other: Comparison) -> None:
        self.rows += other.rows
        self.agreed += other.agreed
        self.first_only += other.first_only
        for name, output in other.outputs.items():
            self.outputs.setdefault(name, OutputComparison()).merge(output)
        self.keep(other.changed)

    def keep(self, changed: list[tuple[float, str]]) -> None:
        """Takes rows among those that changed most, if they are."""
        self.changed = heapq.nlargest(MOST_CHANGED, [*self.changed, *changed])

    @property
    def disagreement(self) -> float:
        """The share of the rows on which the models do not agree; one that the second could not predict counts as such."""
        whole = self.rows + self.first_only
        return (whole - self.agreed) / whole if whole else 0.0


def columns_of(batch: PredictionBatch, aligned: Aligned, name: str) -> tuple[Column, Column]:
    """Gives both models' values of output ``name`` for the rows that both predicted."""
    assert batch.compared is not None
    return take(batch.outputs[name], aligned.first), take(batch.compared.outputs[name], aligned.second)
