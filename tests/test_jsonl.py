"""Lines → columns, keys and failed rows: nothing lost, nothing silently changed, whatever stands in the file."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transforms.convert import from_json
from transforms.elements import columns
from transforms.elements.batches import InstanceBatch
from transforms.elements.splits import FileRange
from transforms.formats.blocks import Block
from transforms.formats.jsonl.reader import LineParser
from transforms.rows.codes import Code, Stage
from transforms.rows.row_spec import RowSpec
from transforms.specs.limits import Limits
from transforms.specs.signature import Signature, TensorSpec

FILE = FileRange("data/rows.jsonl", 0, None, 0, "rows.jsonl")
MANY = settings(deadline=None, derandomize=True, max_examples=300, suppress_health_check=[HealthCheck.too_slow])


def signature(**inputs: tuple[str, tuple[int | None, ...] | None]) -> Signature:
    specs = tuple(TensorSpec(name, f"{name}:0", dtype, shape) for name, (dtype, shape) in inputs.items())
    return Signature("serving_default", ("serve",), specs, (TensorSpec("y", "y:0", "float32", (None,)),))


def parse(data: bytes, spec: RowSpec, offset: int = 0) -> InstanceBatch:
    """One batch of a block of its own."""
    (batch,) = list(LineParser(spec).parse(Block(offset, data), FILE))
    return batch


def rows_of(batch: InstanceBatch) -> dict[int, Any]:
    """What became of each row, by its offset: comparable values."""
    found: dict[int, Any] = {}
    for number in range(len(batch)):
        cells = {}
        for name, column in batch.columns.items():
            cell = column.rows[number] if isinstance(column, columns.Ragged) else column[number]
            cell = np.asarray(cell, object) if not isinstance(cell, np.ndarray) and batch_is_text(column) else np.asarray(cell)
            cells[name] = (str(cell.dtype), cell.shape, cell.tolist() if cell.dtype == object else cell.tobytes())
        passed = {name: texts[number].as_py() for name, texts in batch.passthrough.items()}
        offset = int(batch.offsets[number])
        assert offset not in found
        found[offset] = (cells, batch.keys[number].as_py(), passed, batch.rows[number])
    for row in batch.failed:
        assert row.offset not in found
        found[row.offset] = (row.key, row.stage, row.code, row.message, row.instance)
    return found


def batch_is_text(column: columns.Column) -> bool:
    return isinstance(column, np.ndarray) and column.dtype == object


def one(text: bytes | str, sig: Signature, **spec: Any) -> Any:
    """The single row ``text``: its columns' cells, or (code, message)."""
    data = text.encode() if isinstance(text, str) else text
    batch = parse(data + b"\n", RowSpec(sig, **spec))
    assert len(batch) + len(batch.failed) == 1
    # ... and the same among good and bad neighbours
    together = parse(b"not json\n" + data + b"\nnor this\n", RowSpec(sig, **spec))
    alone = rows_of(parse(b" " * 9 + data + b"\n", RowSpec(sig, **spec))) if not RowSpec(sig).lone_string else None
    if alone is not None:
        ((offset, row),) = alone.items()
        assert rows_of(together)[offset] == row
    if batch.failed:
        (failed,) = batch.failed
        return failed.code, failed.message
    cells = {name: column.rows[0] if isinstance(column, columns.Ragged) else column[0] for name, column in batch.columns.items()}
    return next(iter(cells.values())) if len(cells) == 1 else cells


# --- one number or string, exactly ----------------------------------------------------------------------------------------

F32 = signature(x=("float32", (None,)))
I64 = signature(x=("int64", (None,)))


def test_float32_is_rounded_once() -> None:
    for text in ("0.1", "16777217", "1e-46", "3.4028235e38", "-0.0", "1.00000017881393432617187499", "123456789012345678901234567890"):
        cell = one('{"x": ' + text + "}", F32)
        assert cell.dtype == np.float32
        assert cell.tobytes() == np.float32(float(json.loads(text))).tobytes(), text


@pytest.mark.parametrize(
    ("dtype", "text", "value"),
    [
        ("int64", "9007199254740993", 2**53 + 1),
        ("int64", "9223372036854775807", 2**63 - 1),
        ("int64", "-9223372036854775808", -(2**63)),
        ("uint64", "18446744073709551615", 2**64 - 1),
        ("uint64", "0", 0),
        ("int32", "-2147483648", -(2**31)),
        ("uint32", "4294967295", 2**32 - 1),
        ("int8", "-128", -128),
        ("uint8", "255", 255),
        ("int16", "32767", 32767),
        ("uint16", "65535", 65535),
        ("int4", "-8", -8),
        ("uint4", "15", 15),
        ("int64", "-0", 0),
        ("bool", "true", True),
        ("bool", "false", False),
        ("float64", "0.1", 0.1),
        ("float64", "9007199254740993", 9007199254740992.0),
        ("float64", "1.7976931348623157e308", 1.7976931348623157e308),
        ("float64", "5e-324", 5e-324),
        ("float64", "1e-400", 0.0),
        ("float16", "65504", 65504.0),
        ("float16", "65519.9", 65504.0),
        ("float16", "0.1", 0.0999755859375),
        ("bfloat16", "0.1", 0.10009765625),
        ("bfloat16", "3.3895313892515355e38", 3.3895313892515355e38),
        ("float8_e4m3fn", "448", 448.0),
        ("float8_e5m2", "57344", 57344.0),
    ],
)
def test_values_are_exact(dtype: str, text: str, value: Any) -> None:
    for shape, row in (
        ((None,), text),
        ((None, 1), f"[{text}]"),
        ((None, 1), text),
        ((None, 2), f"[{text}, {text}]"),
        ((None, None), f"[{text}]"),
        (None, text),
        (None, f"[[{text}]]"),
        ((1,), text),
        ((), text),
    ):
        cell = np.asarray(one('{"x": ' + row + "}", signature(x=(dtype, shape))))
        assert str(cell.dtype) == dtype
        assert all(found == value for found in cell.reshape(-1).tolist()), (shape, row, cell)


