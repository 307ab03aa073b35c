"""Predictions as CSV: what Python's csv module reads back is the value, to the digit; and whole jobs."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import google_crc32c
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jobs import names_in, run, write_lines
from saved_models import Models
from written import instances, objects, output_spec, predictions, signature_of

from transforms.elements.batches import PredictionBatch
from transforms.formats.csv.writer import CsvEncoder
from transforms.rows.codes import Code
from transforms.specs.errors import SpecError
from transforms.specs.limits import Limits
from transforms.specs.output import FolderOutput
from transforms.specs.signature import TensorSpec

MANY = settings(deadline=None, derandomize=True, max_examples=80)
NUMBERS = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"]
AWKWARD = st.text(alphabet="\",;\r\n\t '\x00\\é😀\ufeff=#")


def encoder_of(*outputs: TensorSpec, key_fields: tuple[str, ...] = (), passthrough: tuple[str, ...] = (), nan: str = "null") -> CsvEncoder:
    return CsvEncoder(signature_of(*outputs), FolderOutput("out", format="csv", passthrough_fields=passthrough, nan=nan), key_fields)


def rows_of(text: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text.decode("utf-8"), newline="")))


def encode(encoder: CsvEncoder, *batches: PredictionBatch) -> list[list[str]]:
    sink = io.BytesIO()
    encoder.open(sink)
    for batch in batches:
        encoder.write(batch)
    encoder.close()
    return rows_of(sink.getvalue())


def fields_of(column: np.ndarray, dtype: str, nan: str = "null") -> list[str]:
    header, *rows = encode(encoder_of(TensorSpec("y", "y:0", dtype, (None, *column.shape[1:])), nan=nan), predictions({"y": column}))
    assert header == ["key", "y"]
    assert [row[0] for row in rows] == [f"k{number}" for number in range(len(column))]
    return [row[1] for row in rows]


@MANY
@given(
    column=st.sampled_from(NUMBERS).flatmap(lambda dtype: hnp.arrays(dtype, st.integers(1, 6))), extra=st.sampled_from([(), (1,), (1, 1)])
)
def test_numbers_read_back_as_they_were(column: np.ndarray, extra: tuple[int, ...]) -> None:
    fields = fields_of(column.reshape(len(column), *extra), column.dtype.name, nan="string")
    if column.dtype.kind == "b":
        assert fields == [str(value).lower() for value in column.tolist()]
    elif column.dtype.kind in "iu":
        assert [int(field) for field in fields] == column.tolist()
    else:
        with np.errstate(over="ignore"):
            found = np.array([float(field) for field in fields]).astype(column.dtype)
        np.testing.assert_array_equal(found, column)
        assert (np.signbit(found) == np.signbit(column))[~np.isnan(column)].all()


def test_floats_are_the_shortest_digits_of_their_own_dtype() -> None:
    assert fields_of(np.float32([0.1, 2, 1e20, 16777216]), "float32") == ["0.1", "2", "1e+20", "16777216"]
    assert fields_of(np.array([1.5, -2], ml_dtypes.bfloat16), "bfloat16") == ["1.5", "-2"]


def test_nan_and_infinities_by_policy() -> None:
    for dtype in ("float16", "float32", "float64"):
        column = np.array([1.5, math.nan, math.inf, -math.inf], dtype)
        assert fields_of(column, dtype) == ["1.5", "", "", ""]
        assert fields_of(column, dtype, "string") == ["1.5", "nan", "inf", "-inf"]


@MANY
@given(texts=st.lists(st.one_of(st.text(), AWKWARD), min_size=1, max_size=6), name=st.one_of(AWKWARD, st.text()).filter(bool))
def test_texts_read_back_as_they_were(texts: list[str], name: str) -> None:
    if name in ("key", "note"):
        return
    encoder = encoder_of(TensorSpec(name, "y:0", "string", (None,)), key_fields=("id",), passthrough=("note",))
    column = objects([text.encode() for text in texts])
    batch = predictions(
        {name: column}, keys=[json.dumps(text) for text in texts], passthrough={"note": [json.dumps(text) for text in texts]}
    )
    assert encoder.refuse(batch) is batch
    bytes_too = name.endswith("_bytes")
    expected = [base64.b64encode(text.encode()).decode() if bytes_too else text for text in texts]
    assert encode(encoder, batch) == [["key", name, "note"], *([a, b, a] for a, b in zip(texts, expected, strict=True))]


def test_bytes_are_base64() -> None:
    encoder = encoder_of(output_spec("image_bytes", "string", 0))
    values = [b"", b"\x00\xff", b"text"]
    rows = encode(encoder, predictions({"image_bytes": objects(values)}))
    assert [base64.b64decode(row[1], validate=True) for row in rows[1:]] == values


def test_the_files_bytes() -> None:
    encoder = encoder_of(output_spec("label", "string", 0), output_spec("y", "float32", 0), key_fields=("a", "b"), passthrough=("note",))
    sink = io.BytesIO()
    encoder.open(sink)
    encoder.write(
        predictions(
            {"label": objects([b'say "no"', b""]), "y": np.float32([0.5, math.nan])},
            keys=['["x", 1]', '["y", true]'], passthrough={"note": ["null", '{"c": 1}']},
        )
    )  # fmt: skip
    encoder.close()
    assert sink.getvalue() == b'"a","b","label","y","note"\n"x","1","say ""no""",0.5,\n"y","true","",,"{""c"": 1}"\n'


