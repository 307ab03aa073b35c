"""Parquet and Avro through the whole job; expected values from NumPy, or from the same rows as JSON-lines."""

from __future__ import annotations

import datetime
import decimal
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd
from jobs import lines, run
from saved_models import Models

from pipeline.main import main
from transforms.convert import from_arrow
from transforms.elements.columns import Ragged
from transforms.formats import record_batches
from transforms.formats.avro.schema import arrow_types
from transforms.rows.codes import Code
from transforms.specs.limits import Limits
from transforms.specs.signature import Signature, TensorSpec


def counts(out: Path) -> dict[str, int]:
    return json.loads((out / "manifest.json").read_text())["counts"]


def write_avro(path: Path, rows: Sequence[dict[str, Any]], types: dict[str, Any], codec: str = "null", block: int = 16000) -> Path:
    schema = {"type": "record", "name": "Row", "fields": [{"name": name, "type": kind} for name, kind in types.items()]}
    with path.open("wb") as stream:
        fastavro.writer(stream, schema, rows, codec=codec, sync_interval=block)
    return path


# --- one column ------------------------------------------------------------------------------------------------------------


def column(array: pa.Array, dtype: str, *shape: int | None) -> tuple[Any, dict[int, Code]]:
    spec = TensorSpec("x", "x:0", dtype, (None, *shape))
    made, errors = from_arrow.make_column(array, Signature("s", ("serve",), (spec,), (spec,)), spec)
    return made, {row: error.code for row, error in errors.items()}


@pytest.mark.parametrize(
    ("array", "dtype", "expected"),
    [
        (pa.array([1, 2**60 + 1]), "int64", np.array([1, 2**60 + 1])),
        (pa.array([1, 2], pa.int8()), "float32", np.array([1, 2], np.float32)),
        (pa.array([0.1, float("nan")]), "float32", np.array([0.1, np.nan], np.float32)),
        (pa.array([float("inf")]), "float16", np.array([np.inf], np.float16)),
        (pa.array([True, False]), "bool", np.array([True, False])),
        (pa.array(["a", "ä"]), "string", np.array(["a", "ä"], object)),
        (pa.array([b"\xff"], pa.large_binary()), "string", np.array([b"\xff"], object)),
        (pa.array(["a", "b", "a"]).dictionary_encode(), "string", np.array(["a", "b", "a"], object)),
        (pa.array([decimal.Decimal("1.25")]), "float64", np.array([1.25])),
        (pa.array([decimal.Decimal("7")]), "int32", np.array([7], np.int32)),
        (pa.array([datetime.date(2026, 11, 22)]), "string", np.array(["2026-11-22"], object)),
        (pa.array([2**64 - 1], pa.uint64()), "uint64", np.array([2**64 - 1], np.uint64)),
    ],
)
def test_a_scalar_column(array: pa.Array, dtype: str, expected: np.ndarray) -> None:
    made, errors = column(array, dtype)
    assert errors == {}
    np.testing.assert_array_equal(made, expected)
    assert made.dtype == expected.dtype


@pytest.mark.parametrize(
    ("array", "dtype", "errors"),
    [
        (pa.array([1.0, 2.5]), "int64", {0: Code.WRONG_TYPE, 1: Code.WRONG_TYPE}),
        (pa.array(["1"]), "float32", {0: Code.WRONG_TYPE}),
        (pa.array([1]), "string", {0: Code.WRONG_TYPE}),
        (pa.array([1]), "bool", {0: Code.WRONG_TYPE}),
        (pa.array([1, None, 300, -1]), "uint8", {1: Code.NULL_VALUE, 2: Code.OUT_OF_RANGE, 3: Code.OUT_OF_RANGE}),
        (pa.array([1.0, 1e39, None]), "float32", {1: Code.OUT_OF_RANGE, 2: Code.NULL_VALUE}),
        (pa.array([2**63], pa.uint64()), "int64", {0: Code.OUT_OF_RANGE}),
        (pa.array([None, None]), "float32", {0: Code.NULL_VALUE, 1: Code.NULL_VALUE}),
        (pa.array([[1.0]]), "float32", {0: Code.WRONG_SHAPE}),
        (pa.array([datetime.datetime(2026, 1, 1)]), "int64", {0: Code.WRONG_TYPE}),
        (pa.array([{"a": 1}]), "float32", {0: Code.WRONG_TYPE}),
    ],
)
def test_a_column_that_does_not_fit(array: pa.Array, dtype: str, errors: dict[int, Code]) -> None:
    assert column(array, dtype)[1] == errors