@pytest.mark.parametrize(
    ("dtype", "text", "code"),
    [
        # What would become another number without a word, were it not refused.
        ("float32", "null", Code.NULL_VALUE),
        ("int64", "null", Code.NULL_VALUE),
        ("string", "null", Code.NULL_VALUE),
        ("bool", "null", Code.NULL_VALUE),
        ("int64", "1.5", Code.WRONG_TYPE),
        ("int64", "1.0", Code.WRONG_TYPE),
        ("int64", "1e2", Code.WRONG_TYPE),
        ("int64", "-0.0", Code.WRONG_TYPE),
        ("int64", "9223372036854775808", Code.OUT_OF_RANGE),
        ("int64", "-9223372036854775809", Code.OUT_OF_RANGE),
        ("uint64", "-1", Code.OUT_OF_RANGE),
        ("uint64", "18446744073709551616", Code.OUT_OF_RANGE),
        ("int32", "2147483648", Code.OUT_OF_RANGE),
        ("uint8", "256", Code.OUT_OF_RANGE),
        ("uint8", "-1", Code.OUT_OF_RANGE),
        ("int4", "8", Code.OUT_OF_RANGE),
        ("uint4", "16", Code.OUT_OF_RANGE),
        ("float16", "65520", Code.OUT_OF_RANGE),
        ("float16", "-1e5", Code.OUT_OF_RANGE),
        ("bfloat16", "3.4e38", Code.OUT_OF_RANGE),
        ("float32", "3.5e38", Code.OUT_OF_RANGE),
        ("float32", "1e39", Code.OUT_OF_RANGE),
        ("float64", "1e400", Code.OUT_OF_RANGE),
        ("float64", "1" * 400, Code.OUT_OF_RANGE),
        ("float64", "1" * 5000, Code.OUT_OF_RANGE),
        ("int64", "1" * 5000, Code.OUT_OF_RANGE),
        ("float64", "-1e99999999999999999999", Code.OUT_OF_RANGE),
        ("float8_e4m3fn", "500", Code.OUT_OF_RANGE),
        ("float8_e5m2", "70000", Code.OUT_OF_RANGE),
        ("float32", '"1"', Code.WRONG_TYPE),
        ("int64", '"1"', Code.WRONG_TYPE),
        ("bool", '"true"', Code.WRONG_TYPE),
        ("float32", '"NaN"', Code.WRONG_TYPE),
        ("float32", "true", Code.WRONG_TYPE),
        ("int64", "false", Code.WRONG_TYPE),
        ("bool", "1", Code.WRONG_TYPE),
        ("bool", "0.0", Code.WRONG_TYPE),
        ("string", "1", Code.WRONG_TYPE),
        ("string", "true", Code.WRONG_TYPE),
        ("string", "{}", Code.WRONG_TYPE),
        ("string", '{"b64": 1}', Code.WRONG_TYPE),
        ("string", '{"b64": "YQ==", "c": 1}', Code.WRONG_TYPE),
        ("float32", "{}", Code.WRONG_TYPE),
        ("float32", '{"b64": "YQ=="}', Code.WRONG_TYPE),
        ("string", '{"b64": "****"}', Code.BAD_BASE64),
        ("string", '{"b64": "YQ"}', Code.BAD_BASE64),
        ("string", '{"b64": "Y Q=="}', Code.BAD_BASE64),
        ("string", '{"b64": "-_-_"}', Code.BAD_BASE64),
        ("string", '{"b64": "YWJj===="}', Code.BAD_BASE64),
        ("string", '{"b64": "é"}', Code.BAD_BASE64),
    ],
)
def test_values_that_do_not_fit_are_refused(dtype: str, text: str, code: Code) -> None:
    other = "a" if dtype != "string" else "x2"
    good = {"string": '"s"', "bool": "true"}.get(dtype, "1")
    for shape, row in (
        ((None,), text),
        ((None, 1), f"[{text}]"),
        ((None, 1), text),
        ((None, 2), f"[{good}, {text}]"),
        ((None, None), f"[{text}]"),
        (None, f"[{text}]"),
        ((3,), f"[{good},{text},{good}]"),
        ((), text),
    ):
        sig = signature(**{"the_input": (dtype, shape), other: ("int64", shape and shape[:1])})
        # another input, so that no row is taken for a raw line of text
        second = "[1,1,1]" if shape == (3,) else "1"
        found_code, message = one(f'{{"the_input": {row}, "{other}": {second}}}', sig)
        assert found_code == code, (shape, row, message)
        assert "the_input" in message
        if code in (Code.WRONG_TYPE, Code.NULL_VALUE, Code.OUT_OF_RANGE):
            assert dtype in message


