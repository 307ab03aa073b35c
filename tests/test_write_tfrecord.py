"""Predictions as TFRecords: what TensorFlow's own reader and parser give is what NumPy has; and whole jobs."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path
from typing import Any

import google_crc32c
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jobs import names_in, run, write_lines
from saved_models import Models
from written import instances, objects, output_spec, predictions, signature_of

from transforms.elements.batches import PredictionBatch
from transforms.elements.columns import Column, Ragged
from transforms.formats.tfrecord.encode_examples import head, varint
from transforms.formats.tfrecord.framing import frame
from transforms.formats.tfrecord.writer import ExampleEncoder
from transforms.rows.codes import Code
from transforms.specs.errors import SpecError
from transforms.specs.limits import Limits
from transforms.specs.output import FolderOutput
from transforms.specs.signature import TensorSpec

MANY = settings(deadline=None, derandomize=True, max_examples=80)
SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)
INTEGERS = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"]


def encoder_of(*outputs: TensorSpec, key_fields: tuple[str, ...] = (), passthrough: tuple[str, ...] = ()) -> ExampleEncoder:
    return ExampleEncoder(signature_of(*outputs), FolderOutput("out", format="tf-record", passthrough_fields=passthrough), key_fields)


def contents(file: bytes) -> list[bytes]:
    """Cuts a file at its lengths; the checksums are TensorFlow's to check, in the jobs below."""
    found = []
    while file:
        length = int.from_bytes(file[:8], "little")
        found.append(file[12 : 12 + length])
        file = file[16 + length :]
    return found


def encode(encoder: ExampleEncoder, *batches: PredictionBatch) -> list[tf.train.Example]:
    sink = io.BytesIO()
    encoder.open(sink)
    for batch in batches:
        encoder.write(batch)
    encoder.close()
    return [tf.train.Example.FromString(content) for content in contents(sink.getvalue())]


def as_dict(example: tf.train.Example) -> dict[str, list[Any]]:
    return {name: list(getattr(feature, feature.WhichOneof("kind")).value) for name, feature in example.features.feature.items()}


def lists_of(column: Column, dtype: str, shape: tuple[int | None, ...], kind: str) -> list[list[Any]]:
    encoder = encoder_of(TensorSpec("y", "y:0", dtype, (None, *shape)))
    batch = predictions({"y": column})
    assert encoder.refuse(batch) is batch
    found = encode(encoder, batch)
    assert {example.features.feature["y"].WhichOneof("kind") for example in found} <= {kind}
    rows = [as_dict(example) for example in found]
    assert [row["key"] for row in rows] == [[f"k{number}".encode()] for number in range(len(column))]
    return [row["y"] for row in rows]


@MANY
@given(column=st.sampled_from(INTEGERS).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES)))
def test_integers_are_exact(column: np.ndarray) -> None:
    found = lists_of(column, column.dtype.name, column.shape[1:], "int64_list")
    assert found == column.astype(np.int64).reshape(len(column), int(np.prod(column.shape[1:]))).tolist()


@MANY
@given(column=st.sampled_from(["float16", "float32"]).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES)))
def test_floats_are_exact(column: np.ndarray) -> None:
    found = lists_of(column, column.dtype.name, column.shape[1:], "float_list")
    expected = column.astype(np.float32).reshape(len(column), int(np.prod(column.shape[1:])))
    np.testing.assert_array_equal(np.array(found, np.float32).reshape(expected.shape), expected)


def test_doubles_are_rounded_and_the_other_dtypes_fit() -> None:
    assert lists_of(np.array([0.1, np.inf, -1e-300]), "float64", (), "float_list") == [[float(np.float32(0.1))], [np.inf], [0]]
    assert lists_of(np.array([1.5, -2], ml_dtypes.bfloat16), "bfloat16", (), "float_list") == [[1.5], [-2]]
    assert lists_of(np.array([[1, -8]]).astype(ml_dtypes.int4), "int4", (2,), "int64_list") == [[1, -8]]
    assert lists_of(np.complex64([[1 + 2j, 3]]), "complex64", (2,), "float_list") == [[1, 2, 3, 0]]
    assert lists_of(np.uint64([7, 2**63 - 1]), "uint64", (), "int64_list") == [[7], [2**63 - 1]]