def test_lists_by_shape() -> None:
    rows = [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]]
    for kind in (pa.list_(pa.list_(pa.float64())), pa.large_list(pa.list_(pa.float32(), 2))):
        made, errors = column(pa.array(rows, kind), "float32", 2, 2)
        assert errors == {}
        np.testing.assert_array_equal(made, np.array(rows, np.float32))
    sliced, errors = column(pa.array([[[9.0, 9.0]] * 2, *rows]).slice(1), "float32", 2, 2)
    np.testing.assert_array_equal(sliced, np.array(rows, np.float32))
    made, errors = column(pa.array([[1, 2], [3], None, [4, None], [5, 6]]), "int32", 2)
    assert errors == {1: Code.WRONG_SHAPE, 2: Code.NULL_VALUE, 3: Code.NULL_VALUE}
    np.testing.assert_array_equal(made[[0, 4]], [[1, 2], [5, 6]])
    scalar, errors = column(pa.array([1.0, 2.0]), "float32", 1)
    assert errors == {}
    np.testing.assert_array_equal(scalar, [[1], [2]])
    ragged, errors = column(pa.array([[1, 2], [3], []]), "int64", None)
    assert errors == {}
    assert isinstance(ragged, Ragged)
    assert [row.tolist() for row in ragged.rows] == [[1, 2], [3], []]


def test_values_as_json_text() -> None:
    value = {"a": [b"\xff", decimal.Decimal("1.50"), None], "day": datetime.date(2026, 1, 2), "n": float("nan"), "big": 2**62}
    assert record_batches.json_text(value) == b'{"a":[{"b64":"/w=="},1.50,null],"day":"2026-01-02","n":null,"big":4611686018427387904}'


# --- whole jobs ---------------------------------------------------------------------------------------------------------------


ROWS = [{"x": float(number), "id": 2**60 + number, "note": f"n{number}"} for number in range(5000)]
AVRO_TYPES = {"x": "float", "id": "long", "note": ["null", "string"]}


def check_rows(out: Path) -> None:
    found = lines(out)
    assert [row["key"] for row in found] == [row["id"] for row in ROWS]
    np.testing.assert_array_equal([row["prediction"] for row in found], np.arange(5000) * 0.5 + 2)
    assert [row["note"] for row in found] == [row["note"] for row in ROWS]


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip"])
def test_parquet(models: Models, tmp_path: Path, compression: str) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet", compression=compression, row_group_size=600)
    flags = {"key_field": "id", "passthrough_fields": "note"}
    limits = Limits(split_bytes=10_000)
    assert run(tmp_path / "out", limits, model=models.get("half_plus_two"), input=tmp_path / "rows.parquet", **flags) == 0
    check_rows(tmp_path / "out")
    assert len(list((tmp_path / "out").glob("prediction.results-*"))) > 1


@pytest.mark.parametrize("codec", ["null", "deflate", "snappy", "zstandard", "bzip2"])
def test_avro(models: Models, tmp_path: Path, codec: str) -> None:
    limits = Limits(split_bytes=5000)
    data = write_avro(tmp_path / "rows.avro", ROWS, AVRO_TYPES, codec, block=1000)
    assert run(tmp_path / "out", limits, model=models.get("half_plus_two"), input=data, key_field="id", passthrough_fields="note") == 0
    check_rows(tmp_path / "out")
    assert len(list((tmp_path / "out").glob("prediction.results-*"))) > 1


