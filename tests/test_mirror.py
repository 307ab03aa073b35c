"""Mirrored results: inputs whose results would have one name, or one of the program's own, are refused before anything is predicted."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from jobs import lines, names_in, run, write_lines
from saved_models import Models

from pipeline.preflight import job as preflight
from transforms.output.mirror import MirrorCheck
from transforms.specs.errors import SpecError
from transforms.specs.output import FolderOutput
from transforms.storage.files import FoundFile

CLASHES = [
    (["east/rows.jsonl", "west/rows.jsonl"], "{in}/east/*.jsonl,{in}/west", "mirror' would write rows.jsonl for several input files"),
    (["rows.jsonl", "rows.jsonl.gz"], "{in}", "mirror' would write rows.jsonl for several input files"),
    (["rows.csv", "rows.csv.jsonl"], "{in}", "mirror' would write rows.csv.jsonl"),
    (["east/a.jsonl", "west/a.jsonl/b.jsonl"], "{in}/east,{in}/west", "mirror' would write a.jsonl"),
    (["manifest.json"], "{in}", "manifest.json, which is a name of the program's own"),
    (["statistics.json.gz"], "{in}", "to statistics.json, which is a name of the program's own"),
    (["_SUCCESS"], "{in}/_SUCC*", "to _SUCCESS, which is a name of the program's own"),
    (["report.html"], "{in}", "to report.html, which is a name of the program's own"),
    (["prediction.errors-00000-of-00001"], "{in}", "which is a name of the program's own"),
    (["_staging/x.jsonl"], "{in}/**/*.jsonl", "to _staging/x.jsonl, which is a name of the program's own"),
    (["_nightshift/x.jsonl"], "{in}/**/*.jsonl", "which is a name of the program's own"),
]


@pytest.mark.parametrize(
    ("names", "patterns", "message", "beyond"),
    [*((*clash, False) for clash in CLASHES), *((*CLASHES[number], True) for number in (0, 3, 4, 9))],
)
def test_names_that_clash_are_refused_before_anything_is_predicted(
    models: Models,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    names: list[str],
    patterns: str,
    message: str,
    beyond: bool,
) -> None:
    """``beyond``: among more files than are looked at before the start, by the job itself, which holds the names of none in one place."""
    if beyond:
        monkeypatch.setattr(preflight, "LOOKED_AT_FILES", 1)
        write_lines(tmp_path / "first" / "0.jsonl", [{"x": 1}])
        patterns = f"{tmp_path}/first,{patterns}"
        monkeypatch.setattr(preflight.MirrorCheck, "add", lambda *_: None)
    for name in names:
        content = b'{"x": 1}\n'
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    flags = {"model": models.get("half_plus_two"), "input": patterns.replace("{in}", f"{tmp_path}/in"), "output_layout": "mirror"}
    assert run(tmp_path / "out", **flags, input_format="jsonl") == (1 if beyond else 2)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or not names_in(tmp_path / "out")
    assert names_in(tmp_path / "in") == set(names)


def test_a_tasks_names_that_clash_fail_the_task(models: Models, tmp_path: Path) -> None:
    for name in ("in/east/rows.jsonl", "in/west/rows.jsonl", "own/manifest.json", "good/sub/manifest.json"):
        write_lines(tmp_path / name, [{"x": 1}])
    inputs = (f"{tmp_path}/in/east,{tmp_path}/in/west", f"{tmp_path}/own", f"{tmp_path}/good")
    tasks = [{"model": models.get("half_plus_two"), "input": name, "output": f"t{number}"} for number, name in enumerate(inputs)]
    tasks_file = write_lines(tmp_path / "tasks.jsonl", tasks)
    assert run(tmp_path / "out", model_map=tasks_file, output_layout="mirror", input_format="jsonl") == 3
    reasons = [line["reason"] for line in lines(tmp_path / "out", "tasks")]
    assert "would write rows.jsonl for several input files" in reasons[0]
    assert "manifest.json, which is a name of the program's own" in reasons[1]
    assert reasons[2] is None
    assert {"_SUCCESS", "manifest.json", "sub/manifest.json"} <= names_in(tmp_path / "out" / "t2")


def test_two_spellings_of_one_input_are_one_result(models: Models, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "in" / "rows.jsonl", [{"x": 1}])
    patterns = f"{tmp_path}/in,{tmp_path}/./in,{data}"
    assert run(tmp_path / "out", model=models.get("half_plus_two"), input=patterns, output_layout="mirror") == 0
    assert (tmp_path / "out" / "rows.jsonl").read_text().count("\n") == 1


def test_files_and_folders_of_results_are_told_apart() -> None:
    check = MirrorCheck(FolderOutput("out"))
    for relative in ("a/b/c.jsonl", "a/b.jsonl", "a.jsonl", "b/c.jsonl"):
        check.add(FoundFile(f"in/{relative}", 1, relative))
    for relative in ("a", "a/b", "a/b.jsonl/c", "b/c.jsonl.gz"):
        with pytest.raises(SpecError, match="several input files"):
            check.add(FoundFile(f"in/{relative}", 1, relative))


def test_results_of_before_a_task_that_could_not_begin_are_taken_away_by_the_next_run(models: Models, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_lines(tmp_path / "in" / f"{name}.jsonl", [{"x": 1}])
    model = tmp_path / "model"
    tasks = write_lines(tmp_path / "tasks.jsonl", [{"model": str(model), "input": f"{tmp_path}/in", "output": "t"}])
    model.symlink_to(models.get("half_plus_two"))
    flags = {"model_map": tasks, "output_layout": "mirror"}
    assert run(tmp_path / "out", **flags) == 0
    model.unlink()
    assert run(tmp_path / "out", **flags) == 3
    model.symlink_to(models.get("half_plus_two"))
    (tmp_path / "in" / "b.jsonl").unlink()
    assert run(tmp_path / "out", **flags) == 0
    assert {name for name in names_in(tmp_path / "out" / "t") if name.endswith(".jsonl")} == {"a.jsonl"}
