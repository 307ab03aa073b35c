"""Faults while a run works: its output is complete and right, or absent with the previous one as it was."""

from __future__ import annotations

import gzip
import json
import os
import resource
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

import child
import numpy as np
import pytest
from gcp_fixtures import CloudStorage
from jobs import check_output, lines, manifest, names_in, run, write_lines
from saved_models import Models

from transforms.elements.batches import InstanceBatch, JobInstances
from transforms.model import crashes
from transforms.specs.errors import ModelError
from transforms.specs.job import JobSpec
from transforms.staging import split_records
from transforms.staging.split_records import SplitRecord

ROWS = 20_000


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "rows.jsonl", [{"x": number % 50, "id": number} for number in range(ROWS)])


def expected() -> dict[int, float]:
    return {number: number % 50 / 2 + 2 for number in range(ROWS)}


# --- the storage ---


@pytest.mark.parametrize("kind", ["503", "429", "reset", "cut", "slow"])
def test_a_faulty_storage_costs_time_only(gcs: CloudStorage, models: Models, rows: Path, kind: str) -> None:
    bucket = gcs.make_bucket()
    flags = {
        "model": gcs.upload_folder(models.get("half_plus_two"), f"{bucket}/model"),
        "input": gcs.write(f"{bucket}/in/rows.jsonl", rows.read_bytes()),
        "key_field": "id",
    }
    before = len(gcs.requests("FAULT"))
    with gcs.stand_ins.faults(kind, share=0.12, seed=7):
        assert run(f"{bucket}/out", **flags) == 0
    assert len(gcs.requests("FAULT")) > before + 3
    names = gcs.list(f"{bucket}/out")
    assert not [name for name in names if name.startswith("_staging")]
    results = [name for name in names if name.startswith("prediction.results")]
    found = [json.loads(line) for name in results for line in gcs.read(f"{bucket}/out/{name}").splitlines()]
    assert {row["key"]: row["prediction"] for row in found} == expected()
    assert len(found) == ROWS
    assert {"_SUCCESS", "manifest.json"} <= {*names}


# --- the disk ---


def test_a_full_disk_is_named_and_leaves_the_previous_output(models: Models, rows: Path, tmp_path: Path) -> None:
    """No file may get larger than 100 KB: what a full disk does, a write at a time."""
    out, said = tmp_path / "out", tmp_path / "said"
    flags = {"model": models.get("half_plus_two"), "key_field": "id"}
    assert run(out, input=write_lines(tmp_path / "old.jsonl", [{"x": 1, "id": 1}]), **flags) == 0
    before = names_in(out)
    full = child.start(out, said=said, file_bytes=100_000, input=rows, **flags)
    full.join()
    assert full.exitcode == 1, said.read_text()
    assert "the job failed and nothing was published" in said.read_text()
    assert "File too large" in said.read_text()
    assert names_in(out) == before
    assert lines(out) == [{"key": 1, "prediction": 2.5}]
    assert run(out, input=rows, **flags) == 0
    assert {row["key"]: row["prediction"] for row in lines(out)} == expected()
    check_output(out)


def test_a_full_disk_while_the_model_is_fetched_is_named(gcs: CloudStorage, models: Models, rows: Path, tmp_path: Path) -> None:
    bucket, said = gcs.make_bucket(), tmp_path / "said"
    model = gcs.upload_folder(models.get("half_plus_two"), f"{bucket}/model")
    full = child.start(tmp_path / "out", said=said, file_bytes=2_000, model=model, input=rows, key_field="id", report="false")
    full.join()
    assert full.exitcode in (1, 2), said.read_text()
    assert "File too large" in said.read_text()
    assert f"{bucket}/model" in said.read_text()
    assert not (tmp_path / "out" / "manifest.json").exists()


# --- processes ---