def test_messages_name_input_expected_and_found() -> None:
    assert one('{"x": 1.5}', I64) == (Code.WRONG_TYPE, "input 'x': expected int64, found a float (1.5)")
    assert one('{"x": "7"}', I64) == (Code.WRONG_TYPE, "input 'x': expected int64, found a string (\"7\")")
    assert one('{"x": null}', F32) == (Code.NULL_VALUE, "input 'x': expected float32, found null")
    assert one('{"x": 1e39}', F32) == (Code.OUT_OF_RANGE, "input 'x': 1e+39 does not fit float32")
    assert one('{"x": 1e400}', F32) == (Code.OUT_OF_RANGE, "input 'x': 1e400 does not fit float32")
    pair = signature(x=("uint64", (None, 2)))
    assert one('{"x": [-1, 5]}', pair) == (Code.OUT_OF_RANGE, "input 'x': -1 does not fit uint64")
    assert one('{"x": [1]}', pair) == (Code.WRONG_SHAPE, "input 'x': expected uint64 of shape [2], found [1]")
    assert one('{"x": 1}', pair) == (Code.WRONG_SHAPE, "input 'x': expected uint64 of shape [2], found one value")
    assert one('{"x": [[1, 2], [3]]}', pair) == (Code.WRONG_SHAPE, "input 'x': expected uint64 of shape [2], found a ragged list")
    assert one('{"z": 1, "w": 2}', F32) == (Code.INPUT_MISSING, "the row lacks the input 'x'; it has 'z', 'w'")
    two = signature(a=("float32", (None,)), b=("float32", (None,)))
    assert one("{}", two) == (Code.INPUT_MISSING, "the row lacks the inputs 'a', 'b'; it has no field")
    assert one("[1, 2]", two) == (Code.NOT_AN_OBJECT, "expected an object with the inputs a, b, found list")
    assert one("null", two) == (Code.NOT_AN_OBJECT, "expected an object with the inputs a, b, found null")


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (b'{"x": 1', Code.NOT_JSON),
        (b'{"x": 1}}', Code.NOT_JSON),
        (b'{"x": 1}{"x": 2}', Code.NOT_JSON),
        (b'{"x": 1} {"x": 2}', Code.NOT_JSON),
        (b'{"x": NaN}', Code.NOT_JSON),
        (b'{"x": Infinity}', Code.NOT_JSON),
        (b'{"x": -Infinity}', Code.NOT_JSON),
        (b'{"x": 01}', Code.NOT_JSON),
        (b'{"x": +1}', Code.NOT_JSON),
        (b'{"x": .5}', Code.NOT_JSON),
        (b'{"x": 1.}', Code.NOT_JSON),
        (b'{"x": 0x1}', Code.NOT_JSON),
        (b"{'x': 1}", Code.NOT_JSON),
        (b'{"x": 1,}', Code.NOT_JSON),
        (b'{"x": [1,]}', Code.NOT_JSON),
        (b'{"x": 1, "s": "\\ud800"}', Code.NOT_JSON),
        (b'{"x": 1, "s": "a\tb"}', Code.NOT_JSON),
        (b'{"x": 1, "s": "\\x"}', Code.NOT_JSON),
        (b'{"x": 1e400, "s": NaN}', Code.NOT_JSON),
        (b'{"x": 1e400, "s": "\\ud800"}', Code.NOT_JSON),
        (b'{"x": 1, "s": "\xff"}', Code.NOT_UTF8),
        (b'{"x": 1, "\xed\xa0\x80": 1}', Code.NOT_UTF8),
        (b'\xef\xbb\xbf{"x": 1}', Code.NOT_JSON),
        (b"\xff\xfe{\x00}\x00", Code.NOT_UTF8),
        (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", Code.NESTED_TOO_DEEP),
        (b'{"x": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}", Code.NESTED_TOO_DEEP),
        (b'{"x": 1, "other": ' + b"[" * 5000 + b"]" * 5000 + b"}", Code.NESTED_TOO_DEEP),
        (b'{"x": [[1, 2], [3]]}', Code.WRONG_SHAPE),
        (b'{"x": [1, [2]]}', Code.WRONG_SHAPE),
        (b'{"x": []}', Code.WRONG_SHAPE),
        (b"true", Code.WRONG_TYPE),
        (b"[1]", Code.WRONG_SHAPE),
        (b'{"X": 1}', Code.INPUT_MISSING),
    ],
)
def test_rows_that_are_no_instance(row: bytes, code: Code) -> None:
    assert one(row, F32)[0] == code


@pytest.mark.parametrize("depth", [63, 64, 65, 200, 300, 400, 480, 900])
@pytest.mark.parametrize("dtype", ["float32", "complex64", "string"])
def test_lists_nested_deep_for_an_input_of_unknown_rank(depth: int, dtype: str) -> None:
    inner = {"float32": "1", "complex64": "[1, 2]", "string": '"a"'}[dtype]
    found = one('{"x": ' + "[" * depth + inner + "]" * depth + ', "b": 1}', signature(x=(dtype, None), b=("int64", (None,))))
    if depth == 63 and dtype != "complex64":
        assert found["x"].shape == (1,) * 63
    else:
        assert found[0] in (Code.WRONG_SHAPE, Code.NESTED_TOO_DEEP)


