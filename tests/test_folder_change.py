"""A folder's change is whole or not there, wherever it is broken off, and done again it ends the same."""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import fcntl
import json
import os
import re
import shutil
import threading
import types
from pathlib import Path

import child
import msgspec
import pytest
from jobs import run_of_tasks
from output_folders import (
    FOREIGN,
    NEW,
    OLD,
    RESULT0,
    Killed,
    a_change,
    a_folder_change,
    crc32c,
    in_place,
    make,
    read,
    staged,
    write,
)
from saved_models import Models

from pipeline.main import main
from transforms.accounts.accounts import Accounts
from transforms.output import folder_change as module
from transforms.output import manifest, publisher
from transforms.output.folder_change import Change, FolderChange, NameTwiceError, commit
from transforms.output.journal import Journal, alone
from transforms.output.placing import LostShardError
from transforms.output.verify import MismatchError
from transforms.specs.job import InputSpec, JobSpec, KeySpec
from transforms.specs.manifest import encode_manifest
from transforms.specs.models import ModelSpec
from transforms.specs.output import FolderOutput
from transforms.specs.run import JobRun
from transforms.specs.signature import Signature

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
    real = module.load_renameat2()
    monkeypatch.setattr(module, "load_renameat2", lambda: counted(real))
    return count


def killed_at(monkeypatch: pytest.MonkeyPatch, call: int, change: Change) -> int:
    """Makes a change that is killed at a call; gives how many it came to."""
    with monkeypatch.context() as patch:
        count = break_at(patch, call)
        try:
            make(change)
        except Killed:
            pass
    return count[0]


@pytest.mark.parametrize("first", [True, False])
def test_a_kill_leaves_the_previous_output_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool) -> None:
    """Also where no output is there yet: then there is none, or all of it."""
    for call in range(1, 60):
        folder = tmp_path / str(call) / "out"
        write(folder, {} if first else OLD | FOREIGN | {"prediction.results-00000-of-00001": b"stale"})
        before = read(folder)
        new = NEW if first else NEW | FOREIGN
        count = killed_at(monkeypatch, call, a_change(folder))
        assert read(folder) in (before, new), call
        # The engine tries again, or a second run comes.
        make(a_change(folder))
        assert read(folder) == new
        assert [path.name for path in folder.parent.iterdir()] == ["out"], "what a kill leaves is swept"
        if count < call:
            break
    assert 15 < call < 59, "the change was made in fewer steps than the test breaks off"


@pytest.mark.parametrize("first", [True, False])
def test_in_place_there_is_no_marker_while_files_move_and_the_next_run_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    for call in range(1, 90):
        folder = in_place(tmp_path / str(call) / "out")
        old = FOREIGN if first else OLD | FOREIGN | {"prediction.results-00000-of-00001": b"stale"}
        write(folder, old)
        count = killed_at(monkeypatch, call, a_change(folder))
        after = read(folder)
        assert after in (old, NEW | FOREIGN) or "_SUCCESS" not in after, call
        with alone(str(folder)):  # whatever comes next to this folder
            pass
        assert read(folder) in (old, NEW | FOREIGN), call
        assert not (folder / "_nightshift").exists()
        make(a_change(folder))
        assert read(folder) == NEW | FOREIGN
        if count < call:
            break
    assert 25 < call < 89


