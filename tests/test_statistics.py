"""Sketches against NumPy on real data: merged in any order, sampled in batches of any size."""

from __future__ import annotations

import decimal
import itertools
import json
import math
import pickle
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_digits
from written import instances, output_spec, signature_of

from transforms.elements.batches import PredictionBatch
from transforms.elements.columns import Ragged
from transforms.elements.failed_rows import FailedRow
from transforms.report import page
from transforms.rows.codes import Code
from transforms.statistics import statistics, stored, tf_metadata
from transforms.statistics.effort import MOST_PARTS, Effort
from transforms.statistics.sketches import NumberSketch, TextSketch, count_moments
from transforms.statistics.statistics import MergeStatistics, Statistics

# KLL's rank error at k = 200, and what a sample of a thousand rows adds.
RANK_ERROR = 0.05


def batch_of(columns, dtypes, failed=()):
    """A batch whose inputs and outputs are the same columns, and its signature."""
    specs = tuple(output_spec(name, dtypes[name], 0) for name in columns)
    rows = len(next(iter(columns.values())))
    batch = instances(["1"] * rows)
    batch.columns = columns
    return PredictionBatch(batch, np.arange(rows), columns, list(failed)), signature_of(*specs, inputs=specs)


def gathered(*batches) -> Statistics:
    statistics = Statistics()
    for batch, signature in batches:
        statistics.add(batch, signature)
    return statistics


def feature(statistics, name, data=tf_metadata.PREDICTIONS):
    described = tf_metadata.describe(statistics)
    return next(one for each in described.datasets if each.name == data for one in each.features if one.path.step[0] == name)


def check_ranks(values: np.ndarray, histogram) -> None:
    """Each bucket's border stands where NumPy finds it in the sorted values."""
    counted = 0.0
    for bucket in histogram.buckets:
        counted += bucket.sample_count
        exact = np.searchsorted(np.sort(values), bucket.high_value, side="right") / len(values)
        assert counted / len(values) == pytest.approx(exact, abs=RANK_ERROR)


@pytest.mark.parametrize("size", [7, 100, 4000, 100_000])
def test_numbers_are_those_of_numpy(size: int) -> None:
    """Real measurements, cut into batches of ``size``: counts and moments exact, ranks within the sketch's error."""
    values = np.tile(load_breast_cancer().data[:, 0], 40).astype(np.float32)
    np.random.default_rng(1).shuffle(values)
    batches = [batch_of({"y": values[start : start + size]}, {"y": "float32"}) for start in range(0, len(values), size)]
    found = feature(gathered(*batches), "y")
    numbers = found.num_stats
    assert numbers.common_stats.num_non_missing == len(values)
    assert numbers.mean == pytest.approx(values.mean(dtype=float), rel=1e-6)
    assert numbers.std_dev == pytest.approx(values.std(dtype=float), rel=1e-4)
    assert (numbers.min, numbers.max) == (values.min(), values.max())
    share = np.mean(values <= numbers.median)
    assert share == pytest.approx(0.5, abs=RANK_ERROR)
    check_ranks(values, numbers.histograms[0])
    check_ranks(values, numbers.histograms[1])
    assert any(custom.name == tf_metadata.SAMPLED for custom in found.custom_stats) == (size > 2 * min(statistics.SAMPLED_ROWS))


def test_batches_of_all_sizes_count_alike() -> None:
    """A tenth of the rows, in small batches that are looked at whole, must not outweigh nine tenths in a large one."""
    small, large = np.zeros(10_000, np.float32), np.ones(90_000, np.float32)
    batches = [batch_of({"y": small[start : start + 100]}, {"y": "float32"}) for start in range(0, 10_000, 100)]
    found = feature(gathered(*batches, batch_of({"y": large}, {"y": "float32"})), "y").num_stats
    assert found.histograms[0].buckets[0].sample_count == pytest.approx(10_000, rel=0.1)
    assert found.median == pytest.approx(1.0)


