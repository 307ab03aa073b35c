"""Predictions into tables of BigQuery: through the real clients, against an emulator that loads from the one of Cloud Storage."""

import datetime
import decimal
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jobs import write_lines

from transforms.bigquery import publisher
from transforms.bigquery.table_writer import UNFIT, output_type, schema_field, table_type, typed
from transforms.output.publisher import GateShutError
from transforms.specs.errors import SpecError
from transforms.specs.limits import DEFAULT_LIMITS, Limits
from transforms.specs.output import FolderOutput, TableOutput

BIG = 2**60


@pytest.fixture
def run(models, capsys, gcs):
    """Runs a job; gives its status and what it said."""
    from pipeline.main import main

    folder = gcs.make_bucket()

    def run(output, *flags, model="half_plus_two", limits=DEFAULT_LIMITS):
        status = main(["run", f"--model={models.get(model)}", f"--output={output}", f"--temp_location={folder}/tmp", *flags], limits)
        said = capsys.readouterr()
        return status, said.out + said.err

    run.folder = folder
    return run


def schema_of(bigquery, table):
    return {field.name: (field.field_type, field.mode) for field in bigquery.client.get_table(table.removeprefix("bq://")).schema}


# --- round trip ------------------------------------------------------------------------------------------------------------


def test_table_to_table_and_back_matches_numpy_on_100000_rows(bigquery, run):
    count = 100_000
    x = np.random.default_rng(7).normal(size=count) * 100
    keys = BIG + np.arange(count)
    stamps = pa.array(np.arange(count) * 1_000_003, pa.timestamp("us", "UTC"))
    dataset = bigquery.make_dataset()
    source = bigquery.load(f"{dataset}.input", pa.table({"k": keys, "x": x, "at": stamps, "other": x}))
    status, said = run(f"{dataset}.output", f"--input={source}", "--key_field=k", "--passthrough_fields=at")
    assert status == 0, said
    assert f"predictions in {dataset}.output" in said
    table = bigquery.client.query(f"SELECT * FROM `{dataset[5:]}.output` ORDER BY key").to_arrow(create_bqstorage_client=True)
    assert schema_of(bigquery, f"{dataset}.output") == {
        "key": ("INTEGER", "NULLABLE"), "y": ("FLOAT", "NULLABLE"), "at": ("TIMESTAMP", "NULLABLE"),
    }  # fmt: skip
    assert np.array_equal(table["key"].to_numpy(), keys)
    assert np.array_equal(table["y"].to_numpy(), (np.float32(0.5) * x.astype(np.float32) + np.float32(2)).astype(np.float64))
    assert table["at"].cast(pa.int64()).to_pylist() == (np.arange(count) * 1_000_003).tolist()


def test_query_to_table(bigquery, run):
    output = f"{bigquery.make_dataset()}.t"
    status, said = run(output, "--input_query=SELECT 'a' AS k, 1.0 AS x UNION ALL SELECT 'b', 3.0", "--key_field=k")
    assert status == 0, said
    assert bigquery.rows(output, "key") == [{"key": "a", "y": 2.5}, {"key": "b", "y": 3.5}]


