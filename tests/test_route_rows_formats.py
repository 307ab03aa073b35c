"""Rows of every format with fields, each of which names its model: predictions against NumPy, every other row among the failed ones."""

from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jobs import read_lines, run
from saved_models import export_linear

from transforms.elements.splits import FileRange
from transforms.formats.parquet.reader import ParquetReader
from transforms.many.waiting_rows import keep
from transforms.rows.row_spec import RowSpec
from transforms.specs.signature import Signature
from transforms.storage import files

Weights = dict[str, tuple[np.ndarray, float]]
SITES = ("north", 'south, "old"', "Zürich")
WIDTH = 3


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Weights]:
    """Linear models of a vector, one in a numbered version."""
    folder = tmp_path_factory.mktemp("sites")
    generator = np.random.default_rng(11)
    weights = {name: (generator.normal(size=WIDTH), float(number)) for number, name in enumerate(SITES)}
    for name in SITES:
        export_linear(folder / name / "7" if name == "north" else folder / name, *weights[name])
    return folder, weights


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Weights]:
    """Linear models of one number, as a field of CSV can feed them."""
    folder = tmp_path_factory.mktemp("narrow")
    weights = {name: (np.array([float(number + 2)]), 0.5) for number, name in enumerate(SITES)}
    for name in SITES:
        export_linear(folder / name, *weights[name])
    return folder, weights


def rows_of(count: int, width: int) -> list[dict[str, Any]]:
    generator = np.random.default_rng(12)
    return [
        {"id": number, "site": SITES[int(generator.integers(len(SITES)))], "x": generator.normal(size=width).round(4).tolist()}
        for number in range(count)
    ]


WRONG: list[dict[str, Any]] = [
    {"id": 901, "site": "nowhere", "x": [1.0, 2.0, 3.0]},
    {"id": 902, "site": "../sites", "x": [1.0, 2.0, 3.0]},
    {"id": 903, "site": None, "x": [1.0, 2.0, 3.0]},
    {"id": 904, "site": "north", "x": [1.0, 2.0]},
    {"id": 905, "site": "north", "x": None},
    {"id": None, "site": "north", "x": [1.0, 2.0, 3.0]},
]
CODES = {
    901: "MODEL_NOT_FOUND", 902: "MODEL_NOT_FOUND", 903: "MODEL_NOT_FOUND", 904: "WRONG_SHAPE", 905: "NULL_VALUE", None: "KEY_NULL",
}  # fmt: skip


def check(out: Path, rows: list[dict[str, Any]], weights: Weights, codes: dict[Any, str]) -> None:
    """Holds a run's predictions against NumPy's, and its failed rows against ``codes`` by key."""
    found = {row["key"]: row["prediction"] for path in out.glob("prediction.results-*") for row in read_lines(path)}
    wanted = {row["id"]: float(np.dot(row["x"], weights[row["site"]][0]) + weights[row["site"]][1]) for row in rows}
    assert found.keys() == wanted.keys()
    np.testing.assert_allclose([found[key] for key in wanted], list(wanted.values()), rtol=1e-12)
    failed = [row for path in out.glob("prediction.errors-*-of-*") for row in read_lines(path)]
    assert {row["key"]: row["code"] for row in failed} == codes
    assert len(failed) == len(codes)
    report = json.loads((out / "manifest.json").read_text())
    assert report["counts"] == {"read": len(rows) + len(codes), "predicted": len(rows), "failed": len(codes)}
    by_model = [line for path in out.glob("models-*.jsonl") for line in read_lines(path)]
    assert sum(line["predicted"] for line in by_model) == len(rows)


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    schema = pa.schema([("site", pa.dictionary(pa.int32(), pa.string())), ("id", pa.int64()), ("x", pa.list_(pa.float64()))])
    pq.write_table(pa.Table.from_pylist(rows, schema), path, row_group_size=100)


def write_avro(path: Path, rows: list[dict[str, Any]]) -> None:
    kinds = {"id": "long", "site": "string", "x": {"type": "array", "items": "double"}}
    schema = {"type": "record", "name": "row", "fields": [{"name": name, "type": ["null", kind]} for name, kind in kinds.items()]}
    with path.open("wb") as stream:
        fastavro.writer(stream, schema, rows, sync_interval=500)


