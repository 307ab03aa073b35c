"""A file is one file by where it is, however its path is written: matched once, planned once, read once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from jobs import check_output, lines, run, write_lines
from saved_models import Models

from pipeline.main import main
from transforms.elements.splits import Split
from transforms.plan_splits import PlanSplits
from transforms.specs.job import InputSpec
from transforms.storage import files
from transforms.storage.files import LeavesFolderError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two files, links to them beside them, to a hidden one and to the folder itself; it is the working directory."""
    for name in ("in/a.jsonl", "in/sub/b.jsonl", "in/_kept/c.jsonl"):
        write_lines(tmp_path / name, [{"x": 1, "name": name}])
    links = {"in/0.jsonl": "a.jsonl", "in/sub/z.jsonl": "../a.jsonl", "in/c1.jsonl": "_kept/c.jsonl", "in/c2.jsonl": "_kept/c.jsonl",
             "in/sub/up": "..", "beside": "in"}  # fmt: skip
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def matched(pattern: str) -> list[str]:
    return sorted(found.path for found in files.match(pattern))


def test_a_file_is_found_once_under_its_own_name_or_the_first_of_its_links(linked: Path) -> None:
    assert matched("in") == ["in/a.jsonl", "in/c1.jsonl", "in/sub/b.jsonl"]
    assert matched("beside") == ["beside/a.jsonl", "beside/c1.jsonl", "beside/sub/b.jsonl"]
    assert matched("in/**/*.jsonl") == ["in/_kept/c.jsonl", "in/a.jsonl", "in/sub/b.jsonl"]
    assert matched("in/*.jsonl") == ["in/a.jsonl", "in/c1.jsonl"]
    assert matched("in/[0c]*.jsonl") == ["in/0.jsonl", "in/c1.jsonl"]
    assert matched("./in/./sub/..") == ["./in/./sub/../a.jsonl", "./in/./sub/../c1.jsonl", "./in/./sub/../sub/b.jsonl"]
    assert matched("./in/./*.jsonl") == ["./in/./a.jsonl", "./in/./c1.jsonl"]
    assert matched("in/*/../a.jsonl") == ["in/_kept/../a.jsonl"]
    assert matched("in/0.jsonl") == ["in/0.jsonl"]
    places = {
        found.place for pattern in ("in", "./in", str(linked / "in"), "beside", "in/sub/../*.jsonl") for found in files.match(pattern)
    }
    assert places == {str(linked / "in" / name) for name in ("a.jsonl", "_kept/c.jsonl", "sub/b.jsonl")}


def test_links_that_would_lose_files_are_refused(linked: Path) -> None:
    (linked / "elsewhere").mkdir()
    (linked / "in" / "more").symlink_to(linked / "elsewhere")
    with pytest.raises(LeavesFolderError, match=r"in/more is a link to the folder .*elsewhere, which is not followed"):
        matched("in")
    (linked / "in" / "more").unlink()
    (linked / "in" / "more").symlink_to("_kept")
    with pytest.raises(LeavesFolderError, match="not followed"):
        matched("in")
    (linked / "in" / "more").unlink()
    (linked / "in" / "gone.jsonl").symlink_to("nothing.jsonl")
    for pattern in ("in", "in/*.jsonl"):
        with pytest.raises(FileNotFoundError, match="gone"):
            matched(pattern)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read any folder")
def test_a_folder_that_may_not_be_read_is_an_error(linked: Path) -> None:
    (linked / "in" / "sub").chmod(0)
    try:
        with pytest.raises(PermissionError):
            matched("in")
    finally:
        (linked / "in" / "sub").chmod(0o755)