def test_only_kept_rows_and_fitting_ones_are_written() -> None:
    encoder = encoder_of(output_spec("label", "string", 0))
    batch = PredictionBatch(instances(['"a"', "2", '"c"']), np.array([0, 2]), {"label": objects([b"\xff", b"fine"])}, [])
    kept = encoder.refuse(batch)
    assert [(row.key, row.code) for row in kept.failed] == [(b'"a"', Code.OUTPUT_DOES_NOT_FIT)]
    assert encode(encoder, kept) == [["key", "label"], ["c", "fine"]]


@pytest.mark.parametrize(
    ("dtype", "shape"), [("float32", (None, 3)), ("int64", (None, None)), ("string", (None, 1, 2)), ("complex64", (None,))]
)
def test_an_output_of_several_values_is_refused_by_name(dtype: str, shape: tuple[int | None, ...]) -> None:
    with pytest.raises(SpecError, match=r"output 'scores' .* holds one value: write jsonl or parquet") as refusal:
        encoder_of(output_spec("y", "float32", 0), TensorSpec("scores", "s:0", dtype, shape))
    assert refusal.value.flag == "output_format"


# --- whole jobs --------------------------------------------------------------------------------------------------------------


def check_results(out: Path) -> list[dict[str, str]]:
    """Holds each result against its entry in the manifest; gives all rows."""
    report = json.loads((out / "manifest.json").read_text())
    found: list[dict[str, str]] = []
    for entry in report["results"]:
        content = (out / entry["name"]).read_bytes()
        assert (len(content), google_crc32c.Checksum(content).hexdigest().decode()) == (entry["bytes"], entry["crc32c"])
        header, *rows = rows_of(content)
        assert len(rows) == entry["rows"]
        found += [dict(zip(header, row, strict=True)) for row in rows]
    assert len(found) == report["counts"]["predicted"]
    return found


def test_a_job_writes_a_header_a_file(models: Models, tmp_path: Path) -> None:
    rows: list[Any] = [{"x": number - 50, "s": f'é,"{number}"\n', "id": number, "note": [number]} for number in range(200)]
    data, out = write_lines(tmp_path / "rows.jsonl", rows), tmp_path / "out"
    flags = {"model": models.get("two_outputs"), "input": data, "key_field": "id", "passthrough_fields": "note", "output_format": "csv"}
    assert run(out, Limits(split_bytes=3000), **flags) == 0
    found = check_results(out)
    assert len(list(out.glob("prediction.results-*-of-*.csv"))) > 2
    assert list(found[0]) == ["key", "double", "root", "upper", "upper_bytes", "note"]
    assert [row["key"] for row in found] == [str(number) for number in range(200)]
    assert [int(row["double"]) for row in found] == [2 * (number - 50) for number in range(200)]
    roots = np.sqrt(np.arange(150, dtype=np.float32))
    assert [row["root"] for row in found[:50]] == [""] * 50
    np.testing.assert_array_equal(np.float32([float(row["root"]) for row in found[50:]]), roots)
    assert [row["upper"] for row in found] == [f'é,"{number}"\n' for number in range(200)]
    assert [base64.b64decode(row["upper_bytes"]).decode() for row in found] == [row["upper"] for row in found]
    assert [row["note"] for row in found] == [f"[{number}]" for number in range(200)]
    assert run(out, **flags, nan="error", max_error_ratio=0.3) == 0
    assert [row["key"] for row in check_results(out)] == [str(number) for number in range(50, 200)]