def test_made_keys_of_tables_are_unique(models: Models, tmp_path: Path) -> None:
    data = write_avro(tmp_path / "rows.avro", ROWS, AVRO_TYPES)
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet", row_group_size=600)
    for source in (data, tmp_path / "rows.parquet"):
        assert run(tmp_path / "out", model=models.get("half_plus_two"), input=source) == 0
        assert len({row["key"] for row in lines(tmp_path / "out")}) == 5000


@pytest.mark.parametrize("block", [1000, 16000, 400_000])
def test_made_keys_are_unique_where_a_block_has_more_rows_than_bytes(models: Models, tmp_path: Path, block: int) -> None:
    """As compression makes them of rows that are much alike: 16,000 bytes of them took 54."""
    rows = [{"x": 1.0, "id": 7, "note": None}] * 20_000 + [{"x": float(number), "id": number, "note": "n"} for number in range(500)]
    data = write_avro(tmp_path / "rows.avro", rows, AVRO_TYPES, "deflate", block=block)
    assert run(tmp_path / "out", model=models.get("half_plus_two"), input=data) == 0
    first = [row["key"] for row in lines(tmp_path / "out")]
    assert (len(first), len({*first})) == (20_500, 20_500)
    assert run(tmp_path / "out", model=models.get("half_plus_two"), input=data) == 0
    assert [row["key"] for row in lines(tmp_path / "out")] == first


def test_rows_that_do_not_fit_are_failed_rows(models: Models, tmp_path: Path) -> None:
    rows = [{"x": 1.0, "id": 1}, {"x": None, "id": 2}, {"x": 3.0, "id": None}, {"x": 4.0, "id": 4}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    write_avro(tmp_path / "rows.avro", rows, {"x": ["null", "float"], "id": ["null", "long"]})
    for name in ("rows.parquet", "rows.avro"):
        out = tmp_path / f"out-{name}"
        assert run(out, model=models.get("half_plus_two"), input=tmp_path / name, key_field="id", max_error_ratio=1) == 0
        assert lines(out) == [{"key": 1, "prediction": 2.5}, {"key": 4, "prediction": 4.0}]
        failed = {row["code"]: row for row in lines(out, "prediction.errors")}
        assert failed.keys() == {"NULL_VALUE", "KEY_NULL"}
        assert (failed["NULL_VALUE"]["key"], failed["NULL_VALUE"]["instance"]) == (2, {"x": None, "id": 2})


def test_a_column_that_is_not_there(models: Models, tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1.0]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"y": [1.0, 2.0]}), tmp_path / "b.parquet")
    assert run(tmp_path / "out", model=models.get("half_plus_two"), input=f"{tmp_path}/*.parquet") == 3
    failed = lines(tmp_path / "out", "prediction.errors")
    assert [row["code"] for row in failed] == ["INPUT_MISSING"] * 2
    assert "there is no column 'x'" in failed[0]["message"]


