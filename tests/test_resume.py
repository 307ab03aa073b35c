"""``--resume``: a run that was cut short goes on where it was, and comes to what a quiet run comes to."""

from __future__ import annotations

import glob
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import child
import pytest
from gcp_fixtures import BigQuery, CloudStorage
from jobs import check_output, lines, manifest, names_in, run, write_lines
from saved_models import Models

from transforms.specs.limits import Limits

Capture = pytest.CaptureFixture[str]
ROWS = 30_000
LIMITS = Limits(split_bytes=50_000)


@pytest.fixture
def job(models: Models, tmp_path: Path) -> dict[str, Any]:
    """Flags of a run of a dozen splits with bad rows in them."""
    rows: list[Any] = [{"x": number % 50, "id": number} if number % 1000 else {"x": "no", "id": number} for number in range(ROWS)]
    data = write_lines(tmp_path / "in" / "rows.jsonl", rows)
    return {"model": models.get("half_plus_two"), "input": data, "key_field": "id", "run_id": "night", "limits": LIMITS}


def records_in(folder: Path) -> list[Path]:
    return [Path(path) for path in sorted(glob.glob(f"{folder}/_staging/*/*/*.split"))]


def cut_short(
    out: Path | str, finished: int, with_signal: int = signal.SIGKILL, said: Path | None = None,
    count: Callable[[], int] | None = None, **flags: Any,
) -> int:  # fmt: skip
    """Starts a run, and ends it when ``finished`` splits are recorded, as ``count`` counts them; gives its exit status."""
    count = count or (lambda: len(records_in(Path(out))))
    run = child.start(out, said, **flags)
    deadline = time.monotonic() + 60
    while count() < finished:
        assert run.is_alive(), f"the run ended before it could be cut short: {said.read_text() if said else ''}"
        assert time.monotonic() < deadline, "the run finished too few splits"
        time.sleep(0.001)
    assert run.pid is not None
    os.kill(run.pid, with_signal)
    run.join()
    assert run.exitcode is not None
    return run.exitcode


def exact_statistics(out: Path) -> list[Any]:
    """What of the statistics is exact, however often parts were merged."""
    found: list[Any] = []
    for dataset in json.loads((out / "statistics.json").read_text())["datasets"]:
        found.append((dataset["name"], dataset["numExamples"]))
        for feature in dataset["features"]:
            numbers = feature["numStats"]
            found.append([numbers[name] for name in ("commonStats", "max")] + [numbers.get("numZeros"), round(numbers["mean"], 9)])
    return found


def test_a_killed_run_goes_on_and_comes_to_the_same(job: dict[str, Any], tmp_path: Path, capsys: Capture) -> None:
    quiet, out = tmp_path / "quiet", tmp_path / "out"
    assert run(quiet, **job) == 0
    cut_short(out, 4, **job)
    finished = len(records_in(out))
    capsys.readouterr()

    assert run(out, **job, resume="true") == 0
    assert lines(out) == lines(quiet)
    by_key = {row["key"]: row for row in lines(out, "prediction.errors")}
    assert by_key == {row["key"]: row for row in lines(quiet, "prediction.errors")}
    report = check_output(out)
    assert report["counts"] == manifest(quiet)["counts"] == {"read": ROWS, "predicted": ROWS - 30, "failed": 30}
    assert finished <= report["resumed"]["splits_taken_up"] < report["resumed"]["splits"]
    assert f"{report['resumed']['rows_taken_up']:,} by an earlier launch" in capsys.readouterr().out
    assert report["errors"] == manifest(quiet)["errors"]
    assert exact_statistics(out) == exact_statistics(quiet)