def test_files_to_the_datasets_predictions_and_failed_rows_beside(bigquery, run, tmp_path, gcs):
    dataset = bigquery.make_dataset()
    rows = [*({"id": f"k{n}", "x": n} for n in range(40)), {"id": "bad", "x": None}, {"id": 7, "x": "text"}]
    source = write_lines(tmp_path / "in.jsonl", rows)
    status, said = run(dataset, f"--input={source}", "--key_field=id")
    assert status == 0, said
    assert f"failed rows in {dataset}.predictions_errors" in said
    assert bigquery.rows(f"{dataset}.predictions", "y") == [{"key": f"k{n}", "y": 0.5 * n + 2} for n in range(40)]
    errors = bigquery.rows(f"{dataset}.predictions_errors", "`offset`")
    assert [(row["code"], row["key"], row["stage"]) for row in errors] == [("NULL_VALUE", "bad", "convert"), ("WRONG_TYPE", "7", "convert")]
    assert [json.loads(row["instance"]) for row in errors] == rows[40:]
    assert errors[0]["source"] == str(source)
    # staging is gone, the manifest stays
    kept = ("_SUCCESS", "manifest.json", "report.html", "statistics.json")
    assert gcs.list(f"{run.folder}/tmp") == [f"nightshift/{dataset[5:]}.predictions/{name}" for name in kept]
    report = json.loads(gcs.read(f"{run.folder}/tmp/nightshift/{dataset[5:]}.predictions/manifest.json"))
    assert report["table"] == f"{dataset}.predictions"
    assert report["counts"] == {"read": 42, "predicted": 40, "failed": 2}
    # a run without failed rows takes those of the one before away
    source = write_lines(tmp_path / "in.jsonl", rows[:3])
    assert run(dataset, f"--input={source}", "--key_field=id")[0] == 0
    assert len(bigquery.rows(f"{dataset}.predictions")) == 3
    assert [table.table_id for table in bigquery.client.list_tables(dataset[5:])] == ["predictions"]