def test_what_a_file_can_not_give_is_refused_before_the_start(models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refusal(path: Path, **flags: Any) -> str:
        assert run(tmp_path / "out", model=models.get("half_plus_two"), input=path, **flags) == 2
        assert not (tmp_path / "out").exists()
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        return message

    rows = [{"x": 1.0, "id": 1}]
    path = tmp_path / "rows.parquet"
    avro = write_avro(tmp_path / "rows.avro", rows, {"x": ["null", "float"], "id": "long"})
    pq.write_table(pa.Table.from_pylist(rows), path)
    for table_file in (path, avro):
        assert "has no column 'day' (--key_field); its columns are x, id" in refusal(table_file, key_field="id,day")
        assert "has no column 'day' (--passthrough_fields)" in refusal(table_file, passthrough_fields="day")
    write_avro(avro, [{"y": 1.0}], {"y": "float"})
    assert "has no column 'x' (an input of the model); its columns are y" in refusal(avro)
    write_avro(avro, [{"x": "1"}], {"x": ["null", "string"]})
    assert "column 'x' of" in (message := refusal(avro))
    assert "is string, and the model's input of that name wants" in message
    write_avro(avro, [{"x": {"a": 1}}], {"x": {"type": "map", "values": "int"}})
    assert "is struct<>" in refusal(avro)
    pq.write_table(pa.table({"x": ["1"]}), path)
    assert "is string, and the model's input of that name wants" in refusal(path)
    pq.write_table(pa.table({"y": [1.0]}), path)
    assert "has no column 'x' (an input of the model); its columns are y" in refusal(path)
    path.write_bytes(b"not parquet")
    assert "is no parquet file: it begins with b'not '" in refusal(path)
    path.write_bytes(b"PARE" + bytes(100) + b"PARE")
    assert "is an encrypted Parquet file" in refusal(path)
    avro.write_bytes(b"{}\n")
    assert "is no avro file" in refusal(avro)
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(b'{"x": 1}\n')
    assert "is no gzip file, as its name says it is" in refusal(packed)
    packed.write_bytes(gzip.compress(b'{"x": 1}\n')[:10])
    assert "can't be decompressed, from its beginning on" in refusal(packed)
    plain = tmp_path / "rows.tfrecord"
    for name, content in {"gzip": gzip.compress(b"record"), "zstd": zstd.compress(b"record"), "avro": b"Obj\x01and more"}.items():
        plain.write_bytes(content)
        assert f"begins as {name} does, and is to be read as tf-record" in refusal(plain)


def test_compressions_may_be_mixed_in_a_folder_and_formats_may_not(
    models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"x": 1}\n')
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(b'{"x": 2}\n'))
    assert run(tmp_path / "out", model=models.get("half_plus_two"), input=folder) == 0
    assert sorted(row["prediction"] for row in lines(tmp_path / "out")) == [2.5, 3.0]
    (folder / "c.csv").write_text("x\n1\n")
    capsys.readouterr()
    assert run(tmp_path / "out", model=models.get("half_plus_two"), input=folder) == 2
    message = capsys.readouterr().err
    assert "holds files of several formats" in message
    assert "a.jsonl is jsonl" in message
    assert "c.csv is csv" in message


def test_a_cut_file_is_damaged_and_its_good_rows_count(models: Models, tmp_path: Path) -> None:
    data = write_avro(tmp_path / "rows.avro", ROWS, AVRO_TYPES, block=1000)
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    assert run(tmp_path / "out", model=models.get("half_plus_two"), input=data) == 3
    assert 1000 < counts(tmp_path / "out")["read"] < 4000
    assert [row["code"] for row in lines(tmp_path / "out", "prediction.errors")] == ["FILE_DAMAGED"]
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    whole = (tmp_path / "rows.parquet").read_bytes()
    for name, content in (("cut", whole[:-10]), ("short", b"PAR1"), ("empty", b"")):
        path = tmp_path / f"{name}.parquet"
        path.write_bytes(content)
        assert run(tmp_path / "out", model=models.get("half_plus_two"), input=path) == 3
        (failed,) = lines(tmp_path / "out", "prediction.errors")
        assert (failed["code"], failed["source"]) == ("FILE_DAMAGED", str(path))


# --- texts that are none ---------------------------------------------------------------------------------------------------


def not_utf8(*texts: bytes) -> pa.Array:
    """An array of strings of any bytes, which neither Arrow nor Parquet looks at."""
    return pa.Array.from_buffers(pa.string(), len(texts), pa.array(texts, pa.binary()).buffers())


def test_a_dictionary_with_a_text_that_is_not_utf8_costs_the_rows_that_have_it() -> None:
    texts = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0], pa.int32()), not_utf8(b"a", b"\xff"))
    rows = pa.RecordBatch.from_arrays([pa.array([1, 2, 3]), texts], ["x", "s"])
    assert record_batches.rows_not_utf8(rows).tolist() == [1]
    assert json.loads(record_batches.TableRows(pa.RecordBatch.from_arrays([record_batches.texts_as_bytes(texts)], ["s"]))[1]) == {
        "s": {"b64": "/w=="}
    }