def test_a_killed_worker_process_ends_the_run_and_publishes_nothing(models: Models, rows: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "out", tmp_path / "said"
    flags = {"model": models.get("slow"), "key_field": "id", "direct_num_workers": 2, "direct_running_mode": "multi_processing"}
    write_lines(rows, [{"x": 20_000, "id": number} for number in range(100)])
    whole = child.start(out, said=said, input=rows, **flags)
    predicting = child.wait_until(lambda: child.predicting(whole.pid), 120)
    os.kill(predicting, signal.SIGKILL)
    whole.join(90)
    assert whole.exitcode == 1, said.read_text()
    assert "a worker's process died, killed or crashed" in said.read_text()
    assert f"ran {flags['model']} on 100 rows of {rows}" in said.read_text()
    assert not (out / "manifest.json").exists()


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_model_that_ends_the_process_is_named_with_its_rows(models: Models, tmp_path: Path, number: signal.Signals) -> None:
    """What a native crash looks like from outside: the process is gone in the middle of a model call."""
    out, said = tmp_path / "out", tmp_path / "said"
    line = '{"x": 100000, "id": 1}\n'
    data = tmp_path / "rows.jsonl"
    data.write_text(5 * line)
    whole = child.start(out, said=said, model=models.get("slow"), input=data, key_field="id", run_id="night")
    os.kill(child.wait_until(lambda: child.predicting(whole.pid)), number)
    whole.join(30)
    assert whole.exitcode == 1
    text = said.read_text()
    assert f"ended by {number.name}" in text
    assert f"ran {models.get('slow')} on 5 rows of {data}, rows from 0 to {4 * len(line)} " in text
    assert "--run_id=night --resume=true keeps the splits that were finished" in text
    assert not (out / "manifest.json").exists()
    assert not list(crashes.folder().glob(f"{whole.pid}.*"))


@pytest.mark.parametrize("mode", ["in_memory", "multi_processing"])
def test_a_model_that_exits_with_status_0_is_no_success(models: Models, tmp_path: Path, mode: str) -> None:
    """``Abort(exit_without_error=True)``: the process exits with 0 in the middle of a model call."""
    out, said = tmp_path / "out", tmp_path / "said"
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 13, "id": row} for row in range(5)])
    flags = {"model": models.get("ends_quietly"), "key_field": "id", "allow_unsafe_ops": "true", "direct_running_mode": mode}
    whole = child.start(out, said=said, input=data, direct_num_workers=2 if mode == "multi_processing" else 1, **flags)
    whole.join(120)
    assert whole.exitcode == 1, said.read_text()
    assert f"ran {flags['model']} on 5 rows of {data}, rows from 0 to " in said.read_text().replace("while it ran", "ran")
    assert not (out / "manifest.json").exists()


@pytest.mark.parametrize("status", [0, 3])
def test_native_code_that_exits_is_no_success(tmp_path: Path, status: int) -> None:
    said = tmp_path / "said"
    process = child.CONTEXT.Process(target=_exit_while_working, args=(said, status))
    process.start()
    process.join()
    assert process.exitcode == 1, said.read_text()
    assert f"the run's process ended with status {status} before its work was done" in said.read_text()


def _exit_while_working(said: Path, status: int) -> None:
    from pipeline.process.supervisor import supervise

    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 2)
    supervise(lambda: os._exit(status))


@pytest.mark.parametrize("status", [0, 3])
def test_a_status_that_was_reached_is_the_waiting_processs(status: int) -> None:
    """Even where the process crashes after its work, as libraries do that end threads in their destructors."""
    process = child.CONTEXT.Process(target=_crash_after_work, args=(status,))
    process.start()
    process.join()
    assert process.exitcode == status


def _crash_after_work(status: int) -> None:
    from pipeline.process.supervisor import supervise

    supervise(lambda: status)
    os.abort()


def test_rows_that_end_one_process_after_another_fail(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an engine does that starts a worker again: the third process refuses the rows that ended two."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    said = tmp_path / "said"
    for attempt in range(crashes.CRASHES + 1):
        process = child.CONTEXT.Process(target=_predict_and_abort, args=(str(tmp_path), said))
        process.start()
        process.join()
        assert process.exitcode == (-signal.SIGABRT if attempt < crashes.CRASHES else 0)
    assert said.read_text() == (
        "2 processes died, killed or crashed, while they ran models/m on 3 rows of rows.jsonl, rows from 10 to 30 "
        "(bytes into a text file, else row numbers); correct the model, or leave those rows out"
    )


def _predict_and_abort(folder: str, said: Path) -> None:
    from types import SimpleNamespace

    tempfile.tempdir = folder
    job: Any = SimpleNamespace(launch="launch", run_id="night")
    instances = InstanceBatch("rows.jsonl", "", {}, np.array([10, 20, 30]), None, None, {}, [], 0)  # type: ignore[arg-type]
    model: Any = SimpleNamespace(location="models/m")
    try:
        with crashes.Notes().predicting(model, JobInstances(job, model, ("", 0), instances)):
            os.abort()
    except ModelError as error:
        said.write_text(str(error))


def test_signals_reach_the_run_whoever_sends_them(models: Models, tmp_path: Path) -> None:
    """To the waiting process alone, as a scheduler does."""
    said = tmp_path / "said"
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 3000, "id": row} for row in range(5)])
    whole = child.start(tmp_path / "out", said=said, model=models.get("slow"), input=data, key_field="id")
    child.wait_until(lambda: child.predicting(whole.pid))
    assert whole.pid is not None
    os.kill(whole.pid, signal.SIGTERM)
    whole.join(60)
    assert whole.exitcode == 130, said.read_text()
    assert "interrupted; nothing was published" in said.read_text()
    assert not (tmp_path / "out" / "_staging").exists()


