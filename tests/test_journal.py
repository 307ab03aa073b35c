"""Runs whose publication broke off: the next run finishes it before anything else, and a journal is not believed blindly."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from jobs import check_output, lines, run, write_lines
from output_folders import NEW, OLD, crc32c, in_place, read, write
from saved_models import Models

from pipeline.main import main
from transforms.output import journal
from transforms.output.journal import JournalError, alone
from transforms.output.placing import Part, Placed

Capture = pytest.CaptureFixture[str]


def breaking(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Makes the disk full when the change of ``folder`` is made but for its end."""
    real = journal.place_manifest

    def full(made: Any, main: Any, check: Any) -> None:
        if main.part.folder == str(folder):
            raise OSError(28, "No space left on device", str(folder))
        real(made, main, check)

    monkeypatch.setattr(journal, "place_manifest", full)


def test_the_next_run_finishes_what_was_cut_off_and_check_only_says_it(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    out = in_place(tmp_path / "out")
    one = write_lines(tmp_path / "one.jsonl", [{"x": 1}, {"x": "no"}])
    two = write_lines(tmp_path / "two.jsonl", [{"x": 2}] * 3)
    flags = {"model": models.get("half_plus_two"), "max_error_ratio": 1}
    with monkeypatch.context() as patch:
        breaking(patch, out)
        assert run(out, input=one, **flags, run_id="broken") == 1
    said = capsys.readouterr().err
    assert "was cut off while it published" in said
    assert "No space left on device" in said
    assert "nothing was published" not in said
    assert not (out / "_SUCCESS").exists()
    before = read(out, staged=True)
    arguments = [f"--model={flags['model']}", f"--input={two}", f"--output={out}", "--max_error_ratio=1"]
    assert main(["check", *arguments]) == 0
    assert "run broken was cut off while it published" in capsys.readouterr().out
    assert read(out, staged=True) == before, "check only says that there is one"
    assert main(["run", *arguments, "--write_disposition=empty"]) == 2, "the run that broke off is finished, so there is an output"
    assert check_output(out)["run_id"] == "broken"
    assert [row["prediction"] for row in lines(out)] == [2.5]
    assert not (out / "_nightshift").exists()
    assert run(out, input=two, **flags) == 0
    assert [row["prediction"] for row in lines(out)] == [3.0] * 3


def test_a_run_of_many_that_was_cut_off_is_finished(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    out = tmp_path / "out"
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 1}])
    tasks = [{"model": models.get("half_plus_two"), "input": str(data), "output": f"task-{number}"} for number in range(3)]
    in_place(out / "task-1")
    flags = {"model_map": write_lines(tmp_path / "tasks.jsonl", tasks), "run_id": "night"}
    with monkeypatch.context() as patch:
        breaking(patch, out / "task-1")
        assert run(out, **flags) == 1
    assert (out / "task-1" / "_nightshift" / "journal").exists()
    with monkeypatch.context() as patch:
        breaking(patch, out)
        assert run(out, **flags, resume="true") == 1
    assert "task-1" not in capsys.readouterr().err.splitlines()[-1]
    assert (out / "task-1" / "_SUCCESS").exists()
    assert not (out / "_SUCCESS").exists()
    assert run(out, **flags, resume="true") == 0
    assert "run night is done already" in capsys.readouterr().err
    assert json.loads((out / "manifest.json").read_text())["counts"] == {"read": 3, "predicted": 3, "failed": 0}
    assert not (out / "_staging").exists(), "and nothing of any launch is left"
    assert not (out / "_nightshift").exists()
    for number in range(3):
        assert len(lines(out / f"task-{number}")) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"path": "{tmp}/secret"},
        {"path": "{out}/_staging/../../secret"},
        {"path": "{out}/_staging/link"},
        {"name": "../escaped"},
        {"name": "/escaped"},
        {"removed": "../secret"},
        {"folder": "{tmp}"},
    ],
)
def test_a_journal_that_names_files_elsewhere_is_not_followed(tmp_path: Path, change: dict[str, str]) -> None:
    """Who may write to an output could else move any file of the machine, or delete it."""
    out = in_place(tmp_path / "out")
    write(out, OLD)
    write(tmp_path, {"secret": b"secret"})
    (out / "_staging").mkdir()
    os.symlink(tmp_path / "secret", out / "_staging" / "link")
    what = {name: text.format(tmp=tmp_path, out=out) for name, text in change.items()}
    placed = {"name": what.get("name", "x"), "path": what.get("path", f"{out}/_staging/x"), "bytes": 6, "crc32c": crc32c(b"secret")}
    part = {"folder": what.get("folder", str(out)), "placed": [placed], "removed": [what["removed"]] if "removed" in what else []}
    write(out, {"_nightshift/journal": json.dumps({"run_id": "r", "launch": "l", "task": 0, "parts": [part]}).encode()})
    with pytest.raises(JournalError), alone(str(out)):
        pass
    assert (tmp_path / "secret").read_bytes() == b"secret"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "secret"]
    assert read(out) == OLD


