"""The change of an output in a bucket: one run at a time, each request over what was seen, whatever is broken off or comes late."""

from __future__ import annotations

import itertools
import json
import logging
import os
import threading
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

import child
import pytest
from gcp_fixtures import CloudStorage
from output_folders import FOREIGN, NEW, OLD, RESULT0, RESULT1, Killed, an_output, crc32c, described, make
from saved_models import Models

from transforms.accounts.accounts import Accounts
from transforms.elements.shards import Shard
from transforms.elements.splits import SplitCount
from transforms.output import journal, locks
from transforms.output.folder_change import Change, FolderChange
from transforms.output.journal import alone
from transforms.output.placing import LostShardError, Part
from transforms.output.publisher import Publisher
from transforms.output.verify import MismatchError
from transforms.specs.job import InputSpec, JobSpec, KeySpec
from transforms.specs.manifest import Counts
from transforms.specs.models import ModelSpec
from transforms.specs.output import FolderOutput
from transforms.specs.signature import Signature
from transforms.storage import gcs as storage
from transforms.storage.gcs import ChangedError

LAUNCHES = itertools.count()
CHANGES = ("write_over", "copy_over", "delete_seen", "delete", "open_writer")


def write(gcs: CloudStorage, folder: str, content: dict[str, bytes]) -> None:
    for name, text in content.items():
        gcs.write(f"{folder}/{name}", text)


def read(gcs: CloudStorage, folder: str) -> dict[str, bytes]:
    names = [name for name in gcs.list(folder) if not name.startswith(("_staging/", "_nightshift/"))]
    return {name: gcs.read(f"{folder}/{name}") for name in names}


def a_change(gcs: CloudStorage, folder: str, rows: bytes = b"new", results: tuple[str, ...] = (RESULT0, RESULT1)) -> Change:
    """A change to as many results as are named, whose content begins with ``rows``."""
    launch = f"launch-{next(LAUNCHES)}"
    staging = f"{folder}/_staging/run/{launch}"
    contents = {name: b"%b%d" % (rows, number) for number, name in enumerate((*results, "deep/new.jsonl"))}
    placed = {}
    for number, (name, content) in enumerate(contents.items()):
        path = gcs.write(f"{staging}/{number}", content)
        placed[name] = Shard("results", path, ("", 0), "", "", 1, len(content), crc32c(content))
    small = {"manifest.json": described(contents), "_SUCCESS": b""}
    removed = {"prediction.results-00000-of-00001", "only/old.jsonl", RESULT0, RESULT1} - {*contents}
    return Change("run", launch, 0, [FolderChange(folder, staging, placed, small, removed)])


def bury(gcs: CloudStorage, folder: str) -> None:
    """Makes whoever holds the folder's lock one that has died."""
    path = f"{folder}/_nightshift/lock"
    if "_nightshift/lock" in gcs.list(folder):
        holder = json.loads(gcs.read(path))
        pid, _, machine = holder["process"].split(".")
        gcs.write(path, json.dumps(holder | {"process": f"{pid}.1.{machine}"}).encode())  # a process that had the number before