@pytest.mark.parametrize("where", ["key", "input", "passed"])
def test_a_text_that_is_not_utf8_costs_its_row_alone(where: str, models: Models, tmp_path: Path) -> None:
    texts = {name: [b"a", b"\xc3\xa4", b"c"] for name in ("key", "input", "passed")}
    texts[where][1] = b"\xff\xfe"
    made = pa.table({"id": not_utf8(*texts["key"]), "s": not_utf8(*texts["input"]), "x": [1, 2, 3], "p": not_utf8(*texts["passed"])})
    pq.write_table(made, tmp_path / "rows.parquet", use_dictionary=False)
    flags = {"model": models.get("two_outputs"), "input": tmp_path / "rows.parquet", "key_field": "id", "passthrough_fields": "p"}
    assert run(tmp_path / "out", **flags, max_error_ratio=0.5) == 0
    assert [row["key"] for row in lines(tmp_path / "out")] == ["a", "c"]
    (failed,) = lines(tmp_path / "out", "prediction.errors")
    assert (failed["code"], failed["stage"], failed["offset"]) == (Code.NOT_UTF8, "read", 1)
    column_of = {"key": "id", "input": "s", "passed": "p"}[where]
    assert failed["instance"][column_of] == {"b64": "//4="}
    assert counts(tmp_path / "out") == {"read": 3, "predicted": 2, "failed": 1}


def test_bytes_read_are_those_of_the_file_however_well_it_is_packed(models: Models, tmp_path: Path) -> None:
    """Progress and manifest count what is read of the file, not what it takes in memory."""
    path, count = tmp_path / "rows.parquet", 100_000
    columns = {"id": np.arange(count), "x": np.zeros(count), "unused": ["the same text each time"] * count}
    pq.write_table(pa.table(columns), path, compression="zstd", use_dictionary=False, row_group_size=30_000)
    assert pq.read_metadata(path).row_group(0).total_byte_size * 3 > path.stat().st_size * 2, "else it is not packed"
    assert main(["run", f"--model={models.get('half_plus_two')}", f"--input={path}", "--key_field=id", f"--output={tmp_path}/out"]) == 0
    report = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert 0.9 < report["input"]["bytes"] / path.stat().st_size <= 1


def test_the_types_of_avro_fields() -> None:
    """A name stands for the type that was defined under it; a logical type that is unknown or not valid is none, as Avro 1.11 has it."""
    inner = {"type": "record", "name": "n.inner", "fields": [{"name": "a", "type": "int"}]}
    decimal_of = lambda precision, scale: {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}  # noqa: E731
    kinds: dict[str, tuple[Any, list[pa.DataType]]] = {
        "record": (inner, [pa.struct([])]),
        "the same": ("inner", [pa.struct([])]),
        "the same in full": (["null", "n.inner"], [pa.struct([])]),
        "unknown name": ("n.other", [pa.null()]),
        "enum": ({"type": "enum", "name": "colour", "symbols": ["red"]}, [pa.string()]),
        "colours": ({"type": "array", "items": "colour"}, [pa.list_(pa.string())]),
        "union": (["null", "long", "double"], [pa.int64(), pa.float64()]),
        "day": ({"type": "int", "logicalType": "date"}, [pa.date32()]),
        "count": ({"type": "int", "logicalType": "furlongs"}, [pa.int32()]),
        "price": (decimal_of(10, 2), [pa.decimal128(10, 2)]),
        "long price": (decimal_of(60, 2), [pa.decimal256(60, 2)]),
        "endless price": (decimal_of(600, 2), [pa.binary()]),
        "no price": (decimal_of(0, 0), [pa.binary()]),
        "odd price": (decimal_of(5, 7), [pa.binary()]),
        "unsized price": ({"type": "bytes", "logicalType": "decimal"}, [pa.binary()]),
    }
    fields = [{"name": name, "type": kind} for name, (kind, _) in kinds.items()]
    assert arrow_types({"type": "record", "name": "row", "fields": fields}) == {name: expected for name, (_, expected) in kinds.items()}