def test_duplicate_names_last_one_wins_as_in_json_loads() -> None:
    for text in ('{"x": 1, "x": 2}', '{"x": "bad", "x": 2}', '{"x": 1, "\\u0078": 2}'):
        assert json.loads(text)["x"] == one(text, F32) == 2
    batch = parse(b'{"id": 1, "x": 5, "id": 2}\n', RowSpec(F32, key_fields=("id",), passthrough_fields=("*",)))
    assert batch.keys.to_pylist() == ["2"]
    assert batch.passthrough["*"].to_pylist() == ['"x": 5']


def test_an_object_over_two_lines_is_not_one_row() -> None:
    data = b'{"x": 1}\n{"x":\n2}\n{"x": [{"a": 1}\n{"b": 2}]}\n{"x": 1, "s": "}\n{"}\n{"x": 2}{"x": 3}\n{"x": 4}\n'
    batch = parse(data, RowSpec(F32))
    assert batch.columns["x"].tolist() == [1, 4]
    assert [(row.code, row.offset) for row in batch.failed] == [(Code.NOT_JSON, offset) for offset in (9, 15, 18, 34, 45, 62, 66)]


def test_strings_are_text_and_b64_is_bytes() -> None:
    sig = signature(s=("string", (None,)), n=("int64", (None,)))
    cases = {
        '"é\\u00e9\\ud83d\\ude00\\n\\u0000"': "éé😀\n\0",
        '{"b64": ""}': b"",
        '{"b64": "AP8="}': b"\0\xff",
        '"{\\"b64\\": \\"YQ==\\"}"': '{"b64": "YQ=="}',
        '""': "",
    }
    for text, value in cases.items():
        assert one(f'{{"s": {text}, "n": 1}}', sig)["s"] == value


def test_empty_lists_and_dimensions_of_zero() -> None:
    cases: list[tuple[tuple[int | None, ...] | None, str, Any]] = [
        ((None, None), "[]", (0,)),
        ((None, None, 3), "[]", (0, 3)),
        ((None, 2, None), "[[], []]", (2, 0)),
        ((None, None, None, 3), "[[]]", (1, 0, 3)),
        ((None, 0), "[]", (0,)),
        ((2, None, 3), "[]", (0, 3)),
        ((2, None, 3), "[[], []]", (2, 0, 3)),
        (None, "[]", (0,)),
        (None, "[[], []]", (2, 0)),
        ((None, None, 2), "[[], [1, 2]]", Code.WRONG_SHAPE),
        ((None, 3), "[]", Code.WRONG_SHAPE),
        ((None, None, None), "[[1], []]", Code.WRONG_SHAPE),
    ]
    for dtype in ("float32", "int64", "complex64"):
        for shape, text, expected in cases:
            if dtype == "complex64" and isinstance(expected, Code):
                continue
            found = one('{"x": ' + text + "}", signature(x=(dtype, shape)))
            if isinstance(expected, Code):
                assert found[0] == expected, (shape, text)
            else:
                assert (found.shape, str(found.dtype)) == (expected, dtype), (shape, text)


def test_complex_numbers_are_pairs() -> None:
    sig = signature(z=("complex128", (None, 2)))
    assert one('{"z": [[1, 2.5], [-0.5, 1e300]]}', sig).tolist() == [1 + 2.5j, -0.5 + 1e300j]
    assert one('{"z": [1, 2]}', sig)[0] == Code.WRONG_SHAPE
    assert one('{"z": [[1, 2, 3], [1, 2]]}', sig)[0] == Code.WRONG_SHAPE
    assert one('{"z": [1e39, 0]}', signature(z=("complex64", (None,))))[0] == Code.OUT_OF_RANGE
    assert one('{"z": [1, 2]}', signature(z=("complex64", (None,)))) == 1 + 2j


# --- bare values, raw lines ------------------------------------------------------------------------------------------------


def test_a_single_input_takes_the_bare_value() -> None:
    assert one("1.5", F32) == 1.5
    assert one("[1, 2]", signature(x=("float32", (None, 2)))).tolist() == [1, 2]
    assert one("7", signature(x=("int64", (None, 1)))).tolist() == [7]
    assert one("[7]", signature(x=("int64", (None, 1)))).tolist() == [7]
    assert one("true", signature(x=("bool", (None,))))
    strings = signature(x=("string", (None, 2)))
    assert one('["a", {"b64": "/w=="}]', strings).tolist() == ["a", b"\xff"]
    assert one("1.5", I64)[0] == Code.WRONG_TYPE