def test_only_what_is_missing_is_predicted(job: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    cut_short(out, 4, **job)
    staged = {path.read_bytes() for path in (out / "_staging").glob("*/*/results-*")}
    assert run(out, **job, resume="true") == 0
    published = {path.read_bytes() for path in out.glob("prediction.results-*")}
    assert len(staged & published) >= 4


@pytest.mark.parametrize("damage", ["shortened", "changed", "gone", "record", "a bit of the record"])
def test_what_is_damaged_is_predicted_again(job: dict[str, Any], tmp_path: Path, damage: str) -> None:
    out = tmp_path / "out"
    cut_short(out, 3, **job)
    for shard in (out / "_staging").glob("*/*/results-*"):
        content = shard.read_bytes()
        if damage == "shortened":
            shard.write_bytes(content[:-10])
        elif damage == "changed":
            shard.write_bytes(content.replace(b"2", b"3", 1))
        elif damage == "gone":
            shard.unlink()
    if damage == "record":
        for record in records_in(out):
            record.write_bytes(record.read_bytes()[:-20])
    if damage == "a bit of the record":  # of the text that says of which run it is: it would refuse the whole run as another
        for record in records_in(out):
            content = bytearray(record.read_bytes())
            content[20] ^= 1
            record.write_bytes(content)
    assert run(out, **job, resume="true") == 0
    report = check_output(out)
    assert "resumed" not in report
    assert report["counts"]["predicted"] == ROWS - 30
    assert {row["key"]: row["prediction"] for row in lines(out)} == {n: n % 50 / 2 + 2 for n in range(ROWS) if n % 1000}


def test_a_changed_input_file_is_predicted_again(job: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    second = write_lines(tmp_path / "in" / "second.jsonl", [{"x": 1, "id": -number} for number in range(1, 5000)])
    flags = {**job, "input": tmp_path / "in" / "*.jsonl"}
    cut_short(out, 5, **flags)
    write_lines(job["input"], [{"x": 2, "id": number} for number in range(ROWS)])
    assert run(out, **flags, resume="true") == 0
    values = {row["key"]: row["prediction"] for row in lines(out)}
    assert values == dict.fromkeys(range(ROWS), 3.0) | {-number: 2.5 for number in range(1, 5000)}
    assert second.exists()
    check_output(out)


def test_a_changed_input_file_of_the_same_size_and_rows_is_predicted_again(job: dict[str, Any], tmp_path: Path) -> None:
    """Its time of change alone says so."""
    out, path = tmp_path / "out", Path(job["input"])
    cut_short(out, 4, **job)
    before, content = path.stat(), path.read_bytes()
    path.write_bytes(content.replace(b'"x": 1,', b'"x": 7,'))
    os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns + 1_000_000))
    assert path.stat().st_size == before.st_size
    assert path.read_bytes() != content
    assert run(out, **job, resume="true") == 0
    assert "resumed" not in check_output(out)
    values = {number: 7 if number % 50 == 1 else number % 50 for number in range(ROWS) if number % 1000}
    assert {row["key"]: row["prediction"] for row in lines(out)} == {number: x / 2 + 2 for number, x in values.items()}


