"""Two columns of one name: refused where a job needs that name, before the start or row by row; twins that nobody needs do no harm."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jobs import lines, run, write_lines
from saved_models import Models

from pipeline.main import main

STRUCT = pa.StructArray.from_arrays([pa.array([1, 2]), pa.array([3, 4])], ["a", "a"])
COLUMNS = {"id": pa.array(["k1", "k2"]), "x": pa.array([1.0, 2.0], pa.float32()), "note": pa.array(["n1", "n2"]), "deep": STRUCT}


def write_parquet(path: Path, *names: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_arrays([COLUMNS[name] for name in names], names=list(names)), path)
    return path


def write_csv(path: Path, *names: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [names, *([str(COLUMNS[name][row]) for name in names] for row in range(2))]
    path.write_text("".join(",".join(row) + "\n" for row in rows))
    return path


def write_avro(path: Path, *names: str) -> Path:
    """Writes a file as fastavro does, and then its header's names, which no writer takes twice, in place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    placeholders = [f"{name}{place}" for place, name in enumerate(names)]
    inner = {"type": "record", "name": "inner", "fields": [{"name": name, "type": "long"} for name in ("a0", "a1")]}
    types: dict[str, Any] = {"id": "string", "x": "float", "note": "string", "deep": inner}
    fields = [{"name": own, "type": types[name]} for own, name in zip(placeholders, names, strict=True)]
    values = {name: COLUMNS[name].to_pylist() for name in ("id", "x", "note")} | {"deep": [{"a0": 1, "a1": 3}, {"a0": 2, "a1": 4}]}
    stream = io.BytesIO()
    rows = [{own: values[name][row] for own, name in zip(placeholders, names, strict=True)} for row in range(2)]
    fastavro.writer(stream, {"type": "record", "name": "row", "fields": fields}, rows)
    reader = fastavro.reader(io.BytesIO(stream.getvalue()))
    text = reader.metadata["avro.schema"]
    renamed = text
    for own, name in [*zip(placeholders, names, strict=True), ("a0", "a"), ("a1", "a")]:
        renamed = renamed.replace(f'"{own}"', f'"{name}"')
    content = stream.getvalue().replace(text.encode(), renamed.ljust(len(text)).encode())
    path.write_bytes(content)
    return path


WRITERS = {"parquet": write_parquet, "csv": write_csv, "avro": write_avro}
REFUSED: list[tuple[tuple[str, ...], dict[str, str], str]] = [
    (("id", "x", "x"), {}, "columns 2 and 3 are both named 'x'"),
    (("id", "x", "id", "note", "id"), {"key_field": "id"}, "columns 1, 3 and 5 are both named 'id'"),
    (("id", "x", "note", "note"), {"key_field": "id,note"}, "columns 3 and 4 are both named 'note'"),
    (("note", "id", "x", "note"), {"passthrough_fields": "note"}, "columns 1 and 4 are both named 'note'"),
    (("note", "id", "x", "note"), {"passthrough_fields": "*"}, "columns 1 and 4 are both named 'note'"),
]
DEEP: list[tuple[tuple[str, ...], dict[str, str], str]] = [
    (("x", "deep"), {"passthrough_fields": "deep"}, "column 'deep' holds records with two fields named 'a'"),
    (("x", "deep"), {"passthrough_fields": "*"}, "column 'deep' holds records with two fields named 'a'"),
]


@pytest.mark.parametrize(
    ("format", "names", "flags", "message"),
    [
        *((format, *case) for format in WRITERS for case in REFUSED),
        *((format, *case) for format in ("parquet", "avro") for case in DEEP),
    ],
)
def test_twins_that_a_job_needs_are_refused_before_the_start(
    models: Models,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    format: str,
    names: tuple[str, ...],
    flags: dict[str, str],
    message: str,
) -> None:
    data = WRITERS[format](tmp_path / f"rows.{format}", *names)
    model = models.get("half_plus_two")
    assert run(tmp_path / "out", model=model, input=data, **flags) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    arguments = [f"--model={model}", f"--input={data}", f"--output={tmp_path}/out", *(f"--{name}={value}" for name, value in flags.items())]
    assert main(["check", *arguments]) == 2
    assert message in capsys.readouterr().out


