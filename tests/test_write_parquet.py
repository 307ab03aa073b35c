"""Predictions as Parquet: what pyarrow reads back is what NumPy has, for any dtype and shape; and whole jobs."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import google_crc32c
import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jobs import names_in, run, write_lines
from saved_models import Models
from written import instances, objects, output_spec, predictions, signature_of

from transforms.convert.output_columns import make_table
from transforms.elements.batches import PredictionBatch
from transforms.elements.columns import Column, Ragged
from transforms.formats.catalog import FORMATS
from transforms.formats.parquet.writer import ParquetEncoder
from transforms.rows.codes import Code, Stage
from transforms.specs.errors import SpecError
from transforms.specs.job import INPUT_FORMATS
from transforms.specs.limits import Limits
from transforms.specs.output import OUTPUT_FORMATS, FolderOutput
from transforms.specs.signature import DTYPES, TensorSpec

MANY = settings(deadline=None, derandomize=True, max_examples=150)
NUMBERS = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64"]
SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)


def encode(encoder: ParquetEncoder, *batches: PredictionBatch) -> pa.Table:
    sink = io.BytesIO()
    encoder.open(sink)
    for batch in batches:
        encoder.write(batch)
    encoder.close()
    return pq.read_table(pa.BufferReader(sink.getvalue()))


def encoder_of(*outputs: TensorSpec, key_fields: tuple[str, ...] = (), passthrough: tuple[str, ...] = ()) -> ParquetEncoder:
    return ParquetEncoder(signature_of(*outputs), FolderOutput("out", format="parquet", passthrough_fields=passthrough), key_fields)


def column_of(column: Column, dtype: str, rank: int, name: str = "y") -> pa.ChunkedArray:
    encoder = encoder_of(output_spec(name, dtype, rank))
    batch = predictions({name: column})
    assert encoder.refuse(batch) is batch
    table = encode(encoder, batch)
    assert table["key"].to_pylist() == [f"k{row}" for row in range(len(column))]
    return table[name]


def same_bits(found: Any, expected: np.ndarray) -> bool:
    """Whether nested lists hold the array's values, bit for bit (any NaN is a NaN)."""
    if isinstance(found, list) and 0 in expected.shape:
        return found == expected.tolist()
    array = np.array(found, expected.dtype)
    if array.shape != expected.shape:
        return False
    if expected.dtype.kind in "fc":
        nan = np.isnan(expected)
        return bool((np.isnan(array) == nan).all()) and array[~nan].tobytes() == expected[~nan].tobytes()
    return array.tobytes() == expected.tobytes()


def innermost(kind: pa.DataType) -> pa.DataType:
    while pa.types.is_list(kind):
        kind = kind.value_type
    return kind


@MANY
@given(column=st.sampled_from(NUMBERS).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES)))
def test_numbers_read_back_as_they_were(column: np.ndarray) -> None:
    found = column_of(column, column.dtype.name, column.ndim - 1)
    assert innermost(found.type) == pa.from_numpy_dtype(column.dtype)
    assert same_bits(found.to_pylist(), column)


@MANY
@given(name=st.sampled_from(["float16", "bfloat16", "float8_e5m2", "float8_e4m3fn", "int4", "uint4"]), shape=SHAPES, data=st.data())
def test_small_dtypes_are_the_next_wider_ones(name: str, shape: tuple[int, ...], data: st.DataObject) -> None:
    dtype = np.dtype(name) if name == "float16" else np.dtype(getattr(ml_dtypes, name))
    bits = data.draw(hnp.arrays("uint16" if dtype.itemsize == 2 else "uint8", shape))
    column = (bits & 15).astype(np.int8).astype(dtype) if "int" in name else bits.view(dtype)
    wide = {"int4": np.int8, "uint4": np.uint8}.get(name, np.float32)
    found = column_of(column, name, column.ndim - 1)
    assert innermost(found.type) == pa.from_numpy_dtype(wide)
    assert same_bits(found.to_pylist(), column.astype(wide))


