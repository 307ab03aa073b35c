"""TFRecord → columns, keys and failed rows, from files that TensorFlow itself wrote."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import check_output, lines, run
from saved_models import Models
from tf_records import example, write_records

from transforms.elements.batches import InstanceBatch
from transforms.elements.splits import FileRange
from transforms.formats import blocks
from transforms.formats.blocks import DamagedFileError
from transforms.formats.tfrecord.parse_examples import impossible_inputs
from transforms.formats.tfrecord.reader import RecordReader
from transforms.rows.codes import Code
from transforms.rows.row_spec import RowSpec
from transforms.specs.limits import Limits
from transforms.specs.signature import Signature, TensorSpec


def signature(**inputs: tuple[str, tuple[int | None, ...] | None]) -> Signature:
    specs = tuple(TensorSpec(name, f"{name}:0", dtype, shape) for name, (dtype, shape) in inputs.items())
    return Signature("serving_default", ("serve",), specs, (TensorSpec("y", "y:0", "float32", (None,)),))


LONE = RowSpec(signature(examples=("string", (None,))))


def read(path: Path, spec: RowSpec) -> list[InstanceBatch]:
    return list(RecordReader(spec).read(FileRange(str(path), 0, None, path.stat().st_size, path.name)))


def one_batch(tmp_path: Path, records: list[bytes], spec: RowSpec) -> InstanceBatch:
    (batch,) = [batch for batch in read(write_records(tmp_path / "rows.tfrecord", records), spec) if len(batch) + len(batch.failed)]
    return batch


RECORDS = [bytes([n % 256]) * (n * 7 % 300) for n in range(500)]


@pytest.mark.parametrize("name", ["rows.tfrecord", "rows.tfrecord.gz"])
@pytest.mark.parametrize("block_bytes", [1, 100, 4 << 20])
def test_records_come_out_as_they_are(tmp_path: Path, name: str, block_bytes: int) -> None:
    limits = Limits(block_bytes=block_bytes)
    path = write_records(tmp_path / name, RECORDS)
    batches = read(path, dataclasses.replace(LONE, limits=limits))
    assert [value for batch in batches for value in batch.columns["examples"]] == RECORDS
    starts = np.cumsum([0, *(len(record) + 16 for record in RECORDS)])[:-1]
    assert [offset for batch in batches for offset in batch.offsets] == starts.tolist()
    assert batches[-1].keys.to_pylist()[-1:] in ([], [f'"{path}:{starts[-1]}"'])
    last = [batch for batch in batches if len(batch)][-1]
    assert json.loads(last.rows[len(last) - 1]) == {"b64": base64.b64encode(RECORDS[-1]).decode()}
    shaped = RowSpec(signature(examples=("string", (None, 1))), limits=limits)
    assert [batch.columns["examples"].shape[1:] for batch in read(path, shaped)] == [(1,)] * len(batches)


@pytest.mark.parametrize("block_bytes", [50, 4 << 20])
def test_damage_anywhere_keeps_the_rows_before_it(tmp_path: Path, block_bytes: int) -> None:
    records = RECORDS[:12]
    content = write_records(tmp_path / "good.tfrecord", records).read_bytes()
    starts = np.cumsum([0, *(len(record) + 16 for record in records)]).tolist()
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 0x40
        for damaged in (bytes(flipped), content[:place]):
            (tmp_path / "bad.tfrecord").write_bytes(damaged)
            found, damage = until_damage(tmp_path / "bad.tfrecord", block_bytes)
            whole = sum(start <= place for start in starts) - 1
            assert found == records[:whole]
            assert damage == (None if damaged == content[:place] and place in starts else starts[whole])


def until_damage(path: Path, block_bytes: int = 4 << 20) -> tuple[list[bytes], int | None]:
    """The records before the damage, and where that is."""
    found: list[bytes] = []
    try:
        spec = dataclasses.replace(LONE, limits=Limits(block_bytes=block_bytes))
        for batch in RecordReader(spec).read(FileRange(str(path), 0, None, 0, path.name)):
            found += batch.columns["examples"].tolist()
    except DamagedFileError as damage:
        return found, damage.offset
    return found, None


def test_a_truncated_gzip_and_a_file_of_another_format(tmp_path: Path) -> None:
    packed = write_records(tmp_path / "rows.tfrecord.gz", [np.random.default_rng(n).bytes(1000) for n in range(100)]).read_bytes()
    (tmp_path / "cut.tfrecord.gz").write_bytes(packed[: len(packed) // 2])
    found, damage = until_damage(tmp_path / "cut.tfrecord.gz")
    assert 10 < len(found) < 55
    assert damage == len(found) * 1016
    (tmp_path / "text.tfrecord").write_bytes(b'{"x": 1}\n' * 10)
    with pytest.raises(DamagedFileError, match="no TFRecord file"):
        read(tmp_path / "text.tfrecord", LONE)
    with pytest.raises(DamagedFileError, match="1000 bytes"):
        read(tmp_path / "rows.tfrecord.gz", dataclasses.replace(LONE, limits=Limits(row_bytes=999)))
    (tmp_path / "empty.tfrecord").write_bytes(b"")
    assert sum(map(len, read(tmp_path / "empty.tfrecord", LONE))) == 0
    assert blocks.compression_of("rows.tfrecord.gz") == "gzip"


NAMED = signature(
    f=("float32", (None,)),
    v=("float64", (None, 2, 2)),
    n=("int32", (None, 1)),
    b=("bool", (None,)),
    s=("string", (None,)),
    o=("int64", (None, None)),
)
GOOD: dict[str, Any] = {"f": 0.1, "v": [1.0, 2.0, 3.0, 4.5], "n": 2**31 - 1, "b": 1, "s": b"\xff\0", "o": [2**62, -1], "extra": "x"}


def test_features_become_columns(tmp_path: Path) -> None:
    batch = one_batch(tmp_path, [example(**GOOD), example(**GOOD | {"f": 7, "b": 0, "n": -1, "o": [5]})], RowSpec(NAMED))
    assert batch.failed == []
    assert (batch.columns["f"].dtype, batch.columns["f"].tolist()) == (np.float32, [np.float32(0.1), 7.0])
    assert (batch.columns["v"].dtype, batch.columns["v"].tolist()) == (np.float64, [[[1, 2], [3, 4.5]]] * 2)
    assert (batch.columns["n"].dtype, batch.columns["n"].tolist()) == (np.int32, [[2**31 - 1], [-1]])
    assert batch.columns["b"].tolist() == [True, False]
    assert batch.columns["s"].tolist() == [b"\xff\0"] * 2
    assert [batch.columns["o"].take(np.array([row])).rows[0].tolist() for row in (0, 1)] == [[2**62, -1], [5]]


BAD = [
    ({"f": "text"}, Code.WRONG_TYPE, "'f'"),
    ({"n": 1.0}, Code.WRONG_TYPE, "'n'"),
    ({"s": 1}, Code.WRONG_TYPE, "'s'"),
    ({"n": 2**31}, Code.OUT_OF_RANGE, "2147483648 does not fit int32"),
    ({"b": 2}, Code.OUT_OF_RANGE, "2 does not fit bool"),
    ({"v": [1.0, 2.0]}, Code.WRONG_SHAPE, "expected 4 values, found 2"),
    ({"f": [1.0, 2.0]}, Code.WRONG_SHAPE, "expected 1 values, found 2"),
    ({"f": []}, Code.INPUT_MISSING, "'f'"),
    ({"o": None}, Code.INPUT_MISSING, "'o'"),
    ({"s": None}, Code.INPUT_MISSING, "'s'"),
    (b"\x0a\xff\xff", Code.NOT_EXAMPLE, "tf.Example"),
    (b"", Code.INPUT_MISSING, "'f'"),
]


@pytest.mark.parametrize(("change", "code", "text"), BAD, ids=[str(code) + str(number) for number, (_, code, _) in enumerate(BAD)])
@pytest.mark.parametrize("key_fields", [(), ("id",)])
def test_a_bad_record_costs_itself_alone(tmp_path: Path, change: Any, code: Code, text: str, key_fields: tuple[str, ...]) -> None:
    changed = {
        name: value for name, value in (GOOD | (change if isinstance(change, dict) else {}) | {"id": 3}).items() if value is not None
    }
    bad = change if isinstance(change, bytes) else example(**changed)
    spec = RowSpec(NAMED, key_fields=key_fields)
    good = [example(**GOOD, id=n) for n in range(5)]
    for records in ([bad], [*good[:2], bad, *good[3:]]):
        batches = read(write_records(tmp_path / "rows.tfrecord", records), spec)
        failed = [row for batch in batches for row in batch.failed]
        assert [(row.code, json.loads(row.instance)) for row in failed if row.code != Code.KEY_MISSING] in (
            [(code, {"b64": base64.b64encode(bad).decode()})],
            [] if isinstance(change, bytes) and key_fields and change == b"" else None,
        )
        assert len(failed) == 1
        assert text in failed[0].message or failed[0].code == Code.KEY_MISSING
        assert failed[0].offset == (0 if len(records) == 1 else sum(len(record) + 16 for record in good[:2]))
        assert sum(map(len, batches)) == len(records) - 1
        if key_fields and isinstance(change, dict):
            assert failed[0].key == b"3"
        if len(records) > 1:
            assert [value for batch in batches for value in batch.columns["n"].tolist()] == [[2**31 - 1]] * 4
            assert not key_fields or [key for batch in batches for key in batch.keys.to_pylist()] == ["0", "1", "3", "4"]


def test_keys_and_passthrough_fields_are_features(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": 7, "t": "é"},
        {"id": "7", "t": [1, 2]},
        {"id": 0.1, "raw": b"\xff"},
        {"id": [1, 2]},
        {"id": []},
        {},
    ]
    for spec in (LONE, RowSpec(signature(x=("float32", (None,)), z=("float32", (None,))))):
        keyed = RowSpec(spec.signature, key_fields=("id",), passthrough_fields=("t", "raw"))
        batch = one_batch(tmp_path, [example(x=1.0, z=2.0, **row) for row in rows], keyed)
        assert batch.keys.to_pylist() == ["7", '"7"', "0.1"]
        assert batch.passthrough["t"].to_pylist() == ['"é"', "[1,2]", "null"]
        assert batch.passthrough["raw"].to_pylist() == ["null", "null", '{"b64":"/w=="}']
        assert [row.code for row in batch.failed] == [Code.KEY_NOT_SCALAR, Code.KEY_MISSING, Code.KEY_MISSING]
        everything = RowSpec(spec.signature, key_fields=("id",), passthrough_fields=("*",), own_fields=("x",))
        batch = one_batch(tmp_path, [example(x=1.0, z=2.0, **row) for row in rows[:3]], everything)
        passed = [json.loads("{" + text + "}") for text in batch.passthrough["*"].to_pylist()]
        assert passed == [{"t": "é", "z": 2.0}, {"t": [1, 2], "z": 2.0}, {"raw": {"b64": "/w=="}, "z": 2.0}]


def test_inputs_that_no_feature_can_feed() -> None:
    spec = RowSpec(signature(a=("float32", (None, None, 2)), b=("complex64", (None,)), c=("float32", (None, None)), d=("int8", None)))
    assert [tensor.name for tensor in impossible_inputs(spec)] == ["a", "b"]
    assert impossible_inputs(LONE) == []


@pytest.mark.parametrize("name", ["rows.tfrecord", "rows.tfrecords.gz", "rows.tfrec"])
def test_a_job_on_examples(models: Models, tmp_path: Path, name: str) -> None:
    data = write_records(tmp_path / name, [example(x=n, s=f"text {n}", id=f"k{n}") for n in range(1000)])
    assert run(tmp_path / "out", model=models.get("two_outputs"), input=data, key_field="id") == 0
    assert check_output(tmp_path / "out")["counts"] == {"read": 1000, "predicted": 1000, "failed": 0}
    got = {row["key"]: row["prediction"] for row in lines(tmp_path / "out")}
    assert {key: (row["double"], row["upper"]) for key, row in got.items()} == {f"k{n}": (2 * n, f"TEXT {n}") for n in range(1000)}


def test_a_job_on_raw_records_with_damage(models: Models, tmp_path: Path) -> None:
    content = write_records(tmp_path / "rows.tfrecord", [b"x" * n for n in range(100)]).read_bytes()
    assert run(tmp_path / "out", model=models.get("text_length"), input=tmp_path / "rows.tfrecord") == 0
    assert [row["prediction"] for row in lines(tmp_path / "out")] == list(range(100))
    (tmp_path / "rows.tfrecord").write_bytes(content[:-1])
    assert run(tmp_path / "bad", model=models.get("text_length"), input=tmp_path / "rows.tfrecord") == 3
    assert check_output(tmp_path / "bad")["counts"] == {"read": 100, "predicted": 99, "failed": 1}
    (failed,) = lines(tmp_path / "bad", "prediction.errors")
    assert (failed["code"], failed["offset"]) == ("FILE_DAMAGED", len(content) - 99 - 16)
    (tmp_path / "rows.tfrecord.gz").write_bytes(gzip.compress(content))
    assert run(tmp_path / "packed", model=models.get("text_length"), input=tmp_path / "rows.tfrecord.gz") == 0