# A signature with one string input: how a line is judged. A JSON object that names the input gives its value; a JSON
# string, {"b64": ...} or a list of those is the value; anything else, JSON or not, UTF-8 or not, is the text itself.
RAW = [
    (b"a,b,c", b"a,b,c"),
    (b" a\t", b" a\t"),
    (b"5", b"5"),
    (b"null", b"null"),
    (b"NaN", b"NaN"),
    (b"1e400", b"1e400"),
    (b"[1, 2]", b"[1, 2]"),
    (b"{}", b"{}"),
    (b'{"y": 1}', b'{"y": 1}'),
    (b'"a","b"', b'"a","b"'),
    (b"\xff\x00\x01", b"\xff\x00\x01"),
    (b"{broken", b"{broken"),
    (b'{"x": "v", "y": 1}', "v"),
    (b'"quoted"', "quoted"),
    (b'{"b64": "/w=="}', b"\xff"),
    (b'{"x": {"b64": "/w=="}}', b"\xff"),
    (b'{"y": "\\ud800"}', b'{"y": "\\ud800"}'),
    (b'{"b64": "YQ==", "y": 1}', b'{"b64": "YQ==", "y": 1}'),
]


@pytest.mark.parametrize("shape", [(None,), (None, 1), None, (1,), ()])
def test_one_string_input_takes_the_raw_line(shape: tuple[int | None, ...] | None) -> None:
    sig = signature(x=("string", shape))
    for text, value in RAW:
        cell = one(text, sig)
        assert np.asarray(cell, object).reshape(-1).tolist() == [value], text
    together = parse(b"\r\n".join(text for text, _ in RAW), RowSpec(sig))
    assert [np.asarray(cell, object).reshape(-1)[0] for cell in together.columns["x"]] == [value for _, value in RAW]


def test_a_raw_line_is_refused_where_it_names_the_input_wrongly() -> None:
    sig = signature(x=("string", (None,)))
    assert one(b'{"x": 1}', sig)[0] == Code.WRONG_TYPE
    assert one(b'{"x": null}', sig)[0] == Code.NULL_VALUE
    assert one(b'{"b64": "***"}', sig)[0] == Code.BAD_BASE64
    assert one(b'["a", "b"]', sig)[0] == Code.WRONG_SHAPE


def test_with_a_key_field_every_line_must_be_json() -> None:
    sig = signature(x=("string", (None,)))
    assert one(b"a,b", sig, key_fields=("id",))[0] == Code.NOT_JSON
    assert one(b'"text"', sig, key_fields=("id",))[0] == Code.KEY_MISSING
    assert one(b'{"id": 1, "y": 2}', sig, key_fields=("id",)) == b'{"id": 1, "y": 2}'


def test_fields_left_out_of_a_raw_object_keep_the_text_of_the_others() -> None:
    sig = signature(line=("string", (None,)))
    text = b'{"id": 7, "v": 1.10, "big": 123456789012345678901234567890, "huge": 1e400, "s": "\\u00e9"}'
    assert one(text, sig, exclude_fields=("id", "s")) == b'{"v":1.10,"big":123456789012345678901234567890,"huge":1e400}'
    assert one(text, sig, include_fields=("s", "v", "none")) == b'{"s":"\\u00e9","v":1.10}'
    assert one(b'{"line": "text", "id": 1}', sig, exclude_fields=("id",)) == "text"
    assert one(b"a,b", sig, exclude_fields=("id",)) == b"a,b"
    block = parse(b'{"id": 1, "v": 2}\n{"id": 2, "v": 3}\n', RowSpec(sig, key_fields=("id",), exclude_fields=("id",)))
    assert block.columns["line"].tolist() == [b'{"v":2}', b'{"v":3}']
    assert block.keys.to_pylist() == ["1", "2"]


# --- keys and passthrough fields -------------------------------------------------------------------------------------------


def test_keys_come_with_their_rows_and_bad_ones_cost_their_row() -> None:
    data = b'{"id": 7, "x": 1}\n{"id": "7", "x": 2}\n{"x": 3}\n{"id": null, "x": 4}\n'
    data += b'{"id": [1], "x": 5}\n{"id": {}, "x": 6}\n{"id": "\\u0061", "x": 1e39}\n'
    for spec in (RowSpec(F32, key_fields=("id",)), RowSpec(F32, key_fields=("id",), passthrough_fields=("id", "x"))):
        batch = parse(data, spec)
        assert batch.keys.to_pylist() == ["7", '"7"']
        assert batch.columns["x"].tolist() == [1, 2]
        failed = [(row.key, row.stage, row.code) for row in batch.failed]
        assert failed == [
            (b"", Stage.KEY, Code.KEY_MISSING),
            (b"", Stage.KEY, Code.KEY_NULL),
            (b"", Stage.KEY, Code.KEY_NOT_SCALAR),
            (b"", Stage.KEY, Code.KEY_NOT_SCALAR),
            (b'"a"', Stage.CONVERT, Code.OUT_OF_RANGE),
        ]


def test_a_key_that_is_also_an_input() -> None:
    sig = signature(id=("int64", (None,)), x=("float32", (None,)))
    batch = parse(b'{"id": 9007199254740993, "x": 1}\n{"id": 2, "x": 2}\n', RowSpec(sig, key_fields=("id",)))
    assert batch.columns["id"].tolist() == [2**53 + 1, 2]
    assert batch.keys.to_pylist() == ["9007199254740993", "2"]
    assert one('{"x": 1}', sig, key_fields=("id",))[0] == Code.KEY_MISSING
    assert one('{"x": 1}', sig, passthrough_fields=("id",))[0] == Code.INPUT_MISSING
    assert one('{"id": "a", "x": 1}', sig, key_fields=("id",))[0] == Code.WRONG_TYPE