FORMULAS = [
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "＝1",
    "-",
    "+1e",
    "--1",
    "-1.5.2",
    '=HYPERLINK("x")',
    "=\n-1",
]
HARMLESS = ["", "a=1", " =1", "-1.5", "+3", "-.5", "1e-9", "-2E+10", "'=1", "x", "0", '"=', ";=1", "0=", "(-1)"]


def test_formulas_are_kept_or_escaped_and_numbers_never_changed(models: Models, tmp_path: Path) -> None:
    """Keys, outputs and passthrough fields that are text."""
    texts = FORMULAS + HARMLESS
    rows: list[Any] = [{"x": -1 - number, "s": text, "id": text, "note": text} for number, text in enumerate(texts)]
    flags = {"model": models.get("two_outputs"), "input": write_lines(tmp_path / "rows.jsonl", rows), "key_field": "id"}
    flags |= {"passthrough_fields": "note", "output_format": "csv"}
    for policy in ("keep", "escape"):
        assert run(tmp_path / policy, **flags, csv_formulas=policy) == 0
        found = check_results(tmp_path / policy)
        expected = [f"'{text}" for text in FORMULAS] + HARMLESS if policy == "escape" else texts
        assert [row["key"] for row in found] == expected
        assert [row["note"] for row in found] == expected
        assert [row["upper"] for row in found] == [text.upper() for text in expected]
        assert [float(row["double"]) for row in found] == [2 * (-1 - number) for number in range(len(texts))]
        assert [base64.b64decode(row["upper_bytes"]).decode() for row in found] == [text.upper() for text in texts]
    assert run(tmp_path / "default", **flags) == 0
    assert check_results(tmp_path / "default") == check_results(tmp_path / "keep")
    assert run(tmp_path / "jsonl", **flags | {"output_format": "jsonl"}, csv_formulas="escape") == 2


def test_a_columns_name_that_is_a_formula_is_escaped_too() -> None:
    signature = signature_of(TensorSpec("y", "y:0", "float32", (None,)))
    spec = FolderOutput("out", format="csv", passthrough_fields=("=1",), csv_formulas="escape")
    assert encode(CsvEncoder(signature, spec, ()))[0] == ["key", "y", "'=1"]


def test_an_empty_run_is_a_header(models: Models, tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("\n")
    flags = {"model": models.get("half_plus_two"), "input": tmp_path / "none.jsonl", "output_format": "csv"}
    for layout, name in (("sharded", "prediction.results-00000-of-00001.csv"), ("mirror", "none.jsonl.csv")):
        assert run(tmp_path / layout, **flags, output_layout=layout) == 0
        assert names_in(tmp_path / layout) == {"_SUCCESS", "manifest.json", "report.html", "statistics.json", name}
        assert (tmp_path / layout / name).read_bytes() == b'"key","y"\n'
        assert check_results(tmp_path / layout) == []


def test_mirrored_files_have_one_header(models: Models, tmp_path: Path) -> None:
    data, out, limits = tmp_path / "data", tmp_path / "out", Limits(split_bytes=300)
    write_lines(data / "a" / "many.jsonl", [{"x": number} for number in range(300)])
    assert run(out, limits, model=models.get("half_plus_two"), input=data, output_layout="mirror", output_format="csv") == 0
    assert names_in(out) == {"_SUCCESS", "manifest.json", "report.html", "statistics.json", "a/many.jsonl.csv"}
    np.testing.assert_array_equal([float(row["y"]) for row in check_results(out)], np.arange(300) * 0.5 + 2)


def test_nested_outputs_are_refused_before_the_start(models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_lines(tmp_path / "rows.jsonl", [{"x": [1, 2]}])
    assert run(tmp_path / "out", model=models.get("open_length"), input=data, output_format="csv") == 2
    assert "--output_format: output 'doubled' of signature serving_default is float32[?] a row" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
