"""Mergeable sketches of one column: exact counts and moments; quantiles and frequent values estimated from a sample of the rows.

A sampled row represents ``stride`` rows. Strides are powers of two, and samples of different strides are kept apart until the column
is described, so that rows of small and of large batches have the same weight.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import datasketches
import numpy as np
import xxhash

# https://datasketches.apache.org/docs/KLL/KLLAccuracyAndSize.html: with k = 200 a rank is off by 1.33 % at most, 99 times of 100.
QUANTILE_K = 200
# A map of 2^9 values, which finds those that are more frequent than about 1 in 150.
FREQUENT_LG_SIZE = 9
DISTINCT_LG_SIZE = 10  # 2^10 registers of HyperLogLog: an error of about 3 %
# Integers with at most this many different values are classes, and counted one by one.
MOST_CLASSES = 64
# A longer text is an image or a document, whose frequency says nothing.
RANKED_BYTES = 256


COUNTED = ("values", "nan", "infinite", "zeros")
# Smaller mean squares have lost digits: they are near the smallest double.
SMALLEST_SQUARE = 1e-290


@dataclasses.dataclass
class Moments:
    """Counts of numbers, and of the finite ones lowest, highest, mean and standard deviation.

    Mean and deviation instead of sums, since those of any doubles are finite doubles again.
    """

    values: int = 0
    nan: int = 0
    infinite: int = 0
    zeros: int = 0
    low: float = math.inf
    high: float = -math.inf
    mean: float = 0.0
    deviation: float = 0.0

    @property
    def finite(self) -> int:
        return self.values - self.nan - self.infinite

    def merge(self, other: Moments) -> None:
        """Add the numbers of ``other`` (Chan, Golub and LeVeque, 1979, in shares and roots, so that nothing overflows)."""
        count, other_count = self.finite, other.finite
        if other_count:
            self.low, self.high = min(self.low, other.low), max(self.high, other.high)
            share, rest = other_count / (count + other_count), count / (count + other_count)
            between = 2 * math.sqrt(share * rest) * (other.mean / 2 - self.mean / 2)
            deviation = math.hypot(math.sqrt(rest) * self.deviation, math.sqrt(share) * other.deviation, between)
            self.deviation = min(deviation, sys.float_info.max)
            self.mean = min(max(rest * self.mean + share * other.mean, self.low), self.high)
        for name in COUNTED:
            setattr(self, name, getattr(self, name) + getattr(other, name))


def count_moments(features: np.ndarray) -> list[Moments]:
    """Return the moments of each row of ``features``, a matrix of numbers: features × values.

    All features at once, for few calls of NumPy: each releases Python's lock and waits for it again while another thread parses.
    """
    if not features.size:
        return [Moments() for _ in features]
    with np.errstate(all="ignore"):
        is_long = features.dtype.kind in "iu" and features.dtype.itemsize == 8
        return _count_long_integers(features) if is_long else _count_numbers(features)


def _count_numbers(features: np.ndarray) -> list[Moments]:
    if features.dtype.kind in "iu":
        features = features.astype(np.float64)  # exact: they have at most 32 bits
    elif features.dtype.itemsize < 4:
        features = features.astype(np.float32)
    values = features.shape[1]
    zeros = values - np.count_nonzero(features, axis=1)
    lows, highs = features.min(axis=1).astype(np.float64), features.max(axis=1).astype(np.float64)
    means = features.sum(axis=1, dtype=np.float64) / values
    # Squares of the distances from a number near the mean: squares of the values themselves lose the digits of a small deviation.
    centers = means.astype(features.dtype)
    apart = features - centers[:, np.newaxis]
    squares = np.einsum("ij,ij->i", apart, apart, dtype=np.float64, casting="same_kind") / values - (means - centers) ** 2
    is_plain = np.isfinite(means) & np.isfinite(squares) & ((squares > SMALLEST_SQUARE) | (lows == highs))
    return [
        Moments(values, 0, 0, int(zeros[row]), float(lows[row]), float(highs[row]), float(means[row]), _root(squares[row]))
        if is_plain[row]
        else _count_finite(features[row])
        for row in range(len(features))
    ]


def _root(square: float) -> float:
    return math.sqrt(max(0.0, float(square)))


def _count_finite(values: np.ndarray) -> Moments:
    """Return the moments of floats with NaN or infinities among them, or with a sum or squares beyond a double."""
    finite = _finite(values)
    if len(finite) == len(values):
        return _count_extremes(values.astype(np.float64))
    moments = _count_numbers(finite[np.newaxis])[0] if len(finite) else Moments()
    return dataclasses.replace(moments, values=len(values), nan=int(np.isnan(values).sum()), infinite=int(np.isinf(values).sum()))


def _count_extremes(values: np.ndarray) -> Moments:
    """Return the moments of finite doubles, scaled by a power of two so that the largest is below 1: that changes no digit."""
    low, high = float(values.min()), float(values.max())
    exponent = math.frexp(max(abs(low), abs(high)))[1]
    scaled = np.ldexp(values, -exponent)
    mean = min(max(float(scaled.sum()) / len(scaled), float(scaled.min())), float(scaled.max()))
    apart = scaled - mean
    widest = float(np.abs(apart).max()) or 1.0
    deviation = min(widest * math.sqrt(float(np.mean(np.square(apart / widest)))), math.nextafter(1.0, 0.0))
    zeros = len(values) - int(np.count_nonzero(values))
    return Moments(len(values), 0, 0, zeros, low, high, math.ldexp(mean, exponent), math.ldexp(deviation, exponent))


def _count_long_integers(features: np.ndarray) -> list[Moments]:
    """Return the moments of 64-bit integers from their distances to the lowest, which are exact: a double can't hold their last digits."""
    values = features.shape[1]
    lows, highs = features.min(axis=1), features.max(axis=1)
    above = features.view(np.uint64) - lows.view(np.uint64)[:, np.newaxis]  # modulo 2**64, which any difference of two fits
    upper, lower = (above >> np.uint64(32)).sum(axis=1), (above & np.uint64(2**32 - 1)).sum(axis=1)
    totals = [(int(one) << 32) + int(other) for one, other in zip(upper, lower, strict=True)]  # sums may need more than 64 bits
    apart = above.astype(np.float64) - np.array([total / values for total in totals])[:, np.newaxis]
    squares = np.einsum("ij,ij->i", apart, apart) / values
    zeros = values - np.count_nonzero(features, axis=1)
    return [
        Moments(values, 0, 0, int(zero_count), float(low), float(high), (int(low) * values + total) / values, _root(square))
        for zero_count, low, high, total, square in zip(zeros, lows, highs, totals, squares, strict=True)
    ]


