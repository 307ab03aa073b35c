"""Rows that name their models: every prediction against NumPy, every other row among the failed ones."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import read_lines, run, write_lines
from saved_models import Models, export_linear

from transforms.runtime import metrics

SITES = 12
WIDTH = 3


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[np.ndarray, float]]]:
    """Linear models, every third in numbered versions (of which the highest counts), one of another width and one damaged."""
    folder = tmp_path_factory.mktemp("sites")
    generator = np.random.default_rng(7)
    weights: dict[str, tuple[np.ndarray, float]] = {}
    for number in range(SITES):
        name = str(number) if number < 2 else f"Zürich {number}"
        width = WIDTH + 1 if number == 5 else WIDTH
        weights[name] = generator.normal(size=width), float(number)
        below = folder / name
        if number % 3 == 0:
            export_linear(below / "1", -weights[name][0], 0.0)
            below = below / "2"
        export_linear(below, *weights[name])
    export_linear(folder / "broken", np.ones(WIDTH), 0.0)
    (folder / "broken" / "variables" / "variables.data-00000-of-00001").write_bytes(b"short")
    return folder, weights


def rows_of(weights: dict[str, tuple[np.ndarray, float]], count: int) -> list[dict[str, Any]]:
    """Rows of all sites, mixed; a whole number is a name as good as a string."""
    generator = np.random.default_rng(8)
    names = list(weights)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        name = names[int(generator.integers(len(names)))]
        x = generator.normal(size=len(weights[name][0])).round(4).tolist()
        rows.append({"id": number, "site": int(name) if name == "1" else name, "x": x})
    return rows


def expected(rows: list[dict[str, Any]], weights: dict[str, tuple[np.ndarray, float]]) -> dict[Any, float]:
    return {row["id"]: float(np.dot(row["x"], weights[str(row["site"])][0]) + weights[str(row["site"])][1]) for row in rows}


def results_of(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(out.glob("prediction.results-*")) for row in read_lines(path)]


def errors_of(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(out.glob("prediction.errors-*")) for row in read_lines(path)]


def test_each_row_meets_its_model(sites: tuple[Path, dict[str, tuple[np.ndarray, float]]], tmp_path: Path) -> None:
    folder, weights = sites
    rows = rows_of(weights, 900)
    wrong: list[Any] = [
        {"id": "missing", "site": "nowhere", "x": [1, 2, 3]},
        {"id": "up", "site": "../sites", "x": [1, 2, 3]},
        {"id": "dots", "site": "..", "x": [1, 2, 3]},
        {"id": "null", "site": None, "x": [1, 2, 3]},
        {"id": "none", "x": [1, 2, 3]},
        {"id": "list", "site": ["1"], "x": [1, 2, 3]},
        {"id": "broken", "site": "broken", "x": [1, 2, 3]},
        {"id": "short", "site": "1", "x": [1, 2]},
        {"site": "1", "x": [1, 2, 3]},
        7,
    ]
    write_lines(tmp_path / "data" / "a.jsonl", [*rows[:400], *wrong])
    (tmp_path / "data" / "b.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\r\n" for row in rows[400:]).encode()))
    out = tmp_path / "out"
    flags = {"key_field": "id", "model_column": "version", "max_error_ratio": "0.02"}
    assert run(out, model=f"{folder}/{{site}}/", model_field="site", input=f"{tmp_path}/data", **flags) == 0

    found = results_of(out)
    wanted = expected(rows, weights)
    assert len(found) == len(wanted)
    assert {row["key"] for row in found} == wanted.keys()
    np.testing.assert_allclose([row["prediction"] for row in found], [wanted[row["key"]] for row in found], rtol=1e-12)
    names = {row["id"]: str(row["site"]) for row in rows}
    versions = {name: "2" if number % 3 == 0 else f"{folder}/{name}" for number, name in enumerate(weights)}
    assert {row["key"]: row["version"] for row in found} == {key: versions[names[key]] for key in wanted}

    failed = {row["key"]: row for row in errors_of(out)}
    codes = [(row["key"] or json.dumps(row["instance"]), row["code"]) for row in errors_of(out)]
    assert sorted(codes) == sorted([
        *((key, "MODEL_NOT_FOUND") for key in ("missing", "up", "dots", "null", "none", "list")),
        ("broken", "MODEL_LOAD_FAILED"), ("short", "WRONG_SHAPE"), (json.dumps(wrong[-2]), "KEY_MISSING"), ("7", "KEY_MISSING"),
    ])  # fmt: skip
    assert "'../sites', expected the name of one folder" in failed["up"]["message"]
    assert "field 'site'" in failed["none"]["message"]
    assert f"{folder}/nowhere" in failed["missing"]["message"]
    lines = (tmp_path / "data" / "a.jsonl").read_bytes()
    for row in errors_of(out):
        assert lines[row["offset"] :].startswith(json.dumps(row["instance"]).encode()), "each stands where its offset says"

    report = json.loads((out / "manifest.json").read_text())
    assert report["counts"] == {"read": 910, "predicted": 900, "failed": 10}
    by_model = {line["location"]: line for line in read_lines(out / "models-00000-of-00001.jsonl")}
    assert sum(line["predicted"] for line in by_model.values()) == 900
    assert sum(line["failed"] for line in by_model.values()) == 10
    assert by_model[f"{folder}/1"]["predicted"] == sum(name == "1" for name in names.values())
    assert by_model[f"{folder}/nowhere/"] == {"location": f"{folder}/nowhere/", "version": None, "predicted": 0, "failed": 1}
    assert report["models"] == {"count": len(by_model), "with_failed_rows": 4, "files": ["models-00000-of-00001.jsonl"]}


def test_keys_are_made_and_doubles_found_as_ever(sites: tuple[Path, dict[str, tuple[np.ndarray, float]]], tmp_path: Path) -> None:
    folder, weights = sites
    rows = rows_of(weights, 40)
    data = write_lines(tmp_path / "rows.jsonl", rows)
    model = f"{folder}/{{site}}"
    assert run(tmp_path / "out", model=model, model_field="site", input=data, passthrough_fields="id") == 0
    lines = data.read_bytes()
    wanted = expected(rows, weights)
    for row in results_of(tmp_path / "out"):
        offset = int(row["key"].rpartition(":")[2])
        assert lines[offset:].startswith(json.dumps({"id": row["id"]})[:-1].encode() + b",")
        assert row["prediction"] == pytest.approx(wanted[row["id"]])

    write_lines(tmp_path / "rows.jsonl", [*rows, rows[3]])
    assert run(tmp_path / "out", model=model, model_field="site", input=data, key_field="id") == 3
    report = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [place["key"] for place in report["keys"]["listed"]] == ["3", "3"]

    assert run(tmp_path / "out", model=f"{folder}/1", input=data, key_field="id", max_error_ratio=1, duplicate_keys="allow") == 0
    assert not (tmp_path / "out" / "models-00000-of-00001.jsonl").exists(), "a run of one model has no account by model"


def test_a_model_with_an_output_named_as_the_key_fails_its_rows(models: Models, tmp_path: Path) -> None:
    """Key and outputs stand side by side in the style of AI Platform: the key would be nowhere."""
    for name in ("two_outputs", "half_plus_two"):
        (tmp_path / "models").mkdir(exist_ok=True)
        (tmp_path / "models" / name).symlink_to(models.get(name))
    rows = [
        {"model": name, "x": 1, "s": "a", "upper": f"{name}{number}"} for name in ("half_plus_two", "two_outputs") for number in range(3)
    ]
    data = write_lines(tmp_path / "rows.jsonl", rows)
    flags = {"model": f"{tmp_path}/models/{{model}}", "model_field": "model", "input": data, "key_field": "upper", "max_error_ratio": 1}
    assert run(tmp_path / "out", **flags, output_style="aiplatform") == 0
    assert sorted(row["upper"] for row in results_of(tmp_path / "out")) == ["half_plus_two0", "half_plus_two1", "half_plus_two2"]
    failed = errors_of(tmp_path / "out")
    assert sorted(row["key"] for row in failed) == ["two_outputs0", "two_outputs1", "two_outputs2"]
    assert {row["code"] for row in failed} == {"OUTPUT_DOES_NOT_FIT"}
    assert "--key_field: upper is an output of signature serving_default too" in failed[0]["message"]
    assert run(tmp_path / "keyed", **flags) == 0
    assert len(results_of(tmp_path / "keyed")) == 6


def test_a_task_whose_key_is_named_as_an_output_can_not_begin(models: Models, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 1, "y": 7}])
    task = {"model": models.get("half_plus_two"), "input": str(data), "output": "t", "key_field": "y"}
    tasks = write_lines(tmp_path / "tasks.jsonl", [task])
    assert run(tmp_path / "out", model_map=tasks, output_style="aiplatform") == 3
    assert "--key_field: y is an output" in (tmp_path / "out" / "tasks-00000-of-00001.jsonl").read_text()
    assert run(tmp_path / "out", model_map=tasks) == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"model": "models/x"}, "'site' has no place in --model=models/x: expected {site} in it"),
        ({"model": "nowhere/{site}"}, "no models at nowhere"),
        ({"input_format": "file-list"}, "not for file-list"),
        ({"output_layout": "mirror"}, "--output_layout"),
        ({"model_column": "key"}, "--model_column"),
        ({"model_column": "id", "key_field": "id", "output_style": "aiplatform"}, "--model_column"),
        ({"model_map": "tasks.jsonl"}, "exclude each other"),
    ],
)
def test_what_can_not_be_is_refused(
    flags: dict[str, str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "a").mkdir(parents=True)
    (tmp_path / "rows.csv").write_text("site,x\na,1\n")
    write_lines(tmp_path / "rows.jsonl", [{"site": "a"}])
    assert run(tmp_path / "out", **({"model": "models/{site}", "model_field": "site", "input": "rows.jsonl"} | flags)) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_progress_counts_the_bytes_of_a_compressed_file_as_they_lie_there(
    sites: tuple[Path, dict[str, tuple[np.ndarray, float]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, weights = sites
    text = "".join(json.dumps(row) + "\n" for row in rows_of(weights, 3000))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "data" / "b.jsonl").write_text(json.dumps({"id": -1, "site": "0", "x": [1, 2, 3]}) + "\n")
    counted: list[int] = []
    monkeypatch.setattr(metrics.Progress, "add", lambda _, *__, input_bytes=0, **___: counted.append(input_bytes))
    assert (
        run(tmp_path / "out", model=f"{folder}/{{site}}", model_field="site", input=tmp_path / "data", key_field="id", max_error_ratio=1)
        == 0
    )
    stored = sum(path.stat().st_size for path in (tmp_path / "data").iterdir())
    assert sum(counted) == stored < len(text)