def test_a_kill_at_any_request_is_finished_or_undone_by_the_next_run(gcs: CloudStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = gcs.make_bucket()
    seen = set()
    for call in range(1, 40):
        folder = f"{bucket}/{call}"
        write(gcs, folder, OLD | FOREIGN)
        change, count = a_change(gcs, folder), [0]
        with monkeypatch.context() as patch:
            for name in CHANGES:
                patch.setattr(storage, name, _killing(getattr(storage, name), call, count))
            try:
                make(change)
            except Killed:
                pass
        after = read(gcs, folder)
        assert after in (OLD | FOREIGN, NEW | FOREIGN) or "_SUCCESS" not in after, call
        seen.add("_SUCCESS" in after)
        bury(gcs, folder)
        with alone(folder):
            pass
        assert read(gcs, folder) in (OLD | FOREIGN, NEW | FOREIGN), call
        assert not [name for name in gcs.list(folder) if name.startswith("_nightshift")]
        if count[0] < call:
            break
    assert 8 < call < 39
    assert seen == {True, False}


def _killing(function: Callable[..., Any], call: int, count: list[int]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            count[0] += 1
            if count[0] >= call:
                raise Killed
        return function(*args, **kwargs)

    return run


@pytest.mark.parametrize("results", [(RESULT0, RESULT1), ("prediction.results-00000-of-00001",)])
@pytest.mark.parametrize("function", ["copy_over", "delete_seen"])
def test_who_lost_the_lock_harms_nothing(
    gcs: CloudStorage, monkeypatch: pytest.MonkeyPatch, function: str, results: tuple[str, ...]
) -> None:
    """A worker that is thought dead wakes up at any of its requests, when another run has published all of its own."""
    ended = []
    for call in range(1, 8):
        folder = f"{gcs.make_bucket()}/out"
        write(gcs, folder, OLD)
        late, count = a_change(gcs, folder, b"old"), [0]
        with monkeypatch.context() as patch:
            patch.setattr(storage, function, _woken(gcs, folder, function, call, count, results))
            try:
                make(late)
            except (ChangedError, LostShardError, MismatchError, locks.LostLockError) as error:
                ended.append(type(error).__name__)
        if count[0] < call:
            break
        others = an_output({name: b"new%d" % number for number, name in enumerate((*results, "deep/new.jsonl"))})
        assert read(gcs, folder) == others, (call, ended)
    assert len(ended) >= 2


def _woken(gcs: CloudStorage, folder: str, function: str, call: int, count: list[int], results: tuple[str, ...]) -> Callable[..., Any]:
    real = getattr(storage, function)

    def run(*args: Any) -> Any:
        count[0] += 1
        if count[0] == call:
            bury(gcs, folder)
            make(a_change(gcs, folder, b"new", results))
        return real(*args)

    return run


def test_what_is_in_place_is_known_by_its_content(gcs: CloudStorage) -> None:
    """Another run's file has the same name and size."""
    folder = f"{gcs.make_bucket()}/out"
    change = a_change(gcs, folder)
    write(gcs, folder, {name: content for name, content in OLD.items() if name != "_SUCCESS"})
    gcs.blob(change.folders[0].placed[RESULT1].path).delete()
    before = read(gcs, folder)
    with pytest.raises(LostShardError, match="another run published"):
        make(change)
    assert read(gcs, folder) == before
    gcs.write(f"{folder}/{RESULT1}", b"new1")
    make(change)
    assert read(gcs, folder) == NEW


def test_a_lock_is_waited_for_and_taken_over_when_nobody_writes_it(
    gcs: CloudStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "nightshift")
    monkeypatch.setattr(locks, "POLL_SECONDS", 0.05)
    folder, order = f"{gcs.make_bucket()}/out", list[str]()

    def second() -> None:
        with alone(folder):
            order.append("second")

    with alone(folder):
        thread = threading.Thread(target=second)
        thread.start()
        child.wait_until(lambda: "another run publishes to" in caplog.text)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert gcs.list(folder) == []
    # One that nobody writes, of a machine that can't be asked.
    monkeypatch.setattr(locks, "STALE_SECONDS", 1.0)
    gcs.write(f"{folder}/_nightshift/lock", b'{"token": "x", "process": "1.1.00000000", "time": 1}')
    started = time.monotonic()
    second()
    assert time.monotonic() - started >= 1.0
    assert gcs.list(folder) == []


def test_who_holds_a_lock_writes_it_anew_and_knows_when_it_is_gone(gcs: CloudStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.05)
    folder = f"{gcs.make_bucket()}/out"
    held = locks.acquire(folder)
    assert held is not None
    first = gcs.blob(f"{folder}/_nightshift/lock")
    first.reload()
    child.wait_until(lambda: _generation(gcs, folder) != first.generation)
    held.check()
    gcs.write(f"{folder}/_nightshift/lock", b'{"token": "x", "process": "1.1.00000000", "time": 1}')
    child.wait_until(lambda: held.is_lost)
    with pytest.raises(locks.LostLockError):
        held.check()
    held.release()
    assert gcs.list(folder) == ["_nightshift/lock"], "it is another's by now"


def _generation(gcs: CloudStorage, folder: str) -> int:
    blob = gcs.blob(f"{folder}/_nightshift/lock")
    blob.reload()
    return int(blob.generation)


# --- the publish step -----------------------------------------------------------------------------------------------------


def a_publisher(gcs: CloudStorage, folder: str, launch: str, rows: int, read: int | None = None) -> Publisher:
    """A publisher of made accounts, whose one shard is staged as the write step would."""
    content = b"".join(b'{"key": %d, "launch": "%b"}\n' % (row, launch.encode()) for row in range(rows))
    path = f"{folder}/_staging/run/{launch}/results-a"
    if folder.startswith("gs://"):
        gcs.write(path, content)
    else:
        os.makedirs(os.path.dirname(path))
        with open(path, "wb") as stream:
            stream.write(content)
    shard = Shard("results", path, ("", 0), "", "", rows, len(content), crc32c(content))
    count = SplitCount(("", 0), rows if read is None else read, 1, 1)
    model = ModelSpec("m", Signature("s", ("serve",), (), ()))
    output = FolderOutput(folder)
    job = JobSpec(InputSpec(("a",)), KeySpec(), model, output, "run", launch, "2026-01-01T00:00:00+00:00", report=False)
    return Publisher(job, Accounts((shard,), (count,), (), ()))


@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_the_publish_step_done_twice_ends_the_same(gcs: CloudStorage, tmp_path: Any, place: str) -> None:
    """As an engine does that has lost the answer, one after the other and both at once."""
    top = str(tmp_path) if place == "disk" else gcs.make_bucket()
    once = a_publisher(gcs, f"{top}/one", "launch", 3)
    first = once.publish()
    assert once.publish() == first
    twice = a_publisher(gcs, f"{top}/two", "launch", 3)
    reports: list[Any] = []
    threads = [threading.Thread(target=lambda: reports.append(twice.publish())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reports) == 2
    assert reports[0] == reports[1]
    assert reports[0].counts == Counts(read=3, predicted=3, failed=0)
    for name in ("one", "two"):
        there = gcs.list(f"{top}/{name}") if place == "bucket" else sorted(os.listdir(f"{top}/{name}"))
        assert there == ["_SUCCESS", "manifest.json", "prediction.results-00000-of-00001"]


def test_success_is_written_last_and_taken_away_first(gcs: CloudStorage, models: Models) -> None:
    """What a reader of a bucket sees, request by request, of a whole run over the output of another."""
    from jobs import run

    bucket = gcs.make_bucket()
    one = gcs.write(f"{bucket}/one.jsonl", b'{"x": 1}\n{"x": "a"}\n')
    two = gcs.write(f"{bucket}/two.jsonl", b'{"x": 2}\n{"x": "b"}\n{"x": "c"}\n')
    flags = {"model": models.get("half_plus_two"), "max_error_ratio": 1}
    assert run(f"{bucket}/out", input=one, **flags) == 0
    before = len(gcs.stand_ins.requests())
    assert run(f"{bucket}/out", input=two, **flags) == 0
    seen = [urllib.parse.unquote(line) for line in gcs.stand_ins.requests()[before:]]
    changed = []
    for line in seen:
        parts = line.split("?")[0].split("/o/")
        if line.startswith("PART POST") and "copyTo" in line:
            changed.append(("place", parts[-1]))
        elif line.startswith("PART DELETE"):
            changed.append(("remove", parts[-1]))
    results = [name for name in gcs.list(f"{bucket}/out") if name not in ("_SUCCESS", "manifest.json")]
    gone, *placed, last, end = [(what, name.removeprefix("out/")) for what, name in changed if not name.startswith("out/_nightshift")]
    assert gone == ("remove", "_SUCCESS")
    assert sorted(placed) == [("place", name) for name in sorted(results)]
    assert (last, end) == (("place", "manifest.json"), ("place", "_SUCCESS"))
    assert len(results) == 5


def test_rows_that_were_lost_or_doubled_shut_the_gate(gcs: CloudStorage, tmp_path: Any) -> None:
    from transforms.output.publisher import GateShutError

    for number, read_rows in enumerate((2, 4)):
        folder = f"{tmp_path}/{number}"
        with pytest.raises(GateShutError, match=rf"{read_rows} rows were read, but 3 predicted \+ 0 failed = 3: rows were lost or doubled"):
            a_publisher(gcs, folder, "launch", 3, read=read_rows).publish()
        assert sorted(os.listdir(folder)) == ["manifest.json"]


@pytest.mark.parametrize(
    ("function", "status", "error"),
    [
        ("copy_over", 404, LostShardError),
        ("copy_over", 412, ChangedError),
        ("copy_over", 400, storage.StorageError),
        ("copy_over", 503, storage.StorageError),
        ("delete_seen", 400, storage.StorageError),
        ("delete_seen", 412, ChangedError),
    ],
)
def test_a_request_that_the_storage_refuses_ends_the_change(
    gcs: CloudStorage, monkeypatch: pytest.MonkeyPatch, function: str, status: int, error: type[Exception]
) -> None:
    folder = f"{gcs.make_bucket()}/out"
    write(gcs, folder, OLD)
    with monkeypatch.context() as patch:
        patch.setattr(storage, function, lambda asked: [status] * len(asked))
        with pytest.raises(error) as caught:
            make(a_change(gcs, folder))
    assert type(caught.value) is error
    if error is storage.StorageError:
        assert f"HTTP status {status}" in str(caught.value)
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(locks, "STALE_SECONDS", 1.0)  # the lock is there still where deletions were refused
    make(a_change(gcs, folder))
    assert read(gcs, folder) == NEW


def test_the_journal_of_another_run_is_not_written_over(gcs: CloudStorage) -> None:
    folder = f"{gcs.make_bucket()}/out"
    own, other = (journal.Journal("run", launch, 0, [Part(folder, [], [])]) for launch in ("one", "other"))
    journal.write(own)
    journal.write(own)  # as after an answer that was lost
    with pytest.raises(ChangedError):
        journal.write(other)
    assert journal.read(folder) == own


def test_what_is_deleted_already_is_no_fault(gcs: CloudStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier try deleted it, and its answer was lost."""
    folder = f"{gcs.make_bucket()}/out"
    write(gcs, folder, OLD)
    whole = storage.delete_seen

    def delete_twice(asked: Any) -> list[int]:
        assert set(whole(asked)) <= {200, 204}
        return whole(asked)

    monkeypatch.setattr(storage, "delete_seen", delete_twice)
    make(a_change(gcs, folder))
    assert read(gcs, folder) == NEW
