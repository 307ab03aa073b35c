"""Locks of output folders that are not as they should be: a disk without locks, a lock written over, one that is held long."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import threading
import time
from pathlib import Path

import child
import pytest
from gcp_fixtures import CloudStorage
from output_folders import OLD, a_change, in_place, make, read, write

from transforms.output import journal, locks
from transforms.output.journal import JournalError
from transforms.output.placing import Part


def test_a_disk_without_locks_is_published_to_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    lock = locks.acquire(str(tmp_path / "out"))
    assert lock is not None
    lock.check()
    lock.release()
    assert caplog.text.count("has no locks") == 1


@pytest.mark.parametrize("content", [b"", b"no lock", b"another's"])
def test_who_finds_another_lock_in_place_of_its_own_publishes_nothing_more(
    gcs: CloudStorage, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.05)
    folder = f"{gcs.make_bucket()}/out"
    lock = locks.acquire(folder)
    assert lock is not None
    lock.check()
    beats = [thread.daemon for thread in threading.enumerate() if thread.name == "lock"]
    assert set(beats) == {True}, "a process would not end before its lock"
    if content == b"another's":
        content = json.dumps({"token": "other", "process": "1.1.other", "time": time.time()}).encode()
    gcs.write(f"{folder}/_nightshift/lock", content)
    child.wait_until(lambda: lock.is_lost)  # type: ignore[attr-defined]
    with pytest.raises(locks.LostLockError):
        lock.check()
    lock.release()
    assert gcs.read(f"{folder}/_nightshift/lock") == content


def test_who_waits_for_a_bucket_says_so_once(gcs: CloudStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(locks, "POLL_SECONDS", 0.05)
    folder, second, looked, real = f"{gcs.make_bucket()}/out", [], [], locks.gcs.read_seen
    monkeypatch.setattr(locks.gcs, "read_seen", lambda path: looked.append(path) or real(path))
    first = locks.acquire(folder)
    assert first is not None
    assert locks.acquire(folder, wait=False) is None
    with caplog.at_level(logging.INFO, "nightshift"):
        waiting = threading.Thread(target=lambda: second.append(locks.acquire(folder)))
        waiting.start()
        child.wait_until(lambda: "another run publishes to" in caplog.text)
        looks = len(looked)
        child.wait_until(lambda: len(looked) > looks + 3)
        first.release()
        waiting.join()
    assert caplog.text.count("another run publishes to") == 1
    second[0].release()


def test_a_journal_that_can_not_be_carried_out_leaves_no_lock(tmp_path: Path) -> None:
    out = in_place(tmp_path / "out")
    placed = {"name": "x", "path": "/elsewhere", "bytes": 1, "crc32c": "00000000"}
    elsewhere = {"run_id": "r", "launch": "l", "task": 0, "parts": [{"folder": str(out), "placed": [placed], "removed": []}]}
    for content in (b"{", json.dumps(elsewhere).encode()):
        write(out, {"_nightshift/journal": content})
        with pytest.raises(JournalError):
            journal.lock([str(out)])
        again = locks.acquire(str(out), wait=False)
        assert again is not None
        again.release()


def test_a_journal_of_two_folders_that_comes_before_the_lock_is_finished_with_both_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was killed wrote it between the look and the lock."""
    out, other = in_place(tmp_path / "out"), in_place(tmp_path / "other")
    parts = [Part(str(folder), [], []) for folder in (out, other)]
    journal.write(journal.Journal("run", "launch", 0, parts))
    read_now, looks = journal.read, list[str]()
    monkeypatch.setattr(journal, "read", lambda folder: read_now(folder) if looks else looks.append(folder))
    held: list[journal.Locks | None] = []
    thread = threading.Thread(target=lambda: held.append(journal.lock([str(out)])), daemon=True)
    thread.start()
    thread.join(20)
    assert held, "it waits for itself"
    assert held[0] is not None
    assert locks.acquire(str(other), wait=False) is None
    held[0].release()


def test_a_file_that_can_not_be_locked_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no disk without locks."""

    def refuse(handle: int, operation: int) -> None:
        raise OSError(next(errors), "refused")

    monkeypatch.setattr(fcntl, "flock", refuse)
    errors = iter([errno.ENOLCK, errno.EIO])
    with pytest.raises(OSError, match="refused"):
        locks.acquire(str(tmp_path / "out"))


def test_the_lock_is_looked_at_before_each_step_that_changes_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost at any of these looks, nothing more of the change is made."""
    states = []
    for lost_at in range(1, 9):
        out = in_place(tmp_path / str(lost_at))
        write(out, OLD)
        looks = [0]

        def look(_: object, looks: list[int] = looks, lost_at: int = lost_at) -> None:
            looks[0] += 1
            if looks[0] == lost_at:
                raise locks.LostLockError("another's")

        before = read(out)
        with monkeypatch.context() as patch:
            patch.setattr(journal.Locks, "check", look)
            with contextlib.suppress(locks.LostLockError):
                make(a_change(out))
        after = read(out)
        if looks[0] < lost_at:
            break
        states.append("as before" if after == before else "changing" if "_SUCCESS" not in after else "new")
    assert states == ["as before", "as before", "changing", "changing", "changing", "new"]