@MANY
@given(
    column=st.sampled_from(["complex64", "complex128"]).flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(max_dims=2, min_side=0)))
)
def test_complex_numbers_are_structs(column: np.ndarray) -> None:
    found = column_of(column, column.dtype.name, column.ndim - 1)
    part = pa.float32() if column.dtype == np.complex64 else pa.float64()
    assert innermost(found.type) == pa.struct([("real", part), ("imag", part)])
    cells = found.to_pylist() if column.ndim == 1 else [cell for row in found.to_pylist() for cell in row]
    for name, expected in (("real", column.real), ("imag", column.imag)):
        assert same_bits([cell[name] for cell in cells], np.ascontiguousarray(expected).reshape(-1))


@MANY
@given(values=st.lists(st.binary(max_size=6), min_size=4, max_size=4), shape=st.sampled_from([(4,), (2, 2), (4, 1), (1, 2, 2)]))
def test_bytes_are_binary_and_text_is_text(values: list[bytes], shape: tuple[int, ...]) -> None:
    column = objects(values, shape)
    found = column_of(column, "string", len(shape) - 1, "image_bytes")
    assert innermost(found.type) == pa.binary()
    assert found.to_pylist() == column.tolist()
    texts = objects([value.hex().encode() + "é".encode() for value in values], shape)
    found = column_of(texts, "string", len(shape) - 1)
    assert innermost(found.type) == pa.string()
    assert found.to_pylist() == np.vectorize(bytes.decode, otypes=[object])(texts).tolist()


@MANY
@given(rank=st.integers(1, 3), data=st.data(), dtype=st.sampled_from(["float32", "int64", "bool"]))
def test_ragged_rows_are_lists(rank: int, data: st.DataObject, dtype: str) -> None:
    shapes = data.draw(st.lists(hnp.array_shapes(min_dims=rank, max_dims=rank, min_side=0, max_side=3), min_size=1, max_size=5))
    rows = [data.draw(hnp.arrays(dtype, shape)) for shape in shapes]
    found = column_of(Ragged(rows), dtype, rank).to_pylist()
    assert all(same_bits(cell, row) for cell, row in zip(found, rows, strict=True))


def test_columns_that_are_views() -> None:
    column = np.arange(24, dtype=np.int64).reshape(2, 3, 4)
    for view in (
        column[::-1],
        column.transpose(0, 2, 1),
        column[:, ::2],
        np.asfortranarray(column),
        np.broadcast_to(column[:1], (2, 3, 4)),
    ):
        assert column_of(view, "int64", 2).to_pylist() == view.tolist()


def test_every_dtype_of_a_signature_has_a_type() -> None:
    for dtype in DTYPES.values():
        table = make_table(signature_of(output_spec("y", dtype, 1)), FolderOutput("out", format="parquet"), ())
        assert pa.types.is_list(table.schema.field("y").type)


# --- keys and fields ---------------------------------------------------------------------------------------------------------

SCALARS = st.one_of(st.text(), st.integers(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False))


def as_plain(value: Any) -> str | None:
    return value if isinstance(value, str) or value is None else json.dumps(value, ensure_ascii=False)


@MANY
@given(keys=st.lists(SCALARS, min_size=1, max_size=5), fields=st.data())
def test_keys_and_fields_are_texts(keys: list[Any], fields: st.DataObject) -> None:
    values = fields.draw(st.lists(st.one_of(SCALARS, st.none(), st.lists(st.text())), min_size=len(keys), max_size=len(keys)))
    encoder = encoder_of(output_spec("y", "float32", 0), key_fields=("id",), passthrough=("note",))
    texts = {"keys": [json.dumps(key, ensure_ascii=False) for key in keys]}
    notes = {"note": [json.dumps(value, ensure_ascii=False) for value in values]}
    batch = predictions({"y": np.zeros(len(keys), np.float32)}, **texts, passthrough=notes)
    table = encode(encoder, batch)
    assert table.column_names == ["key", "y", "note"]
    assert table.schema.types == [pa.string(), pa.float32(), pa.string()]
    assert table["key"].to_pylist() == [as_plain(key) for key in keys]
    assert table["note"].to_pylist() == [as_plain(value) for value in values]