def test_a_folder_that_was_moved_while_it_was_changed_is_left_as_it_is(tmp_path: Path) -> None:
    out = in_place(tmp_path / "moved")
    write(out, OLD)
    part = {"folder": str(tmp_path / "out"), "placed": [], "removed": ["_SUCCESS"]}
    write(out, {"_nightshift/journal": json.dumps({"run_id": "r", "launch": "l", "task": 0, "parts": [part]}).encode()})
    with pytest.raises(JournalError, match="if that folder was moved here"), alone(str(out)):
        pass
    assert read(out) == OLD


def test_a_change_that_was_made_but_for_its_journal_is_not_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What was staged is gone, so that it would be said to be lost."""
    out = in_place(tmp_path / "out")
    write(out, NEW)
    placed = [Placed(name, f"{out}/_staging/run/launch/{name}", len(content), crc32c(content)) for name, content in NEW.items()]
    journal.write(journal.Journal("run", "launch", 0, [Part(str(out), placed, ["only/old.jsonl"])]))
    inode = (out / "_SUCCESS").stat().st_ino
    with alone(str(out)):
        pass
    assert read(out) == NEW
    assert (out / "_SUCCESS").stat().st_ino == inode
    assert "can't be finished" not in caplog.text
    assert not (out / "_nightshift").exists()


@pytest.mark.parametrize("marker", [True, False])
def test_what_is_left_of_a_change_that_can_not_be_finished_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture, marker: bool) -> None:
    out = in_place(tmp_path / "out")
    write(out, OLD)
    journal.write(journal.Journal("run", "launch", 0, [Part(str(out), [Placed("x", f"{out}/_staging/gone", 1, "00000000")], [])]))
    if not marker:
        (out / "_SUCCESS").unlink()
    with alone(str(out)):
        pass
    assert "can't be finished" in caplog.text
    assert "_staging/gone is gone" in caplog.text
    assert caplog.text.strip().endswith("The output before it is as it was")
    assert read(out) == OLD


def test_an_undone_change_takes_what_it_placed_and_no_more(tmp_path: Path) -> None:
    out = in_place(tmp_path / "out")
    write(out, {"ours": b"ours", "theirs": b"of another program"})
    placed = [Placed(name, f"{out}/_staging/gone/{name}", 4, crc32c(b"ours")) for name in ("ours", "theirs")]
    journal.write(journal.Journal("run", "launch", 0, [Part(str(out), placed, [])]))
    with alone(str(out)):
        pass
    assert read(out) == {"theirs": b"of another program"}


def test_a_name_behind_a_link_is_not_removed(tmp_path: Path) -> None:
    out = in_place(tmp_path / "out")
    write(out, OLD)
    write(tmp_path, {"secret": b"secret"})
    part = {"folder": str(out), "placed": [], "removed": ["link/secret"]}
    write(out, {"_nightshift/journal": json.dumps({"run_id": "r", "launch": "l", "task": 0, "parts": [part]}).encode()})
    with alone(str(out)):
        pass
    assert (tmp_path / "secret").exists()


def test_a_journal_of_two_folders_counts_only_where_both_have_it(tmp_path: Path) -> None:
    """An output's journal must not reach into a folder that knows nothing of it."""
    out, other = tmp_path / "out", tmp_path / "other"
    write(out, OLD)
    write(other, {"prediction.errors-00000-of-00001": b"mine"})
    parts = [
        {"folder": str(out), "placed": [], "removed": []},
        {"folder": str(other), "placed": [], "removed": ["prediction.errors-00000-of-00001"]},
    ]
    write(out, {"_nightshift/journal": json.dumps({"run_id": "r", "launch": "l", "task": 0, "parts": parts}).encode()})
    with alone(str(out)):
        pass
    assert read(other) == {"prediction.errors-00000-of-00001": b"mine"}
    assert read(out) == OLD
    assert not (out / "_nightshift").exists()