@pytest.mark.parametrize("pattern", ["in/*/*.jsonl", "in/*/rows.jsonl", "in/**", "in/**/rows.jsonl", "in/sub/*", "*/sub/*.jsonl"])
@pytest.mark.parametrize("mode", [0, 0o111, 0o444])
def test_a_folder_that_may_not_be_read_is_an_error_for_a_pattern(pattern: str, mode: int, tmp_path: Path) -> None:
    """As a user or as root without its powers; a folder that may be entered and not listed has the files whose names are known."""
    for folder in ("sub", "other"):
        (tmp_path / "in" / folder / "deep").mkdir(parents=True)
        (tmp_path / "in" / folder / "rows.jsonl").write_text("1\n")
    (tmp_path / "in" / "sub").chmod(mode)
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    look = "import sys; from transforms.storage import files; print(len(list(files.match(sys.argv[1]))))"
    command = [*powerless, sys.executable, "-c", look, pattern]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    if (mode, pattern) == (0o111, "in/*/rows.jsonl"):
        assert ended.stdout == "2\n"
    else:
        assert "PermissionError" in ended.stderr, ended.stdout


def test_a_place_is_the_same_however_it_is_spelled(linked: Path) -> None:
    spellings = ("in/sub", "./in//sub/", "beside/sub", "in/sub/up/sub", str(linked / "in" / "sub"), "in/sub/../sub/.")
    assert {files.place(path) for path in spellings} == {str(linked / "in" / "sub")}
    assert files.place("gs://b//a/./c/") == files.place("gs://b/a/c") == "gs://b/a/c"
    assert files.place("gs://b/") == "gs://b"


def planned(patterns: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """The path and relative path of each planned file, by the name that its row holds."""
    folder = tempfile.mkdtemp()
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        pipeline | PlanSplits(InputSpec(patterns)) | beam.Map(_named) | beam.io.WriteToText(f"{folder}/splits", num_shards=1)
    (shard,) = Path(folder).iterdir()
    ranges = [file_range for line in shard.read_text().splitlines() for file_range in json.loads(line)]
    shutil.rmtree(folder)
    named = {json.loads(Path(path).read_text())["name"]: (path, relative) for path, relative in ranges}
    assert len(named) == len(ranges), "a file is planned once"
    return named


def _named(split: Split) -> str:
    return json.dumps([(file_range.path, file_range.relative) for file_range in split.ranges])


@pytest.mark.parametrize(
    ("patterns", "a"),
    [
        (("in", "./in", "beside"), "in/a.jsonl"),
        (("./in/*.jsonl", "in"), "./in/a.jsonl"),
        (("beside", "in/a.jsonl"), "beside/a.jsonl"),
        (("in/0.jsonl", "in"), "in/0.jsonl"),
    ],
)
def test_each_file_is_planned_once_as_the_first_pattern_spells_it(linked: Path, patterns: tuple[str, ...], a: str) -> None:
    for _ in range(2):
        found = planned(patterns)
        assert found.keys() == {"in/a.jsonl", "in/sub/b.jsonl", "in/_kept/c.jsonl"}
        assert found["in/a.jsonl"][0] == a


def test_a_job_reads_each_file_once_and_its_keys_have_the_first_spelling(models: Models, linked: Path) -> None:
    flags = {"model": models.get("half_plus_two"), "input": f"in,./in,{linked}/in/a.jsonl,beside/**/*.jsonl"}
    assert run(linked / "out", **flags) == 0
    assert sorted(row["key"] for row in lines(linked / "out")) == ["in/a.jsonl:0", "in/c1.jsonl:0", "in/sub/b.jsonl:0"]
    assert check_output(linked / "out")["input"]["files"] == 3


def test_check_counts_each_file_once(models: Models, linked: Path) -> None:
    flags = [f"--model={models.get('half_plus_two')}", f"--input=in,./in,{linked}/in", f"--output={linked}/out", f"--json={linked}/found"]
    assert main(["check", *flags]) == 0
    found: dict[str, Any] = json.loads((linked / "found").read_text())
    assert (found["input"]["files"], found["rows"]) == (3, {"count": 3, "counted": True})


def test_a_task_reads_each_file_once(models: Models, linked: Path) -> None:
    task = {"model": models.get("half_plus_two"), "input": f"in,./in,{linked}/in", "output": "t"}
    write_lines(linked / "tasks.jsonl", [task])
    assert run(linked / "out", model_map=linked / "tasks.jsonl") == 0
    assert sorted(row["key"] for row in lines(linked / "out" / "t")) == ["in/a.jsonl:0", "in/c1.jsonl:0", "in/sub/b.jsonl:0"]