def test_numbers_in_keys_keep_their_digits() -> None:
    keys = ["1.0", "1", "18446744073709551616", '"1"', "true", '"null"', '"\\"\\u00e9\\n"', '""']
    batch = predictions({"y": np.zeros(8, np.float32)}, keys=keys)
    found = encode(encoder_of(output_spec("y", "float32", 0), key_fields=("id",)), batch)["key"].to_pylist()
    assert found == ["1.0", "1", "18446744073709551616", "1", "true", "null", '"é\n', ""]


def test_a_composite_key_is_a_column_a_field() -> None:
    batch = predictions({"y": np.zeros(2, np.float32)}, keys=['["a", 7]', '["b\\n", true]'])
    table = encode(encoder_of(output_spec("y", "float32", 0), key_fields=("shop", "day")), batch)
    assert table.select(["shop", "day"]).to_pylist() == [{"shop": "a", "day": "7"}, {"shop": "b\n", "day": "true"}]


def test_only_kept_rows_are_written() -> None:
    batch = instances(['"a"', "2", '"c"'], {"note": ["1", "2", "3"]})
    kept = PredictionBatch(batch, np.array([0, 2]), {"y": np.float32([1, 3])}, [])
    table = encode(encoder_of(output_spec("y", "float32", 0), key_fields=("id",), passthrough=("note",)), kept)
    assert table.to_pylist() == [{"key": "a", "y": 1.0, "note": "1"}, {"key": "c", "y": 3.0, "note": "3"}]


# --- what does not fit -------------------------------------------------------------------------------------------------------


def test_text_that_is_not_utf8_fails_its_row() -> None:
    for column, rank in ((objects([b"a", b"\xff", b"c"]), 0), (objects([b"a", b"b", b"c", b"\xff", b"e", b"f"], (3, 2)), 1)):
        encoder = encoder_of(output_spec("label", "string", rank), output_spec("y", "int64", 0))
        kept = encoder.refuse(predictions({"label": column, "y": np.arange(3)}))
        assert kept.instance_rows.tolist() == [0, 2]
        assert kept.outputs["y"].tolist() == [0, 2]
        (failed,) = kept.failed
        assert (failed.key, failed.offset, failed.stage, failed.code) == (b'"k1"', 3, Stage.WRITE, Code.OUTPUT_DOES_NOT_FIT)
        assert "'label'" in failed.message
        assert "UTF-8" in failed.message
        assert encode(encoder, kept)["y"].to_pylist() == [0, 2]


def test_rows_of_another_shape_or_dtype_fail() -> None:
    encoder = encoder_of(output_spec("y", "float32", 1))
    rows = [np.float32([1, 2]), np.float32(3), np.float32([[4], [5]]), np.float32([[6, 7]]), np.float64([8])]
    kept = encoder.refuse(predictions({"y": Ragged(rows)}))
    assert [row.key for row in kept.failed] == [b'"k1"', b'"k2"', b'"k4"']
    assert "expected float32 of 1 dimensions a row, as the signature says, found float32 of shape [2, 1]" in kept.failed[1].message
    # A whole call of one row, [1, n], is the row it holds.
    assert encode(encoder, kept)["y"].to_pylist() == [[1, 2], [6, 7]]
    dense = encoder.refuse(predictions({"y": np.zeros((3, 2, 2), np.float32)}))
    assert (len(dense), len(dense.failed)) == (0, 3)
    assert encode(encoder_of(output_spec("y", "float32", 0)), predictions({"y": np.float32([[[1]], [[2]]])}))["y"].to_pylist() == [1, 2]


REFUSED = [
    ([TensorSpec("y", "y:0", "float32", None)], (), (), "output_format", "'y' of signature serving_default has no known rank"),
    ([output_spec("key", "float32", 0)], (), (), "output_format", "'key' is the key's column"),
    ([output_spec("b", "float32", 0)], ("a", "b"), (), "key_field", "'b' is a column of the key"),
    ([output_spec("y", "float32", 0)], (), ("y",), "passthrough_fields", "y is an output"),
    ([output_spec("y", "float32", 0)], ("a", "b"), ("b",), "passthrough_fields", "b is a column already"),
]


