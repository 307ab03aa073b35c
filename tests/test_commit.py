"""A folder's change is whole or not there, wherever it is broken off, and done again it ends the same."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import re
import threading
import time
from pathlib import Path

import pytest
from saved_models import Models

from pipeline.main import main
from transforms.modelspecs import ModelSpec
from transforms.signature import Signature
from transforms.specs import InputSpec, JobSpec, KeySpec, OutputSpec
from transforms.tasks import RunSpec
from transforms.write import commit as module
from transforms.write import manifest, publish
from transforms.write.commit import FolderChange, LostShardError, NameTwiceError, alone, commit
from transforms.write.gate import Accounts

OLD = {"prediction.results-00000-of-00002": b"old0", "prediction.results-00001-of-00002": b"old1", "manifest.json": b"old", "_SUCCESS": b""}
NEW = {"prediction.results-00000-of-00002": b"new0", "prediction.results-00001-of-00002": b"new1", "manifest.json": b"new", "_SUCCESS": b""}
FOREIGN = {"notes.txt": b"mine", "sub/more.txt": b"mine too"}


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it runs."""


def write(folder: Path, content: dict[str, bytes]) -> None:
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text)


def read(folder: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in found.items() if not name.startswith("_staging/")}


def a_change(folder: Path) -> FolderChange:
    write(folder, {"_staging/run/launch/a": b"new0", "_staging/run/launch/b": b"new1"})
    return FolderChange(
        str(folder),
        placed={
            "prediction.results-00000-of-00002": f"{folder}/_staging/run/launch/a",
            "prediction.results-00001-of-00002": f"{folder}/_staging/run/launch/b",
        },
        written={"manifest.json": b"new", "_SUCCESS": b""},
        removed={"prediction.results-00000-of-00001"},
    )


SYSTEM_CALLS = ("link", "mkdir", "makedirs", "rename", "replace", "remove", "unlink", "rmdir", "fsync")


def break_at(monkeypatch: pytest.MonkeyPatch, call: int) -> list[int]:
    """Makes the ``call``-th change of the file system the last one this process comes to."""
    count = [0]

    def counted(function):
        def run(*args, **kwargs):
            count[0] += 1
            if count[0] >= call:
                raise Killed
            return function(*args, **kwargs)

        return run

    for name in SYSTEM_CALLS:
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    real = module._renameat2()
    monkeypatch.setattr(module, "_renameat2", lambda: counted(real))
    return count


@pytest.mark.parametrize("call", range(1, 25))
def test_a_kill_leaves_the_previous_output_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    folder = tmp_path / "out"
    write(folder, OLD | FOREIGN | {"prediction.results-00000-of-00001": b"stale"})
    before = read(folder)
    change = a_change(folder)
    with monkeypatch.context() as patch:
        count = break_at(patch, call)
        try:
            commit(change)
        except Killed:
            pass
    assert count[0] >= min(call, 8), "the change was made in fewer steps than the test breaks off"
    after = read(folder)
    assert after in (before, NEW | FOREIGN)
    # The engine tries again, or a second run comes.
    commit(a_change(folder))
    assert read(folder) == NEW | FOREIGN
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_in_place_there_is_no_marker_while_files_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_renameat2", lambda: None)
    for call in range(1, 12):
        folder = tmp_path / str(call)
        write(folder, OLD | FOREIGN)
        change = a_change(folder)
        with monkeypatch.context() as patch:
            for name in SYSTEM_CALLS:
                patch.setattr(os, name, _killing(getattr(os, name), call, counter := [0]))
            try:
                commit(change)
            except Killed:
                pass
        after = read(folder)
        complete = after.items() >= OLD.items() or after.items() >= NEW.items()
        assert complete or "_SUCCESS" not in after
        for name in ("a", "b"):  # what was moved stays moved: the retry finds it in place
            assert (folder / "_staging/run/launch" / name).exists() or NEW[
                f"prediction.results-0000{'ab'.index(name)}-of-00002"
            ] in after.values()
        commit(change)
        assert read(folder) == NEW | FOREIGN
        del counter


def _killing(function, call: int, count: list[int]):
    def run(*args, **kwargs):
        count[0] += 1
        if count[0] >= call:
            raise Killed
        return function(*args, **kwargs)

    return run