def test_vectors_whole_numbers_and_flags() -> None:
    digits = load_digits()
    images, classes = digits.images.astype(np.float32), digits.target.astype(np.int64)
    columns = {"image": images, "digit": classes, "even": classes % 2 == 0}
    statistics = gathered(batch_of(columns, {"image": "float32", "digit": "int64", "even": "bool"}))
    image = feature(statistics, "image").num_stats
    assert image.common_stats.avg_num_values == 64
    assert image.num_zeros == np.count_nonzero(images == 0)
    assert image.mean == pytest.approx(images.mean(dtype=float))
    ranked = {
        bucket.label: bucket.sample_count
        for custom in feature(statistics, "digit").custom_stats
        for bucket in custom.rank_histogram.buckets
    }
    assert ranked == {str(value): count for value, count in Counter(classes.tolist()).items()}
    assert feature(statistics, "even").num_stats.mean == pytest.approx(np.mean(classes % 2 == 0))


def test_nan_and_infinities_are_counted_and_spoil_nothing() -> None:
    values = np.array([1, 2, np.nan, np.inf, -np.inf, 3, np.nan], np.float64)
    found = feature(gathered(batch_of({"y": values}, {"y": "float64"})), "y").num_stats
    assert (found.mean, found.min, found.max) == (2.0, 1.0, 3.0)
    assert (found.histograms[0].num_nan, found.histograms[0].num_undefined) == (2, 2)
    nothing = feature(gathered(batch_of({"y": np.full(3, np.nan)}, {"y": "float64"})), "y").num_stats
    assert nothing.histograms[0].num_nan == 3


def test_large_integers_and_odd_dtypes() -> None:
    import ml_dtypes

    columns = {"i": np.array([2**62, 2**62 + 2]), "u": np.array([2**64 - 1, 0], np.uint64), "b": np.ones(2, ml_dtypes.bfloat16)}
    statistics = gathered(batch_of(columns, {"i": "int64", "u": "uint64", "b": "bfloat16"}))
    assert feature(statistics, "i").num_stats.mean == pytest.approx(2.0**62)
    assert feature(statistics, "u").num_stats.max == pytest.approx(2.0**64)
    assert feature(statistics, "b").num_stats.mean == 1.0


def test_texts() -> None:
    target = load_breast_cancer().target_names[load_breast_cancer().target].astype(object)
    values = np.array([*map(str.encode, target), b"\xff\xfe", b"x" * 1000], object)
    found = feature(gathered(batch_of({"t": values}, {"t": "string"})), "t").string_stats
    expected = Counter(target)
    total = sum(one.frequency for one in found.top_values)
    assert [one.value for one in found.top_values] == ["benign", "malignant"]
    assert total == pytest.approx(len(target), rel=0.05)
    for one in found.top_values:
        assert one.frequency == pytest.approx(expected[one.value], rel=0.2)


def test_ragged_columns() -> None:
    rows = Ragged([np.arange(3, dtype=np.float32), np.arange(5, dtype=np.float32)])
    found = feature(gathered(batch_of({"y": rows}, {"y": "float32"})), "y").num_stats
    assert (found.common_stats.num_non_missing, found.common_stats.tot_num_values) == (2, 8)
    assert found.common_stats.avg_num_values == 4
    assert found.max == 4.0


def test_missing_inputs_and_examples_come_from_the_failed_rows() -> None:
    failed = [
        FailedRow(b"1", "in.jsonl", place, Code.INPUT_MISSING, "the row lacks the input 'y'; it has 'z'", b'{"z": "<b>"}', "y")
        for place in range(7)
    ]
    merged = gathered(batch_of({"y": np.ones(3, np.float32)}, {"y": "float32"}, failed))
    assert feature(merged, "y", tf_metadata.INPUTS).num_stats.common_stats.num_missing == 7
    (examples,) = merged.examples.values()
    assert len(examples) == statistics.EXAMPLES_A_CODE
    assert json.loads(examples[0])["instance"] == {"z": "<b>"}


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40), min_size=2, max_size=4))
def test_merging_in_any_order_counts_the_same(parts: list[list[float]]) -> None:
    """Sent over a wire in between, as between workers."""
    merge = MergeStatistics()
    made = [gathered(batch_of({"y": np.array(part, np.float32)}, {"y": "float32"})) for part in parts]
    everything = np.array([value for part in parts for value in part], np.float32)
    for order in itertools.islice(itertools.permutations(made), 4):
        copies = [pickle.loads(pickle.dumps(one)) for one in order]
        first = merge.add_input(merge.create_accumulator(), copies[0])
        numbers = feature(merge.extract_output(merge.merge_accumulators([first, *copies[1:]])), "y").num_stats
        assert numbers.common_stats.num_non_missing == len(everything)
        assert numbers.mean == pytest.approx(everything.mean(dtype=float), rel=1e-5, abs=1e-3)
        assert (numbers.min, numbers.max) == (everything.min(), everything.max())