@MANY
@given(values=st.lists(st.binary(max_size=200), min_size=4, max_size=4), shape=st.sampled_from([(4,), (2, 2), (4, 1), (1, 2, 2), (4, 0)]))
def test_strings_are_bytes(values: list[bytes], shape: tuple[int, ...]) -> None:
    column = objects(values, shape) if np.prod(shape) else np.empty(shape, object)
    assert lists_of(column, "string", shape[1:], "bytes_list") == [list(row) for row in column.reshape(shape[0], int(np.prod(shape[1:])))]


def test_rows_of_different_length() -> None:
    rows = [np.arange(number * 2, dtype=np.int64).reshape(number, 2) for number in (3, 0, 1)]
    assert lists_of(Ragged(rows), "int64", (None, 2), "int64_list") == [[0, 1, 2, 3, 4, 5], [], [0, 1]]


@pytest.mark.parametrize("value", [0, 127, 128, 16383, 16384, 2**32, 2**63 - 1, -1, -(2**63)])
def test_integers_at_the_borders_of_their_groups(value: int) -> None:
    assert lists_of(np.array([[value, 1], [0, value]], np.int64), "int64", (2,), "int64_list") == [[value, 1], [0, value]]


def test_long_names_and_values() -> None:
    name = "é" * 100
    encoder = encoder_of(TensorSpec(name, "y:0", "float32", (None, 5000)))
    (example,) = encode(encoder, predictions({name: np.arange(5000, dtype=np.float32)[np.newaxis]}))
    assert as_dict(example) == {"key": [b"k0"], name: list(range(5000))}
    assert (varint(0), varint(300), head(1, 300)) == (b"\x00", b"\xac\x02", b"\x0a\xac\x02")


def test_keys_and_fields_are_texts() -> None:
    encoder = encoder_of(output_spec("y", "float32", 0), key_fields=("shop", "day"), passthrough=("note",))
    batch = instances(['["é", 7]', '["b\\n", true]', '["", 1.0]'], {"note": ['"a"', "null", '{"c": 1}']})
    found = encode(encoder, PredictionBatch(batch, np.array([0, 1, 2]), {"y": np.float32([1, 2, 3])}, []))
    assert [as_dict(example) for example in found] == [
        {"shop": ["é".encode()], "day": [b"7"], "y": [1.0], "note": [b"a"]},
        {"shop": [b"b\n"], "day": [b"true"], "y": [2.0]},
        {"shop": [b""], "day": [b"1.0"], "y": [3.0], "note": [b'{"c": 1}']},
    ]


@pytest.mark.parametrize(
    ("column", "dtype"),
    [
        (np.uint64([1, 2**63, 2]), "uint64"),
        (np.array([1, 1e39, np.inf]), "float64"),
        (np.array([[1, 2], [3, -1e300], [np.nan, 0]]), "float64"),
        (np.array([0, 1e200j, 1]), "complex128"),
        (Ragged([np.uint64([1]), np.uint64([5, 2**64 - 1]), np.uint64([])]), "uint64"),
    ],
)
def test_numbers_that_do_not_fit_fail_their_row(column: Column, dtype: str) -> None:
    rank = 1 if isinstance(column, Ragged) else column.ndim - 1
    encoder = encoder_of(output_spec("y", dtype, rank))
    kept = encoder.refuse(predictions({"y": column}))
    assert [(row.key, row.code) for row in kept.failed] == [(b'"k1"', Code.OUTPUT_DOES_NOT_FIT)]
    assert "'y'" in kept.failed[0].message
    assert [as_dict(example)["key"] for example in encode(encoder, kept)] == [[b"k0"], [b"k2"]]


def test_shapes_that_can_not_be_told_are_refused() -> None:
    encoder_of(TensorSpec("y", "y:0", "float32", (None, None, 3)))
    with pytest.raises(SpecError, match=r"output 'y' of signature serving_default is float32\[\?,\?\] a row") as refusal:
        encoder_of(TensorSpec("y", "y:0", "float32", (None, None, None)))
    assert refusal.value.flag == "output_format"


@MANY
@given(st.lists(st.binary(max_size=30), max_size=4))
def test_records_are_tensorflows(rows: list[bytes]) -> None:
    with tempfile.NamedTemporaryFile(suffix=".tfrecord") as file:
        with tf.io.TFRecordWriter(file.name) as writer:
            for row in rows:
                writer.write(row)
        assert Path(file.name).read_bytes() == b"".join(map(frame, rows))


# --- whole jobs --------------------------------------------------------------------------------------------------------------