def test_passthrough_fields_keep_their_text() -> None:
    spec = RowSpec(F32, key_fields=("id",), passthrough_fields=("n", "s", "none"), own_fields=("key", "prediction"))
    data = b'{"id": 1, "x": 1, "n": 1.10, "s": {"a": [1,  2], "t": "\\u00e9"}}\n'
    assert {name: column.to_pylist() for name, column in parse(data, spec).passthrough.items()} == {
        "n": ["1.10"],
        "s": ['{"a": [1,  2], "t": "\\u00e9"}'],
        "none": ["null"],
    }
    everything = parse(data + b'{"id": 2, "x": 1, "key": 5, "q\\"": 1e400}\n', dataclasses.replace(spec, passthrough_fields=("*",)))
    assert everything.passthrough["*"].to_pylist() == ['"x": 1, "n": 1.10, "s": {"a": [1,  2], "t": "\\u00e9"}', '"x": 1, "q\\"": 1e400']


def test_made_keys_are_the_place_of_the_row_also_for_failed_ones() -> None:
    batch = parse(b'{"x": 1}\nbad\n{"x": 1e39}\n{"x": 4}\n', RowSpec(F32), offset=1000)
    assert batch.keys.to_pylist() == ['"data/rows.jsonl:1000"', '"data/rows.jsonl:1025"']
    assert [row.key for row in batch.failed] == [b'"data/rows.jsonl:1009"', b'"data/rows.jsonl:1013"']


def test_a_row_too_long_is_one_failed_row() -> None:
    for fields in ((), ("id",), ("id", "site")):
        for data in (b'{"x": 1}\n{"x": 2}\n{"x', b" " * 1024):
            (batch,) = list(LineParser(RowSpec(F32, key_fields=fields)).parse(Block(7, data, too_long=True), FILE))
            assert len(batch) == 0
            assert [(row.code, row.offset, json.loads(row.instance)["b64"]) for row in batch.failed] == [
                (Code.ROW_TOO_LONG, 7, base64.b64encode(data).decode())
            ]


def test_many_rows_of_many_inputs_are_the_rows_alone() -> None:
    """A block of hundreds of rows may take other ways than one of ten: they must end alike."""
    sig = signature(
        a=("float32", (None,)),
        b=("float32", (None,)),
        c=("float32", (None, 1)),
        d=("int64", (None,)),
        s=("string", (None,)),
        id=("float32", (None,)),
    )
    random = np.random.default_rng(7)
    table = random.normal(size=(500, 4)) * 10.0 ** random.integers(-45, 38, size=(500, 4))
    names = ["a", "b", "c", "id"]
    rows = [dict(zip(names, numbers, strict=True)) | {"d": 2**53 + place, "s": f"é{place}"} for place, numbers in enumerate(table.tolist())]
    rows[123]["b"] = 3.5e38
    rows[321]["a"] = -1e300
    good = [place for place in range(500) if place not in (123, 321)]
    lines = [json.dumps(row, ensure_ascii=False).encode() for row in rows]
    for spec in (
        RowSpec(sig),
        RowSpec(sig, key_fields=("id",)),
        RowSpec(sig, passthrough_fields=("id", "s")),
        RowSpec(sig, key_fields=("d",)),
    ):
        batch = parse(b"\n".join(lines), spec)
        for place, name in enumerate(names):
            assert batch.columns[name].dtype == np.float32
            assert batch.columns[name].reshape(-1).tobytes() == table[good, place].astype(np.float32).tobytes()
        assert batch.columns["d"].tolist() == [2**53 + place for place in good]
        assert batch.columns["s"].tolist() == [f"é{place}" for place in good]
        assert [(row.code, row.message) for row in batch.failed] == [
            (Code.OUT_OF_RANGE, "input 'b': 3.5e+38 does not fit float32"),
            (Code.OUT_OF_RANGE, "input 'a': -1e+300 does not fit float32"),
        ]
        mixed = parse(b"\n".join([b"bad", *lines]), spec)
        shifted = {offset - 4: row for offset, row in rows_of(mixed).items() if offset}
        found = rows_of(batch)
        assert {offset: row[0] for offset, row in shifted.items() if len(row) == 4} == {
            o: row[0] for o, row in found.items() if len(row) == 4
        }
        assert {offset: row[1:4] for offset, row in shifted.items() if len(row) == 5} == {
            o: row[1:4] for o, row in found.items() if len(row) == 5
        }


def test_batches_stay_small_where_rows_are_large() -> None:
    data = b"".join(b'{"x": %d}\n' % number for number in range(100))
    batches = list(LineParser(RowSpec(F32, limits=Limits(tensor_bytes=64))).parse(Block(0, data), FILE))
    assert len(batches) > 1
    assert [value for batch in batches for value in batch.columns["x"].tolist()] == list(range(100))


# --- any bytes, any JSON, any signature ------------------------------------------------------------------------------------

DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "uint64", "uint8", "int4", "bool", "string", "complex64")
SHAPES = st.one_of(st.none(), st.lists(st.sampled_from([None, None, 0, 1, 2, 3]), max_size=4).map(tuple))
SIGNATURES = st.dictionaries(st.sampled_from(["x", "y", "id"]), st.tuples(st.sampled_from(DTYPES), SHAPES), min_size=1, max_size=3).map(
    lambda inputs: signature(**inputs)
)
SPECS = st.builds(
    RowSpec,
    SIGNATURES,
    key_fields=st.sampled_from([(), (), ("id",), ("id", "site"), ("x",)]),
    passthrough_fields=st.sampled_from([(), ("z",), ("x", "z"), ("*",)]),
    exclude_fields=st.sampled_from([(), (), ("z",)]),
)
NUMBER_TEXTS = st.sampled_from(
    [
        "0",
        "-0",
        "-0.0",
        "1",
        "1.0",
        "1.5",
        "-7",
        "255",
        "256",
        "65504",
        "65520",
        "2147483648",
        "9007199254740993",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "3.4e38",
        "3.5e38",
        "1e39",
        "1e308",
        "1e400",
        "1e-400",
        "0.1",
        "1E2",
        "1" * 60,
        "1" * 400,
        "NaN",
        "-Infinity",
        "01",
        "1.",
    ]
)
TEXTS = st.one_of(
    st.text(max_size=5).map(json.dumps),
    st.sampled_from(
        ['"a"', '"\\ud800"', '"\\u00e9"', '{"b64": "YQ=="}', '{"b64": "***"}', '{"b64": 1}', '"\t"', "null", "true", "false", '"}']
    ),
)


def nest(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    lists = st.lists(children, max_size=3).map(lambda items: "[" + ", ".join(items) + "]")
    names = st.sampled_from(['"x"', '"y"', '"id"', '"site"', '"z"', '"\\u0078"', '"b64"'])
    objects = st.lists(st.tuples(names, children), max_size=5).map(lambda pairs: "{" + ",".join(f"{n}:{v}" for n, v in pairs) + "}")
    return st.one_of(lists, lists, objects)


VALUES = st.recursive(st.one_of(NUMBER_TEXTS, TEXTS), nest, max_leaves=8)
FIELDS = ("x", "y", "id", "site", "z")


def objects_of(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, values)).map(
        lambda fields: "{" + ", ".join(f'"{name}": {value}' for name, value in fields.items()) + "}"
    )


LINES = st.one_of(
    objects_of(VALUES).map(str.encode),
    objects_of(st.one_of(NUMBER_TEXTS, TEXTS)).map(str.encode),
    VALUES.map(str.encode),
    st.binary(max_size=12),
    st.sampled_from([b"", b" ", b'{"x": 1}{"x": 2}', b'{"x":', b"1}", b'"a" "b"', b"a,b", b'"a","b"', b"\xef\xbb\xbf1"]),
)


def value_fits(value: Any, shape: tuple[int | None, ...]) -> bool:
    if not shape:
        return not isinstance(value, list)
    return isinstance(value, list) and shape[0] in (None, len(value)) and all(value_fits(item, shape[1:]) for item in value)


@MANY
@given(
    spec=SPECS,
    lines=st.lists(LINES, max_size=12),
    ends=st.lists(st.sampled_from([b"\n", b"\r\n"]), min_size=12, max_size=12),
    last=st.booleans(),
)
def test_any_lines_each_once_and_alike_alone_or_together(spec: RowSpec, lines: list[bytes], ends: list[bytes], last: bool) -> None:
    data = b"".join(line + end for line, end in zip(lines, ends, strict=False))
    data = data if last or not lines else data[: -len(ends[len(lines) - 1])]
    parser = LineParser(spec)
    together: dict[int, Any] = {}
    for batch in parser.parse(Block(50, data), FILE):
        together |= rows_of(batch)
    alone: dict[int, Any] = {}
    offset, filled = 50, []
    for line in data.split(b"\n"):
        for batch in parser.parse(Block(offset, line + b"\n"), FILE):
            alone |= rows_of(batch)
        if line.strip(b" \t\r"):
            space = 0 if spec.lone_string else len(line) - len(line.lstrip(b" \t\r"))
            filled.append(offset + space)
        offset += len(line) + 1
    assert sorted(together) == filled
    assert sorted(alone) == filled
    for place in filled:
        assert comparable(together[place]) == comparable(alone[place])
        assert_json(together[place])


def comparable(row: Any) -> Any:
    """Which of two wrong things a message names may differ; what became of the row may not."""
    return row if len(row) == 4 else (row[0], row[1], row[2], row[4])


def assert_json(row: Any) -> None:
    """What goes to the output as it is, is strict JSON."""

    def refuse(word: str) -> None:
        raise AssertionError(word)

    texts = [row[1], *row[2].values()] if len(row) == 4 else [row[0] or b"null", row[4]]
    if len(row) == 4 and "*" in row[2]:
        texts = [row[1], "{" + row[2]["*"] + "}"]
    for text in texts:
        json.loads(text, parse_constant=refuse)


