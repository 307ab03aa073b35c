"""Models named by Vertex AI's Model Registry, through Google's client, against a stand-in for its REST."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gcp_fixtures import CloudStorage
from jobs import read_lines, run, task_lines, write_lines
from saved_models import Models

REGISTERED = "projects/test-project/locations/europe-west1/models"


@pytest.fixture(scope="module")
def artifacts(gcs: CloudStorage, models: Models) -> str:
    gcs.client.create_bucket("registry-of-models")
    for version in ("1", "2"):
        gcs.upload_folder(models.get("half_plus_two"), f"gs://registry-of-models/half_plus_two/{version}")
    return f"{REGISTERED}/half_plus_two"


@pytest.mark.parametrize(
    ("suffix", "flags", "version"), [("", {}, "2"), ("@1", {}, "1"), ("@champion", {}, "2"), ("", {"model_version": "1"}, "1")]
)
def test_the_version_that_ran_stands_in_the_manifest(
    artifacts: str, tmp_path: Path, suffix: str, flags: dict[str, str], version: str
) -> None:
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 1}, {"x": 2}])
    assert run(tmp_path / "out", model=f"{artifacts}{suffix}", input=data, **flags) == 0
    assert [row["prediction"] for row in read_lines(tmp_path / "out" / "prediction.results-00000-of-00001")] == [2.5, 3.0]
    model = json.loads((tmp_path / "out" / "manifest.json").read_text())["model"]
    assert (model["location"], model["version"]) == (f"gs://registry-of-models/half_plus_two/{version}", version)


def test_a_task_may_name_a_registered_model(artifacts: str, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 1}])
    tasks = [
        {"model": f"{artifacts}@1", "input": str(data), "output": "a"},
        {"model": f"{REGISTERED}/nobody", "input": str(data), "output": "b"},
    ]
    assert run(tmp_path / "out", model_map=write_lines(tmp_path / "tasks.jsonl", tasks)) == 3
    done, failed = task_lines(tmp_path / "out")
    assert (done["status"], done["version"]) == ("done", "1")
    assert "Vertex AI has no model" in failed["reason"]


@pytest.mark.parametrize(
    ("name", "flags", "words"),
    [
        ("nobody", {}, "Vertex AI has no model projects/test-project/locations/europe-west1/models/nobody: check"),
        ("half_plus_two@7", {}, "has no model"),
        ("half_plus_two@1", {"model_version": "2"}, "names its version already; leave out --model_version=2"),
        ("closed", {}, "can't be read: give the account roles/aiplatform.viewer ("),
        ("empty", {}, "has no artifact folder"),
    ],
)
def test_what_the_registry_does_not_give_is_told_before_the_start(
    artifacts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, flags: dict[str, str], words: str
) -> None:
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 1}])
    assert run(tmp_path / "out", model=f"{REGISTERED}/{name}", input=data, **flags) == 2
    assert words in capsys.readouterr().err