def check_results(out: Path, features: dict[str, Any]) -> list[dict[str, Any]]:
    """Holds each result against its entry in the manifest; gives all rows as TensorFlow's parser has them."""
    report = json.loads((out / "manifest.json").read_text())
    found: list[dict[str, Any]] = []
    for entry in report["results"]:
        content = (out / entry["name"]).read_bytes()
        assert (len(content), google_crc32c.Checksum(content).hexdigest().decode()) == (entry["bytes"], entry["crc32c"])
        rows = list(tf.data.TFRecordDataset(str(out / entry["name"])).map(lambda row: tf.io.parse_single_example(row, features)))
        assert len(rows) == entry["rows"]
        found += [{name: value.numpy() for name, value in row.items()} for row in rows]
    assert len(found) == report["counts"]["predicted"]
    return found


def test_a_job_writes_examples(models: Models, tmp_path: Path) -> None:
    rows: list[Any] = [{"x": number - 50, "s": f"é{number}", "id": number, "note": None if number % 2 else "n"} for number in range(200)]
    data, out = write_lines(tmp_path / "rows.jsonl", rows), tmp_path / "out"
    flags = {"model": models.get("two_outputs"), "input": data, "key_field": "id", "passthrough_fields": "note"}
    assert run(out, Limits(split_bytes=3000), **flags, output_format="tf-record") == 0
    assert len(list(out.glob("prediction.results-*-of-*.tfrecord"))) > 2
    features = {
        "key": tf.io.FixedLenFeature([], tf.string), "double": tf.io.FixedLenFeature([], tf.int64),
        "root": tf.io.FixedLenFeature([], tf.float32), "upper": tf.io.FixedLenFeature([], tf.string),
        "upper_bytes": tf.io.FixedLenFeature([], tf.string), "note": tf.io.FixedLenFeature([], tf.string, default_value="none"),
    }  # fmt: skip
    found = check_results(out, features)
    assert [row["key"] for row in found] == [str(number).encode() for number in range(200)]
    assert [row["double"] for row in found] == [2 * (number - 50) for number in range(200)]
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(np.array([row["root"] for row in found]), np.sqrt(np.arange(-50, 150, dtype=np.float32)))
    assert [row["upper"].decode() for row in found] == [row["upper_bytes"].decode() for row in found] == [f"é{row}" for row in range(200)]
    assert [row["note"] for row in found] == [b"none" if number % 2 else b"n" for number in range(200)]


def test_lists_of_open_length(models: Models, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "rows.jsonl", [{"x": [1, 2, 3]}, {"x": []}, {"x": [4]}])
    assert run(tmp_path / "out", model=models.get("open_length"), input=data, output_format="tf-record") == 0
    features = {"doubled": tf.io.VarLenFeature(tf.float32), "total": tf.io.FixedLenFeature([], tf.float32)}
    rows = [
        tf.io.parse_single_example(row, features)
        for row in tf.data.TFRecordDataset(str(tmp_path / "out" / "prediction.results-00000-of-00001.tfrecord"))
    ]
    assert [row["doubled"].values.numpy().tolist() for row in rows] == [[2, 4, 6], [], [8]]
    assert [float(row["total"]) for row in rows] == [6, 0, 4]


def test_empty_and_mirrored_files(models: Models, tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_lines(data / "a" / "many.jsonl", [{"x": number} for number in range(300)])
    write_lines(data / "none.jsonl", [])
    flags = {"model": models.get("half_plus_two"), "output_format": "tf-record"}
    features = {"y": tf.io.FixedLenFeature([], tf.float32)}
    assert run(tmp_path / "out", Limits(split_bytes=300), **flags, input=data, output_layout="mirror") == 0
    assert names_in(tmp_path / "out") == {
        "_SUCCESS",
        "manifest.json",
        "report.html",
        "statistics.json",
        "a/many.jsonl.tfrecord",
        "none.jsonl.tfrecord",
    }
    found = check_results(tmp_path / "out", features)
    np.testing.assert_array_equal([row["y"] for row in found], np.arange(300) * 0.5 + 2)
    assert run(tmp_path / "empty", **flags, input=data / "none.jsonl") == 0
    assert names_in(tmp_path / "empty") == {
        "_SUCCESS",
        "manifest.json",
        "report.html",
        "statistics.json",
        "prediction.results-00000-of-00001.tfrecord",
    }
    assert check_results(tmp_path / "empty", features) == []
