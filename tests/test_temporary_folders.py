"""The user's own temporary folder, and the processes that its files belong to."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import child
import pytest
from jobs import run, write_lines
from saved_models import Models

from transforms.model import crashes
from transforms.runtime import processes, temporary_folders

IN_FOLDER = "import sys, tempfile; tempfile.tempdir = sys.argv[1]; from transforms.runtime import temporary_folders;"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_the_folder_is_the_users_alone(place: Path) -> None:
    before = os.umask(0)
    try:
        folder = temporary_folders.own_folder("models")
    finally:
        os.umask(before)
    assert folder == place / f"nightshift-{os.getuid()}" / "models" == temporary_folders.own_folder("models")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder.parent)] == [0o700, 0o700]


@pytest.mark.parametrize("planted", ["open to all", "a link", "a file", "of another user"])
def test_a_folder_that_others_can_write_to_is_left_and_a_fresh_one_taken(place: Path, planted: str) -> None:
    known = place / f"nightshift-{os.getuid()}"
    elsewhere = place / "elsewhere"
    (elsewhere / "models").mkdir(parents=True)
    if planted == "a link":
        elsewhere.chmod(0o700)
        known.symlink_to(elsewhere)
    elif planted == "a file":
        known.write_text("")
    else:
        known.mkdir(mode=0o700)
        (known / "models").mkdir()
        if planted == "open to all":
            known.chmod(0o770)
        elif os.getuid():
            pytest.skip("only root can make a folder another user's")
        else:
            os.chown(known, 12345, 12345)
    folder = temporary_folders.own_folder("models")
    assert folder.parent.name.startswith(f"{known.name}-")
    assert temporary_folders.is_own(folder.parent)
    assert temporary_folders.own_folder("models") == folder
    code = f"{IN_FOLDER} print(temporary_folders.own_folder('models'))"
    other = subprocess.run([sys.executable, "-c", code, str(place)], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(folder), "all processes of a user take the same one"


def test_what_ended_processes_made_is_swept_and_nothing_else(place: Path) -> None:
    own = temporary_folders.make_folder("progress")
    code = f"{IN_FOLDER} print(temporary_folders.make_folder('progress'))"
    left = Path(subprocess.run([sys.executable, "-c", code, str(place)], capture_output=True, text=True, check=True).stdout.strip())
    (left / "worker").write_text("rows")
    pid, started, machine = str(processes.this_process()).split(".")
    used_again = temporary_folders.own_folder("progress") / f"{pid}.{int(started) - 1}.{machine}-x"
    another_machines = temporary_folders.own_folder("progress") / f"{pid}.{started}.{'0' * 8}-x"
    old = temporary_folders.own_folder("progress") / f"{pid}.{started}.{'0' * 8}-y"
    strange = [temporary_folders.own_folder("progress") / name for name in ("x-y", "1", "-", f"{pid}-{started}")]
    for path in (used_again, another_machines, old, *strange):
        path.write_text("")
    os.utime(old, (0, 0))
    assert left.is_dir()
    temporary_folders.sweep("progress")
    assert {*temporary_folders.own_folder("progress").iterdir()} == {own, another_machines, *strange}


def test_a_zombie_has_ended() -> None:
    """The state of a killed worker until its engine asks how it ended; its notes are what names it."""
    code = "import sys; from transforms.runtime import processes; print(processes.this_process(), flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        owner = processes.owner(process.stdout.readline().strip())
        assert owner is not None
        assert owner.pid == process.pid
        assert owner.has_ended is False
        process.kill()
        child.wait_until(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
        os.kill(process.pid, 0)  # what it was taken for alive by
        assert owner.has_ended is True
    assert owner.has_ended is True


def test_strange_names_among_the_notes_are_passed_over(place: Path) -> None:
    for name in ("x-y", "12345678901234567890123.1.00000000-1-1", ".", "12-", f"{os.getpid()}-1-1", "a folder"):
        path = crashes.folder() / name
        if not path.exists():
            path.write_bytes(b"\xff" * 10)
    owner = processes.Process(2**22 + 1, 1, processes.this_process().machine)  # beyond the largest number that Linux gives
    (crashes.folder() / f"{owner}-cut-off").write_bytes(b"\x01")
    (crashes.folder() / f"{owner}-folder").mkdir()
    assert list(crashes.find_crashes()) == []
    crashes.Notes()._look("launch")
    (place / f"nightshift-{os.getuid()}" / "predicting" / f"{owner}-old").write_bytes(b"")
    os.utime(crashes.folder() / f"{owner}-old", (time.time() - 8 * 86400,) * 2)
    crashes.Notes()._look("launch")
    assert not (crashes.folder() / f"{owner}-old").exists()


def test_a_run_leaves_no_temporary_files_and_removes_those_of_killed_ones(place: Path, models: Models, tmp_path: Path) -> None:
    code = f"{IN_FOLDER} print(*map(temporary_folders.make_folder, ('runs', 'loading', 'models')), sep=chr(10))"
    said = subprocess.run([sys.executable, "-c", code, str(place)], capture_output=True, text=True, check=True).stdout
    killed, *_ = map(Path, said.split())
    (killed / "beam-pipeline-temp").mkdir()
    data = write_lines(tmp_path / "in" / "rows.jsonl", [{"x": 1.0}])
    model = models.get("half_plus_two")
    before = {*os.listdir(place)}
    assert run(tmp_path / "out", model=model, input=data) == 0
    assert {*os.listdir(place)} - before == {"out"}
    assert [os.listdir(temporary_folders.own_folder(name)) for name in ("runs", "loading", "models")] == [[], [], []]
