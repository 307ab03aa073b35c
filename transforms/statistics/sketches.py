"""Mergeable sketches of one column: exact counts and moments; quantiles and frequent values estimated from a sample of the rows.

A sampled row stands for ``stride`` rows. Strides are powers of two, and what was sampled with one is kept apart from what was with
another until the column is described: so rows of small batches and of large ones count alike.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import datasketches
import numpy as np
import xxhash

# https://datasketches.apache.org/docs/KLL/KLLAccuracyAndSize.html: with k = 200 a rank is off by 1.33 % at most, 99 times of 100.
QUANTILE_K = 200
# A map of 2^9 values: what is more frequent than about one value of 150 is found.
FREQUENT_LG_SIZE = 9
DISTINCT_LG_SIZE = 10  # HyperLogLog's registers: off by 3 % or so
# Whole numbers of no more values than these are classes, and counted one by one.
MOST_CLASSES = 64
# What is longer than this is an image or a document, and its frequency tells nothing.
RANKED_BYTES = 256


COUNTED = ("values", "nan", "infinite", "zeros", "total", "squares")


@dataclasses.dataclass(frozen=True)
class Moments:
    """What was counted of some numbers; ``total``, ``squares``, ``low`` and ``high`` are those of the finite ones."""

    values: int = 0
    nan: int = 0
    infinite: int = 0
    zeros: int = 0
    low: float = math.inf
    high: float = -math.inf
    total: float = 0.0
    squares: float = 0.0


def count_moments(features: np.ndarray) -> list[Moments]:
    """Gives the moments of each row of ``features``, a matrix of numbers with a feature a row.

    Few calls of NumPy on much: each lets go of Python's lock, and waits for it while another thread parses.
    """
    if not features.size:
        return [Moments()] * len(features)
    totals = features.sum(axis=1, dtype=np.float64)
    values = features.shape[1]
    zeros = values - np.count_nonzero(features, axis=1)
    lows, highs = features.min(axis=1).astype(np.float64), features.max(axis=1).astype(np.float64)
    # In the features' own type where that is wide enough; a float32 holds 2^24 of a sum, which says nothing of a mean.
    squares = np.einsum("ij,ij->i", features, features, dtype=np.float64, casting="same_kind")
    return [
        Moments(values, 0, 0, int(zeros[place]), float(lows[place]), float(highs[place]), float(totals[place]), float(squares[place]))
        if math.isfinite(totals[place])
        else _count_finite(features[place].astype(np.float64))
        for place in range(len(features))
    ]


def _count_finite(values: np.ndarray) -> Moments:
    nan, infinite, finite = int(np.isnan(values).sum()), int(np.isinf(values).sum()), _finite(values)
    if not len(finite):
        return Moments(len(values), nan, infinite)
    zeros = int(np.count_nonzero(finite == 0))
    total, squares = float(finite.sum()), float(np.dot(finite, finite))
    return Moments(len(values), nan, infinite, zeros, float(finite.min()), float(finite.max()), total, squares)


@dataclasses.dataclass
class NumberSketch:
    """A column of numbers: ``rows`` of them with ``values`` in all, which is more where a row holds a vector."""

    whole: bool
    rows: int = 0
    values: int = 0
    nan: int = 0
    infinite: int = 0
    zeros: int = 0
    low: float = math.inf
    high: float = -math.inf
    total: float = 0.0
    squares: float = 0.0
    quantiles: dict[int, datasketches.kll_doubles_sketch] = dataclasses.field(default_factory=dict)
    classes: Counter[int] | None = dataclasses.field(default_factory=Counter)

    def add(self, rows: int, moments: Moments, sample: np.ndarray, stride: int) -> None:
        """Counts ``rows`` rows, with the moments of all their values and the values of a sample of them.

        Each of the sample's rows stands for ``stride`` rows.
        """
        self.rows += rows
        for name in COUNTED:
            setattr(self, name, getattr(self, name) + getattr(moments, name))
        self.low, self.high = min(self.low, moments.low), max(self.high, moments.high)
        if not len(sample):
            return
        some = sample.astype(np.float64) if math.isfinite(float(sample.sum(dtype=np.float64))) else _finite(sample.astype(np.float64))
        if stride not in self.quantiles:
            self.quantiles[stride] = datasketches.kll_doubles_sketch(QUANTILE_K)
        self.quantiles[stride].update(some)
        if self.whole and self.classes is not None:
            found, counts = np.unique(some, return_counts=True)
            self._classify(zip(map(int, found.tolist()), (counts * stride).tolist(), strict=True))

    def _classify(self, counted: Iterable[tuple[int, int]]) -> None:
        assert self.classes is not None
        for value, count in counted:
            self.classes[value] += count
        if len(self.classes) > MOST_CLASSES:
            self.classes = None

    def merge(self, other: NumberSketch) -> None:
        for name in ("rows", *COUNTED):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        for stride, sketch in other.quantiles.items():
            if stride not in self.quantiles:
                self.quantiles[stride] = datasketches.kll_doubles_sketch(QUANTILE_K)
            self.quantiles[stride].merge(sketch)
        if other.classes is None:
            self.classes = None
        elif self.classes is not None:
            self._classify(other.classes.items())

    @property
    def finite(self) -> int:
        return self.values - self.nan - self.infinite

    @property
    def is_estimated(self) -> bool:
        """Whether quantiles and classes come from a part of the rows."""
        return any(stride > 1 for stride in self.quantiles)

    def _weighed(self) -> Iterator[tuple[float, datasketches.kll_doubles_sketch]]:
        whole = sum(stride * sketch.n for stride, sketch in self.quantiles.items())
        for stride, sketch in self.quantiles.items():
            if sketch.n:
                yield stride * sketch.n / whole, sketch

    def shares(self, edges: list[float]) -> np.ndarray:
        """Gives the share of the values up to each of ``edges``, which ascend."""
        found = np.zeros(len(edges))
        for weight, sketch in self._weighed():
            found += weight * np.asarray(sketch.get_cdf(edges, True))[: len(edges)]
        return found

    def quantile_values(self, shares: Sequence[float]) -> list[float]:
        """Gives for each of ``shares`` the value that this share of the values do not exceed."""
        kept = [(value, weight * stride) for stride, sketch in self.quantiles.items() for value, weight in sketch]
        values, weights = np.array(sorted(kept)).T  # what sketches of several strides kept, each with the rows it stands for
        counts = np.cumsum(weights)
        return values[np.searchsorted(counts, np.array(shares) * counts[-1])].tolist()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"quantiles": {stride: sketch.serialize() for stride, sketch in self.quantiles.items()}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        read = datasketches.kll_doubles_sketch.deserialize
        self.quantiles = {stride: read(content) for stride, content in state["quantiles"].items()}


def _finite(flat: np.ndarray) -> np.ndarray:
    return flat[np.isfinite(flat)]


def _frequent() -> datasketches.frequent_strings_sketch:
    return datasketches.frequent_strings_sketch(FREQUENT_LG_SIZE)


@dataclasses.dataclass
class TextSketch:
    """A column of strings: ``rows`` is exact, all else is what the sampled rows stand for."""

    rows: int = 0
    values: int = 0
    sampled: int = 0
    not_utf8: int = 0
    size_bytes: int = 0
    frequent: datasketches.frequent_strings_sketch = dataclasses.field(default_factory=_frequent)
    distinct: datasketches.hll_sketch = dataclasses.field(default_factory=lambda: datasketches.hll_sketch(DISTINCT_LG_SIZE))
    is_estimated: bool = False

    def add(self, column: np.ndarray, sample: np.ndarray, stride: int) -> None:
        """Counts ``column`` and takes its ``sample``, of which each row stands for ``stride`` rows."""
        self.rows += len(column)
        self.values += column.size
        self.is_estimated = self.is_estimated or stride > 1
        counted = Counter(sample.ravel().tolist())
        for value, count in counted.items():
            self._take(value if isinstance(value, bytes) else str(value).encode(), count * stride)

    def _take(self, value: bytes, count: int) -> None:
        size = len(value)
        self.sampled += count
        self.size_bytes += size * count
        self.distinct.update(xxhash.xxh3_64_intdigest(value) >> 1)
        if size > RANKED_BYTES:
            return
        try:
            self.frequent.update(value.decode(), count)
        except UnicodeDecodeError:
            self.not_utf8 += count

    def merge(self, other: TextSketch) -> None:
        for name in ("rows", "values", "sampled", "not_utf8", "size_bytes"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.frequent.merge(other.frequent)
        union = datasketches.hll_union(DISTINCT_LG_SIZE)
        union.update(self.distinct)
        union.update(other.distinct)
        self.distinct = union.get_result()
        self.is_estimated = self.is_estimated or other.is_estimated

    def top(self, most: int) -> list[tuple[str, int]]:
        """Gives the most frequent values with the rows each is estimated to have, none that may not be frequent."""
        kind = datasketches.frequent_items_error_type.NO_FALSE_POSITIVES
        found = [(item[0], int(item[1])) for item in self.frequent.get_frequent_items(kind)]
        return sorted(found, key=lambda item: (-item[1], item[0]))[:most]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"frequent": self.frequent.serialize(), "distinct": self.distinct.serialize_compact()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.frequent = datasketches.frequent_strings_sketch.deserialize(state["frequent"])
        self.distinct = datasketches.hll_sketch.deserialize(state["distinct"])


Sketch = NumberSketch | TextSketch