@dataclasses.dataclass
class NumberSketch:
    """A column of numbers, of ``rows`` rows; ``values`` is larger where a row holds a vector.

    ``whole`` says that the values are integers; ``quantiles`` has a sketch a stride, ``classes`` the count of each integer, or None if
    there are more than ``MOST_CLASSES``.
    """

    whole: bool
    rows: int = 0
    moments: Moments = dataclasses.field(default_factory=Moments)
    quantiles: dict[int, datasketches.kll_doubles_sketch] = dataclasses.field(default_factory=dict)
    classes: Counter[int] | None = dataclasses.field(default_factory=Counter)

    def add(self, rows: int, moments: Moments, sample: np.ndarray, stride: int) -> None:
        """Add ``rows`` rows: the moments of all their values, and a sample's values (1-D), each row of which represents ``stride`` rows."""
        self.rows += rows
        self.moments.merge(moments)
        if not len(sample):
            return
        with np.errstate(over="ignore", invalid="ignore"):
            is_finite = math.isfinite(float(sample.sum(dtype=np.float64)))
        finite = sample if is_finite else _finite(sample)
        if stride not in self.quantiles:
            self.quantiles[stride] = datasketches.kll_doubles_sketch(QUANTILE_K)
        self.quantiles[stride].update(finite.astype(np.float64))
        if self.whole and self.classes is not None:
            if finite.dtype.kind not in "iu":  # another model's floats under the same name
                self.classes = None
                return
            values, counts = np.unique(finite, return_counts=True)
            self._classify(zip(values.tolist(), (counts * stride).tolist(), strict=True))

    def _classify(self, counts: Iterable[tuple[int, int]]) -> None:
        assert self.classes is not None
        for value, count in counts:
            self.classes[value] += count
        if len(self.classes) > MOST_CLASSES:
            self.classes = None

    def merge(self, other: NumberSketch) -> None:
        self.rows += other.rows
        self.moments.merge(other.moments)
        for stride, sketch in other.quantiles.items():
            if stride not in self.quantiles:
                self.quantiles[stride] = datasketches.kll_doubles_sketch(QUANTILE_K)
            self.quantiles[stride].merge(sketch)
        if other.classes is None:
            self.classes = None
        elif self.classes is not None:
            self._classify(other.classes.items())

    @property
    def values(self) -> int:
        return self.moments.values

    @property
    def is_estimated(self) -> bool:
        """Return whether quantiles and classes come from a sample and not from all rows."""
        return any(stride > 1 for stride in self.quantiles)

    @property
    def has_sample(self) -> bool:
        """Return whether a finite value was sampled: a sample may miss the few among many NaN."""
        return any(sketch.n for sketch in self.quantiles.values())

    def _weighed(self) -> Iterator[tuple[float, datasketches.kll_doubles_sketch]]:
        whole = sum(stride * sketch.n for stride, sketch in self.quantiles.items())
        for stride, sketch in self.quantiles.items():
            if sketch.n:
                yield stride * sketch.n / whole, sketch

    def shares(self, edges: list[float]) -> np.ndarray:
        """Return for each of ``edges``, in ascending order, the share of the values that are at most the edge."""
        shares = np.zeros(len(edges))
        for weight, sketch in self._weighed():
            shares += weight * np.asarray(sketch.get_cdf(edges, True))[: len(edges)]
        return shares

    def quantile_values(self, shares: Sequence[float]) -> list[float]:
        """Return for each of ``shares`` the value that this share of the values do not exceed."""
        sample = [(value, weight * stride) for stride, sketch in self.quantiles.items() for value, weight in sketch]
        values, weights = np.array(sorted(sample)).T  # of all strides, each with the number of rows it represents
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
    """A column of strings: ``rows`` and ``values`` are exact, all else is estimated from the sampled rows."""

    rows: int = 0
    values: int = 0
    sampled: int = 0
    not_utf8: int = 0
    size_bytes: int = 0
    frequent: datasketches.frequent_strings_sketch = dataclasses.field(default_factory=_frequent)
    distinct: datasketches.hll_sketch = dataclasses.field(default_factory=lambda: datasketches.hll_sketch(DISTINCT_LG_SIZE))
    is_estimated: bool = False

    def add(self, column: np.ndarray, sample: np.ndarray, stride: int) -> None:
        """Add the rows of ``column``, and its ``sample``, each row of which represents ``stride`` rows."""
        self.rows += len(column)
        self.values += column.size
        self.is_estimated = self.is_estimated or stride > 1
        counts = Counter(sample.ravel().tolist())
        for value, count in counts.items():
            self._take(value if isinstance(value, bytes) else str(value).encode(errors="surrogatepass"), count * stride)

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
        """Return the at most ``most`` most frequent values, each with its estimated number of rows, and no value that may be rare."""
        kind = datasketches.frequent_items_error_type.NO_FALSE_POSITIVES
        frequent = [(item[0], int(item[1])) for item in self.frequent.get_frequent_items(kind)]
        return sorted(frequent, key=lambda item: (-item[1], item[0]))[:most]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"frequent": self.frequent.serialize(), "distinct": self.distinct.serialize_compact()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.frequent = datasketches.frequent_strings_sketch.deserialize(state["frequent"])
        self.distinct = datasketches.hll_sketch.deserialize(state["distinct"])


Sketch = NumberSketch | TextSketch