def test_keys_and_fields_of_parquet_keep_their_types(bigquery, run, tmp_path):
    columns = {
        "id": [BIG, BIG + 1], "x": [1.0, float("inf")], "day": [datetime.date(2026, 2, 3), None], "price": [decimal.Decimal("1.25"), None],
        "raw": [b"\0\xff", b""], "tags": [["a", "b"], []],
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    output = f"{bigquery.make_dataset()}.t"
    status, said = run(output, f"--input={tmp_path / 'in.parquet'}", "--key_field=id", "--passthrough_fields=day,price,raw,tags")
    assert status == 0, said
    kinds = {name: kind for name, (kind, _) in schema_of(bigquery, output).items()}
    assert kinds == {"key": "INTEGER", "y": "FLOAT", "day": "DATE", "price": "NUMERIC", "raw": "BYTES", "tags": "STRING"}
    first, second = bigquery.rows(output, "key")
    assert first == {"key": BIG, "y": 2.5, **{name: values[0] for name, values in columns.items() if name not in ("id", "x")}}
    assert (second["key"], second["y"], second["day"], second["tags"]) == (BIG + 1, math.inf, None, [])


def test_outputs_of_higher_rank_text_and_bytes(bigquery, run, tmp_path):
    output = f"{bigquery.make_dataset()}.t"
    source = write_lines(tmp_path / "in.jsonl", [{"id": "a", "x": 3, "s": "ä"}])
    status, said = run(output, f"--input={source}", "--key_field=id", model="two_outputs")
    assert status == 0, said
    (row,) = bigquery.rows(output)
    assert row == {"key": "a", "double": 6, "root": float(np.sqrt(np.float32(3))), "upper": "ä", "upper_bytes": "ä".encode()}
    source = write_lines(tmp_path / "in.jsonl", [{"id": "a", "x": [1, 2]}, {"id": "b", "x": [4]}])
    assert run(f"{output}2", f"--input={source}", "--key_field=id", model="open_length")[0] == 0
    assert bigquery.rows(f"{output}2", "key") == [
        {"key": "a", "doubled": [2.0, 4.0], "total": 3.0},
        {"key": "b", "doubled": [8.0], "total": 4.0},
    ]


# --- once a run ------------------------------------------------------------------------------------------------------------


def test_the_same_run_twice_ends_with_the_same_table(bigquery, run, tmp_path):
    output = f"{bigquery.make_dataset()}.t"
    source = write_lines(tmp_path / "in.jsonl", [{"id": f"k{n}", "x": n} for n in range(50)])
    flags = (f"--input={source}", "--key_field=id", "--write_disposition=append")
    for _ in range(2):
        status, said = run(output, *flags, "--run_id=night-1")
        assert status == 0, said
        assert len(bigquery.rows(output)) == 50
    assert run(output, *flags, "--run_id=night-2")[0] == 0  # another run is another 50 rows
    assert len(bigquery.rows(output)) == 100
    bigquery.client.delete_table(output[5:])
    assert run(output, *flags, "--run_id=night-1")[0] == 0  # what somebody dropped is loaded again
    assert len(bigquery.rows(output)) == 50


def test_more_shards_than_a_load_can_name(bigquery, run, tmp_path, gcs, monkeypatch):
    """They are moved to one folder, and a pattern names it; an attempt that was ended in the middle goes on."""
    from transforms.bigquery import load
    from transforms.storage import files

    monkeypatch.setattr(load, "MAX_FILES", 3)
    limits = Limits(split_bytes=1000)
    data = write_lines(tmp_path / "rows.jsonl", [{"x": number, "id": f"{number:03d}"} for number in range(400)])
    table = f"{bigquery.make_dataset()}.t"
    renamed = files.rename

    def broken(pairs):
        renamed(pairs[:2])
        raise OSError("ended here")

    monkeypatch.setattr(files, "rename", broken)
    status, said = run(table, f"--input={data}", "--key_field=id", "--run_id=many", limits=limits)
    assert status == 1, said
    monkeypatch.setattr(files, "rename", renamed)
    status, said = run(table, f"--input={data}", "--key_field=id", "--run_id=many", "--resume=true", limits=limits)
    assert status == 0, said
    assert bigquery.rows(table, "key") == [{"key": f"{number:03d}", "y": number / 2 + 2} for number in range(400)]
    assert not [name for name in gcs.list(run.folder) if "_staging" in name]


def loads_of(bigquery, table):
    """The loads of results into ``table`` that are done and did not fail, by their ids, oldest first."""
    jobs = sorted(bigquery.client.list_jobs(), key=lambda job: job.created)
    mine = [job for job in jobs if job.job_type == "load" and job.destination.table_id == table.rsplit(".", 1)[1]]
    mine = [job for job in mine if job.destination.dataset_id == table.split(".")[1] and job.state == "DONE" and not job.error_result]
    return [job.job_id for job in mine if job.job_id.startswith("nightshift-")]


def said_of(gcs, run, output):
    return json.loads(gcs.read(f"{run.folder}/tmp/nightshift/{output[5:]}/manifest.json"))


def test_corrected_rows_of_the_same_run_replace_the_first_ones(bigquery, run, tmp_path, gcs):
    """As many rows, of the same keys, by the same run id: what is loaded decides, not how many. The same rows again are no load."""
    output = f"{bigquery.make_dataset()}.t"
    flags = ("--key_field=id", "--run_id=night")
    expected, loads = [], []
    for values in ([1, 2, 3], [1, 2, 30], [2, 1, 30], [2, 1, 30], [1, 2, 3]):
        source = write_lines(tmp_path / "in.jsonl", [{"id": f"k{n}", "x": x} for n, x in enumerate(values)])
        status, said = run(output, f"--input={source}", *flags)
        assert status == 0, said
        assert bigquery.rows(output, "key") == [{"key": f"k{n}", "y": x / 2 + 2} for n, x in enumerate(values)]
        if values not in expected[-1:]:
            loads.append(values)
        expected.append(values)
        report = said_of(gcs, run, output)
        assert report["load_job"] == loads_of(bigquery, output)[-1]
        assert report["load_digest"] in report["load_job"]
        assert len(loads_of(bigquery, output)) == len(loads)


def test_another_run_in_between_is_replaced(bigquery, run, tmp_path):
    """The night before is run once more: its load is found, but it is not what the table holds any more."""
    output = f"{bigquery.make_dataset()}.t"
    nights = {name: write_lines(tmp_path / f"{name}.jsonl", [{"id": name, "x": x}]) for name, x in (("one", 1), ("two", 2))}
    for night in ("one", "two", "one"):
        status, said = run(output, f"--input={nights[night]}", "--key_field=id", f"--run_id={night}")
        assert status == 0, said
        assert [row["key"] for row in bigquery.rows(output)] == [night]


def test_a_run_appends_once(bigquery, run, tmp_path):
    """Rows that were predicted again and cut otherwise are the same; others are refused by name, and change neither of the two tables."""

    output = f"{bigquery.make_dataset()}.t"
    flags = ("--key_field=id", "--run_id=night", "--write_disposition=append", "--max_error_ratio=0.5")
    rows = [{"id": f"k{n:03d}", "x": n} for n in range(100)] + [{"id": "bad", "x": "no"}]
    source = write_lines(tmp_path / "in.jsonl", rows)
    assert run(output, f"--input={source}", *flags)[0] == 0
    write_lines(source, rows[50:] + rows[:50])
    status, said = run(output, f"--input={source}", *flags, limits=Limits(split_bytes=500))
    assert status == 0, said
    assert len(bigquery.rows(output)) == 100
    assert len(loads_of(bigquery, output)) == 1
    before = bigquery.rows(output, "key"), bigquery.rows(f"{output}_errors", "`offset`")
    write_lines(source, [{"id": "new", "x": "no"}, *rows[1:100]])
    status, said = run(output, f"--input={source}", *flags)
    assert status == 1
    assert f"run night has appended other rows to {output} already: 100 rows by job nightshift-night-" in said
    assert "To add these too give another --run_id" in said
    assert (bigquery.rows(output, "key"), bigquery.rows(f"{output}_errors", "`offset`")) == before


def test_a_table_that_is_not_empty_any_more(bigquery, run, tmp_path, monkeypatch):
    """Another run filled it meanwhile: BigQuery would refuse the load, and the failed rows are not loaded before that."""
    output = f"{bigquery.make_dataset()}.t"
    checked = publisher.check_gate

    def meanwhile(*arguments):
        bigquery.load(output, [{"key": "other", "y": 1.0}])
        return checked(*arguments)

    monkeypatch.setattr(publisher, "check_gate", meanwhile)
    source = write_lines(tmp_path / "in.jsonl", [{"id": "a", "x": 1}, {"id": "b", "x": "no"}])
    status, said = run(output, f"--input={source}", "--key_field=id", "--write_disposition=empty", "--max_error_ratio=0.5")
    assert status == 1
    assert f"{output} holds " in said
    assert "--write_disposition=empty was given: it is as it was" in said
    assert {row["key"] for row in bigquery.rows(output)} == {"other"}
    assert [table.table_id for table in bigquery.client.list_tables(output[5:].rsplit(".", 1)[0])] == ["t"]


def test_failed_rows_of_the_same_run(bigquery, run, tmp_path):
    """Corrected to other failed rows, as many: they replace the first ones; dropped, they are loaded again."""
    output = f"{bigquery.make_dataset()}.t"
    flags = ("--key_field=id", "--run_id=night", "--max_error_ratio=0.5")
    for bad in ("a", "b", "b"):
        source = write_lines(tmp_path / "in.jsonl", [{"id": name, "x": "no" if name == bad else 1} for name in "ab"])
        status, said = run(output, f"--input={source}", *flags)
        assert status == 0, said
        assert [row["key"] for row in bigquery.rows(f"{output}_errors")] == [bad]
        bigquery.client.delete_table(f"{output[5:]}_errors", not_found_ok=False)
    assert len(loads_of(bigquery, f"{output}_errors")) == 3


@pytest.mark.parametrize("moment", ["before the load", "after the load", "after the manifest"])
def test_killed_while_publishing_nothing_is_half_loaded(bigquery, run, tmp_path, monkeypatch, moment):
    """The publish step is broken off; its next attempt, or the same run started again, ends as if it had not been."""
    from transforms.storage import files

    output = f"{bigquery.make_dataset()}.t"
    bigquery.load(output, [{"key": "old", "y": 1.0}])
    source = write_lines(tmp_path / "in.jsonl", [{"id": f"k{n}", "x": n} for n in range(30)])
    flags = (f"--input={source}", "--key_field=id", "--run_id=night")
    whole = files.write_bytes

    def broken_off(*_):
        raise OSError("killed")

    def after_manifest(path, content):
        whole(path, content)
        if path.endswith("manifest.json"):
            raise OSError("killed")

    target, name, instead = {
        "before the load": (publisher, "run_load", broken_off),
        "after the load": (publisher, "make_manifest", publisher.make_manifest),
        "after the manifest": (files, "write_bytes", after_manifest),
    }[moment]
    if moment == "after the load":
        target, name = files, "write_bytes"
        instead = lambda path, content: broken_off() if path.endswith("manifest.json") else whole(path, content)  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(target, name, instead)
        status, said = run(output, *flags)
        assert status == (0 if moment == "after the manifest" else 1), said
    rows = bigquery.rows(output)
    assert len(rows) == (1 if moment == "before the load" else 30)  # the table of before, or the whole of the new one
    assert run(output, *flags)[0] == 0
    assert {row["key"]: row["y"] for row in bigquery.rows(output)} == {f"k{n}": 0.5 * n + 2 for n in range(30)}


def test_gate_shut_leaves_the_table_and_loads_the_failed_rows(bigquery, run, tmp_path, gcs, monkeypatch):
    """Also where the step is done twice, as an engine does that has lost the answer."""
    publish = publisher.TablePublisher.publish

    def twice(self):
        with pytest.raises(GateShutError):
            publish(self)
        return publish(self)

    monkeypatch.setattr(publisher.TablePublisher, "publish", twice)
    output = f"{bigquery.make_dataset()}.t"
    bigquery.load(output, [{"key": "old", "y": 1.0}])
    source = write_lines(tmp_path / "in.jsonl", [{"id": "a", "x": 1}, {"id": "b", "x": None}])
    status, said = run(output, f"--input={source}", "--key_field=id")
    assert status == 3, said
    assert bigquery.rows(output) == [{"key": "old", "y": 1.0}]
    assert [row["key"] for row in bigquery.rows(f"{output}_errors")] == ["b"]
    left = gcs.list(run.folder)
    assert any(name.endswith("manifest.json") for name in left)
    assert not any(name.endswith("_SUCCESS") for name in left)


# --- dispositions, datasets, refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("disposition", "left"), [("truncate", {"c"}), ("empty", {"c"}), ("append", {"a", "b", "c"})])
def test_the_same_run_after_a_gate_that_stayed_shut(bigquery, run, tmp_path, disposition, left):
    """The input is mended, the run started again by the same id: its predictions are there, and the failed rows that are left."""
    table = f"{bigquery.make_dataset()}.p"
    flags = ("--key_field=id", "--run_id=night", "--max_error_ratio=0.4", f"--write_disposition={disposition}")
    bad = write_lines(tmp_path / "rows.jsonl", [{"id": "a", "x": "no"}, {"id": "b", "x": "no"}, {"id": "c", "x": 1.0}])
    status, said = run(table, f"--input={bad}", *flags)
    assert status == 3, said
    mended = write_lines(tmp_path / "rows.jsonl", [{"id": "a", "x": 1.0}, {"id": "b", "x": 2.0}, {"id": "c", "x": "no"}])
    for again in (False, True):  # the second time nothing is loaded twice
        status, said = run(table, f"--input={mended}", *flags)
        if disposition == "empty" and again:
            assert status == 2  # it is not empty any more
            continue
        assert status == 0, said
        assert [(row["key"], row["y"]) for row in bigquery.rows(table, "key")] == [("a", 2.5), ("b", 3.0)]
        assert {row["key"] for row in bigquery.rows(f"{table}_errors")} == left
        assert len(bigquery.rows(f"{table}_errors")) == len(left)


def test_dataset_is_made_partitioned_and_clustered(bigquery, run):
    output = f"bq://{bigquery.client.project}.made_by_the_job.t"
    query = "--input_query=SELECT 'a' AS k, 1.0 AS x, DATE '2026-02-03' AS day"
    flags = (query, "--key_field=k", "--passthrough_fields=day")
    status, said = run(output, *flags)
    assert status == 2
    assert "there is no dataset test-project.made_by_the_job: check the name, or give --create_dataset=true" in said
    status, said = run(output, *flags, "--create_dataset=true", "--location=US", "--partition_field=day", "--cluster_fields=key")
    assert status == 0, said
    table = bigquery.client.get_table(output[5:])
    assert bigquery.client.get_dataset("made_by_the_job").location == "US"
    assert bigquery.rows(output) == [{"key": "a", "y": 2.5, "day": datetime.date(2026, 2, 3)}]
    if table.time_partitioning is None:
        pytest.skip("the emulator does not keep how a table is partitioned or clustered; the load that asked for it was taken")
    assert table.time_partitioning.field == "day"
    assert table.clustering_fields == ["key"]


def test_conflicts_with_a_table_are_named_column_by_column(bigquery, run, tmp_path):
    output = bigquery.load(f"{bigquery.make_dataset()}.t", [{"key": 1, "z": 1.0}])
    source = write_lines(tmp_path / "in.jsonl", [{"id": "a", "x": 1}])
    status, said = run(output, f"--input={source}", "--key_field=id", "--write_disposition=append")
    assert status == 2
    assert "column key is INT64 and would be STRING; it has no column y (FLOAT64)" in said
    status, said = run(output, f"--input={source}", "--key_field=id", "--write_disposition=empty")
    assert status == 2
    assert "holds 1 rows already, and --write_disposition=empty was given" in said
    assert run(output, f"--input={source}", "--key_field=id")[0] == 0  # replaced, columns and all
    assert bigquery.rows(output) == [{"key": "a", "y": 2.5}]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--partition_field=nope"],
            "--partition_field=nope: expected a column of DATE, DATETIME or TIMESTAMP, found no column; there is key, y",
        ),
        (["--partition_field=y"], "found a column of FLOAT64"),
        (["--cluster_fields=a,key"], "--cluster_fields: a is no column"),
        (["--cluster_fields=a,b,c,d,e"], "BigQuery takes 4 at most"),
        (["--passthrough_fields=KEY"], "one column to BigQuery"),
        (["--passthrough_fields=a b"], "'a b' can't be a column of BigQuery"),
        (["--output_layout=mirror"], "--output_layout: 'mirror' is for folders"),
        (["--output_format=parquet"], "--output_format: 'parquet' is no format of a table"),
        (["--errors=/tmp/x"], "--errors: the failed rows of a table go to a table beside it"),
        (["--output_style=vertex"], "--output_style: 'vertex' shapes lines of JSON; --output_format=bigquery has columns"),
        (["--csv_formulas=escape"], "--csv_formulas: 'escape' is for --output_format=csv, and the predictions go out as bigquery"),
        (["--passthrough_fields=*"], "--output_format=bigquery has the same columns in every row, so '*' can't be"),
    ],
)
def test_refused_before_the_start(bigquery, run, tmp_path, flags, words):
    source = write_lines(tmp_path / "in.jsonl", [{"id": "a", "x": 1}])
    status, said = run(f"{bigquery.make_dataset()}.t", f"--input={source}", "--key_field=id", *flags)
    assert status == 2
    assert words in said


