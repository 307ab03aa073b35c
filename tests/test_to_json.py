"""Columns → JSON: what json.loads reads back is the value, bit for bit; lines in four styles; always strict JSON."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from transforms.convert.output_columns import check_members
from transforms.convert.refuse_rows import refuse_non_finite
from transforms.convert.to_json import finite_rows, json_texts
from transforms.elements.batches import InstanceBatch, PredictionBatch, RowTexts
from transforms.elements.columns import Column, Ragged
from transforms.elements.splits import FileRange
from transforms.formats.blocks import Block
from transforms.formats.jsonl.reader import LineParser
from transforms.formats.jsonl.writer import LineEncoder
from transforms.rows.codes import Code, Stage
from transforms.rows.row_spec import RowSpec, row_spec
from transforms.specs.errors import SpecError
from transforms.specs.job import InputSpec, JobSpec, KeySpec
from transforms.specs.models import ModelSpec
from transforms.specs.output import NAN_POLICIES, OUTPUT_STYLES, OWN_FIELDS, FolderOutput
from transforms.specs.signature import Signature, TensorSpec

GOLDEN = Path(__file__).parent / "golden"
MANY = settings(deadline=None, derandomize=True, max_examples=150)
NUMBERS = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"]
AWKWARD = st.text(alphabet='\x00\x1f"\\\x7f/é\u2028😀\ufeff')
SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)


def spec_of(dtype: str, name: str = "y") -> TensorSpec:
    return TensorSpec(name, f"{name}:0", dtype, None)


def strict(text: str | bytes) -> Any:
    """json.loads without its leniency: no NaN, no duplicate names."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({name for name, _ in pairs}) == len(pairs), f"a name stands twice: {text!r}"
        return dict(pairs)

    return json.loads(text, parse_constant=refuse, object_pairs_hook=unique)


def read_back(column: Column, dtype: str, nan: str = "string", name: str = "y") -> list[Any]:
    texts = json_texts(column, spec_of(dtype, name), nan)
    assert texts.type == pa.string()
    assert texts.null_count == 0
    assert len(texts) == len(column)
    return [strict(text) for text in texts.to_pylist()]


def same(found: Any, expected: Any, dtype: np.dtype) -> bool:
    """Whether JSON value ``found`` is the NumPy value ``expected``, bit for bit (any NaN is a NaN)."""
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(same, found, expected, [dtype] * len(found)))
    if dtype.kind == "b":
        return found is expected
    if dtype.kind in "iu" or "int" in dtype.name:
        return type(found) is int and found == expected
    value = float({"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}[found]) if isinstance(found, str) else found
    if not isinstance(found, str):
        assert type(found) is float, "a float stays recognisable as one"
    if math.isnan(value):
        return math.isnan(expected)
    return np.array(value).astype(dtype).tobytes() == np.array(expected).astype(dtype).tobytes()


@MANY
@given(column=st.sampled_from(NUMBERS).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES)))
def test_numbers_read_back_as_they_were(column: np.ndarray) -> None:
    assert same(read_back(column, column.dtype.name), column.tolist(), column.dtype)


@MANY
@given(name=st.sampled_from(["bfloat16", "float8_e5m2", "float8_e4m3fn", "int4", "uint4"]), shape=SHAPES, data=st.data())
def test_small_dtypes_read_back_as_they_were(name: str, shape: tuple[int, ...], data: st.DataObject) -> None:
    dtype = np.dtype(getattr(ml_dtypes, name))
    bits = data.draw(hnp.arrays("uint16" if name == "bfloat16" else "uint8", shape))
    column = (bits & 15).astype(np.int8).astype(dtype) if "int" in name else bits.view(dtype)
    assert same(read_back(column, name), column.astype(np.float64 if "float" in name else np.int64).tolist(), dtype)


@MANY
@given(column=st.sampled_from(["complex64", "complex128"]).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES)))
def test_complex_numbers_are_pairs(column: np.ndarray) -> None:
    part = np.dtype(np.float32 if column.dtype == np.complex64 else np.float64)
    expected = np.stack([column.real, column.imag], axis=-1)
    assert same(read_back(column, column.dtype.name), expected.tolist(), part)


