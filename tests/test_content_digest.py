"""The digest of rows: equal where the rows are the same ones, in any order and any files, and only there."""

from __future__ import annotations

import datetime
import decimal
from collections import Counter
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.convert.content_digest import Content, merge

SCHEMA = pa.schema(
    {
        "key": pa.string(), "n": pa.int64(), "y": pa.float64(), "good": pa.bool_(), "raw": pa.binary(), "day": pa.date32(),
        "price": pa.decimal128(38, 9), "large": pa.decimal256(76, 38), "many": pa.list_(pa.int64()),
        "deep": pa.list_(pa.struct([("values", pa.list_(pa.float64()))])), "record": pa.struct([("a", pa.int64()), ("b", pa.string())]),
    }
)  # fmt: skip
VALUES: dict[str, list[Any]] = {
    "key": ["a", "b", "", "0", None], "n": [0, 1, -1, 2**63 - 1, None], "y": [0.0, 1.0, 1e308, 5e-324, None], "good": [True, False, None],
    "raw": [b"", b"\0", b"a", None], "day": [datetime.date(2026, 1, 1), datetime.date(1970, 1, 1), None],
    "price": [decimal.Decimal("1.25"), decimal.Decimal("-1.25"), None], "large": [decimal.Decimal("1E-38"), decimal.Decimal(7), None],
    "many": [[], [0], [0, 0], [1, 2], [2, 1], [None], None],
    "deep": [[], [{"values": []}], [{"values": [1.0]}, {"values": [2.0]}], [{"values": [1.0, 2.0]}]],
    "record": [{"a": 1, "b": None}, {"a": None, "b": "1"}, None],
}  # fmt: skip
ROWS = st.lists(st.fixed_dictionaries({name: st.sampled_from(values) for name, values in VALUES.items()}), max_size=6)


def digest_of(*files: list[dict[str, Any]]) -> str:
    """The digest of rows in several files, each of which is written in two batches, of which one is a slice."""
    digests = []
    for rows in files:
        content, table = Content(), pa.RecordBatch.from_pylist(rows, SCHEMA)
        content.add(table.slice(0, len(rows) // 2))
        content.add(table.slice(len(rows) // 2))
        digests.append(content.digest)
    return merge(digests)


@settings(deadline=None, max_examples=300)
@given(ROWS, ROWS, st.integers(0, 5), st.randoms())
def test_equal_exactly_where_the_rows_are(one: list[dict[str, Any]], other: list[dict[str, Any]], cut: int, random: Any) -> None:
    shuffled = random.sample(one, len(one))
    assert digest_of(one) == digest_of(shuffled[:cut], [], shuffled[cut:])
    assert (digest_of(one) == digest_of(other)) == (Counter(map(str, one)) == Counter(map(str, other)))


def test_each_value_counts_and_each_place() -> None:
    """One value of one column changed, for every pair of different values; two rows that exchange a value are others."""
    plain = {name: values[0] for name, values in VALUES.items()}
    digests = {digest_of([plain])} | {digest_of([plain | {name: value}]) for name, values in VALUES.items() for value in values[1:]}
    assert len(digests) == 1 + sum(len(values) - 1 for values in VALUES.values())
    first, second = plain | {"key": "a", "y": 1.0}, plain | {"key": "b", "y": 0.0}
    assert digest_of([first, second]) != digest_of([first | {"y": 0.0}, second | {"y": 1.0}])


def test_no_rows() -> None:
    assert digest_of([]) == merge(["", digest_of([])]) == "0" * 32