@pytest.mark.parametrize(("outputs", "keys", "passthrough", "flag", "says"), REFUSED)
def test_columns_that_can_not_be_are_refused(
    outputs: list[TensorSpec], keys: tuple[str, ...], passthrough: tuple[str, ...], flag: str, says: str
) -> None:
    with pytest.raises(SpecError, match=says) as refusal:
        encoder_of(*outputs, key_fields=keys, passthrough=passthrough)
    assert refusal.value.flag == flag


def test_the_shape_of_a_row_is_by_how_rows_are_fed() -> None:
    fixed, scalar, free = (TensorSpec("x", "x:0", "float32", shape) for shape in ((4, 3), (), (None, 2)))
    outputs = (TensorSpec("four", "f:0", "float32", (4, 2)), TensorSpec("one", "o:0", "int64", (3,)), output_spec("rows", "bool", 1))
    for inputs, shapes in (((fixed,), [(2,), (), (None,)]), ((scalar, free), [(4, 2), (3,), (None,)])):
        table = make_table(signature_of(*outputs, inputs=inputs), FolderOutput("out", format="parquet"), ())
        assert [column.shape for column in table.outputs] == shapes


# --- files -------------------------------------------------------------------------------------------------------------------


def test_row_groups_gather_batches(tmp_path: Path) -> None:
    encoder = ParquetEncoder(signature_of(output_spec("y", "int64", 0)), FolderOutput("out", format="parquet"), (), group_rows=25)
    batches = [predictions({"y": np.arange(start, start + 10)}) for start in range(0, 100, 10)]
    with (tmp_path / "many.parquet").open("wb") as sink:
        encoder.open(sink)
        for batch in batches:
            encoder.write(batch)
        encoder.close()
    file = pq.ParquetFile(tmp_path / "many.parquet")
    groups = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    assert (sum(groups), max(groups)) == (100, 25)
    assert 4 <= len(groups) < len(batches)
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert file.read()["y"].to_pylist() == list(range(100))
    joined = io.BytesIO()
    encoder.join([str(tmp_path / "many.parquet")] * 3, joined)
    assert pq.read_table(pa.BufferReader(joined.getvalue())).to_pylist() == file.read().to_pylist() * 3


def test_an_empty_file_has_the_schema() -> None:
    outputs = (output_spec("image_bytes", "string", 0), output_spec("label", "string", 1), output_spec("y", "float16", 2))
    table = encode(encoder_of(*outputs, key_fields=("a", "b"), passthrough=("note",)))
    types = [pa.string(), pa.string(), pa.binary(), pa.list_(pa.string()), pa.list_(pa.list_(pa.float32())), pa.string()]
    assert table.schema.names == ["a", "b", "image_bytes", "label", "y", "note"]
    assert table.schema.types == types
    assert len(table) == 0


def test_formats_are_those_of_the_flag() -> None:
    assert {*OUTPUT_FORMATS} == {"bigquery", *(name for name, format in FORMATS.items() if format.encoder)}
    assert {*INPUT_FORMATS} == {"bigquery", *(name for name, format in FORMATS.items() if format.make_reader)}


@pytest.mark.parametrize(
    ("format", "relative", "expected"),
    [
        ("jsonl", "a/b.jsonl", "a/b.jsonl"),
        ("jsonl", "a/b.jsonl.gz", "a/b.jsonl"),
        ("jsonl", "a.b/part", "a.b/part"),
        ("jsonl", "lines.txt", "lines.txt"),
        ("jsonl", "a/b.PARQUET", "a/b.PARQUET.jsonl"),
        ("parquet", "a/b.jsonl.gz", "a/b.jsonl.parquet"),
        ("parquet", "a/b.parquet", "a/b.parquet"),
        ("parquet", "part", "part.parquet"),
        ("parquet", "a/b.pq", "a/b.pq"),
        ("tf-record", "b.tfrec", "b.tfrec"),
        ("tf-record", "b.tfrec.gz", "b.tfrec"),
    ],
)
def test_a_mirrored_name_promises_the_right_format(format: str, relative: str, expected: str) -> None:
    assert FORMATS[format].mirrored_name(relative) == expected


