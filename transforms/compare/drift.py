"""Drift: how different a run's inputs and predictions are from those of an earlier run.

Numbers are measured by the population stability index over the earlier run's deciles: 0 for equal distributions; 0.1 to 0.2 is called a
moderate shift, more a large one (N. Siddiqi, Credit Risk Scorecards, 2006). Categories are measured by the Jensen–Shannon divergence to
base 2, from 0 to 1, as TensorFlow Data Validation does.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from tensorflow_metadata.proto.v0 import statistics_pb2

from transforms.statistics import tf_metadata
from transforms.statistics.sketches import NumberSketch, Sketch, TextSketch
from transforms.statistics.statistics import Statistics

# With fewer rows, chance alone moves a tenth of them into another decile.
FEWEST_ROWS = 200
# A share of zero would make the index infinite.
LEAST_SHARE = 1e-4
WARNED_DRIFT = 0.2
NAMED_VALUES = 5
NO_MEASURE = "none"
UNMEASURED = "its distance is not a number"


@dataclasses.dataclass(frozen=True)
class Drift:
    """The drift of one feature.

    Attributes:
      data: ``inputs`` or ``predictions``.
      measure: the name of the measure of ``distance``.
      missing_change: share of rows without the feature in this run, less the share in the earlier run.
      new_values: frequent values that the earlier run did not have.
      note: why the drift can't be judged, or that only one of the two runs has the feature.
    """

    data: str
    feature: str
    measure: str
    distance: float
    missing_change: float
    new_values: tuple[str, ...] = ()
    note: str = ""

    @property
    def value(self) -> float:
        """Return the larger of the distance and the change of the share of missing rows."""
        return max(self.distance, abs(self.missing_change))

    @property
    def has_enough_rows(self) -> bool:
        """Return whether the drift can be compared with a limit."""
        return not self.note.startswith("too few rows")


def compare(baseline: statistics_pb2.DatasetFeatureStatisticsList, statistics: Statistics) -> list[Drift]:
    """Return the drift of each feature of either run, the largest first."""
    before = {data.name: {feature.path.step[0]: feature for feature in data.features} for data in baseline.datasets}
    drifts: list[Drift] = []
    for data, sketches in ((tf_metadata.INPUTS, statistics.inputs), (tf_metadata.PREDICTIONS, statistics.outputs)):
        missing = statistics.missing if data == tf_metadata.INPUTS else {}
        drifts += _compare_features(data, before.get(data, {}), sketches, missing)
    return sorted(drifts, key=lambda drift: (-drift.value, drift.data, drift.feature))


def _compare_features(
    data: str, before: dict[str, statistics_pb2.FeatureNameStatistics], sketches: dict[str, Sketch], missing: dict[str, int]
) -> Iterator[Drift]:
    for name in sorted({*before, *sketches}):
        if name not in before:
            yield Drift(data, name, NO_MEASURE, 1.0, 0.0, note="the earlier run did not have it")
        elif name not in sketches:
            yield Drift(data, name, NO_MEASURE, 1.0, 0.0, note="only the earlier run had it")
        else:
            drift = _compare(data, name, before[name], sketches[name], missing.get(name, 0))
            yield drift if math.isfinite(drift.value) else Drift(data, name, NO_MEASURE, 1.0, 0.0, note=UNMEASURED)


def _compare(data: str, name: str, before: statistics_pb2.FeatureNameStatistics, sketch: Sketch, missing: int) -> Drift:
    is_text = before.HasField("string_stats")
    common = before.string_stats.common_stats if is_text else before.num_stats.common_stats
    if is_text != isinstance(sketch, TextSketch):
        return Drift(data, name, NO_MEASURE, 1.0, 0.0, note=f"it was {'text' if is_text else 'numbers'} in the earlier run, and is not now")
    change = _share(missing, sketch.rows) - _share(common.num_missing, common.num_non_missing)
    fewest = min(sketch.rows, common.num_non_missing)
    note = f"too few rows to judge: {fewest}, and {FEWEST_ROWS} are needed" if fewest < FEWEST_ROWS else ""
    counts_before = _categories(before)
    counts_now = _counts_now(sketch, list(counts_before))
    if counts_before and counts_now is not None:
        complete = sum(counts_before.values()) >= 0.999 * common.tot_num_values
        distance = jensen_shannon(*_aligned(counts_before, common.tot_num_values, counts_now, sketch.values))
        new = tuple(value for value in _most_frequent(counts_now) if value not in counts_before)[:NAMED_VALUES] if complete else ()
        return Drift(data, name, "Jensen-Shannon divergence", distance, change, new, note)
    if isinstance(sketch, NumberSketch):
        return Drift(data, name, "population stability index", stability_index(*_by_decile(before, sketch)), change, (), note)
    return Drift(data, name, NO_MEASURE, 0.0, change, (), note or "nearly every row has a text of its own")


def _share(missing: int, present: int) -> float:
    return missing / (missing + present) if missing + present else 0.0


# --- categories ------------------------------------------------------------------------------------------------------------


def _categories(before: statistics_pb2.FeatureNameStatistics) -> dict[str, float]:
    """Return the earlier run's count of each value that was counted; empty for numbers that are no classes."""
    if before.HasField("string_stats"):
        return {one.value: one.frequency for one in before.string_stats.top_values}
    for custom in before.custom_stats:
        if custom.name == "top_values":
            return {one.label: one.sample_count for one in custom.rank_histogram.buckets}
    return {}