def test_a_kill_between_results_and_failed_rows_elsewhere_leaves_no_mixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never new failed rows beside old results, nor the other way round, once the next run has looked, from either folder."""
    failed = "prediction.errors-00000-of-00001"

    def both(folder: Path, errors: Path) -> Change:
        rows = staged(errors, "e", b"newfailed")
        change = a_change(folder)
        report = json.loads(NEW["manifest.json"]) | {"failed_rows_folder": str(errors)}
        report["failed_rows"] = [{"name": failed, "rows": 1, "bytes": 9, "crc32c": crc32c(b"newfailed")}]
        report["counts"]["failed"] = 1
        change.folders[0].written["manifest.json"] = json.dumps(report).encode()
        change.folders.append(FolderChange(str(errors), f"{errors}/_staging/run/launch", placed={failed: rows}))
        return change

    for call in range(1, 90):
        folder, errors = tmp_path / str(call) / "out", tmp_path / str(call) / "failed"
        write(folder, OLD)
        write(errors, {failed: b"oldfailed"})
        count = killed_at(monkeypatch, call, both(folder, errors))
        complete = "_SUCCESS" in read(folder)
        if complete:
            assert (read(folder)[RESULT0][:3], read(errors)[failed][:3]) in ((b"old", b"old"), (b"new", b"new"))
        with alone(str(errors if call % 2 else folder)):
            pass
        now = read(folder)
        assert "_SUCCESS" in now
        assert (now[RESULT0], read(errors)) in ((b"old0", {failed: b"oldfailed"}), (b"new0", {failed: b"newfailed"})), call
        with alone(str(folder), str(errors)):  # a journal that was half written, where the next run looks
            pass
        assert not (folder / "_nightshift").exists()
        assert not (errors / "_nightshift").exists()
        if count < call:
            break
    assert 30 < call < 89


@pytest.mark.parametrize("missing", ["a", "c"])
def test_where_staged_files_are_gone_nothing_of_the_killed_run_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """A mirrored file that it had placed would stay for ever: nobody knows its name any more."""
    endings = set()
    for call in range(1, 90):
        folder = in_place(tmp_path / str(call) / "out")
        write(folder, OLD | FOREIGN)
        count = killed_at(monkeypatch, call, a_change(folder))
        lost = folder / "_staging" / "run" / "launch" / missing
        if count < call:
            break
        if not lost.exists():  # placed already
            continue
        lost.unlink()
        with alone(str(folder)):
            pass
        after = read(folder)
        endings.add("_SUCCESS" in after)
        if "_SUCCESS" in after:
            assert after == OLD | FOREIGN
        assert not [name for name, content in after.items() if content.startswith(b"new")], call
        assert not (folder / "_nightshift").exists()
    assert endings == ({True, False} if missing == "c" else {True}), "the first file is placed as soon as anything is"


def test_a_change_whose_staged_marker_is_gone_is_not_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The marker in place is alike, an empty file, but the previous output's: with it gone there would be none at the end."""
    out = in_place(tmp_path / "out")
    write(out, OLD)
    assert any(killed_before_the_first_move(monkeypatch, out, call) for call in range(1, 60))
    markers = [path for path in (out / "_staging").rglob("small-*") if not path.read_bytes()]
    assert markers
    for marker in markers:
        marker.unlink()
    with alone(str(out)):
        pass
    assert {name: content for name, content in read(out).items() if name != "link"} == OLD


def killed_before_the_first_move(monkeypatch: pytest.MonkeyPatch, out: Path, call: int) -> bool:
    """Kill a change at ``call``; return whether its journal is written and nothing else is changed."""
    with monkeypatch.context() as patch:
        killed_at(patch, call, a_change(out))
    return (out / "_nightshift" / "journal").exists() and "_SUCCESS" in read(out)


def test_a_lost_shard_is_named_and_the_previous_output_stays(tmp_path: Path) -> None:
    for number, folder in enumerate((tmp_path / "out", in_place(tmp_path / "linked"))):
        write(folder, OLD)
        change = a_change(folder)
        (folder / "_staging/run/launch/b").unlink()
        with pytest.raises(LostShardError, match="_staging/run/launch/b is gone: another run published"):
            make(change)
        assert read(folder) == OLD, number
        assert not (folder / "_nightshift").exists()
        assert not Path(change.aside or "").exists()


def test_where_no_folder_can_be_built_beside_files_move_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "out"
    write(folder, OLD)
    inode = folder.stat().st_ino
    monkeypatch.setattr(shutil, "copymode", raise_full)
    change = a_change(folder)
    make(change)
    assert (folder.stat().st_ino, read(folder)) == (inode, NEW)
    assert not Path(change.aside or "").exists()


def raise_full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_many_files_that_the_disk_does_not_take_are_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SYNCED_ONE_BY_ONE", 0)
    module.sync([str(tmp_path)])
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: types.SimpleNamespace(syncfs=lambda handle: -1))
    with pytest.raises(OSError, match=re.escape(str(tmp_path))):
        module.sync([str(tmp_path)])


def test_a_folder_with_a_link_in_it_is_changed_in_place(tmp_path: Path) -> None:
    folder = in_place(tmp_path / "out")
    write(folder, OLD)
    inode = folder.stat().st_ino
    change = a_change(folder)
    make(change)
    assert folder.stat().st_ino == inode
    assert (folder / "link").is_symlink()
    assert not Path(change.aside or "").exists()
    assert read(folder) == NEW