def test_staging_needs_a_bucket(models, tmp_path, capsys):
    from pipeline.main import main

    source = write_lines(tmp_path / "in.jsonl", [{"id": "a", "x": 1}])
    flags = [f"--model={models.get('half_plus_two')}", f"--input={source}", "--output=bq://p.d.t"]
    assert main(["run", *flags]) == 2
    assert "--temp_location: BigQuery loads the predictions from a folder of Cloud Storage: expected gs://…" in capsys.readouterr().err


def test_the_input_is_not_replaced(bigquery, run):
    table = bigquery.load(f"{bigquery.make_dataset()}.t", [{"k": "a", "x": 1.0}])
    status, said = run(table, f"--input={table}", "--key_field=k")
    assert status == 2
    assert "is the input too" in said


@pytest.mark.parametrize(
    ("make", "flag"),
    [
        (lambda: FolderOutput("o", format="bigquery"), "output_format"),
        (lambda: FolderOutput("o", write_disposition="append"), "write_disposition"),
        (lambda: TableOutput("bq://p", "o"), "output"),
        (lambda: TableOutput("bq://p.d.t", "o", cluster_fields=tuple("abcde")), "cluster_fields"),
    ],
)
def test_outputs_that_are_refused(make, flag):
    with pytest.raises(SpecError) as refusal:
        make()
    assert refusal.value.flag == flag