def test_floats_are_the_shortest_digits_of_their_own_dtype() -> None:
    assert json_texts(np.float32([0.1, 1, -0.0, 16777216, 1e20, 1e-7, 3.4028235e38]), spec_of("float32"), "null").to_pylist() == [
        "0.1", "1.0", "-0.0", "16777216.0", "1e+20", "1e-7", "3.4028235e+38",
    ]  # fmt: skip
    assert json_texts(np.float64([0.1, 1 / 3, 5e-324, 1e22]), spec_of("float64"), "null").to_pylist() == [
        "0.1", "0.3333333333333333", "5e-324", "1e+22",
    ]  # fmt: skip
    assert read_back(np.float16([0.1, 65504]), "float16") == [0.099975586, 65504]


def test_nan_and_infinities_by_policy() -> None:
    column = np.array([[1.5, math.nan], [math.inf, -math.inf], [-math.nan, 0]])
    for dtype in ("float16", "float32", "float64"):
        assert read_back(column.astype(dtype), dtype, "null") == [[1.5, None], [None, None], [None, 0]]
        assert read_back(column.astype(dtype), dtype, "string") == [[1.5, "NaN"], ["Infinity", "-Infinity"], ["NaN", 0]]
        assert finite_rows(column.astype(dtype)).tolist() == [False, False, False]
    assert read_back(np.array([complex(math.nan, 1)]), "complex128", "null") == [[None, 1.0]]
    for dtype in (ml_dtypes.bfloat16, ml_dtypes.float8_e5m2):
        assert finite_rows(np.array([[1], [math.inf], [math.nan]]).astype(dtype)).tolist() == [True, False, False]
    assert finite_rows(np.array([1, complex(0, math.inf)])).tolist() == [True, False]
    assert finite_rows(np.array([b"NaN"], object)).tolist() == [True]
    assert finite_rows(Ragged([np.float32([1]), np.float32([]), np.float32([1, math.nan])])).tolist() == [True, True, False]
    assert finite_rows(np.zeros((3, 0), np.float32)).tolist() == [True] * 3
    assert finite_rows(np.array([1, 2]).astype(ml_dtypes.int4)).tolist() == [True, True]


def object_array(values: list[Any], shape: tuple[int, ...]) -> np.ndarray:
    column = np.empty(len(values), object)
    column[:] = values
    return column.reshape(shape)


def as_json(value: bytes, as_base64: bool) -> Any:
    try:
        if not as_base64:
            return value.decode("utf-8")
    except UnicodeDecodeError:
        pass
    return {"b64": base64.b64encode(value).decode()}


@MANY
@given(
    values=st.lists(st.one_of(st.text().map(str.encode), st.binary(max_size=8), AWKWARD.map(str.encode)), max_size=9),
    name=st.sampled_from(["text", "image_bytes"]),
)  # fmt: skip
def test_strings_read_back_as_they_were(values: list[bytes], name: str) -> None:
    column = object_array(values, (len(values),))
    assert read_back(column, "string", name=name) == [as_json(value, name == "image_bytes") for value in values]


def test_every_control_character() -> None:
    values = [bytes([code]) for code in range(256)] + [b"a" + bytes([code]) + b"z" for code in range(256)]
    assert read_back(object_array(values, (512,)), "string") == [as_json(value, False) for value in values]
    only_text = values[:128]
    assert read_back(object_array(only_text, (64, 2)), "string") == [
        [a.decode(), b.decode()] for a, b in zip(only_text[::2], only_text[1::2], strict=True)
    ]
    texts = json_texts(object_array(values, (512,)), spec_of("string"), "null").to_pylist()
    assert not any(ord(character) < 32 for text in texts for character in text), "no line end inside a line"


def test_nested_strings_and_empty_dimensions() -> None:
    nested = object_array([b"a", b'"', b"\xff", b"", b"\n", b"e"], (2, 3))
    assert read_back(nested, "string") == [["a", '"', {"b64": "/w=="}], ["", "\n", "e"]]
    assert read_back(np.zeros((2, 0), np.float32), "float32") == [[], []]
    assert read_back(np.zeros((2, 3, 0), np.int64), "int64") == [[[], [], []]] * 2
    assert read_back(np.zeros((2, 0, 3), np.int64), "int64") == [[], []]
    assert read_back(np.zeros((0, 3), np.int64), "int64") == []
    assert read_back(np.empty((0,), object), "string") == []
    assert read_back(np.empty((2, 0), object), "string") == [[], []]