# --- whole jobs --------------------------------------------------------------------------------------------------------------


def check_results(out: Path) -> list[dict[str, Any]]:
    """Holds each result against its entry in the manifest; gives all rows."""
    report = json.loads((out / "manifest.json").read_text())
    rows = []
    for entry in report["results"]:
        content = (out / entry["name"]).read_bytes()
        assert (len(content), google_crc32c.Checksum(content).hexdigest().decode()) == (entry["bytes"], entry["crc32c"])
        assert pq.read_metadata(out / entry["name"]).num_rows == entry["rows"]
        rows += pq.read_table(out / entry["name"]).to_pylist()
    assert len(rows) == report["counts"]["predicted"]
    return rows


def test_a_job_writes_typed_columns(models: Models, tmp_path: Path) -> None:
    rows = [{"x": number - 50, "s": f"é{number}", "id": number, "note": None if number % 2 else {"a": number}} for number in range(200)]
    data = write_lines(tmp_path / "rows.jsonl", [*rows, {"x": "bad", "s": "", "id": -1}])
    out = tmp_path / "out"
    flags = {"model": models.get("two_outputs"), "input": data, "key_field": "id", "passthrough_fields": "note"}
    assert run(out, Limits(split_bytes=3000), **flags, output_format="parquet") == 0
    found = check_results(out)
    assert len(list(out.glob("prediction.results-*-of-*.parquet"))) > 2
    schema = pq.read_schema(next(out.glob("*.parquet")))
    assert dict(zip(schema.names, schema.types, strict=True)) == {
        "key": pa.string(), "double": pa.int64(), "root": pa.float32(), "upper": pa.string(), "upper_bytes": pa.binary(),
        "note": pa.string(),
    }  # fmt: skip
    assert [row["key"] for row in found] == [str(number) for number in range(200)]
    assert [row["double"] for row in found] == [2 * (number - 50) for number in range(200)]
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(np.float32([row["root"] for row in found]), np.sqrt(np.arange(-50, 150, dtype=np.float32)))
    assert [row["upper_bytes"].decode() for row in found] == [row["upper"] for row in found] == [f"é{number}" for number in range(200)]
    assert [row["note"] for row in found] == [None if number % 2 else f'{{"a": {number}}}' for number in range(200)]
    (failed,) = [json.loads(line) for path in out.glob("prediction.errors-*") for line in path.read_text().splitlines()]
    assert failed["code"] == "WRONG_TYPE"


