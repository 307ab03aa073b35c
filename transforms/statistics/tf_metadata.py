"""Statistics → TensorFlow Metadata's ``DatasetFeatureStatisticsList``, the field's own schema, and back from its JSON.

Source: https://github.com/tensorflow/metadata/blob/master/tensorflow_metadata/proto/v0/statistics.proto. Two data sets:
``inputs`` has a feature for each input of the signature, ``predictions`` one for each output.
"""

from __future__ import annotations

import itertools

from google.protobuf import json_format
from tensorflow_metadata.proto.v0 import statistics_pb2

from transforms.statistics.guard import STATISTICS, Failures, guarded
from transforms.statistics.sketches import NumberSketch, Sketch, TextSketch
from transforms.statistics.statistics import Statistics

INPUTS, PREDICTIONS = "inputs", "predictions"
BUCKETS = 20
QUANTILES = 10
TOP_VALUES = 20
SAMPLED = "estimated from a sample"


def describe(statistics: Statistics, failures: Failures | None = None) -> statistics_pb2.DatasetFeatureStatisticsList:
    """Return statistics as a proto: counts, means, lowest and highest are exact, a feature's custom statistic names what is estimated.

    A feature that can't be described is left out, and ``failures`` says why.
    """
    described = statistics_pb2.DatasetFeatureStatisticsList()
    failures = {} if failures is None else failures
    for name, rows, sketches in (
        (INPUTS, statistics.instances, statistics.inputs),
        (PREDICTIONS, statistics.predictions, statistics.outputs),
    ):
        data = described.datasets.add(name=name, num_examples=rows)
        for feature, sketch in sorted(sketches.items()):
            missing = statistics.missing[feature] if name == INPUTS else 0
            one = statistics_pb2.FeatureNameStatistics()
            with guarded(STATISTICS, failures):
                _describe_feature(one, feature, sketch, missing)
                data.features.append(one)
    return described


def encode(described: statistics_pb2.DatasetFeatureStatisticsList) -> bytes:
    """Return the bytes of ``statistics.json``."""
    return json_format.MessageToJson(described).encode() + b"\n"


def decode(content: bytes) -> statistics_pb2.DatasetFeatureStatisticsList:
    """Parse a ``statistics.json``.

    Raises:
      ValueError: ``content`` is something else; the message says where.
    """
    try:
        return json_format.Parse(content, statistics_pb2.DatasetFeatureStatisticsList())
    except json_format.ParseError as error:
        raise ValueError(f"expected the statistics.json of a run, found something else: {error}") from None


def _describe_feature(feature: statistics_pb2.FeatureNameStatistics, name: str, sketch: Sketch, missing: int) -> None:
    feature.path.step.append(name)
    if isinstance(sketch, NumberSketch):
        feature.type = statistics_pb2.FeatureNameStatistics.INT if sketch.whole else statistics_pb2.FeatureNameStatistics.FLOAT
        _describe_numbers(feature, sketch)
        common = feature.num_stats.common_stats
    else:
        feature.type = statistics_pb2.FeatureNameStatistics.STRING
        _describe_texts(feature.string_stats, sketch)
        common = feature.string_stats.common_stats
    common.num_non_missing, common.num_missing, common.tot_num_values = sketch.rows, missing, sketch.values
    common.avg_num_values = sketch.values / sketch.rows if sketch.rows else 0.0
    if sketch.is_estimated:
        feature.custom_stats.add(name=SAMPLED, str="quantiles, histograms and top values" if isinstance(sketch, NumberSketch) else "all")


def _describe_numbers(feature: statistics_pb2.FeatureNameStatistics, sketch: NumberSketch) -> None:
    numbers, moments = feature.num_stats, sketch.moments
    if moments.infinite:
        feature.custom_stats.add(name="num_infinite", num=moments.infinite)
    standard = numbers.histograms.add(type=statistics_pb2.Histogram.STANDARD, num_nan=moments.nan, num_undefined=moments.infinite)
    if not moments.finite:
        return
    numbers.mean, numbers.std_dev = moments.mean, moments.deviation
    numbers.num_zeros, numbers.min, numbers.max = moments.zeros, moments.low, moments.high
    _fill_buckets(standard, sketch)
    if not sketch.has_sample:
        return
    numbers.median, *inner = sketch.quantile_values([0.5, *(part / QUANTILES for part in range(1, QUANTILES))])
    deciles = [moments.low, *inner, moments.high]
    quantiles = numbers.histograms.add(type=statistics_pb2.Histogram.QUANTILES)
    for low, high in itertools.pairwise(deciles):
        quantiles.buckets.add(low_value=low, high_value=high, sample_count=moments.finite / QUANTILES)
    if sketch.whole and sketch.classes:
        histogram = feature.custom_stats.add(name="top_values").rank_histogram
        for rank, (value, count) in enumerate(sorted(sketch.classes.items(), key=lambda item: (-item[1], item[0]))[:TOP_VALUES]):
            histogram.buckets.add(low_rank=rank, high_rank=rank, label=str(value), sample_count=count)


def _fill_buckets(histogram: statistics_pb2.Histogram, sketch: NumberSketch) -> None:
    """Fill a histogram with buckets of equal width; with one bucket if all values are equal."""
    low, high, finite = sketch.moments.low, sketch.moments.high, sketch.moments.finite
    count = BUCKETS if high > low and sketch.has_sample else 1
    # Not low + part × (high - low): the range may exceed a double. Between two neighbouring floats there are fewer floats than buckets.
    parts = [part / count for part in range(1, count)]
    edges = sorted({edge for part in parts if low < (edge := low * (1 - part) + high * part) < high})
    shares = [0.0, *(sketch.shares(edges).tolist() if edges else []), 1.0]
    borders = [low, *edges, high]
    for part in range(len(borders) - 1):
        rows = (shares[part + 1] - shares[part]) * finite
        histogram.buckets.add(low_value=borders[part], high_value=borders[part + 1], sample_count=max(0.0, rows))


def _describe_texts(texts: statistics_pb2.StringStatistics, sketch: TextSketch) -> None:
    texts.unique = min(round(sketch.distinct.get_estimate()), sketch.values)
    texts.avg_length = sketch.size_bytes / sketch.sampled if sketch.sampled else 0.0
    texts.invalid_utf8_count = sketch.not_utf8
    for rank, (value, count) in enumerate(sketch.top(TOP_VALUES)):
        texts.top_values.add(value=value, frequency=count)
        texts.rank_histogram.buckets.add(low_rank=rank, high_rank=rank, label=value, sample_count=count)