@MANY
@given(rows=st.lists(hnp.arrays("float32", hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)), max_size=5))
def test_ragged_columns(rows: list[np.ndarray]) -> None:
    found = read_back(Ragged(rows), "float32")
    assert all(same(value, row.tolist(), np.dtype(np.float32)) for value, row in zip(found, rows, strict=True))


def test_columns_that_are_views() -> None:
    column = np.arange(24, dtype=np.int64).reshape(2, 3, 4)
    for view in (
        column[::-1],
        column.transpose(0, 2, 1),
        column[:, ::2],
        np.asfortranarray(column),
        np.broadcast_to(column[:1], (2, 3, 4)),
    ):
        assert read_back(view, "int64") == view.tolist()


# --- lines -------------------------------------------------------------------------------------------------------------------

INPUT = b"""{"id": "a", "x": 1.50, "note": "\\u00e9\\"", "key": 0, "y": 9}
{"id": 7, "x": 2, "note": null, "deep": {"b": [1, 2]}}

{"x": 3e0, "id": true}
"""
ONE = (TensorSpec("y", "y:0", "float32", (None, 2)),)
THREE = (
    TensorSpec("image_bytes", "i:0", "string", (None,)),
    TensorSpec("label", "l:0", "string", (None,)),
    TensorSpec("y", "y:0", "float32", (None, 2)),
)
Y = np.float32([[0.1, 1], [math.nan, -2.5], [1e20, 1e-7]])
LABELS = object_array([b"caf\xc3\xa9", b"\xff\x00", b'"\n'], (3,))


def instances(spec: RowSpec, data: bytes = INPUT) -> InstanceBatch:
    (batch,) = list(LineParser(spec).parse(Block(0, data), FileRange("in.jsonl", 0, None, 0, "in.jsonl")))
    return batch


def lines_of(
    style: str, outputs: tuple[TensorSpec, ...], key_fields: tuple[str, ...] = (), passthrough: tuple[str, ...] = (), nan: str = "null"
) -> bytes:
    signature = Signature("serving_default", ("serve",), (TensorSpec("x", "x:0", "float32", (None,)),), outputs)
    batch = instances(RowSpec(signature, key_fields, passthrough, own_fields=OWN_FIELDS[style]))
    columns: dict[str, Column] = {"y": Y, "label": LABELS, "image_bytes": LABELS}
    predictions = PredictionBatch(batch, np.arange(3), {spec.name: columns[spec.name] for spec in outputs}, [])
    encoder = LineEncoder(signature, FolderOutput("out", style=style, passthrough_fields=passthrough, nan=nan), key_fields)
    return b"".join(bytes(block) for block, _ in encoder.encode(predictions))


CASES: dict[str, dict[str, Any]] = {
    "keyed_made_keys": {"style": "keyed", "outputs": ONE},
    "keyed_one_output": {"style": "keyed", "outputs": ONE, "key_fields": ("id",)},
    "keyed_outputs_passthrough": {
        "style": "keyed",
        "outputs": THREE,
        "key_fields": ("id",),
        "passthrough": ("note", "deep"),
        "nan": "string",
    },
    "keyed_passthrough_all": {"style": "keyed", "outputs": ONE, "key_fields": ("id",), "passthrough": ("*",)},
    "keyed_composite": {"style": "keyed", "outputs": ONE, "key_fields": ("id", "x")},
    "vertex_instance": {"style": "vertex", "outputs": THREE},
    "vertex_key": {"style": "vertex", "outputs": ONE, "key_fields": ("id",)},
    "aiplatform_no_key": {"style": "aiplatform", "outputs": THREE},
    "aiplatform_composite_passthrough": {"style": "aiplatform", "outputs": THREE, "key_fields": ("id", "x"), "passthrough": ("note",)},
    "raw_one_output": {"style": "raw", "outputs": ONE, "nan": "string"},
    "raw_outputs": {"style": "raw", "outputs": THREE, "key_fields": ("id",)},
}


@pytest.mark.parametrize("case", list(CASES))
def test_lines_are_the_golden_ones(case: str) -> None:
    found = lines_of(**CASES[case])
    for line in found.splitlines():
        strict(line)
    assert found == (GOLDEN / f"{case}.jsonl").read_bytes()