@pytest.mark.parametrize(("name", "write"), [("parquet", write_parquet), ("avro", write_avro)])
def test_rows_of_columns_meet_their_models(name: str, write: Any, sites: tuple[Path, Weights], tmp_path: Path) -> None:
    folder, weights = sites
    rows = rows_of(700, WIDTH)
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / f"a.{name}", rows[:400] + WRONG)
    write(tmp_path / "in" / f"b.{name}", rows[400:])
    flags = {"model": f"{folder}/{{site}}", "model_field": "site", "input": tmp_path / "in", "key_field": "id"}
    assert run(tmp_path / "out", **flags, model_column="version", passthrough_fields="site") == 0
    check(tmp_path / "out", rows, weights, CODES)
    found = [row for path in (tmp_path / "out").glob("prediction.results-*") for row in read_lines(path)]
    assert {row["version"] for row in found if row["site"] == "north"} == {"7"}
    lost = [row for path in (tmp_path / "out").glob("prediction.errors-*-of-*") for row in read_lines(path)]
    assert {row["key"]: row["instance"] for row in lost} == {row["id"]: row for row in WRONG}, "as they were read, whole"


def test_of_a_dictionary_each_model_gets_its_own_values_only(tmp_path: Path) -> None:
    """A column of categories has all of them in each of its slices: thousands of models times thousands of names."""
    names = pa.array([f"site-{number:05d}" for number in range(5000)]).dictionary_encode()
    pq.write_table(pa.table({"site": names}), tmp_path / "rows.parquet")
    spec = RowSpec(Signature("s", ("serve",), (), ()), model_field="site", passthrough_fields=("site",))
    file_range = FileRange(str(tmp_path / "rows.parquet"), 0, 1 << 30, 1 << 30, "rows.parquet")
    (batch,) = ParquetReader(spec).read(file_range)
    kept = keep(batch, np.array([3]))
    assert len(pickle.dumps(kept)) < 5000
    assert kept.rows.to_pylist() == [{"site": "site-00003"}]


@pytest.mark.parametrize("name", ["csv", "csv.gz"])
def test_rows_of_csv_meet_their_models(name: str, narrow: tuple[Path, Weights], tmp_path: Path) -> None:
    folder, weights = narrow
    rows = rows_of(500, 1)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["note", "site", "id", "x"])
    for row in rows:
        writer.writerow(['said "no",\nthen left', row["site"], row["id"], repr(row["x"][0])])
    for line in ("n,nowhere,901,1", "n,,902,1", "n,north,903,much", "n,north,904"):
        text.write(line + "\r\n")
    content = text.getvalue().encode()
    (tmp_path / f"rows.{name}").write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    flags = {"model": f"{folder}/{{site}}", "model_field": "site", "input": tmp_path / f"rows.{name}", "key_field": "id"}
    assert run(tmp_path / "out", **flags, passthrough_fields="note") == 0
    strings = [{**row, "id": str(row["id"])} for row in rows]
    codes = {"901": "MODEL_NOT_FOUND", "902": "MODEL_NOT_FOUND", "903": "WRONG_TYPE", None: "NOT_CSV"}
    check(tmp_path / "out", strings, weights, codes)
    found = [row for path in (tmp_path / "out").glob("prediction.results-*") for row in read_lines(path)]
    assert {row["note"] for row in found} == {'said "no",\nthen left'}
    for row in (row for path in (tmp_path / "out").glob("prediction.errors-*-of-*") for row in read_lines(path)):
        assert content[row["offset"] :].startswith(b"n,"), "each stands where its offset says"


ODD = {
    "csv": b'''site,id,x,note\r
north,1,2,plain\r
north,2,3,ends with a return\r\r
"north",3,4,"two\r
lines, ""quoted"""\r
north,4,,empty\r
north,5,+1,a sign\r
north,6, 1,a space\r
north,7,1e400,large\r
\r
north,8,"1",quoted\r
 north,9,1,"another name"\r
north,10,1\r
north,11,1,"not closed\r
north,12,1,\xff\r
north,13,1,last''',
    "jsonl": b"""{"site": "north", "id": 1, "x": 2, "note": "plain"}
  {"site": "north", "id": 2, "x": 3, "note": "space around"}\x20\x20\r
{"site": "n\\u006frth", "id": 3, "x": 4, "note": "\\ud83d\\ude00"}

{"site": "north", "id": 4, "x": null}
{"site": "north", "id": 5, "x": 1e400}
{"site": "north", "id": 6, "x": "1", "note": "\xff"}
{"site": "north", "id": 7, "x": 1} {"site": "north"}
{"site": "north", "id": 8, "x": 12345678901234567890, "x": 1}
["north"]
{"site": "north", "id": 9, "x": [1], "note": [1, {"a": 2}]}""",
}


