"""What stands between a wrong account and a published output, each guard by itself."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import child
import google_crc32c
import pytest
from jobs import lines, manifest, run, run_of_tasks, write_lines
from saved_models import Models

from transforms import write_shards
from transforms.accounts.accounts import Accounts
from transforms.accounts.gate import check_gate
from transforms.elements.shards import Shard
from transforms.elements.splits import Incomplete, SplitCount
from transforms.many import run_manifest
from transforms.many.run_manifest import publish_run
from transforms.output import publish_tasks
from transforms.output.journal import alone
from transforms.output.manifest import read_manifest, result_names
from transforms.output.publish_tasks import TaskGroup
from transforms.output.publisher import GateShutError, OccupiedError, Publisher, aside, refuse_occupied, sweep
from transforms.publish import PublishRun
from transforms.rows.codes import Code
from transforms.specs.job import InputSpec, JobSpec, KeySpec
from transforms.specs.manifest import Counts, Manifest, TaskLine, decode_manifest
from transforms.specs.models import CompareSpec, ModelSpec
from transforms.specs.output import FolderOutput
from transforms.specs.run import JobRun, Plan, Task, TasksRun
from transforms.specs.signature import Signature
from transforms.statistics.agreement import Comparison
from transforms.statistics.guard import COMPARISON
from transforms.statistics.statistics import Statistics
from transforms.storage import files


def test_a_batch_that_the_write_step_loses_shuts_the_gate(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_lines(tmp_path / "rows.jsonl", [{"x": number} for number in range(5)])
    assert run(tmp_path / "out", model=models.get("half_plus_two"), input=data) == 0
    monkeypatch.setattr(write_shards.WriteRows, "write_results", lambda *_: None)
    assert run(tmp_path / "out", model=models.get("half_plus_two"), input=data, run_id="loses") == 3
    assert manifest(tmp_path / "out")["reason"] == "5 rows were read, but 0 predicted + 0 failed = 0: rows were lost or doubled"
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def task_line(number: int) -> TaskLine:
    return TaskLine(
        model="m", input="i", output=f"o{number}", number=number, status="done", reason=None, counts=Counts(2, 2, 0), seconds=0.1,
        location="m", version=None,
    )  # fmt: skip


@pytest.mark.parametrize("ended", [1, 3])
def test_a_run_whose_tasks_did_not_all_end_once_is_not_done(tmp_path: Path, ended: int) -> None:
    report = publish_run(run_of_tasks(tmp_path / "out", 2), [task_line(number) for number in range(ended)])
    assert (report.status, report.reason) == ("failed", f"2 tasks were planned, and {ended} ended")
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    assert publish_run(run_of_tasks(tmp_path / "whole", ended), [task_line(number) for number in range(ended)]).is_done
    assert (tmp_path / "whole" / "_SUCCESS").exists()


def test_a_run_of_many_writes_its_manifest_alone(tmp_path: Path) -> None:
    order = []

    def publish() -> None:
        publish_run(run_of_tasks(tmp_path / "out", 1), [task_line(0)])
        order.append("published")

    with alone(str(tmp_path / "out")):
        thread = threading.Thread(target=publish)
        thread.start()
        child.wait_until(child.waits_for_a_lock)
        assert not (tmp_path / "out" / "manifest.json").exists()
        order.append("released")
    thread.join()
    assert order == ["released", "published"]
    assert publish_run_twice(tmp_path / "out") == read_manifest(f"{tmp_path}/out/manifest.json")


def publish_run_twice(folder: Path) -> Manifest:
    return publish_run(run_of_tasks(folder, 1), [task_line(0)])


def test_a_small_file_is_replaced_and_not_written_over(tmp_path: Path) -> None:
    """Who has the old one open, or reads it by another name, has it whole."""
    path, other = tmp_path / "manifest.json", tmp_path / "other"
    files.write_bytes(str(path), b"old")
    os.link(path, other)
    files.write_bytes(str(path), b"new content")
    assert (path.read_bytes(), other.read_bytes()) == (b"new content", b"old")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["manifest.json", "other"]


def test_names_of_a_manifest_that_leave_the_folder_are_not_deleted(models: Models, tmp_path: Path) -> None:
    """Who may write to an output could else choose any file that the next run deletes."""
    outside = ["../victim", "/victim", "sub/../../victim"]
    listed = [{"name": name, "rows": 1, "bytes": 1, "crc32c": ""} for name in [*outside, "sub/stale.jsonl"]]
    assert result_names(decode_manifest(json.dumps({"results": listed}).encode())) == {"sub/stale.jsonl"}
    out, data = tmp_path / "out", write_lines(tmp_path / "rows.jsonl", [{"x": 1}])
    (tmp_path / "victim").write_text("mine")
    for links in (False, True):
        assert run(out, model=models.get("half_plus_two"), input=data) == 0
        (out / "sub").mkdir(exist_ok=True)
        (out / "sub" / "stale.jsonl").write_text("stale")
        if links:
            (out / "link").symlink_to(tmp_path)
            listed.append({"name": "link/victim", "rows": 1, "bytes": 1, "crc32c": ""})
        (out / "manifest.json").write_text(json.dumps({"status": "done", "results": listed}))
        assert run(out, model=models.get("half_plus_two"), input=data) == 0
        assert not (out / "sub" / "stale.jsonl").exists()
        assert (tmp_path / "victim").read_text() == "mine"
        assert len(lines(out)) == 1


def test_the_step_gives_the_manifest_of_a_run_of_many(tmp_path: Path) -> None:
    (report,) = PublishRun(run_of_tasks(tmp_path / "out", 1)).process(b"", [task_line(0)])
    assert report == read_manifest(f"{tmp_path}/out/manifest.json")


def an_unplanned(run: TasksRun, number: int) -> Plan:
    return Plan(Task(number, "m", "i", f"o{number}"), reason="there is no such model")


def test_a_task_that_another_run_publishes_waits_and_lets_go_of_those_before_it(tmp_path: Path) -> None:
    """Each run would else wait with the other's task locked."""
    run, out = run_of_tasks(tmp_path / "out", 3), tmp_path / "out"
    group, lines_of = TaskGroup(run), list[TaskLine]()
    held, gone = threading.Event(), threading.Event()

    def hold() -> None:
        with alone(str(out / "o1")):
            held.set()
            gone.wait(20)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(20)
    assert list(group.add(an_unplanned(run, 0), Accounts((), (), (), ()))) == []
    let_go = threading.Timer(0.3, gone.set)
    let_go.start()
    lines_of += group.add(an_unplanned(run, 1), Accounts((), (), (), ()))
    assert [line.number for line in lines_of] == [0]
    assert gone.is_set()
    lines_of += group.add(an_unplanned(run, 2), Accounts((), (), (), ()))
    lines_of += group.end()
    other.join()
    assert sorted(line.number for line in lines_of) == [0, 1, 2]
    for number in range(3):
        assert json.loads((out / f"o{number}" / "manifest.json").read_text())["reason"] == "there is no such model"