@pytest.mark.parametrize("style", OUTPUT_STYLES)
@pytest.mark.parametrize(
    ("flag", "key_fields", "passthrough"),
    [("key_field", ("y",), ()), ("key_field", ("id", "y"), ("z",)), ("passthrough_fields", (), ("y",))],
)
def test_an_output_of_a_fields_name_is_refused_where_they_stand_side_by_side(
    style: str, flag: str, key_fields: tuple[str, ...], passthrough: tuple[str, ...]
) -> None:
    outputs = (TensorSpec("y", "y:0", "float32", (None, 2)),)
    signature = Signature("s", ("serve",), (TensorSpec("x", "x:0", "float32", (None,)),), outputs)
    output = FolderOutput("out", style=style, passthrough_fields=() if style == "raw" else passthrough)
    if style == "aiplatform":
        with pytest.raises(SpecError, match=f"--{flag}: y is an output of signature s too"):
            LineEncoder(signature, output, key_fields)
    else:
        LineEncoder(signature, output, key_fields)


def test_the_column_of_the_models_version_has_a_name_of_its_own() -> None:
    signature = Signature("s", ("serve",), (), (TensorSpec("y", "y:0", "float32", (None, 2)),))
    output = FolderOutput("out", style="aiplatform", passthrough_fields=("z",))
    for column in ("y", "id", "z"):
        with pytest.raises(SpecError, match=f"--model_column: {column} is"):
            check_members(signature, output, ("id",), column)
    check_members(signature, output, ("id",), "version")


def test_all_fields_beside_the_outputs_stand_once() -> None:
    signature = Signature("s", ("serve",), (TensorSpec("x", "x:0", "float32", (None,)),), ONE)
    output = FolderOutput("out", style="aiplatform", passthrough_fields=("*",))
    job = JobSpec(InputSpec(("in.jsonl",)), KeySpec(("id",)), ModelSpec("model", signature), output, "run", "launch", "now")
    encoder = LineEncoder(signature, output, ("id",))
    (block,) = [bytes(block) for block, _ in encoder.encode(PredictionBatch(instances(row_spec(job)), np.arange(3), {"y": Y}, []))]
    assert strict(block.splitlines()[0]) == {"id": "a", "y": [0.1, 1.0], "x": 1.5, "note": 'é"', "key": 0}


@pytest.mark.parametrize("style", OUTPUT_STYLES)
@pytest.mark.parametrize("nan", NAN_POLICIES)
@settings(MANY, max_examples=60)
@given(data=st.data())
def test_every_style_is_strict_json_with_the_values_of_the_kept_rows(style: str, nan: str, data: st.DataObject) -> None:
    number = data.draw(st.integers(1, 6))
    rows = [
        json.dumps({"id": data.draw(st.one_of(st.text(), st.integers())), "x": place, "z": data.draw(st.text(max_size=3))})
        for place in range(number)
    ]
    key_fields = data.draw(st.sampled_from([(), ("id",), ("id", "z")]))
    signature = Signature("s", ("serve",), (TensorSpec("x", "x:0", "float32", (None,)),), THREE)
    passthrough = () if style == "raw" else data.draw(st.sampled_from([(), ("z",), ("none",)]))
    if style == "aiplatform" and set(passthrough) & set(key_fields):
        passthrough = ()
    batch = instances(RowSpec(signature, key_fields, passthrough), "".join(row + "\n" for row in rows).encode("utf-8"))
    kept = np.array(data.draw(st.lists(st.integers(0, number - 1), unique=True)), np.int64)
    kept.sort()
    y = data.draw(
        hnp.arrays("float32", (len(kept), 2), elements=st.floats(width=32, allow_nan=nan != "error", allow_infinity=nan != "error"))
    )
    strings = data.draw(st.lists(st.binary(max_size=4), min_size=len(kept), max_size=len(kept)))
    predictions = PredictionBatch(
        batch, kept, {"y": y, "label": object_array(strings, (-1,)), "image_bytes": object_array(strings, (-1,))}, []
    )
    encoder = LineEncoder(signature, FolderOutput("out", style=style, passthrough_fields=passthrough, nan=nan), key_fields)
    blocks = list(encoder.encode(predictions))
    assert sum(count for _, count in blocks) == len(kept)
    text = b"".join(bytes(block) for block, _ in blocks)
    assert text.count(b"\n") == len(kept)
    for line, row, numbers, string in zip(text.splitlines(), kept, y.tolist(), strings, strict=True):
        found, instance = strict(line), json.loads(rows[row])
        prediction = found["prediction"] if style in ("keyed", "vertex") else found
        assert prediction["label"] == as_json(string, False)
        assert prediction["image_bytes"] == as_json(string, True)
        assert len(prediction["y"]) == 2
        for value, number in zip(prediction["y"], numbers, strict=True):
            if math.isfinite(number):
                assert np.float32(value) == np.float32(number)
            else:
                assert value == (None if nan == "null" else {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(number)])
        key = (
            f"in.jsonl:{batch.offsets[row]}"
            if not key_fields
            else instance["id"]
            if key_fields == ("id",)
            else [instance["id"], instance["z"]]
        )
        if style == "keyed" or (style == "vertex" and key_fields):
            assert found["key"] == key
        if style == "vertex" and not key_fields:
            assert found["instance"] == instance
        if style == "aiplatform":
            assert [found[name] for name in key_fields] == [instance[name] for name in key_fields]
        assert [found[name] for name in passthrough] == [instance.get(name) for name in passthrough]