@pytest.mark.parametrize("format", list(ODD))
def test_a_row_that_names_its_model_is_read_as_one_that_does_not(format: str, narrow: tuple[Path, Weights], tmp_path: Path) -> None:
    """Odd rows, once as a job of the one model and once by the name that they give, made keys and all."""
    (tmp_path / f"rows.{format}").write_bytes(ODD[format])
    found = []
    for name, flags in (("one", {"model": narrow[0] / "north"}), ("named", {"model": f"{narrow[0]}/{{site}}", "model_field": "site"})):
        run(tmp_path / name, **flags, input=tmp_path / f"rows.{format}", passthrough_fields="note", max_error_ratio=1)
        rows = [row for path in sorted((tmp_path / name).glob("prediction.*-of-*")) if "stats" not in path.name for row in read_lines(path)]
        found.append({row["key"]: {name: row.get(name) for name in ("prediction", "note", "offset", "code", "instance")} for row in rows})
    one, named = found
    other = {key for key, row in named.items() if row["code"] == "MODEL_NOT_FOUND"}  # rows that name none
    assert len(other) <= 1
    assert {key: row for key, row in named.items() if key not in other} == {key: row for key, row in one.items() if key not in other}
    assert len(one) == len(named) >= 9


def test_made_keys_say_where_a_row_of_csv_stands(narrow: tuple[Path, Weights], tmp_path: Path) -> None:
    folder, _ = narrow
    lines = [f"{'north' if number % 3 else 'Zürich'},{number}\n".encode() for number in range(50)]
    content = b"site,x\n" + b"".join(lines)
    (tmp_path / "rows.csv").write_bytes(content)
    assert run(tmp_path / "out", model=f"{folder}/{{site}}", model_field="site", input=tmp_path / "rows.csv") == 0
    for row in (row for path in (tmp_path / "out").glob("prediction.results-*") for row in read_lines(path)):
        site, x = content[int(row["key"].rpartition(":")[2]) :].split(b"\n")[0].decode().split(",")
        assert row["prediction"] == pytest.approx(float(x) * (2 if site == "north" else 4) + 0.5)


def test_rows_of_a_table_meet_their_models(bigquery: Any, sites: tuple[Path, Weights], tmp_path: Path) -> None:
    folder, weights = sites
    rows = rows_of(300, WIDTH)
    wrong = [row for row in WRONG if row["x"] is not None]  # a repeated column holds no null
    schema = pa.schema([("id", pa.int64()), ("site", pa.string()), ("x", pa.list_(pa.float64()))])
    table = bigquery.load(f"{bigquery.make_dataset()}.rows", pa.Table.from_pylist([*rows, *wrong], schema))
    flags = {"model": f"{folder}/{{site}}", "model_field": "site", "input": table, "key_field": "id"}
    assert run(tmp_path / "out", **flags) == 0
    check(tmp_path / "out", rows, weights, {key: code for key, code in CODES.items() if key != 905})


def test_a_table_without_the_field_is_refused(
    bigquery: Any, sites: tuple[Path, Weights], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = bigquery.load(f"{bigquery.make_dataset()}.rows", [{"id": 1, "x": 1.0}])
    assert run(tmp_path / "out", model=f"{sites[0]}/{{site}}", model_field="site", input=table, key_field="id") == 2
    assert "has no column site, which --model_field names; it has id, x" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("rows.parquet", "has no column 'site' (--model_field)"),
        ("rows.avro", "has no column 'site' (--model_field)"),
        ("rows.csv", "has no column 'site'"),
        ("rows.tfrecord", "is for jsonl, parquet, avro, csv and bigquery, not for tf-record"),
    ],
)
def test_files_without_the_field_are_refused(
    name: str, says: str, sites: tuple[Path, Weights], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.table({"id": [1], "x": [[1.0]]}), path)
    elif name.endswith("avro"):
        schema = {"type": "record", "name": "row", "fields": [{"name": "id", "type": "long"}]}
        with path.open("wb") as stream:
            fastavro.writer(stream, schema, [{"id": 1}])
    else:
        path.write_text("id,x\n1,2\n")
    assert run(tmp_path / "out", model=f"{sites[0]}/{{site}}", model_field="site", input=path, key_field="id") == 2
    assert says in capsys.readouterr().err


def other_outputs(folder: Path) -> None:
    """A model whose output has another name."""
    import tensorflow as tf

    module = tf.Module()
    module.function = tf.function(lambda x: {"z": x[:, 0]}, input_signature=[tf.TensorSpec([None, WIDTH], tf.float64, "x")])
    tf.saved_model.save(module, str(folder), signatures=module.function.get_concrete_function())