def test_an_empty_run_is_an_empty_table(models: Models, tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("\n")
    for layout, name in (("sharded", "prediction.results-00000-of-00001.parquet"), ("mirror", "none.jsonl.parquet")):
        out = tmp_path / layout
        assert (
            run(out, model=models.get("half_plus_two"), input=tmp_path / "none.jsonl", output_format="parquet", output_layout=layout) == 0
        )
        assert names_in(out) == {"_SUCCESS", "manifest.json", "report.html", "statistics.json", name}
        assert check_results(out) == []
        assert pq.read_schema(out / name).names == ["key", "y"]


def test_mirrored_files_are_joined(models: Models, tmp_path: Path) -> None:
    data, out, limits = tmp_path / "data", tmp_path / "out", Limits(split_bytes=300)
    write_lines(data / "a" / "many.jsonl", [{"x": number} for number in range(300)])
    (data / "packed.jsonl.gz").write_bytes(gzip.compress(b'{"x": 1}\n{"x": 2}'))
    assert run(out, limits, model=models.get("half_plus_two"), input=data, output_layout="mirror", output_format="parquet") == 0
    assert names_in(out) == {"_SUCCESS", "manifest.json", "report.html", "statistics.json", "a/many.jsonl.parquet", "packed.jsonl.parquet"}
    many = pq.read_table(out / "a" / "many.jsonl.parquet")
    np.testing.assert_array_equal(many["y"].to_numpy(), np.arange(300) * 0.5 + 2)
    assert pq.read_table(out / "packed.jsonl.parquet")["y"].to_pylist() == [2.5, 3.0]
    assert len(check_results(out)) == 302


@pytest.mark.parametrize("layout", ["sharded", "mirror"])
def test_a_run_in_another_format_leaves_nothing_of_the_first(models: Models, tmp_path: Path, layout: str) -> None:
    data, out = write_lines(tmp_path / "data" / "rows.jsonl", [{"x": 1}]), tmp_path / "out"
    flags = {"model": models.get("half_plus_two"), "input": data, "output_layout": layout}
    seen = []
    of_folders = [name for name, format in FORMATS.items() if format.encoder]
    for format in (*of_folders, "jsonl"):
        assert run(out, **flags, output_format=format) == 0
        (name,) = names_in(out) - {"_SUCCESS", "manifest.json", "report.html", "statistics.json"}
        seen.append(name)
    assert len(set(seen)) == len(of_folders)
    assert run(out, **flags, write_disposition="empty") == 2


def test_the_gate_stays_shut_and_keeps_the_run_before(models: Models, tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = {"model": models.get("half_plus_two"), "output_format": "parquet"}
    assert run(out, input=write_lines(tmp_path / "good.jsonl", [{"x": 1}]), **flags) == 0
    assert run(out, input=write_lines(tmp_path / "bad.jsonl", [{"x": 1}, {"x": "a"}]), **flags) == 3
    report = json.loads((out / "manifest.json").read_text())
    assert (report["status"], report["counts"]) == ("failed", {"read": 2, "predicted": 1, "failed": 1})
    assert names_in(out) == {
        "manifest.json", "report.html", "statistics.json", "prediction.results-00000-of-00001.parquet", "prediction.errors-00000-of-00001",
        "prediction.errors_stats-00000-of-00001",
    }  # fmt: skip
    assert pq.read_table(out / "prediction.results-00000-of-00001.parquet")["y"].to_pylist() == [2.5]


def test_rows_that_do_not_fit_are_failed_and_counted(models: Models, tmp_path: Path) -> None:
    rows = [{"x": 4, "s": "a", "id": 1}, {"x": -4, "s": "b", "id": 2}, {"x": 9, "s": {"b64": "/w=="}, "id": 3}]
    data = write_lines(tmp_path / "rows.jsonl", rows)
    flags = {"model": models.get("two_outputs"), "input": data, "key_field": "id", "max_error_ratio": 1, "output_format": "parquet"}
    assert run(tmp_path / "out", **flags) == 0
    found = check_results(tmp_path / "out")
    assert [row["key"] for row in found] == ["1", "2"]
    assert found[0]["root"] == 2.0
    assert np.isnan(found[1]["root"])
    assert run(tmp_path / "out", **flags, nan="error") == 0
    assert [row["key"] for row in check_results(tmp_path / "out")] == ["1"]
    failed = [json.loads(line) for line in (tmp_path / "out" / "prediction.errors-00000-of-00001").read_text().splitlines()]
    assert {row["key"]: (row["stage"], row["code"]) for row in failed} == {2: ("write", "NOT_FINITE"), 3: ("write", "OUTPUT_DOES_NOT_FIT")}


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"output_style": "raw"}, "--output_style: 'raw' shapes lines of JSON; --output_format=parquet has columns"),
        ({"passthrough_fields": "*"}, "--passthrough_fields: --output_format=parquet has the same columns in every row"),
        ({"passthrough_fields": "y"}, "--passthrough_fields: y is an output of signature serving_default too"),
        ({"key_field": "id,y"}, "--key_field: 'y' is a column of the key in parquet and an output"),
    ],
)
def test_what_columns_can_not_do_is_refused_before_the_start(
    models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: dict[str, str], says: str
) -> None:
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 1}])
    assert run(tmp_path / "out", model=models.get("half_plus_two"), input=data, output_format="parquet", **flags) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