def test_a_run_dies_with_the_process_that_waits_for_it(models: Models, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 100_000, "id": row} for row in range(5)])
    whole = child.start(tmp_path / "out", model=models.get("slow"), input=data, key_field="id")
    predicting = child.wait_until(lambda: child.predicting(whole.pid))
    whole.kill()
    whole.join()
    child.wait_until(lambda: not Path(f"/proc/{predicting}/status").exists() or "zombie" in Path(f"/proc/{predicting}/status").read_text())


# --- runs that meet ---


def test_a_record_whose_shards_another_run_took_away_is_not_kept(models: Models, rows: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """The other run published, and removed all staging, between the last shard of a split and its record."""
    real = split_records.write

    def late(job: JobSpec, name: str, record: SplitRecord) -> None:
        shutil.rmtree(tmp_path / "out" / "_staging")
        real(job, name, record)

    monkeypatch.setattr(split_records, "write", late)
    flags = {"model": models.get("half_plus_two"), "input": rows, "key_field": "id"}
    assert run(tmp_path / "out", **flags) == 1
    said = capsys.readouterr().err
    assert "another run published" in said
    assert "--resume" not in said
    assert not (tmp_path / "out" / "_staging").exists()


def test_two_runs_to_one_output_leave_one(models: Models, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    other = write_lines(tmp_path / "other.jsonl", [{"x": 100, "id": number} for number in range(ROWS)])
    flags = {"model": models.get("half_plus_two"), "key_field": "id"}
    for _ in range(3):
        said = [tmp_path / "said-0", tmp_path / "said-1"]
        both = [child.start(out, said=where, input=data, **flags) for where, data in zip(said, (rows, other), strict=True)]
        for each in both:
            each.join()
        statuses = [each.exitcode for each in both]
        assert 0 in statuses, [where.read_text() for where in said]
        assert {*statuses} <= {0, 1}
        for status, where in zip(statuses, said, strict=True):
            assert status == 0 or "another run published" in where.read_text()
        check_output(out)
        values = {row["key"]: row["prediction"] for row in lines(out)}
        assert values in (expected(), dict.fromkeys(range(ROWS), 52.0))


# --- rows ---


def test_an_enormous_row_costs_itself_and_no_memory(models: Models, tmp_path: Path) -> None:
    """1.5 GB of one line in 1.5 MB of gzip: more than a worker should ever hold."""
    data = tmp_path / "rows.jsonl.gz"
    with gzip.open(data, "wb", compresslevel=6) as stream:
        stream.write(b'{"x": 1, "id": 1}\n{"x": "')
        for _ in range(1500):
            stream.write(b"a" * (1 << 20))
        stream.write(b'", "id": 2}\n{"x": 3, "id": 3}\n')
    assert data.stat().st_size < 4 << 20
    said, out = tmp_path / "said", tmp_path / "out"
    process = child.CONTEXT.Process(target=_run_measured, args=(out, said, models.get("half_plus_two"), data))
    process.start()
    process.join()
    status, megabytes = said.read_text().split()
    assert status == "0"
    assert lines(out) == [{"key": 1, "prediction": 2.5}, {"key": 3, "prediction": 3.5}]
    assert [row["code"] for row in lines(out, "prediction.errors")] == ["ROW_TOO_LONG"]
    assert manifest(out)["counts"] == {"read": 3, "predicted": 2, "failed": 1}
    assert int(megabytes) < 600, "more than the rows that fit"


def _run_measured(out: Path, said: Path, model: str, data: Path) -> None:
    flags = {"model": model, "input": data, "key_field": "id", "max_error_ratio": 1}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = run(out, **flags)
    said.write_text(f"{status} {(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10}")