def test_a_lost_shard_is_named_and_the_previous_output_stays(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write(folder, OLD)
    change = a_change(folder)
    (folder / "_staging/run/launch/b").unlink()
    with pytest.raises(LostShardError, match="_staging/run/launch/b is gone: another run published"):
        commit(change)
    assert read(folder) == OLD


def test_a_folder_with_a_link_in_it_is_changed_in_place(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write(folder, OLD)
    (folder / "link").symlink_to(tmp_path)
    inode = folder.stat().st_ino
    commit(a_change(folder))
    assert folder.stat().st_ino == inode
    assert (folder / "link").is_symlink()
    assert (folder / "manifest.json").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["manifest.json", "prediction.results-00000-of-00002", "./manifest.json"])
def test_a_change_in_which_a_name_stands_twice_is_refused_and_changes_nothing(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "out"
    write(folder, OLD)
    change = a_change(folder)
    with pytest.raises(NameTwiceError, match=re.escape(name.removeprefix("./"))):
        change.add({name: "staged"}, {})
    with pytest.raises(NameTwiceError):
        change.add({}, {name: b"other"})
    (change.written if name in change.placed else change.placed)[name] = b""  # type: ignore[assignment]
    with pytest.raises(NameTwiceError):
        commit(change)
    assert read(folder) == OLD


def test_published_before_is_of_the_same_launch_and_the_same_task(tmp_path: Path) -> None:
    """All tasks of a run share its launch: a task in whose folder another one's manifest lies has published nothing."""
    signature = Signature("s", ("serve",), (), ())
    output = OutputSpec(str(tmp_path))
    job = JobSpec(InputSpec(("a",)), KeySpec(), ModelSpec("m", signature), output, "run", "launch", "2026-01-01T00:00:00+00:00", task=3)
    report = manifest.make(job, Accounts((), (), (), ()), None, {}, {}, None)
    (tmp_path / "manifest.json").write_bytes(manifest.encode(report))
    assert publish.published_by(job) == report
    assert publish.published_by(dataclasses.replace(job, task=4)) is None
    assert publish.published_by(dataclasses.replace(job, launch="other")) is None
    run = RunSpec("", 1, str(tmp_path), InputSpec(("a",)), KeySpec(), output, "run", "launch", "2026-01-01T00:00:00+00:00")
    assert publish.published_by(run) is None


@pytest.mark.parametrize("in_place", [True, False])
def test_of_two_runs_the_one_whose_shards_are_gone_leaves_the_others_output(tmp_path: Path, in_place: bool) -> None:
    """Their results have the same names: what stands there could be taken for what an attempt before had moved."""
    folder = tmp_path / "out"
    change = a_change(folder)
    write(folder, OLD | FOREIGN)
    for path in (folder / "_staging" / "run" / "launch").iterdir():
        path.unlink()
    if in_place:
        (folder / "link").symlink_to(tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(LostShardError, match="another run published"):
        commit(change)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def is_locked(folder: Path) -> bool:
    """Whether somebody publishes to ``folder``, or beside it."""
    handle = os.open(folder.parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def test_a_second_run_waits_until_the_first_has_published(tmp_path: Path) -> None:
    folder, order = tmp_path / "deep" / "out", []
    waiting = threading.Event()

    def second() -> None:
        waiting.set()
        with alone(str(folder)):
            order.append("second")

    with alone(str(folder)):
        assert is_locked(folder)
        thread = threading.Thread(target=second)
        thread.start()
        waiting.wait()
        time.sleep(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert not is_locked(folder)


def test_a_run_publishes_alone(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = []
    (tmp_path / "rows.jsonl").write_text('{"x": 1}\n')

    def watched(change: FolderChange) -> None:
        held.append(is_locked(tmp_path / "out"))
        commit(change)

    monkeypatch.setattr(publish, "commit", watched)
    flags = [f"--model={models.get('half_plus_two')}", f"--input={tmp_path}/rows.jsonl", f"--output={tmp_path}/out"]
    assert main(["run", *flags]) == 0
    assert held == [True]
    assert not is_locked(tmp_path / "out")
