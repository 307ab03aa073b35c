"""Six models as six exporters write them, which lie in this repository: a clone alone shows that real SavedModels are predicted.

``tests/data/make_models.py`` wrote them, with the predictions that NumPy gives for their rows.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from jobs import check_output, lines, run, write_lines
from tf_records import write_records

from pipeline.main import main

MODELS = Path(__file__).parent / "data" / "models"
NAMES = ("examples", "keras_export", "open_shapes", "several_outputs", "table_lookup", "tf1_builder")
MOST_BYTES = 500_000


def case_of(name: str) -> dict[str, Any]:
    case: dict[str, Any] = json.loads((MODELS / name / "case.json").read_text(encoding="utf-8"))
    return case | {"flags": {"model": MODELS / name / "model", **case["flags"]}}


def predictions_in(out: Path) -> list[Any]:
    """Return the predictions of a job, in the order of its rows."""
    return [row["prediction"] for row in lines(out)]


def test_they_are_all_there_and_small() -> None:
    assert tuple(sorted(path.name for path in MODELS.iterdir())) == NAMES
    assert sum(path.stat().st_size for path in MODELS.rglob("*") if path.is_file()) < MOST_BYTES
    assert all(len(case_of(name)["rows"]) == len(case_of(name)["predictions"]) >= 3 for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_job_predicts_what_numpy_says(name: str, tmp_path: Path) -> None:
    case = case_of(name)
    data = write_lines(tmp_path / "rows.jsonl", case["rows"])
    assert run(tmp_path / "out", **case["flags"], input=data, output_style="keyed") == 0
    assert predictions_in(tmp_path / "out") == case["predictions"]
    report = check_output(tmp_path / "out")
    count = len(case["rows"])
    assert report["counts"] == {"read": count, "predicted": count, "failed": 0}
    assert main(["verify", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_check_says_that_the_job_would_run(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = case_of(name)
    data = write_lines(tmp_path / "rows.jsonl", case["rows"])
    flags = {**case["flags"], "input": data, "output": tmp_path / "out"}
    assert main(["check", *(f"--{flag}={value}" for flag, value in flags.items())]) == 0, capsys.readouterr()


def test_records_are_fed_to_a_model_of_examples_as_they_are(tmp_path: Path) -> None:
    case = case_of("examples")
    data = write_records(tmp_path / "rows.tfrecord", [base64.b64decode(row["b64"]) for row in case["rows"]])
    assert run(tmp_path / "out", **case["flags"], input=data) == 0
    assert predictions_in(tmp_path / "out") == case["predictions"]


def test_rows_that_fit_no_model_fail_alone(tmp_path: Path) -> None:
    case = case_of("table_lookup")
    data = write_lines(tmp_path / "rows.jsonl", [*case["rows"], {"pair": ["cat"]}, {"pair": ["cat", 1]}, {"word": "cat"}])
    assert run(tmp_path / "out", **case["flags"], input=data, max_error_ratio=0.5) == 0
    assert predictions_in(tmp_path / "out") == case["predictions"]
    assert [row["code"] for row in lines(tmp_path / "out", "prediction.errors")] == ["WRONG_SHAPE", "WRONG_TYPE", "INPUT_MISSING"]


def test_the_older_version_is_predicted_where_it_is_named(tmp_path: Path) -> None:
    case = case_of("keras_export")
    data = write_lines(tmp_path / "rows.jsonl", [{"features": [1.0, 0.0, 0.0]}, {"features": [0.0, 1.0, 0.0]}])
    assert run(tmp_path / "out", **case["flags"], input=data, model_version=1) == 0
    assert predictions_in(tmp_path / "out") == [[0.0], [2.125]]
