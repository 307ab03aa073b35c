"""Folders of Delta, Iceberg and Hudi tables are not read as files: rows that were overwritten lie in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jobs import run
from saved_models import Models

from transforms.storage import files, table_folders
from transforms.storage.table_folders import TableFolderError

UUID = "8a5b2d3c-1f60-4f6e-9d0a-0123456789ab"
# As delta-rs, pyiceberg with a catalog, Spark with Iceberg's Hadoop tables, and Hudi write them.
LOGS = {
    "Delta": "_delta_log/00000000000000000000.json",
    "Iceberg": f"metadata/00001-{UUID}.metadata.json",
    "an Iceberg": "metadata/v3.gz.metadata.json",
    "Hudi": ".hoodie/hoodie.properties",
}
PATTERNS = ["table", "table/*.parquet", "table/**/*.parquet", "table/data/*.parquet", "table/data/k=*/*.parquet", "table/data/k=1", "*/**"]
DATA = ["table/00.parquet", "table/data/01.parquet", "table/data/k=1/02.parquet", "table/zz.parquet"]


def fill(root: Path, log: str) -> None:
    for name in DATA:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"x": pa.array([1.0], pa.float32())}), root / name)
    (root / "table" / log).parent.mkdir(parents=True, exist_ok=True)
    (root / "table" / log).write_text("{}")


@pytest.mark.parametrize("kind", LOGS)
def test_a_tables_files_are_refused_on_a_disk(tmp_path: Path, kind: str) -> None:
    fill(tmp_path, LOGS[kind])
    (tmp_path / "link").symlink_to("table/data")
    for pattern in (*PATTERNS, "link", "link/*.parquet"):
        with pytest.raises(TableFolderError, match=f"{tmp_path}/table, the folder of a {kind.split()[-1]} table"):
            list(files.match(f"{tmp_path}/{pattern}"))
    assert [found.relative for name in DATA for found in files.match(f"{tmp_path}/{name}")] == [Path(name).name for name in DATA]


@pytest.mark.parametrize("kind", LOGS)
def test_a_tables_files_are_refused_in_a_bucket(gcs: Any, tmp_path: Path, kind: str) -> None:
    fill(tmp_path, LOGS[kind])
    bucket = gcs.upload_folder(tmp_path, gcs.make_bucket())
    for pattern in (*PATTERNS, "", "table/z*.parquet"):
        with pytest.raises(TableFolderError, match=f"{bucket}/table, the folder of a {kind.split()[-1]} table"):
            list(files.match(f"{bucket}/{pattern}"))
    assert [found.relative for name in DATA for found in files.match(f"{bucket}/{name}")] == [Path(name).name for name in DATA]


@pytest.mark.parametrize(
    "name", ["metadata/notes.json", "metadata/x.metadata.json", "delta_log/0.json", "table.hoodie/x", "data/_delta_log"]
)
def test_folders_that_only_look_a_little_like_it_are_read(gcs: Any, tmp_path: Path, name: str) -> None:
    fill(tmp_path, name)
    bucket = gcs.upload_folder(tmp_path, gcs.make_bucket())
    for root in (str(tmp_path), bucket):
        assert [found.relative for found in files.match(f"{root}/table/**/*.parquet")] == [name.removeprefix("table/") for name in DATA]


def test_other_files_beside_a_table_and_below_it_are_read(gcs: Any, tmp_path: Path) -> None:
    fill(tmp_path, LOGS["Delta"])
    for name in ("other/rows.parquet", "table/rows.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    bucket = gcs.upload_folder(tmp_path, gcs.make_bucket())
    for root in (str(tmp_path), bucket):
        assert [found.relative for pattern in ("other", "table/*.jsonl") for found in files.match(f"{root}/{pattern}")] == [
            "rows.parquet", "rows.jsonl",
        ]  # fmt: skip


def test_a_job_and_a_task_say_what_to_do(models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, LOGS["Delta"])
    assert run(tmp_path / "out", model=models.get("half_plus_two"), input=tmp_path / "table") == 2
    said = capsys.readouterr().err
    assert "the folder of a Delta table" in said
    assert "or name the files that are current" in said
    assert not (tmp_path / "out").exists()
    task = f'{{"model": "{models.get("half_plus_two")}", "input": "{tmp_path}/table/*.parquet", "output": "t"}}'
    (tmp_path / "tasks.jsonl").write_text(task)
    assert run(tmp_path / "out", model_map=tmp_path / "tasks.jsonl") == 3
    assert "the folder of a Delta table" in (tmp_path / "out" / "tasks-00000-of-00001.jsonl").read_text()
    named = ",".join(f"{tmp_path}/{name}" for name in DATA)
    assert run(tmp_path / "out2", model=models.get("half_plus_two"), input=named) == 0, "files that are named are meant"


def test_a_folder_of_a_bucket_is_asked_for_once(gcs: Any, tmp_path: Path) -> None:
    """Tasks by the thousand lie side by side: what lies above them is looked at once, and nothing is where no file could be a table's."""
    bucket = gcs.make_bucket()
    for number in range(3):
        gcs.write(f"{bucket}/sites/{number}/rows.parquet", b"")
        gcs.write(f"{bucket}/lines/{number}/rows.jsonl", b"")
    table_folders.bucket_kind.cache_clear()
    for number in range(3):
        assert len(list(files.match(f"{bucket}/lines/{number}/*.jsonl"))) == 1
    assert table_folders.bucket_kind.cache_info().misses == 0
    for number in range(3):
        assert len(list(files.match(f"{bucket}/sites/{number}"))) == 1
    assert table_folders.bucket_kind.cache_info().misses == 3 + 2