def test_a_table_has_one_for_its_failed_rows_beside_it():
    output = TableOutput("bq://p.d.t", "gs://b/staged")
    assert (str(output.name), str(output.errors_name)) == ("bq://p.d.t", "bq://p.d.t_errors")
    assert (output.errors, output.format, output.style, output.layout) == ("gs://b/staged", "bigquery", "keyed", "sharded")


# --- types -------------------------------------------------------------------------------------------------------------------


def test_types_of_columns():
    """docs/formats.md, "BigQuery out"."""
    f32 = pa.list_(pa.list_(pa.float32()))
    assert output_type(f32) == pa.list_(pa.struct([("values", pa.list_(pa.float64()))]))
    field = schema_field("v", output_type(pa.list_(f32)))
    assert (field.field_type, field.mode) == ("RECORD", "REPEATED")
    assert [(inner.name, inner.field_type, inner.mode) for inner in field.fields] == [("values", "RECORD", "REPEATED")]
    for kind, expected in (
        (pa.uint8(), "INT64"), (pa.uint64(), "NUMERIC"), (pa.float16(), "FLOAT64"), (pa.decimal128(10, 2), "NUMERIC"),
        (pa.decimal128(38, 20), "BIGNUMERIC"), (pa.decimal256(76, 38), "BIGNUMERIC"), (pa.decimal256(60, 45), "STRING"),
        (pa.decimal256(70, 10), "STRING"), (pa.decimal128(38, -3), "STRING"), (pa.decimal128(38, 0), "BIGNUMERIC"),
        (pa.decimal256(20, 2), "NUMERIC"), (pa.timestamp("ms", "UTC"), "TIMESTAMP"), (pa.timestamp("s"), "DATETIME"),
        (pa.map_(pa.string(), pa.int64()), "STRING"), (f32, "STRING"), (None, "STRING"), (pa.dictionary(pa.int8(), pa.string()), "STRING"),
        (pa.struct([("a", pa.int32())]), "RECORD"),
    ):  # fmt: skip
        assert schema_field("c", table_type(kind)).field_type == expected, kind