@pytest.mark.parametrize("format", WRITERS)
def test_in_a_later_file_they_cost_its_rows(models: Models, tmp_path: Path, format: str) -> None:
    folder = tmp_path / "in"
    WRITERS[format](folder / f"1.{format}", "id", "x", "note")
    WRITERS[format](folder / f"2.{format}", "id", "x", "note", "note")
    flags = {"model": models.get("half_plus_two"), "input": folder, "key_field": "id", "max_error_ratio": 0.5}
    assert run(tmp_path / "out", **flags, passthrough_fields="note") == 0
    assert [row["note"] for row in lines(tmp_path / "out")] == ["n1", "n2"]
    failed = lines(tmp_path / "out", "prediction.errors")
    assert [(row["code"], row["stage"], row["source"]) for row in failed] == [("COLUMN_TWICE", "read", f"{folder}/2.{format}")] * 2
    assert "columns 3 and 4 are both named 'note'" in failed[0]["message"]
    if format != "avro":  # of which a record holds the last alone
        text = (tmp_path / "out" / "prediction.errors-00000-of-00001").read_text().splitlines()[0]
        assert text.count('"note"') == 2
    assert run(tmp_path / "out", **flags, duplicate_keys="allow") == 0, "nobody needs the twins"
    assert len(lines(tmp_path / "out")) == 4


@pytest.mark.parametrize("format", ["parquet", "avro"])
def test_deeper_twins_in_a_later_file_cost_its_rows(models: Models, tmp_path: Path, format: str) -> None:
    folder = tmp_path / "in"
    write_parquet(folder / "1.parquet", "x", "note")
    WRITERS[format](tmp_path / "more" / f"2.{format}", "x", "note")
    WRITERS[format](tmp_path / "more" / f"3.{format}", "x", "deep", "note")
    flags = {"model": models.get("half_plus_two"), "input": f"{folder},{tmp_path}/more", "max_error_ratio": 0.5}
    assert run(tmp_path / "out", **flags, passthrough_fields="*") == 0
    assert [row["code"] for row in lines(tmp_path / "out", "prediction.errors")] == ["COLUMN_TWICE"] * 2


@pytest.mark.parametrize("format", WRITERS)
def test_with_rows_that_name_their_models_the_models_own_inputs_count(models: Models, tmp_path: Path, format: str) -> None:
    for name in ("k1", "k2"):
        (tmp_path / "models").mkdir(exist_ok=True)
        (tmp_path / "models" / name).symlink_to(models.get("half_plus_two"))
    flags = {"model": f"{tmp_path}/models/{{id}}", "model_field": "id", "max_error_ratio": 1}
    unused = WRITERS[format](tmp_path / f"unused.{format}", "id", "x", "note", "note")
    if format == "avro":  # a record that is kept until its model is known holds the last of two alone
        assert run(tmp_path / "out", **flags, input=unused) == 2
        return
    assert run(tmp_path / "out", **flags, input=unused) == 0
    assert len(lines(tmp_path / "out")) == 2
    needed = WRITERS[format](tmp_path / f"needed.{format}", "id", "x", "note", "x")
    assert run(tmp_path / "out", **flags, input=needed) == 0
    assert lines(tmp_path / "out") == []
    assert [row["code"] for row in lines(tmp_path / "out", "prediction.errors")] == ["COLUMN_TWICE"] * 2
    if format == "parquet":
        deep = write_parquet(tmp_path / "deep.parquet", "x", "deep", "note")
        assert run(tmp_path / "out", **flags | {"model_field": "note", "model": f"{tmp_path}/models/{{note}}"}, input=deep) == 0
        assert [row["instance"] for row in lines(tmp_path / "out", "prediction.errors")] == [{"x": 1, "note": "n1"}, {"x": 2, "note": "n2"}]
    named = WRITERS[format](tmp_path / f"named.{format}", "id", "x", "id")
    assert run(tmp_path / "out", **flags, input=named) == 2


def test_a_task_with_twins_can_not_begin(models: Models, tmp_path: Path) -> None:
    data = write_parquet(tmp_path / "rows.parquet", "x", "id", "x")
    write_lines(tmp_path / "tasks.jsonl", [{"model": models.get("half_plus_two"), "input": str(data), "output": "t"}])
    assert run(tmp_path / "out", model_map=tmp_path / "tasks.jsonl") == 3
    (line,) = [json.loads(text) for text in (tmp_path / "out" / "tasks-00000-of-00001.jsonl").read_text().splitlines()]
    assert "columns 1 and 3 are both named 'x'" in line["reason"]