def a_publisher(folder: Path, failed: int, launch: str, elsewhere: Path | None = None) -> Publisher:
    """Of a job that read three rows, of which some failed."""
    output = FolderOutput(str(folder), errors_folder=str(elsewhere) if elsewhere else None)
    job = JobSpec(
        InputSpec(("/in",)), KeySpec(), ModelSpec("m", Signature("s", ("serve",), (), ())), output, "night", launch,
        "2026-01-01T00:00:00+00:00", report=False, max_error_ratio=0.5,
    )  # fmt: skip
    shards = []
    for kind, rows, place in (("results", 3 - failed, output.folder), ("errors", failed, output.errors)):
        staging = Path(job.staging_in(place))
        staging.mkdir(parents=True, exist_ok=True)
        content = f"{kind}\n".encode() * rows
        (staging / kind).write_bytes(content)
        codes = (("convert", "INPUT_MISSING", rows, "why"),) if kind == "errors" and rows else ()
        checksum = google_crc32c.Checksum(content).hexdigest().decode()
        if rows:
            shards.append(Shard(kind, str(staging / kind), ("", 0), "", "", rows, len(content), checksum, codes))
    return Publisher(job, Accounts(tuple(shards), (SplitCount(("", 0), 3, 20, 1),), (), ()))


def test_results_before_stay_where_the_gate_is_shut_and_go_where_it_opens(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number in range(3):
        write_bytes(out / f"prediction.results-{number:05d}-of-00003", b"before\n")
    write_bytes(out / "_SUCCESS", b"")
    before = {path.name for path in out.iterdir()}
    with pytest.raises(GateShutError):
        a_publisher(out, 3, "first").publish()
    names = {path.name for path in out.iterdir()}
    assert before - {"_SUCCESS"} <= names
    assert "_SUCCESS" not in names
    assert any(name.startswith("prediction.errors-") for name in names)
    a_publisher(out, 0, "second").publish()
    assert {path.name for path in out.iterdir()} == {"prediction.results-00000-of-00001", "manifest.json", "_SUCCESS"}


def test_failed_rows_elsewhere_are_of_the_same_change(tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "failed"
    write_bytes(other / "prediction.errors-00000-of-00002", b"before\n")
    write_bytes(other / "notes.txt", b"a person's")
    a_publisher(out, 1, "first", elsewhere=other).publish()
    errors = {"prediction.errors-00000-of-00001", "prediction.errors_stats-00000-of-00001"}
    assert {path.name for path in other.iterdir() if path.is_file()} == errors | {"notes.txt"}
    assert {path.name for path in out.iterdir() if path.is_file()} == {"prediction.results-00000-of-00001", "manifest.json", "_SUCCESS"}


def test_a_run_waits_for_another_that_publishes_to_its_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    publisher = a_publisher(out, 0, "first")
    ended: list[Manifest] = []
    waiting = threading.Thread(target=lambda: ended.append(publisher.publish()))
    with alone(str(out)):
        waiting.start()
        waiting.join(0.3)
        assert not (out / "_SUCCESS").exists()
    waiting.join(20)
    assert ended[0].is_done


def test_a_disagreement_that_is_not_known_of_all_rows_shuts_the_gate(tmp_path: Path) -> None:
    publisher = a_publisher(tmp_path / "out", 0, "first")
    compare = CompareSpec(model=ModelSpec("other", Signature("s", ("serve",), (), ())), max_disagreement=0.5)
    job = dataclasses.replace(publisher.job, compare=compare)
    for rows, failures, reason in (
        (3, {}, None),
        (2, {}, "2 of 3 predictions were compared"),
        (3, {COMPARISON: "the texts are of two types"}, "the texts are of two types"),
    ):
        accounts = dataclasses.replace(
            publisher.accounts, statistics=Statistics(comparison=Comparison(rows=rows, agreed=rows)), failures=failures
        )
        assert check_gate(job, accounts) == (reason and f"--max_disagreement=0.5 was given, and the disagreement is not known: {reason}")
    unknown = dataclasses.replace(publisher.accounts, statistics=None)
    assert "the disagreement is not known: 0 of 3 predictions were compared" in (check_gate(job, unknown) or "")


def test_damaged_files_are_named_in_their_order(tmp_path: Path) -> None:
    publisher = a_publisher(tmp_path / "out", 0, "first")
    damaged = tuple(Incomplete(f"/in/{letter}", Code.FILE_DAMAGED, "broken") for letter in "hgfedcba")
    accounts = dataclasses.replace(publisher.accounts, counts=(SplitCount(("", 0), 3, 20, 1, damaged),))
    assert check_gate(publisher.job, accounts) == "8 input files are damaged, so rows are lost: /in/a, /in/b, /in/c"


def test_lines_of_tasks_are_in_files_of_so_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_manifest, "TASKS_A_FILE", 2)
    publish_run(run_of_tasks(tmp_path / "out", 3), [task_line(number) for number in (2, 0, 1)])
    files = sorted((tmp_path / "out").glob("tasks-*"))
    assert [path.name for path in files] == ["tasks-00000-of-00002.jsonl", "tasks-00001-of-00002.jsonl"]
    numbers = [[json.loads(line)["output"] for line in path.read_text().splitlines()] for path in files]
    assert numbers == [["o0", "o1"], ["o2"]]


def test_what_is_published_is_on_the_disk_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, synced = tmp_path / "out", list[tuple[bool, str]]()

    def note(paths: Sequence[str]) -> None:
        synced.extend(((out / "_SUCCESS").exists(), os.path.basename(path)) for path in paths)

    monkeypatch.setattr("transforms.output.publisher.sync", note)
    a_publisher(out, 0, "first").publish()
    assert {(False, "results"), (False, "manifest.json"), (False, "_SUCCESS"), (True, tmp_path.name)} <= set(synced)


def test_a_group_of_tasks_is_published_when_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each holds a lock, and its line is all that a run of many has of it."""
    run = run_of_tasks(tmp_path / "out", 3)
    monkeypatch.setattr(publish_tasks, "GROUP_TASKS", 2)
    group = TaskGroup(run)
    counts = [len(list(group.add(an_unplanned(run, number), Accounts((), (), (), ())))) for number in range(3)]
    assert counts == [0, 2, 0]
    assert len(list(group.end())) == 1


def test_a_sweep_takes_what_launches_left_and_the_folder_beside(tmp_path: Path) -> None:
    out = tmp_path / "out"
    publisher = a_publisher(out, 1, "first", elsewhere=tmp_path / "failed")
    beside = aside(publisher.job)
    assert beside is not None
    write_bytes(Path(beside) / "results", b"of a run that was killed")
    sweep(JobRun(job=publisher.job))
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == ["failed", "out"]


@pytest.mark.parametrize(
    ("name", "is_occupied"),
    [("notes.txt", False), ("_staging/run/launch/results", False), ("_SUCCESS", True), ("prediction.results-00000-of-00001", True)],
)
def test_an_occupied_folder_holds_results_or_a_marker(tmp_path: Path, name: str, is_occupied: bool) -> None:
    write_bytes(tmp_path / name, b"")
    with pytest.raises(OccupiedError, match=name) if is_occupied else contextlib.nullcontext():
        refuse_occupied(str(tmp_path))


def test_a_sweep_of_a_run_of_many_takes_nothing_beside_its_folder(tmp_path: Path) -> None:
    write_bytes(tmp_path / ".out.nightshift" / "notes", b"a person's")
    run = run_of_tasks(tmp_path / "out", 1)
    write_bytes(Path(run.staging_in(run.folder)) / "left", b"of a launch that was killed")
    sweep(run)
    assert (tmp_path / ".out.nightshift" / "notes").exists()
    assert not list((tmp_path / "out").iterdir())


def write_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
