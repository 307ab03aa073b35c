"""``nightshift verify``: every byte of an output against its manifest, at any later time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from gcp_fixtures import CloudStorage
from jobs import run, write_lines
from saved_models import Models

from pipeline.main import main

Capture = pytest.CaptureFixture[str]
RESULTS, FAILED = "prediction.results-00000-of-00001", "prediction.errors-00000-of-00001"
LISTS = ("results", "failed_rows", "failed_rows_stats", "files")


def published(models: Models, folder: Path, **flags: Any) -> Path:
    """An output with failed rows, a comparison and a report."""
    data = write_lines(folder / "rows.jsonl", [{"x": number} for number in range(20)] + ["no"])
    more = {"compare_model": models.get("retrained"), "max_error_ratio": 1}
    assert run(folder / "out", model=models.get("half_plus_two"), input=data, **more, **flags) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def whole(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(models, tmp_path_factory.mktemp("whole"))


def test_all_is_as_it_was_left(models: Models, tmp_path: Path, capsys: Capture) -> None:
    out = published(models, tmp_path)
    listed = json.loads((out / "manifest.json").read_text())
    names = [entry["name"] for part in LISTS for entry in listed[part]]
    assert sorted([*names, "manifest.json", "_SUCCESS"]) == sorted(path.name for path in out.iterdir())
    capsys.readouterr()
    assert main(["verify", str(out)]) == 0
    assert f"all is as run {listed['run_id']} left it: 6 files with 20 rows" in capsys.readouterr().out
    assert main(["verify", str(tmp_path)]) == 2
    assert "no run has published there" in capsys.readouterr().err
    assert main(["verify"]) == 2
    assert main(["verify", "bq://p.d.t"]) == 2


@pytest.mark.parametrize(
    "name", [RESULTS, FAILED, "prediction.errors_stats-00000-of-00001", "prediction.comparison-00000-of-00001", "report.html"]
)
@pytest.mark.parametrize("damage", ["a byte", "shorter", "gone", "another", "marker", "listed twice"])
def test_what_differs_is_named(whole: Path, tmp_path: Path, capsys: Capture, name: str, damage: str) -> None:
    out = shutil.copytree(whole, tmp_path / "out")
    path, content = out / name, (out / name).read_bytes()
    if damage == "a byte":
        path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    elif damage == "shorter":
        path.write_bytes(content[:-1])
    elif damage == "gone":
        path.unlink()
    elif damage == "another":
        path = out / "prediction.results-00001-of-00002"
        path.write_bytes(content)
    elif damage == "marker":
        path = out / "_SUCCESS"
        path.unlink()
    else:
        report = json.loads((out / "manifest.json").read_text())
        (part,) = [part for part in LISTS if name in [one["name"] for one in report[part]]]
        report[part] += [entry for entry in report[part] if entry["name"] == name]
        (out / "manifest.json").write_text(json.dumps(report))
    capsys.readouterr()
    assert main(["verify", str(out)]) == 3
    assert path.name in capsys.readouterr().out


def test_failed_rows_elsewhere_and_a_bucket(models: Models, gcs: CloudStorage, tmp_path: Path, capsys: Capture) -> None:
    out = published(models, tmp_path, errors=tmp_path / "failed")
    assert main(["verify", str(out)]) == 0
    (tmp_path / "failed" / FAILED).write_bytes(b"{}\n")
    assert main(["verify", str(out)]) == 3
    assert f"{tmp_path}/failed/{FAILED} has 3 bytes" in capsys.readouterr().out
    bucket = gcs.make_bucket()
    copied = gcs.upload_folder(published(models, tmp_path / "more"), f"{bucket}/out")
    assert main(["verify", copied]) == 0
    gcs.write(f"{copied}/{RESULTS}", gcs.read(f"{copied}/{RESULTS}").replace(b"2", b"3", 1))
    assert main(["verify", f"{copied}/"]) == 3
    assert f"{copied}/{RESULTS} has other content than was written" in capsys.readouterr().out


def test_a_run_of_many(models: Models, tmp_path: Path, capsys: Capture) -> None:
    tasks = [
        {"model": models.get("half_plus_two"), "input": str(write_lines(tmp_path / f"{n}.jsonl", [{"x": n}])), "output": f"task-{n}"}
        for n in range(3)
    ]
    flags = {"model_map": write_lines(tmp_path / "tasks.jsonl", tasks), "run_id": "night"}
    assert run(tmp_path / "out", **flags) == 0
    assert main(["verify", str(tmp_path / "out")]) == 0
    assert "with 3 rows, of 4 outputs" in capsys.readouterr().out
    damaged = tmp_path / "out" / "task-1" / RESULTS
    damaged.write_bytes(damaged.read_bytes().replace(b"2.5", b"2.6"))
    assert main(["verify", str(tmp_path / "out")]) == 3
    assert f"{damaged} has other content" in capsys.readouterr().out
    assert run(tmp_path / "out" / "task-2", model=models.get("half_plus_two"), input=tmp_path / "0.jsonl", run_id="other") == 0
    capsys.readouterr()
    assert main(["verify", str(tmp_path / "out")]) == 3
    assert "task-2 is of run other" in capsys.readouterr().out


def test_a_run_that_was_refused_or_cut_off(models: Models, tmp_path: Path, capsys: Capture) -> None:
    data = write_lines(tmp_path / "rows.jsonl", ["no"])
    assert run(tmp_path / "out", model=models.get("half_plus_two"), input=data, run_id="night") == 3
    assert main(["verify", str(tmp_path / "out")]) == 3
    assert "run night published no results: 1 of 1 rows failed" in capsys.readouterr().out
    out = published(models, tmp_path / "cut")
    (out / "_nightshift").mkdir()
    journal = {"run_id": "late", "launch": "l", "task": 0, "parts": [{"folder": str(out), "placed": [], "removed": []}]}
    (out / "_nightshift" / "journal").write_text(json.dumps(journal))
    assert main(["verify", str(out)]) == 3
    assert "run late was cut off while it published" in capsys.readouterr().out
    assert (out / "_nightshift" / "journal").exists(), "it only looks"


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"failed_rows_folder": None, "counts": {"read": 0, "predicted": 0, "failed": 0}}, 0),
        ({"tasks": {"count": 0, "files": []}}, 0),
        ({"tasks": {"count": 3, "files": ["tasks-00000-of-00001.jsonl"]}}, 3),
    ],
)
def test_manifests_of_other_versions(tmp_path: Path, capsys: Capture, fields: dict[str, Any], status: int) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"status": "done", "run_id": "r", **fields}))
    (tmp_path / "_SUCCESS").touch()
    lines = (b'{"model": "m", "input": "i", "output": "o", "status": "failed"}', b'{"model": "m', b"[" * 100_000)
    for name in fields.get("tasks", {}).get("files", ()):
        (tmp_path / name).write_bytes(b"\n".join(lines))
    assert main(["verify", str(tmp_path)]) == status
    said = capsys.readouterr()
    text = said.out + said.err
    for number in (1, 2, 3) if status else ():
        assert f"the line of task {number} can't be read: " in text