def test_staging_is_not_carried_into_the_new_folder(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write(folder, {**OLD, "_staging/other/launch/left": b"of a run that was killed"})
    make(a_change(folder))
    assert read(folder, staged=True) == NEW


def test_a_folder_below_that_has_the_name_of_staging_stays(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write(folder, {**OLD, "notes/_staging/kept.txt": b"a person's"})
    make(a_change(folder))
    assert read(folder) == {**NEW, "notes/_staging/kept.txt": b"a person's"}


@pytest.mark.parametrize("name", ["manifest.json", RESULT0, "./manifest.json"])
def test_a_change_in_which_a_name_stands_twice_is_refused_and_changes_nothing(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "out"
    write(folder, OLD)
    change = a_folder_change(folder)
    with pytest.raises(NameTwiceError, match=re.escape(name.removeprefix("./"))):
        change.add({name: staged(folder, "d", b"")}, {})
    with pytest.raises(NameTwiceError):
        change.add({}, {name: b"other"})
    (change.written if name in change.placed else change.placed)[name] = b""  # type: ignore[assignment]
    with pytest.raises(NameTwiceError):
        make(Change("run", "launch", 0, [change]))
    assert read(folder) == OLD


@pytest.mark.parametrize("place", ["out", "linked"])
def test_a_folder_that_does_not_agree_with_its_manifest_gets_no_marker(tmp_path: Path, place: str) -> None:
    """What another program puts among the results would be read with them."""
    folder = tmp_path / place if place == "out" else in_place(tmp_path / place)
    write(folder, OLD | {"prediction.results-00007-of-00009": b"not ours"})
    with pytest.raises(MismatchError, match=r"prediction\.results-00007-of-00009 is there, and not listed"):
        make(a_change(folder))
    assert ("_SUCCESS" in read(folder)) == (place == "out"), "exchanged whole or not at all, else without the marker"
    (folder / "prediction.results-00007-of-00009").unlink()
    make(a_change(folder))
    assert read(folder) == NEW


@pytest.mark.parametrize("place", ["out", "linked"])
def test_everything_is_on_the_disk_before_it_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """The order of the calls, since no test can cut the power: files and folders first, then the exchange or ``_SUCCESS``."""
    folder = tmp_path / place if place == "out" else in_place(tmp_path / place)
    write(folder, OLD)
    change = a_change(folder)
    calls: list[tuple[str, str]] = []

    def recorded(name: str, function, path_of):
        def call(*args, **kwargs):
            calls.append((name, path_of(*args)))
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(os, "fsync", recorded("sync", os.fsync, lambda handle: os.readlink(f"/proc/self/fd/{handle}")))
    monkeypatch.setattr(os, "replace", recorded("place", os.replace, lambda source, destination: str(destination)))
    monkeypatch.setattr(os, "remove", recorded("remove", os.remove, lambda path: str(path)))
    real = module.load_renameat2()
    exchange = recorded("exchange", real, lambda *args: os.fsdecode(args[3]))
    monkeypatch.setattr(module, "load_renameat2", lambda: exchange)
    make(change)
    synced = [path for name, path in calls if name == "sync"]
    if place == "out":
        end = calls.index(("exchange", str(folder)))
        before = {path for name, path in calls[:end] if name == "sync"}
        beside = f"{tmp_path}/.out.nightshift"
        assert {beside, f"{beside}/deep", f"{beside}/manifest.json", f"{beside}/_SUCCESS"} <= before
        assert {f"{folder}/_staging/run/launch/{name}" for name in "abc"} <= before
        assert ("sync", str(tmp_path)) in calls[end:]
        return
    end = calls.index(("place", f"{folder}/_SUCCESS"))
    gone = calls.index(("remove", f"{folder}/_SUCCESS"))
    results = calls.index(("place", f"{folder}/{RESULT0}"))
    assert calls.index(("sync", f"{folder}/_nightshift/journal.new")) < calls.index(("sync", f"{folder}/_nightshift")) < gone
    assert ("sync", str(folder)) in calls[gone:results], "without the marker, on the disk, before the first file is another one"
    assert {f"{folder}/_staging/run/launch/{name}" for name in "abc"} <= {path for name, path in calls[:results] if name == "sync"}
    last = calls.index(("place", f"{folder}/manifest.json"))
    assert calls.index(("sync", f"{folder}/deep")) < last < calls.index(("sync", str(folder)), last) < end
    assert calls.index(("sync", str(folder)), end) < calls.index(("remove", f"{folder}/_nightshift/journal"))
    assert len(synced) < 30


def test_published_before_is_of_the_same_launch_and_the_same_task(tmp_path: Path) -> None:
    """All tasks of a run share its launch: a task in whose folder another one's manifest lies has published nothing."""
    signature = Signature("s", ("serve",), (), ())
    output = FolderOutput(str(tmp_path))
    job = JobSpec(InputSpec(("a",)), KeySpec(), ModelSpec("m", signature), output, "run", "launch", "2026-01-01T00:00:00+00:00", task=3)
    report = manifest.make_manifest(job, Accounts((), (), (), ()), None, {}, {}, None)
    (tmp_path / "manifest.json").write_bytes(encode_manifest(report))
    assert publisher.published_by(job) == report
    assert publisher.published_by(dataclasses.replace(job, task=4)) is None
    assert publisher.published_by(dataclasses.replace(job, launch="other")) is None
    assert publisher.ended(JobRun(job=job)) == report
    left = Journal("run", "launch", 3, [])
    write(tmp_path, {"_nightshift/journal": msgspec.json.encode(left)})
    assert publisher.ended(JobRun(job=job)) is None, "files are still to be moved"
    run = run_of_tasks(tmp_path, 1)
    assert publisher.published_by(run) is None


@pytest.mark.parametrize("links", [True, False])
def test_of_two_runs_the_one_whose_shards_are_gone_leaves_the_others_output(tmp_path: Path, links: bool) -> None:
    """Their results have the same names: what stands there could be taken for what an attempt before had moved."""
    folder = in_place(tmp_path / "out") if links else tmp_path / "out"
    change = a_change(folder)
    write(folder, OLD | FOREIGN)
    for path in (folder / "_staging" / "run" / "launch").iterdir():
        path.unlink()
    with pytest.raises(LostShardError, match="another run published"):
        make(change)
    assert read(folder) == OLD | FOREIGN


# --- locks -----------------------------------------------------------------------------------------------------------------


def is_locked(folder: Path) -> bool:
    """Whether somebody publishes to ``folder``."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def locking(folders: tuple[Path, ...], order: list[str]) -> threading.Thread:
    """Starts a thread that locks ``folders``, and says so in ``order``."""

    def second() -> None:
        with alone(*map(str, folders)):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    return thread


@pytest.mark.parametrize("spelling", ["deep/out", "deep/../deep/./out", "linked/out", "errors"])
def test_a_second_run_waits_until_the_first_has_published(tmp_path: Path, spelling: str) -> None:
    """Whatever the folder is called, and if only the failed rows go to the same folder."""
    folder, order = tmp_path / "deep" / "out", list[str]()
    (tmp_path / "deep").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "deep")
    with alone(str(folder), str(tmp_path / "errors")):
        assert is_locked(folder)
        thread = locking((tmp_path / spelling, tmp_path / "another"), order)
        child.wait_until(child.waits_for_a_lock)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert not is_locked(folder)


def test_who_waited_for_a_folder_that_was_exchanged_waits_for_the_new_one(tmp_path: Path) -> None:
    folder, order = tmp_path / "out", list[str]()
    write(folder, OLD)
    with alone(str(folder)) as locks:
        commit(a_change(folder), locks)
        thread = locking((folder,), order)
        child.wait_until(child.waits_for_a_lock)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_two_runs_that_lock_two_folders_do_not_wait_for_each_other(tmp_path: Path) -> None:
    one, other, order = tmp_path / "a", tmp_path / "b", list[str]()
    threads = [locking(folders, order) for folders in ((one, other), (other, one)) * 20]
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert len(order) == 40


def test_a_folder_that_may_not_be_locked_is_an_error(tmp_path: Path) -> None:
    """Not silently changed without a lock: a file is where the folder should be, as one whose rights forbid to look into it."""
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(OSError, match="out"), alone(str(tmp_path / "out")):
        pass


def test_a_run_publishes_alone(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = []
    (tmp_path / "rows.jsonl").write_text('{"x": 1}\n')
    real = publisher.prepare

    def watched(change, locks):
        held.append(is_locked(tmp_path / "out"))
        return real(change, locks)

    monkeypatch.setattr(publisher, "prepare", watched)
    flags = [f"--model={models.get('half_plus_two')}", f"--input={tmp_path}/rows.jsonl", f"--output={tmp_path}/out"]
    assert main(["run", *flags]) == 0
    assert held == [True]
    assert not is_locked(tmp_path / "out")
