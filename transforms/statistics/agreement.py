"""Predictions of two models compared: on how many rows they agree, by how much they differ, and which rows changed most."""

from __future__ import annotations

import dataclasses
import heapq
import math
from typing import Any

import datasketches
import numpy as np

from transforms.elements.batches import PredictionBatch
from transforms.elements.columns import Column, Ragged, take
from transforms.specs.manifest import OutputAgreement
from transforms.statistics.sketches import QUANTILE_K

MOST_CHANGED = 20
QUANTILES = (0.5, 0.9, 0.99)


@dataclasses.dataclass
class Aligned:
    """Indices of the rows that both models predicted: ``rows`` into the batch, ``first`` and ``second`` into each model's outputs."""

    rows: np.ndarray
    first: np.ndarray
    second: np.ndarray


def align(one: PredictionBatch, other: PredictionBatch) -> Aligned:
    """Return the rows that both models predicted."""
    rows, first, second = np.intersect1d(one.instance_rows, other.instance_rows, assume_unique=True, return_indices=True)
    return Aligned(rows, first, second)


@dataclasses.dataclass
class Difference:
    """The differences of two models' values of one output, each an array of one value a row.

    Attributes:
      agrees: bool; whether the row's values agree.
      apart: float64; the largest absolute difference of the row's values; None if they are no numbers.
      times: float64; that difference in tolerances; infinite for texts that differ.
      same_class: bool; whether the largest value has the same index; None if the output is no vector of floats.
    """

    agrees: np.ndarray
    apart: np.ndarray | None
    times: np.ndarray
    same_class: np.ndarray | None = None


def differ(first: Column, second: Column, tolerance: float) -> Difference:
    """Compare two columns row by row: numbers agree within ``tolerance`` × (1 + the first one's absolute value), others if equal."""
    if isinstance(first, Ragged) or isinstance(second, Ragged) or first.shape != second.shape:
        return _differ_by_row(first, second, tolerance)
    rows = len(first)
    if first.dtype.kind not in "fiu" and not _is_small_float(first.dtype):
        agrees = (first == second).reshape(rows, -1).all(axis=1) if first.size else np.ones(rows, bool)
        return Difference(agrees.astype(bool), None, np.where(agrees, 0.0, math.inf))
    one, other = (column.astype(np.float64).reshape(rows, -1) for column in (first, second))  # rows × values
    both_nan = np.isnan(one) & np.isnan(other)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.where(both_nan | (one == other), 0.0, np.abs(one - other))
    if first.dtype.kind in "iu" and first.dtype.itemsize == 8 and first.dtype == second.dtype:
        apart = _integers_apart(first, second).reshape(rows, -1)
    apart[np.isnan(apart)] = math.inf  # one of the two is NaN
    with np.errstate(invalid="ignore"):
        times = apart / (tolerance * (1 + np.abs(np.where(np.isfinite(one), one, 0.0))) if tolerance else 1.0)
    if not tolerance:
        times = np.where(apart > 0, math.inf, 0.0)
    same = (one.argmax(axis=1) == other.argmax(axis=1)) if first.ndim == 2 and first.shape[1] > 1 and first.dtype.kind == "f" else None
    zeros = np.zeros(rows)
    largest = times.max(axis=1) if one.shape[1] else zeros
    return Difference(largest <= 1, apart.max(axis=1) if one.shape[1] else zeros, largest, same)


def _integers_apart(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the absolute differences of two arrays of 64-bit integers: two that differ may be the same double."""
    greater, lesser = np.maximum(first, second), np.minimum(first, second)
    return (greater.astype(np.uint64) - lesser.astype(np.uint64)).astype(np.float64)


def _is_small_float(dtype: np.dtype) -> bool:
    return dtype.kind == "V" and "float" in dtype.name  # bfloat16 and its like, of ml_dtypes


def _differ_by_row(first: Column, second: Column, tolerance: float) -> Difference:
    """Compare rows one by one, since rows of different shapes are no array."""
    differences = []
    for row in range(len(first)):
        one, other = (np.asarray(column.rows[row] if isinstance(column, Ragged) else column[row])[np.newaxis] for column in (first, second))
        differences.append(differ(one, other, tolerance) if one.shape == other.shape else None)
    agrees = np.array([bool(each is not None and each.agrees[0]) for each in differences], bool)
    times = np.array([each.times[0] if each is not None else math.inf for each in differences])
    apart = np.array([each.apart[0] if each is not None and each.apart is not None else math.inf for each in differences])
    numeric = any(each is not None and each.apart is not None for each in differences)
    return Difference(agrees, apart if numeric else None, times)


@dataclasses.dataclass
class OutputComparison:
    """Counts of one output over many rows; ``classed`` are the rows with a class, ``apart`` the sketch of the finite differences."""

    rows: int = 0
    agreed: int = 0
    classed: int = 0
    same_class: int = 0
    largest: float = 0.0
    apart: datasketches.kll_doubles_sketch | None = None

    def add(self, difference: Difference) -> None:
        """Add the rows of one batch."""
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

    def describe(self) -> OutputAgreement:
        """Return the output's entry of the manifest: shares of rows, and quantiles of the difference."""
        entry = OutputAgreement(self.agreed / self.rows if self.rows else 1.0)
        if self.classed:
            entry.same_class = self.same_class / self.classed
        if self.apart is not None and self.apart.n:
            quantiles: dict[str, float | None] = {f"p{100 * share:g}": float(self.apart.get_quantile(share, True)) for share in QUANTILES}
            entry.difference = quantiles | {"largest": self.largest if math.isfinite(self.largest) else None}
        return entry

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"apart": None if self.apart is None else self.apart.serialize()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if state["apart"] is not None:
            self.apart = datasketches.kll_doubles_sketch.deserialize(state["apart"])


@dataclasses.dataclass
class Comparison:
    """Counts of both models over many rows; ``changed`` are the rows that differ most, each as tolerances and line of the comparison."""

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
        """Add rows to ``changed``, of which the ``MOST_CHANGED`` largest stay."""
        self.changed = heapq.nlargest(MOST_CHANGED, [*self.changed, *changed])

    @property
    def disagreement(self) -> float:
        """Return the share of rows on which the models disagree; a row that the second model could not predict counts as one."""
        whole = self.rows + self.first_only
        return (whole - self.agreed) / whole if whole else 0.0


def columns_of(one: PredictionBatch, other: PredictionBatch, aligned: Aligned, name: str) -> tuple[Column, Column]:
    """Return both models' columns of output ``name``, with the rows that both predicted."""
    return take(one.outputs[name], aligned.first), take(other.outputs[name], aligned.second)