def test_texts_become_typed():
    def column(kind, *texts):
        return typed(pa.array(texts, pa.string()), table_type(kind)).to_pylist()

    assert column(pa.int64(), str(BIG + 1), "null", "") == [BIG + 1, None, None]
    assert column(pa.bool_(), "true", "false") == [True, False]
    assert column(pa.float64(), "1.5", "1e-7", "null") == [1.5, 1e-7, None]
    assert column(pa.decimal128(38, 9), "12345678901234567890.123456789", "7") == [
        decimal.Decimal("12345678901234567890.123456789"),
        decimal.Decimal(7),
    ]
    assert column(pa.decimal256(76, 38), "0.00000000000000000000000000000000000001") == [decimal.Decimal("1E-38")]
    assert column(pa.timestamp("us", "UTC"), '"2026-02-03T04:05:06.000007Z"') == [
        datetime.datetime(2026, 2, 3, 4, 5, 6, 7, tzinfo=datetime.UTC)
    ]
    assert column(pa.time64("us"), '"04:05:06"') == [datetime.time(4, 5, 6)]
    assert column(pa.binary(), '{"b64": "AP8="}') == [b"\0\xff"]
    record = pa.struct([("a", pa.int64()), ("b", pa.list_(pa.binary()))])
    assert column(record, '{"a": 1, "b": [{"b64": "AA=="}]}', '{"a": null}') == [{"a": 1, "b": [b"\0"]}, {"a": None, "b": None}]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (pa.list_(pa.int64()), "[1000000000000000000000]"), (pa.struct([("a", pa.int64())]), "[1]"), (pa.date32(), '"5881580-07-11"'),
        (pa.timestamp("us", "UTC"), '"33658-09-27T01:46:40Z"'), (pa.decimal128(38, 9), "1e40"), (pa.list_(pa.float64()), '["x"]'),
        (pa.binary(), '"plain"'), (pa.int64(), "9223372036854775808"),
    ],
)  # fmt: skip
def test_a_value_beyond_its_column_fails_its_row(kind, text):
    with pytest.raises(UNFIT):
        typed(pa.array([text], pa.string()), table_type(kind))