@pytest.fixture(scope="module")
def unlike(sites: tuple[Path, Weights], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of ``sites``, one that can't be read before them, and one of other outputs after them."""
    folder = tmp_path_factory.mktemp("unlike")
    for name in SITES:
        (folder / name).symlink_to(sites[0] / name)
    (folder / "a damaged one").mkdir()
    (folder / "a damaged one" / "saved_model.pb").write_bytes(b"\xff\xff")
    other_outputs(folder / "zzz")
    return folder


MORE_WRONG = [
    {"id": 906, "site": "zzz", "x": [1.0, 2.0, 3.0]},
    {"id": 907, "site": "a damaged one", "x": [1.0, 2.0, 3.0]},
]
MORE_CODES = CODES | {906: "OUTPUT_DOES_NOT_FIT", 907: "MODEL_NOT_FOUND"}


def read_columns(out: Path, format: str) -> list[dict[str, Any]]:
    if format == "parquet":
        return [row for path in sorted(out.glob("prediction.results-*")) for row in pq.read_table(path).to_pylist()]
    return [row for path in sorted(out.glob("prediction.results-*")) for row in csv.DictReader(io.StringIO(path.read_text()))]


@pytest.mark.parametrize("format", ["parquet", "csv"])
def test_results_with_columns(format: str, sites: tuple[Path, Weights], unlike: Path, tmp_path: Path) -> None:
    rows = rows_of(400, WIDTH)
    write_parquet(tmp_path / "rows.parquet", [*rows, *WRONG, *MORE_WRONG])
    flags = {"model": f"{unlike}/{{site}}", "model_field": "site", "input": tmp_path / "rows.parquet", "key_field": "id"}
    flags |= {"output_format": format, "model_column": "version", "passthrough_fields": "site"}
    assert run(tmp_path / "out", **flags) == 0
    found = read_columns(tmp_path / "out", format)
    assert list(found[0]) == ["key", "y", "site", "version"]
    weights = sites[1]
    wanted = {str(row["id"]): float(np.dot(row["x"], weights[row["site"]][0]) + weights[row["site"]][1]) for row in rows}
    assert {row["key"]: pytest.approx(float(row["y"])) for row in found} == wanted
    assert {(row["site"], row["version"]) for row in found} == {
        ("north", "7"), *((name, f"{unlike}/{name}") for name in SITES[1:]),
    }  # fmt: skip
    failed = [row for path in (tmp_path / "out").glob("prediction.errors-*-of-*") for row in read_lines(path)]
    assert {row["key"]: row["code"] for row in failed} == MORE_CODES
    (message,) = [row["message"] for row in failed if row["key"] == 906]
    assert "its outputs are z: float64[?], and the columns of the results are for y: float64[?]" in message
    report = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert report["counts"] == {"read": 408, "predicted": 400, "failed": 8}


def test_from_a_table_to_a_table(bigquery: Any, gcs: Any, sites: tuple[Path, Weights], unlike: Path) -> None:
    """The input has a column of the name that the version's gets, and of another type."""
    rows = rows_of(300, WIDTH)
    wrong = [row for row in (*WRONG, *MORE_WRONG) if row["x"] is not None]
    schema = pa.schema([("id", pa.int64()), ("site", pa.string()), ("x", pa.list_(pa.float64())), ("version", pa.int64())])
    dataset = bigquery.make_dataset()
    table = bigquery.load(f"{dataset}.rows", pa.Table.from_pylist([{**row, "version": 1} for row in (*rows, *wrong)], schema))
    flags = {"model": f"{unlike}/{{site}}", "model_field": "site", "input": table, "key_field": "id", "model_column": "version"}
    bucket = gcs.make_bucket()
    assert run(f"{dataset}.scores", temp_location=f"{bucket}/tmp", **flags) == 0
    found = bigquery.rows(f"{dataset}.scores")
    weights = sites[1]
    wanted = {row["id"]: float(np.dot(row["x"], weights[row["site"]][0]) + weights[row["site"]][1]) for row in rows}
    assert {row["key"]: pytest.approx(row["y"]) for row in found} == wanted
    assert {row["version"] for row in found} == {"7", *(f"{unlike}/{name}" for name in SITES[1:])}
    failed = bigquery.rows(f"{dataset}.scores_errors")
    (lines,) = [files.read_bytes(found.path) for found in files.list_folder(bucket) if found.path.endswith("/models-00000-of-00001.jsonl")]
    assert sum(json.loads(line)["predicted"] for line in lines.splitlines()) == 300
    assert sorted(row["code"] for row in failed) == sorted(code for key, code in MORE_CODES.items() if key != 905)