EXTREMES = [
    0.0,
    -0.0,
    5e-324,
    -1e-160,
    1e160,
    -1e160,
    1e200,
    1.7976931348623157e308,
    -1.7976931348623157e308,
    math.nan,
    math.inf,
    -math.inf,
]
DTYPES = ["float64", "float32", "float16", "bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))]


@st.composite
def columns(draw: st.DrawFn) -> np.ndarray:
    """A column of any type of numbers, of any values, extremes among them, and of any shape, empty rows among them."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    if dtype.kind == "f":
        values = st.one_of(st.floats(width=64), st.sampled_from(EXTREMES))
    elif dtype.kind == "b":
        values = st.booleans()
    else:
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
        values = st.one_of(st.integers(int(least), int(most)), st.sampled_from([int(least), int(most), 0]))
    rows, width = draw(st.integers(1, 20)), draw(st.sampled_from([None, 0, 1, 3]))
    count = rows * (1 if width is None else width)
    with np.errstate(over="ignore"):
        made = np.array(draw(st.lists(values, min_size=count, max_size=count)), np.float64 if dtype.kind == "f" else dtype).astype(dtype)
    return made if width is None else made.reshape(rows, width)


def exact_moments(values: list[Fraction]) -> tuple[Fraction, float]:
    """The mean, and the deviation as a double, by the rules of schools and not of doubles."""
    mean = sum(values, Fraction()) / len(values)
    square = sum(((value - mean) ** 2 for value in values), Fraction()) / len(values)
    with decimal.localcontext(decimal.Context(prec=50, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)):
        return mean, float((decimal.Decimal(square.numerator) / decimal.Decimal(square.denominator)).sqrt())


@settings(deadline=None, max_examples=400)
@given(st.lists(columns(), min_size=1, max_size=3))
def test_any_numbers_are_described(parts: list[np.ndarray]) -> None:
    """Of one type or of several under one name, in one piece or merged over a wire: nothing raises, and all is as with fractions."""
    merge = MergeStatistics()
    made = [gathered(batch_of({"y": part}, {"y": parts[0].dtype.name})) for part in parts]
    merged = merge.merge_accumulators([stored.decode(stored.encode(one)) for one in made])
    found = feature(pickle.loads(pickle.dumps(merged)), "y")
    assert tf_metadata.decode(tf_metadata.encode(tf_metadata.describe(merged)))
    numbers, values = found.num_stats, [value for part in parts for value in part.ravel().tolist()]
    finite = [Fraction(value) for value in values if math.isfinite(value)]
    histogram = numbers.histograms[0]
    assert numbers.common_stats.tot_num_values == len(values)
    assert histogram.num_nan == sum(math.isnan(value) for value in values)
    assert histogram.num_undefined == sum(math.isinf(value) for value in values)
    assert sum(bucket.sample_count for bucket in histogram.buckets) == pytest.approx(len(finite))
    assert numbers.num_zeros == finite.count(Fraction())
    if finite:
        mean, deviation = exact_moments(finite)
        widest = max(map(abs, finite))
        assert (numbers.min, numbers.max) == (float(min(finite)), float(max(finite)))
        assert abs(Fraction(numbers.mean) - mean) <= max(widest * Fraction(1, 10**12), Fraction(math.ulp(0.0)))
        assert numbers.std_dev == pytest.approx(deviation, rel=1e-6, abs=float(widest * Fraction(1, 10**12)))
    assert page.describe_feature(found).name == "y"


def test_integers_keep_all_their_digits() -> None:
    """A deviation of 1 among numbers of 19 digits, and a sum of more than 64 bits."""
    columns = {"i": np.array([2**62, 2**62 + 2]), "u": np.full(1000, 2**64 - 1, np.uint64)}
    statistics = gathered(batch_of(columns, {"i": "int64", "u": "uint64"}))
    assert feature(statistics, "i").num_stats.std_dev == 1.0
    assert feature(statistics, "u").num_stats.mean == float(2**64 - 1)
    (ranked,) = (custom.rank_histogram.buckets for custom in feature(statistics, "u").custom_stats)
    assert [bucket.label for bucket in ranked] == [str(2**64 - 1)]


def test_few_numbers_among_many_nan() -> None:
    """The sample of the rows may hold none of them."""
    column = np.full(50_000, np.nan)
    column[777] = 3.0
    found = feature(gathered(batch_of({"y": column}, {"y": "float64"})), "y").num_stats
    assert (found.mean, found.min, found.max, found.histograms[0].num_nan) == (3.0, 3.0, 3.0, 49_999)


@pytest.mark.parametrize("dtype", ["string", "float32", "int64", "bool", "complex64"])
def test_what_a_signature_says_falsely_is_left_out(dtype: str) -> None:
    columns = [np.array([b"a", b"b"], object), np.ones(2), np.ones(2, np.complex64), Ragged([np.ones(2), np.array([b"x"], object)])]
    for first, second in itertools.permutations(columns, 2):
        statistics = gathered(batch_of({"y": first}, {"y": dtype}), batch_of({"y": second}, {"y": dtype}))
        failures: dict[str, str] = {}
        assert tf_metadata.encode(tf_metadata.describe(stored.decode(stored.encode(statistics)), failures))
        assert not failures


def test_merging_texts_over_a_wire() -> None:
    one, other = TextSketch(), TextSketch()
    for sketch, words in ((one, [b"a", b"b", b"a"]), (other, [b"a", b"c"])):
        column = np.array(words, object)
        sketch.add(column, column, 1)
    one.merge(pickle.loads(pickle.dumps(other)))
    assert one.top(5) == [("a", 3), ("b", 1), ("c", 1)]
    assert round(one.distinct.get_estimate()) == 3


def test_many_features_and_values_stay_small() -> None:
    """What travels between workers is bounded, whatever the model's inputs and rows."""
    columns = {f"f{number:04}": np.random.default_rng(number).random(3000).astype(np.float32) for number in range(400)}
    statistics = gathered(batch_of(columns, dict.fromkeys(columns, "float32")))
    assert len(statistics.left_out) == 100
    assert len(pickle.dumps(statistics)) < 6 << 20
    texts = TextSketch()
    for number in range(40):
        column = np.array([f"{number}-{place}-{'x' * 200}".encode() for place in range(500)], object)
        texts.add(column, column, 1)
    assert len(pickle.dumps(texts)) < 200 << 10


def test_whole_numbers_of_many_values_are_no_classes() -> None:
    sketch = NumberSketch(whole=True)
    column = np.arange(1000)
    sketch.add(1000, count_moments(column[np.newaxis])[0], column, 1)
    assert sketch.classes is None


def test_a_timeline_stays_bounded_and_keeps_all_rows() -> None:
    effort, other = Effort(), Effort()
    for second in range(5000):
        effort.timeline[second // effort.width] += 3
        effort.thin()
    other.timeline[4000] += 7
    effort.merge(other)
    assert len(effort.timeline) <= MOST_PARTS
    assert sum(effort.timeline.values()) == 15_007
    assert sum(rate * effort.width for _, rate in effort.rows_a_second()) == pytest.approx(15_007)


def test_statistics_are_read_back() -> None:
    statistics = gathered(batch_of({"y": np.ones(3, np.float32)}, {"y": "float32"}))
    described = tf_metadata.describe(statistics)
    assert tf_metadata.decode(tf_metadata.encode(described)) == described
    with pytest.raises(ValueError, match=r"expected the statistics.json of a run"):
        tf_metadata.decode(b'{"rows": 3}')