# --- check -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["files", "a table"])
def test_check_foresees_the_run(bigquery, run, models, capsys, tmp_path, source):
    """The same flags: what ``check`` says of columns and rows is what the run then loads; ``check`` itself makes no table."""
    from pipeline.main import main

    dataset = bigquery.make_dataset()
    day = datetime.date(2026, 2, 3)
    rows = pa.table({"id": [BIG, BIG + 1], "x": [1, 2], "s": ["ä", "b"], "day": [day, None], "tags": [["t"], []]})
    if source == "files":
        pq.write_table(rows, tmp_path / "in.parquet")
    place = str(tmp_path / "in.parquet") if source == "files" else bigquery.load(f"{dataset}.input", rows)
    output = f"{dataset}.t"
    flags = [
        f"--input={place}", "--key_field=id", "--passthrough_fields=day,tags", "--create_dataset=true", "--cluster_fields=key",
        f"--output={output}", f"--temp_location={run.folder}/tmp", f"--model={models.get('two_outputs')}",
    ]  # fmt: skip
    assert main(["check", *flags, f"--json={tmp_path / 'found.json'}"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("the job would run")
    assert output[5:] not in {f"{table.project}.{table.dataset_id}.{table.table_id}" for table in bigquery.client.list_tables(dataset[5:])}
    found = json.loads((tmp_path / "found.json").read_text())
    status, said = run(output, *flags[:-3], model="two_outputs")
    assert status == 0, said
    assert {column["name"]: column["mode"] for column in found["bigquery_schema"]} == {
        name: mode for name, (_, mode) in schema_of(bigquery, output).items()
    }
    assert {column["name"]: column["type"] for column in found["bigquery_schema"]} == {
        "key": "INT64", "double": "INT64", "root": "FLOAT64", "upper": "STRING", "upper_bytes": "BYTES", "day": "DATE", "tags": "STRING",
    }  # fmt: skip
    assert "BYTES" in printed
    if source == "files":
        lines = [json.loads(line) for line in found["sample"]["predictions"]]
        loaded = bigquery.rows(output, "key")
        assert [(line["key"], line["prediction"]["double"]) for line in lines] == [(row["key"], row["double"]) for row in loaded]
        assert [line["day"] for line in lines] == ["2026-02-03", None]
        assert found["core_seconds_per_1000_rows"]["write"] > 0


def test_check_refuses_what_the_run_would(bigquery, run, models, capsys, tmp_path):
    from pipeline.main import main

    output = bigquery.load(f"{bigquery.make_dataset()}.t", [{"key": 1, "z": 1.0}])
    source = write_lines(tmp_path / "in.jsonl", [{"id": "a", "x": 1}])
    flags = [
        f"--input={source}", "--key_field=id", f"--output={output}", f"--temp_location={run.folder}/tmp",
        f"--model={models.get('half_plus_two')}", "--write_disposition=append",
    ]  # fmt: skip
    for command in ("check", "run"):
        assert main([command, *flags]) == 2
        said = capsys.readouterr()
        assert "column key is INT64 and would be STRING" in said.out + said.err