def test_a_key_of_a_split_taken_up_and_of_one_read_now_is_found(job: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_lines(job["input"], [{"x": 1, "id": number % (ROWS // 2)} for number in range(ROWS)])
    cut_short(out, 4, **job)
    assert run(out, **job, resume="true") == 3
    report = check_output(out)
    assert report["resumed"]["splits_taken_up"] >= 4
    assert report["keys"]["duplicated"] == ROWS // 2
    places = [place["offset"] for place in report["keys"]["listed"]]
    taken_up = report["resumed"]["rows_taken_up"] * 22
    assert min(places) < taken_up < max(places), "one of each pair is in a split taken up"


def test_other_flags_and_another_model_are_refused(job: dict[str, Any], models: Models, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    cut_short(out, 3, **job)
    there = names_in(out)
    assert run(out, **{**job, "model": models.get("retrained")}, resume="true") == 2
    said = capsys.readouterr().err
    assert "--resume" in said
    assert f"--model={job['model']} then, --model={models.get('retrained')} now" in said
    assert run(out, **job, output_style="aiplatform", resume="true") == 2
    assert "no --output_style then, --output_style=aiplatform now" in capsys.readouterr().err
    assert names_in(out) == there, "a refused run touches nothing"
    variables = next(Path(job["model"]).glob("variables/*"), Path(job["model"]) / "saved_model.pb")
    os.utime(variables, (1, 1))
    assert run(out, **job, resume="true") == 2
    assert "its model has changed since" in capsys.readouterr().err
    assert run(out, **job, max_error_ratio=0.5) == 0, "without --resume the run begins anew"
    assert check_output(out)["counts"]["read"] == ROWS


def test_a_run_that_is_done_is_not_done_again(job: dict[str, Any], tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    assert run(out, **job, resume="true") == 0
    assert "nothing of run night is there to go on with" in capsys.readouterr().err
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert run(out, **job, resume="true") == 0
    captured = capsys.readouterr()
    assert "run night is done already" in captured.err
    assert "done: run night" in captured.out
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_a_run_without_its_marker_is_not_done(job: dict[str, Any], tmp_path: Path) -> None:
    assert run(tmp_path / "out", **job) == 0
    (tmp_path / "out" / "_SUCCESS").unlink()
    assert run(tmp_path / "out", **job, resume="true") == 0
    assert (tmp_path / "out" / "_SUCCESS").exists()
    assert check_output(tmp_path / "out")["counts"]["predicted"] == ROWS - 30


def test_resume_needs_a_run_and_one_that_records(job: dict[str, Any], models: Models, tmp_path: Path, capsys: Capture) -> None:
    del job["run_id"]
    assert run(tmp_path / "out", **job, resume="true") == 2
    assert "--resume=true needs the --run_id" in capsys.readouterr().err
    assert run(tmp_path / "out", **job, run_id="a", compare_model=models.get("retrained"), resume="true") == 2
    assert "two models" in capsys.readouterr().err


def test_an_interrupted_run_says_how_to_go_on(job: dict[str, Any], tmp_path: Path) -> None:
    out, said = tmp_path / "out", tmp_path / "said"
    assert cut_short(out, 2, signal.SIGINT, said, **job) == 130
    assert "--run_id=night --resume=true predict the rest" in said.read_text()
    assert run(out, **job, resume="true") == 0
    assert check_output(out)["resumed"]["splits_taken_up"] >= 2


def test_tasks_that_are_done_are_not_done_again(models: Models, tmp_path: Path) -> None:
    tasks, out = [], tmp_path / "out"
    for number in range(4):
        data = write_lines(tmp_path / f"in-{number}.jsonl", [{"x": number, "id": row} for row in range(50)])
        tasks.append({"model": models.get("half_plus_two"), "input": str(data), "output": f"task-{number}"})
    tasks[3]["model"] = str(tmp_path / "later")
    flags = {"model_map": write_lines(tmp_path / "tasks.jsonl", tasks), "key_field": "id", "run_id": "night", "limits": LIMITS}
    assert run(out, **flags) == 3
    before = {path: path.stat().st_mtime_ns for path in out.glob("task-[012]/*")}
    assert before
    (tmp_path / "later").symlink_to(models.get("half_plus_two"))
    killed = out / "task-0" / "_staging" / "night" / "earlier" / "results-1"  # of a launch that was killed while it took it away
    killed.parent.mkdir(parents=True)
    killed.write_text("{}")
    assert run(out, **flags, resume="true") == 0
    assert not (out / "task-0" / "_staging").exists()
    assert {path: path.stat().st_mtime_ns for path in out.glob("task-[012]/*")} == before
    assert len(lines(out / "task-3")) == 50
    report = manifest(out)
    assert report["counts"] == {"read": 200, "predicted": 200, "failed": 0}
    assert (report["tasks"]["count"], report["tasks"]["done"]) == (4, 4)


def test_a_bucket_is_gone_on_with(job: dict[str, Any], gcs: CloudStorage) -> None:
    bucket = gcs.make_bucket()
    out = f"{bucket}/out"
    flags = job | {"input": gcs.write(f"{bucket}/rows.jsonl", Path(job["input"]).read_bytes())}
    finished = lambda: sum(name.endswith(".split") for name in gcs.list(out))  # noqa: E731
    cut_short(out, 2, count=finished, **flags)
    assert "manifest.json" not in gcs.list(out)
    assert run(out, **flags, resume="true") == 0
    report = json.loads(gcs.read(f"{out}/manifest.json"))
    assert report["counts"] == {"read": ROWS, "predicted": ROWS - 30, "failed": 30}
    assert report["resumed"]["splits_taken_up"] >= 2
    rows = [json.loads(line) for entry in report["results"] for line in gcs.read(f"{out}/{entry['name']}").splitlines()]
    assert {row["key"]: row["prediction"] for row in rows} == {n: n % 50 / 2 + 2 for n in range(ROWS) if n % 1000}
    assert not [name for name in gcs.list(out) if name.startswith("_staging")]


def test_a_table_is_gone_on_with(job: dict[str, Any], gcs: CloudStorage, bigquery: BigQuery) -> None:
    bucket, table = gcs.make_bucket(), f"{bigquery.make_dataset()}.predictions"
    flags = job | {"temp_location": f"{bucket}/temp"}
    finished = lambda: sum(name.endswith(".split") for name in gcs.list(bucket))  # noqa: E731
    cut_short(table, 2, count=finished, **flags)
    assert run(table, **flags, resume="true") == 0
    (name,) = [name for name in gcs.list(bucket) if name.endswith("manifest.json")]
    assert json.loads(gcs.read(f"{bucket}/{name}"))["resumed"]["splits_taken_up"] >= 2
    rows = bigquery.rows(table, "key")
    assert {int(row["key"]): row["y"] for row in rows} == {n: n % 50 / 2 + 2 for n in range(ROWS) if n % 1000}
    assert len(rows) == ROWS - 30