def test_rows_of_a_text_model_as_vertex_instances() -> None:
    signature = Signature("s", ("serve",), (TensorSpec("line", "l:0", "string", (None,)),), ONE)
    batch = instances(RowSpec(signature), b'a,"b"\t\n\xff\n{"line": "c"}\n')
    encoder = LineEncoder(signature, FolderOutput("out", style="vertex"), ())
    text = b"".join(bytes(block) for block, _ in encoder.encode(PredictionBatch(batch, np.arange(3), {"y": np.float32([[1, 2]] * 3)}, [])))
    assert [strict(line)["instance"] for line in text.splitlines()] == ['a,"b"\t', {"b64": "/w=="}, {"line": "c"}]


def test_rows_that_are_not_finite_fail_under_error() -> None:
    signature = Signature("s", ("serve",), (TensorSpec("x", "x:0", "float32", (None,)),), THREE)
    batch = instances(RowSpec(signature, ("id",)))
    predictions = PredictionBatch(batch, np.array([0, 1, 2]), {"image_bytes": LABELS, "label": LABELS, "y": Y}, [])
    encoder = LineEncoder(signature, FolderOutput("out", nan="error"), ("id",))
    kept = refuse_non_finite(predictions)
    assert kept.instance_rows.tolist() == [0, 2]
    assert [(row.key, row.stage, row.code, row.offset) for row in kept.failed] == [
        (b"7", Stage.WRITE, Code.NOT_FINITE, INPUT.index(b'{"id": 7'))
    ]
    assert "'y'" in kept.failed[0].message
    assert b"".join(bytes(block) for block, _ in encoder.encode(kept)).count(b"\n") == 2
    assert refuse_non_finite(kept) is kept


def test_blocks_of_lines_stay_small() -> None:
    signature = Signature("s", ("serve",), (TensorSpec("x", "x:0", "float32", (None,)),), ONE)
    rows = b"".join(b'{"x": %d}\n' % number for number in range(50))
    predictions = PredictionBatch(
        instances(RowSpec(signature), rows), np.arange(50), {"y": np.arange(100).reshape(50, 2).astype(np.float32)}, []
    )
    encoder = LineEncoder(signature, FolderOutput("out", style="raw"), (), block_bytes=100)
    blocks = [(bytes(block), count) for block, count in encoder.encode(predictions)]
    assert len(blocks) > 5
    assert [block.count(b"\n") for block, _ in blocks] == [count for _, count in blocks]
    assert [strict(line) for block, _ in blocks for line in block.splitlines()] == np.arange(100).reshape(50, 2).tolist()


def test_no_row_no_line() -> None:
    signature = Signature("s", ("serve",), (TensorSpec("x", "x:0", "float32", (None,)),), ONE)
    batch = dataclasses.replace(instances(RowSpec(signature)), failed=[])
    nothing = PredictionBatch(batch, np.empty(0, np.int64), {"y": np.empty((0,), np.float32)}, [])
    assert list(LineEncoder(signature, FolderOutput("out"), ()).encode(nothing)) == []
    assert len(RowTexts(b"", np.empty(0, np.int64), np.empty(0, np.int64))) == 0
