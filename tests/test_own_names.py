"""The names that are the program's own: what runs leave in a folder has one, and nothing else does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from saved_models import Models

from pipeline.main import main
from transforms.formats.catalog import FORMATS
from transforms.specs.own_names import is_own


@pytest.mark.parametrize(
    "name",
    [
        "manifest.json", "_SUCCESS", "report.html", "statistics.json", "prediction.errors-00000-of-00001", "manifest.json/x.jsonl",
        "prediction.errors_stats-00000-of-00001", "prediction.comparison-00002-of-00010", "models-00000-of-00001.jsonl",
        "tasks-00000-of-00001.jsonl", "_staging/x.jsonl", "_nightshift/a/b", "_refused/run/manifest.json", "_staging",
        *(f"prediction.results-00000-of-00001{format.suffix}" for format in FORMATS.values() if format.encoder),
    ],
)  # fmt: skip
def test_own_names(name: str) -> None:
    assert is_own(name)


@pytest.mark.parametrize(
    "name",
    ["rows.jsonl", "manifest.jsonl", "sub/manifest.json", "sub/_staging/x", "staging/x", "prediction.errors", "my_SUCCESS", "tasks.jsonl",
     "prediction.results-00000-of-00001.parquet.old", "models-1.jsonl"],
)  # fmt: skip
def test_names_of_others(name: str) -> None:
    assert not is_own(name)


def test_all_that_a_run_leaves_in_its_folder_has_an_own_name(models: Models, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"x": 1}\n{"x": "no"}\n')
    flags = [f"--model={models.get('half_plus_two')}", f"--input={tmp_path}/rows.jsonl", "--max_error_ratio=1"]
    assert main(["run", *flags, f"--output={tmp_path}/one", f"--compare_model={models.get('retrained')}"]) == 0
    task = {"model": models.get("half_plus_two"), "input": f"{tmp_path}/rows.jsonl", "output": "task"}
    (tmp_path / "tasks.jsonl").write_text(json.dumps(task) + "\n")
    assert main(["run", f"--model_map={tmp_path}/tasks.jsonl", f"--output={tmp_path}/many", "--max_error_ratio=1"]) == 0
    one, many = ({path.name for path in (tmp_path / name).iterdir()} for name in ("one", "many"))
    assert {"prediction.comparison-00000-of-00001", "prediction.errors-00000-of-00001", "report.html"} <= one
    assert "tasks-00000-of-00001.jsonl" in many
    assert [name for name in (one | many) - {"task"} if not is_own(name)] == []