def expected_cell(value: Any, dtype: str) -> np.ndarray | None:
    """NumPy's array of a JSON value for ``dtype``, or None where the value is no list of such numbers or strings."""

    def scalar(item: Any) -> Any:
        if dtype == "string":
            if isinstance(item, str):
                return item
            if isinstance(item, dict) and item.keys() == {"b64"} and isinstance(item["b64"], str):
                return base64.b64decode(item["b64"], validate=True)
        elif dtype == "bool":
            if isinstance(item, bool):
                return item
        elif "int" in dtype:
            if isinstance(item, int) and not isinstance(item, bool):
                info = ml_dtypes.iinfo(dtype)
                if info.min <= item <= info.max:
                    return item
        elif isinstance(item, int | float) and not isinstance(item, bool) and abs(item) <= 1.7976931348623157e308:
            with np.errstate(over="ignore", invalid="ignore"):
                if np.isfinite(np.float64(item).astype(from_json.numpy_dtype(dtype)).astype(np.float64)):
                    return float(item)
        raise ValueError(item)

    def walk(item: Any) -> Any:
        return [walk(inner) for inner in item] if isinstance(item, list) else scalar(item)

    walked = walk(value)
    if dtype == "string" and not isinstance(walked, list):
        array = np.empty((), object)
        array[()] = walked
        return array
    if dtype == "string":
        return np.array(walked, object)
    exact = {"int4": np.int64, "bfloat16": np.float64}.get(dtype)
    return np.array(walked, exact).astype(from_json.numpy_dtype(dtype)) if exact else np.array(walked, from_json.numpy_dtype(dtype))


NUMBERS = st.one_of(
    st.integers(-(2**65), 2**65),
    st.integers(-300, 300),
    st.sampled_from([2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(-70000, 70000, width=32),
    st.booleans(),
    st.none(),
    st.text(max_size=3),
    st.binary(max_size=3).map(lambda data: {"b64": base64.b64encode(data).decode()}),
)


@settings(MANY, max_examples=600)
@given(
    dtype=st.sampled_from([dtype for dtype in DTYPES if dtype != "complex64"]),
    shape=st.lists(st.sampled_from([None, 1, 2, 3]), max_size=3).map(tuple),
    data=st.data(),
)
def test_a_row_is_taken_exactly_where_it_fits_and_with_numpys_value(dtype: str, shape: tuple[int | None, ...], data: st.DataObject) -> None:
    """One input of free batch size: the value of json.loads, checked and converted here on its own, or a refusal."""

    def array(dims: tuple[int | None, ...]) -> st.SearchStrategy[Any]:
        if not dims:
            return scalars
        sizes = (0, 3) if dims[0] is None else (dims[0], dims[0])
        return st.lists(array(dims[1:]), min_size=sizes[0], max_size=sizes[1])

    plain: dict[str, st.SearchStrategy[Any]] = {
        "string": st.text(max_size=5),
        "bool": st.booleans(),
        "float16": st.floats(width=16, allow_nan=False, allow_infinity=False),
        "uint8": st.integers(0, 255),
        "int4": st.integers(-8, 7),
        "int32": st.integers(-(2**31), 2**31 - 1),
        "int64": st.integers(-(2**63), 2**63 - 1),
        "uint64": st.integers(0, 2**64 - 1),
        "bfloat16": st.floats(-1e38, 1e38),
        "float32": st.floats(-3e38, 3e38),
        "float64": st.floats(allow_nan=False, allow_infinity=False),
    }
    scalars = plain[dtype] if data.draw(st.booleans()) else NUMBERS
    value = data.draw(array(shape))
    text = json.dumps({"x": value, "n": 1})
    found = one(text, signature(x=(dtype, (None, *shape)), n=("int64", (None,))))
    value = json.loads(text)["x"]
    if shape and all(dim == 1 for dim in shape) and not isinstance(value, list):
        value = np.reshape(np.array([value], object), shape).tolist()
    try:
        expected = expected_cell(value, dtype)
    except (ValueError, OverflowError):
        expected = None
    if expected is None or not value_fits(value, shape) or is_ragged(value):
        assert isinstance(found, tuple), (text, found)
        assert found[0] in (Code.WRONG_SHAPE, Code.WRONG_TYPE, Code.OUT_OF_RANGE, Code.NULL_VALUE)
        return
    assert isinstance(found, dict), (text, found)
    cell = np.asarray(found["x"], object) if dtype == "string" else np.asarray(found["x"])
    if math.prod(cell.shape):
        assert cell.shape == expected.shape
        assert cell.tolist() == expected.tolist() if dtype == "string" else cell.tobytes() == expected.tobytes()
    assert str(cell.dtype) == ("object" if dtype == "string" else dtype)
    assert len(cell.shape) == len(shape)


def is_ragged(value: Any) -> bool:
    try:
        np.array(value, object) if not isinstance(value, list) else _shape(value)
    except ValueError:
        return True
    return False


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        return ()
    inner = {_shape(item) for item in value}
    if len(inner) > 1:
        raise ValueError("ragged")
    return (len(value), *(inner.pop() if inner else ()))


@pytest.mark.parametrize("name", ['say "hi"', "back\\slash", "tab\there", "naïve"])
def test_any_name_can_be_an_input_and_a_key(name: str) -> None:
    signature = Signature("s", ("serve",), (TensorSpec(name, "x:0", "float32", (None,)),), ())
    data = b"".join(json.dumps({name: number, "k" + name: f"k{number}"}).encode() + b"\n" for number in range(3))
    parser = LineParser(RowSpec(signature, key_fields=("k" + name,)))
    (batch,) = list(parser.parse(Block(0, data), FILE))
    assert batch.columns[name].tolist() == [0, 1, 2]
    assert batch.keys.to_pylist() == ['"k0"', '"k1"', '"k2"']
    assert batch.failed == []