def _counts_now(sketch: Sketch, values: Sequence[str]) -> dict[str, float] | None:
    """Return this run's count of each of ``values`` and of each value that is frequent; None if the numbers are no classes now."""
    if isinstance(sketch, TextSketch):
        counts: dict[str, float] = {value: sketch.frequent.get_estimate(value) for value in values}
        scale = sketch.values / sketch.sampled if sketch.sampled else 1.0
        return {value: rows * scale for value, rows in (counts | dict(sketch.top(tf_metadata.TOP_VALUES))).items()}
    if not sketch.whole or sketch.classes is None:
        return None
    return {str(value): float(rows) for value, rows in sketch.classes.items()}


def _most_frequent(counts: dict[str, float]) -> list[str]:
    return sorted((value for value, rows in counts.items() if rows), key=lambda value: (-counts[value], value))


def _aligned(
    counts_before: dict[str, float], rows_before: float, counts_now: dict[str, float], rows_now: float
) -> tuple[list[float], list[float]]:
    """Return two distributions over the same values, before and now: the earlier run's values, new ones if it lists all, and the rest."""
    complete = sum(counts_before.values()) >= 0.999 * rows_before
    names = [*counts_before, *(value for value in counts_now if value not in counts_before)] if complete else [*counts_before]
    before = [counts_before.get(value, 0.0) / (rows_before or 1.0) for value in names]
    now = [counts_now.get(value, 0.0) / (rows_now or 1.0) for value in names]
    return [*before, max(0.0, 1 - sum(before))], [*now, max(0.0, 1 - sum(now))]


def jensen_shannon(before: Sequence[float], now: Sequence[float]) -> float:
    """Return the Jensen–Shannon divergence of two distributions, to base 2: 0 if they are equal, 1 if they share no value."""
    total = 0.0
    first, second = sum(before) or 1.0, sum(now) or 1.0
    for p, q in zip((p / first for p in before), (q / second for q in now), strict=True):
        middle = (p + q) / 2
        total += sum(share * math.log2(share / middle) / 2 for share in (p, q) if share > 0)
    return max(0.0, total)


# --- numbers ---------------------------------------------------------------------------------------------------------------


def _by_decile(before: statistics_pb2.FeatureNameStatistics, sketch: NumberSketch) -> tuple[list[float], list[float]]:
    """Return two distributions, before and now: the shares between the earlier run's distinct deciles, and that of NaN and infinities."""
    numbers = before.num_stats
    deciles: Sequence[Any] = next((one.buckets for one in numbers.histograms if one.type == statistics_pb2.Histogram.QUANTILES), [])
    borders = Counter(bucket.high_value for bucket in deciles[:-1])
    edges = sorted(edge for edge in borders if edge < numbers.max)
    values = numbers.common_stats.tot_num_values or 1
    undefined = numbers.histograms[0].num_nan + numbers.histograms[0].num_undefined if numbers.histograms else 0
    shares_now = sketch.shares(edges).tolist() if edges and sketch.has_sample else [0.0] * len(edges)
    shares_before = []
    for edge, share in zip(edges, shares_now, strict=True):
        least = sum(bucket.high_value <= edge for bucket in deciles[:-1]) / len(deciles)
        # A value that fills whole deciles may fill an unknown part of the next one: a difference within that decile is no drift.
        shares_before.append(min(max(share, least), least + 1 / len(deciles)) if borders[edge] > 1 else least)
    distributions = []
    for up_to, finite in ((shares_before, 1 - undefined / values), (shares_now, sketch.moments.finite / (sketch.values or 1))):
        parts = [high - low for low, high in zip([0.0, *up_to], [*up_to, 1.0], strict=True)]
        distributions.append([*(part * finite for part in parts), 1 - finite])
    return distributions[0], distributions[1]


def stability_index(before: Sequence[float], now: Sequence[float]) -> float:
    """Return the population stability index of two distributions over the same bins."""
    pairs = [(max(p, LEAST_SHARE), max(q, LEAST_SHARE)) for p, q in zip(before, now, strict=True) if p > 0 or q > 0]
    return sum((q - p) * math.log(q / p) for p, q in pairs)
