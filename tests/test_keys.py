"""Instance keys: their type and text, their failures, and hashes that are equal where the texts are."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.rows.codes import Code, RowError, Stage
from transforms.rows.keys import hash_keys, join_keys, make_key, make_keys, split_keys, take_each, take_key, take_keys

MANY = settings(deadline=None, derandomize=True, max_examples=300)
SCALARS = st.one_of(st.text(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans())


def test_a_key_keeps_its_type() -> None:
    assert take_key([b"7"], ["id"]) == b"7"
    assert take_key([], []) == b""
    assert take_key([b'"7"'], ["id"]) == b'"7"'
    assert take_key([b"true"], ["id"]) == b"true"
    assert take_key([b"1.0"], ["id"]) == b"1.0"
    assert take_key([b"9007199254740993"], ["id"]) == b"9007199254740993"
    assert take_key([b'"null"'], ["id"]) == b'"null"'
    assert take_key([b'""'], ["id"]) == b'""'


def test_one_spelling_a_string() -> None:
    spellings = [b'"\xc3\xa9/\xf0\x9f\x98\x80"', b'"\\u00e9\\/\\ud83d\\ude00"', b'"\\u00E9\\u002f\xf0\x9f\x98\x80"']
    assert {take_key([spelling], ["id"]) for spelling in spellings} == {spellings[0]}
    assert json.loads(take_key([b'"\\u0000\\n\\"\\\\"'], ["id"])) == '\0\n"\\'


def test_composite_keys() -> None:
    assert take_key([b'"a"', b"1"], ["site", "day"]) == b'["a", 1]'
    assert take_key([b'"\\u0061"', b"1"], ["site", "day"]) == b'["a", 1]'
    assert take_key([b'"a,1"', b'"b"'], ["site", "day"]) != take_key([b'"a"', b'"1,b"'], ["site", "day"])


@pytest.mark.parametrize(
    ("token", "code", "found"),
    [
        (b"", Code.KEY_MISSING, "'day'"),
        (b"null", Code.KEY_NULL, "null"),
        (b"[1]", Code.KEY_NOT_SCALAR, "a list"),
        (b"{}", Code.KEY_NOT_SCALAR, "an object"),
    ],
)
def test_keys_that_fail(token: bytes, code: Code, found: str) -> None:
    for tokens, fields in (([token], ["day"]), ([b"1", token], ["site", "day"])):
        with pytest.raises(RowError) as failure:
            take_key(tokens, fields)
        assert failure.value.code == code
        assert failure.value.code.stage is Stage.KEY
        assert "'day'" in failure.value.message
        assert found in failure.value.message


@MANY
@given(values=st.lists(st.one_of(SCALARS, st.none(), st.lists(st.integers()), st.just({"a": 1})), max_size=8), ascii_only=st.booleans())
def test_keys_of_a_block_are_the_keys_of_its_rows(values: list[Any], ascii_only: bool) -> None:
    """At once, or None where a row needs a look; never something else."""
    tokens = [json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass") for value in values]
    taken = take_keys(tokens)
    if taken is None:
        assert not tokens or any(token[:1] in (b"[", b"{", b"n") or b"\\" in token for token in tokens)
        return
    taken = taken.to_pylist()
    assert taken == [take_key([token], ["id"]) for token in tokens]
    assert [json.loads(key) for key in taken] == values
    assert take_keys([*tokens, b""]) is None


@MANY
@given(values=st.lists(SCALARS, min_size=1, max_size=3))
def test_a_key_reads_back_as_its_fields(values: list[Any]) -> None:
    tokens = [json.dumps(value).encode() for value in values]
    key = take_key(tokens, ["f"] * len(values))
    assert repr(json.loads(key)) == repr(values[0] if len(values) == 1 else values)


# --- made keys -------------------------------------------------------------------------------------------------------------


@MANY
@given(source=st.text(), offsets=st.lists(st.integers(0, 2**63 - 1), max_size=5))
def test_made_keys_are_json_of_source_and_offset(source: str, offsets: list[int]) -> None:
    keys = make_keys(source, np.array(offsets, np.int64)).to_pylist()
    assert [json.loads(key) for key in keys] == [f"{source}:{offset}" for offset in offsets]
    assert [make_key(source, offset).decode() for offset in offsets] == keys


def test_made_keys_of_awkward_paths() -> None:
    for source in ("gs://b/a b.jsonl", 'C:\\x\\"y".jsonl', "/tmp/ü\n\t\x01.jsonl", "data/😀.jsonl"):
        (key,) = make_keys(source, np.array([12])).to_pylist()
        assert json.loads(key) == f"{source}:12"
    undecodable = b"/data/caf\xe9.jsonl".decode("utf-8", "surrogateescape")  # how Python spells a Latin-1 file name
    assert make_keys(undecodable, np.array([0])).to_pylist() == ['"/data/caf\\\\xe9.jsonl:0"']
    assert make_key(undecodable, 0) == b'"/data/caf\\\\xe9.jsonl:0"'


def test_made_keys_are_the_same_on_every_run() -> None:
    assert make_keys("a.jsonl", np.array([0, 9])).to_pylist() == ['"a.jsonl:0"', '"a.jsonl:9"']
    assert make_keys("a.jsonl", np.empty(0, np.int64)).to_pylist() == []


# --- hashes ------------------------------------------------------------------------------------------------------------------


@MANY
@given(keys=st.lists(SCALARS.map(json.dumps), min_size=1, max_size=30))
def test_hashes_are_equal_where_texts_are(keys: list[str]) -> None:
    hashes = hash_keys(pa.array(keys, pa.string()))
    assert hashes.dtype == np.uint64
    assert [[a == b for b in hashes] for a in hashes] == [[a == b for b in keys] for a in keys]


def test_hashes_do_not_change_between_processes_and_releases() -> None:
    """Values of the reference implementation of XXH3 (xxhsum -H3): they travel between workers."""
    assert hash_keys(pa.array([""], pa.string())).tolist() == [0x2D06800538D394C2]
    assert hash_keys(pa.array([], pa.string())).tolist() == []


def test_ten_thousand_keys_have_ten_thousand_hashes() -> None:
    keys = [json.dumps(value) for number in range(5000) for value in (number, str(number))]
    assert len(set(hash_keys(pa.array(keys)).tolist())) == 10_000


def test_keys_of_columns_are_the_keys_of_their_rows() -> None:
    """Joined a column at a time, as readers of tables do it: the text that the fields of each row alone give."""
    columns = [[b'"a"', b"7", b"true"], [b"1.5", b'"b, c"', b'"]"']]
    for parts in (columns[:1], columns):
        expected = [take_key(row, [f"f{place}" for place in range(len(parts))]).decode() for row in zip(*parts, strict=True)]
        joined = join_keys([pa.array([text.decode() for text in part]) for part in parts])
        assert joined.to_pylist() == expected


@given(st.lists(st.tuples(*[st.one_of(st.text(), st.integers(), st.booleans())] * 3)))
def test_composite_keys_are_split_as_they_were_taken(rows: list[tuple[object, ...]]) -> None:
    fields = ["a", "b", "c"]
    columns = [[json.dumps(row[place], ensure_ascii=False).encode() for row in rows] for place in range(3)]
    keys, errors = take_each(columns, fields)
    assert not errors
    parts = split_keys(keys, fields)
    assert [tuple(map(json.loads, texts)) for texts in zip(*(parts[field].to_pylist() for field in fields), strict=True)] == rows
    assert split_keys(keys, ["key"]) == {"key": keys}
    assert split_keys(keys, []) == {}


@pytest.mark.parametrize("fields", [["a"], ["a", "b"]])
def test_rows_without_a_key_have_null_and_the_reason(fields: list[str]) -> None:
    tokens = [[b"1", b"", b'"x"', b"null", b"[1]"], [b"1", b"1", b"1", b"1", b"1"]][: len(fields)]
    keys, errors = take_each(tokens, fields)
    assert keys.to_pylist() == (["1", None, '"x"', None, None] if len(fields) == 1 else ["[1, 1]", None, '["x", 1]', None, None])
    assert {row: error.code for row, error in errors.items()} == {1: Code.KEY_MISSING, 3: Code.KEY_NULL, 4: Code.KEY_NOT_SCALAR}
