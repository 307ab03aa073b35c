"""A run compared with an earlier one, and a second model against the first: real models, whole jobs, NumPy and SciPy as judges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from jobs import check_output, lines, manifest, run, write_lines
from saved_models import Models
from scipy.spatial.distance import jensenshannon

from pipeline.main import main
from transforms.compare.drift import jensen_shannon, stability_index
from transforms.elements.columns import Ragged
from transforms.statistics.agreement import differ


def rows_of(values: Any) -> list[dict[str, Any]]:
    return [{"id": f"r{number:04}", "x": float(value)} for number, value in enumerate(values)]


@pytest.fixture
def night(models: Models, tmp_path: Path) -> dict[str, Any]:
    """Flags of a run over a hundred rows, 0 to 99."""
    source = write_lines(tmp_path / "in.jsonl", rows_of(range(100)))
    return {"model": models.get("half_plus_two"), "input": source, "key_field": "id"}


# --- a second model on the same rows ---------------------------------------------------------------------------------------


def test_both_predictions_stand_side_by_side(models: Models, night: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(out, **night, compare_model=models.get("retrained")) == 0
    x = np.arange(100.0)
    first, second = 0.5 * x + 2, 0.5 * x + 2 + np.maximum(0, x - 50)
    found = sorted(lines(out, "prediction.comparison"), key=lambda line: line["key"])
    agree = np.isclose(second, first, rtol=0.01, atol=0.01)
    assert [line["prediction"] for line in found] == pytest.approx(first)
    assert [line["compared"] for line in found] == pytest.approx(second)
    assert [line["difference"]["y"] for line in found] == pytest.approx(np.abs(first - second), abs=1e-4)
    assert [line["agree"] for line in found] == agree.tolist()
    said = manifest(out)["comparison"]
    assert said["rows"] == said["lines"] == 100
    assert said["agreement"] == pytest.approx(agree.mean())
    assert said["outputs"]["y"]["difference"]["p90"] == pytest.approx(np.quantile(np.abs(first - second), 0.9), abs=1.0)
    assert said["outputs"]["y"]["difference"]["largest"] == pytest.approx(49.0)
    times = np.abs(first - second) / (1 + np.abs(first))
    assert said["changed_most"][0]["key"] == f"r{int(np.argmax(times)):04}"
    assert [line["prediction"] for line in lines(out)] == pytest.approx(first), "the results are the first model's"
    assert (out / "_SUCCESS").exists()
    assert "The second model" in (out / "report.html").read_text()


def test_classes_and_texts(models: Models, night: dict[str, Any], tmp_path: Path) -> None:
    flags = night | {"model": models.get("classifier"), "compare_model": models.get("classifier_retrained")}
    assert run(tmp_path / "out", **flags) == 0
    outputs = manifest(tmp_path / "out")["comparison"]["outputs"]
    x = np.arange(100)
    assert outputs["name"]["agreement"] == pytest.approx(np.mean((x > 25) == (x > 30)))
    assert outputs["scores"]["same_class"] == pytest.approx(np.mean((x >= 25) == (x >= 30)))
    assert "difference" not in outputs["name"]


def test_a_row_that_the_second_model_refuses_is_counted_and_keeps_its_prediction(
    models: Models, night: dict[str, Any], tmp_path: Path
) -> None:
    night["input"] = write_lines(tmp_path / "in.jsonl", rows_of([*range(50), 5000]))
    assert run(tmp_path / "out", **night, compare_model=models.get("retrained")) == 0
    report = manifest(tmp_path / "out")
    assert report["counts"] == {"read": 51, "predicted": 51, "failed": 0}
    assert (report["comparison"]["rows"], report["comparison"]["only_first_predicted"]) == (50, 1)
    assert report["effort"]["models_loaded"] == 2
    assert report["comparison"]["agreement"] == pytest.approx(50 / 51, abs=1e-5)


def test_too_much_disagreement_shuts_the_gate(models: Models, night: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    flags = night | {"compare_model": models.get("retrained")}
    assert run(out, **flags, max_disagreement=0.6) == 0
    assert run(out, **flags, max_disagreement=0.1) == 3
    assert "the models disagree on 49.00% of the rows, more than --max_disagreement=0.1" in capsys.readouterr().out
    assert len(lines(out, "prediction.comparison")) == 100, "what to look at is there"
    assert not (out / "_SUCCESS").exists()


def test_a_run_without_comparison_takes_that_of_the_run_before_away(models: Models, night: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(out, **night, compare_model=models.get("retrained")) == 0
    assert run(out, **night) == 0
    assert not list(out.glob("prediction.comparison*"))
    assert "comparison" not in check_output(out)


@pytest.mark.parametrize("workers", [1, 2])
def test_shares_are_stable_whatever_the_workers(models: Models, night: dict[str, Any], tmp_path: Path, workers: int) -> None:
    flags = night | {"compare_model": models.get("retrained"), "compare_share": 0.3, "direct_num_workers": workers}
    assert run(tmp_path / "out", **flags, direct_running_mode="multi_threading") == 0
    found = {line["key"]: line for line in lines(tmp_path / "out")}
    assert len(found) == 100
    hers = {key for key, line in found.items() if line["model_variant"] == models.get("retrained")}
    assert 15 <= len(hers) <= 45
    for number, (key, line) in enumerate(sorted(found.items())):
        more = max(0.0, number - 50.0) if key in hers else 0.0
        assert line["prediction"] == pytest.approx(0.5 * number + 2 + more)
    assert run(tmp_path / "half", **(flags | {"compare_share": 0.5})) == 0
    grown = {line["key"] for line in lines(tmp_path / "half") if line["model_variant"] == models.get("retrained")}
    assert hers < grown, "a larger share adds keys and moves none"


def test_parts_of_a_batch_know_how_large_their_rows_are(models: Models) -> None:
    """Rows a call follow from it: a part that thought its rows small would feed a thousand images at once."""
    from written import instances

    from transforms.elements.batches import JobInstances
    from transforms.model import handler
    from transforms.model.locate import locate_model
    from transforms.specs.job import InputSpec, JobSpec, KeySpec
    from transforms.specs.models import ModelRequest, ModelSpec
    from transforms.specs.output import FolderOutput

    first, second = (locate_model(ModelRequest(models.get(name))) for name in ("half_plus_two", "retrained"))
    assert isinstance(first, ModelSpec)
    rows = instances([f'"k{number}"' for number in range(200)])
    rows.columns, rows.bytes = {"x": np.zeros(200, np.float32)}, 200 * 5000
    job = JobSpec(InputSpec(("in",)), KeySpec(), first, FolderOutput("out"), "run", "launch", "now")
    parts = [part for _, part in handler.split_by_share(JobInstances(job, first, ("in", 0), rows), (first, second), 0.3)]
    assert sum(len(part) for part in parts) == 200
    for part in parts:
        assert part.instances.bytes == 5000 * len(part.instances) > 0


def test_shares_in_a_table_have_a_column(models: Models, night: dict[str, Any], tmp_path: Path) -> None:
    flags = night | {"compare_model": models.get("retrained"), "compare_share": 0.3, "output_format": "parquet"}
    assert run(tmp_path / "out", **flags) == 0
    (path,) = (tmp_path / "out").glob("prediction.results*")
    variants = pq.read_table(path)["model_variant"].to_pylist()
    assert {json.loads(one) if one.startswith('"') else one for one in variants} == {models.get("half_plus_two"), models.get("retrained")}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"compare_model": "two_outputs"}, "--compare_model"),
        ({"compare_share": "0.5"}, "--compare_share: has no meaning without --compare_model"),
        ({"max_disagreement": "0.5"}, "--max_disagreement: has no meaning without --compare_model"),
        ({"max_drift": "0.5"}, "--max_drift: has no meaning without --baseline"),
        (
            {"compare_model": "retrained", "model_field": "site", "model": "models/{site}"},
            "--compare_model: and --model_field exclude each other",
        ),
        ({"compare_model": "retrained", "compare_share": "0.5", "output_layout": "mirror"}, "--output_layout=mirror"),
        ({"baseline": "nowhere"}, "there is no nowhere/statistics.json"),
        ({"compare_model": "nowhere"}, "nowhere"),
        ({"compare_share": "2", "compare_model": "retrained"}, "expected a number from 0 to 1"),
    ],
)
def test_what_can_not_be_is_refused(
    models: Models, night: dict[str, Any], tmp_path: Path, flags: dict[str, str], said: str, capsys: pytest.CaptureFixture
) -> None:
    if flags.get("compare_model", "nowhere") != "nowhere":
        flags = flags | {"compare_model": models.get(flags["compare_model"])}
    assert run(tmp_path / "out", **(night | flags)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_columns_are_compared_row_by_row() -> None:
    found = differ(np.array([1.0, np.nan, np.inf, 2.0, np.nan]), np.array([1.005, np.nan, np.inf, np.inf, 3.0]), 0.01)
    assert found.agrees.tolist() == [True, True, True, False, False]
    assert differ(np.array([3, 4]), np.array([3, 5]), 0.0).agrees.tolist() == [True, False]
    assert differ(np.array([b"a", b"b"], object), np.array([b"a", b"c"], object), 0.1).agrees.tolist() == [True, False]
    ragged = Ragged([np.array([1.0, 2.0]), np.array([1.0])])
    assert differ(ragged, Ragged([np.array([1.0, 2.0]), np.array([1.0, 2.0])]), 0.1).agrees.tolist() == [True, False]


# --- an earlier run --------------------------------------------------------------------------------------------------------


def drift_of(out: Path, data: str, feature: str) -> dict[str, Any]:
    return next(one for one in manifest(out)["drift"]["features"] if (one["data"], one["feature"]) == (data, feature))


def test_the_measures_are_those_of_the_books() -> None:
    one, other = [0.5, 0.3, 0.2, 0.0], [0.2, 0.3, 0.1, 0.4]
    assert jensen_shannon(one, other) == pytest.approx(jensenshannon(one, other, base=2) ** 2)
    assert jensen_shannon(one, one) == 0
    assert jensen_shannon([1, 0], [0, 1]) == 1
    p, q = np.array([0.1, 0.4, 0.5]), np.array([0.2, 0.3, 0.5])
    assert stability_index(p, q) == pytest.approx(np.sum((q - p) * np.log(q / p)))


def test_the_same_data_has_not_drifted_and_other_data_has(models: Models, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    random = np.random.default_rng(3)
    before, alike, moved = random.normal(50, 10, 3000), random.normal(50, 10, 3000), random.normal(62, 10, 3000)
    flags = {"model": models.get("classifier"), "key_field": "id"}
    for name, values in (("before", before), ("alike", alike), ("moved", moved)):
        write_lines(tmp_path / f"{name}.jsonl", rows_of(values))
    assert run(tmp_path / "base", **flags, input=tmp_path / "before.jsonl") == 0
    flags["baseline"] = tmp_path / "base"
    assert run(tmp_path / "alike", **flags, input=tmp_path / "alike.jsonl", max_drift=0.2) == 0
    assert drift_of(tmp_path / "alike", "inputs", "x")["drift"] < 0.1
    assert run(tmp_path / "warned", **flags, input=tmp_path / "moved.jsonl") == 0, "without a limit it only warns"
    assert "inputs 'x'" in capsys.readouterr().out
    edges = np.quantile(before, np.arange(1, 10) / 10)
    shares = [np.histogram(values, [-np.inf, *edges, np.inf])[0] / len(values) for values in (before, moved)]
    expected = np.sum((shares[1] - shares[0]) * np.log(shares[1] / shares[0]))
    assert drift_of(tmp_path / "warned", "inputs", "x")["drift"] == pytest.approx(expected, rel=0.25)
    assert run(tmp_path / "gated", **flags, input=tmp_path / "moved.jsonl", max_drift=0.2) == 3
    assert "features drifted from" in manifest(tmp_path / "gated")["reason"]
    assert "Drift" in (tmp_path / "gated/report.html").read_text()


def test_texts_drift_by_their_shares_and_new_ones_are_named(models: Models, tmp_path: Path) -> None:
    flags = {"model": models.get("two_outputs"), "key_field": "id"}
    for name, words in (("before", ["red"] * 6 + ["blue"] * 4), ("after", ["red"] * 3 + ["blue"] * 4 + ["green"] * 3)):
        rows = [{"id": f"r{number}", "x": number % 3, "s": words[number % 10]} for number in range(1000)]
        assert run(tmp_path / name, **flags, input=write_lines(tmp_path / f"{name}.jsonl", rows), baseline=tmp_path / "before") == (
            2 if name == "before" else 0
        ), "nothing stands at the baseline before the first run"
        if name == "before":
            assert run(tmp_path / name, **flags, input=tmp_path / "before.jsonl") == 0
    found = drift_of(tmp_path / "after", "inputs", "s")
    assert found["drift"] == pytest.approx(jensenshannon([0.6, 0.4, 0], [0.3, 0.4, 0.3], base=2) ** 2, abs=0.03)
    assert found["new_values"] == ["green"]
    assert drift_of(tmp_path / "after", "inputs", "x")["drift"] == pytest.approx(0, abs=0.01)


def test_more_missing_rows_are_drift(models: Models, tmp_path: Path) -> None:
    flags = {"model": models.get("half_plus_two"), "key_field": "id", "max_error_ratio": 1}
    rows = rows_of(np.linspace(0, 1, 600))
    assert run(tmp_path / "before", **flags, input=write_lines(tmp_path / "a.jsonl", rows)) == 0
    for row in rows[::2]:
        del row["x"]
    rows = [dict(row, y=1) for row in rows]
    after = write_lines(tmp_path / "b.jsonl", rows)
    assert run(tmp_path / "after", **flags, input=after, baseline=tmp_path / "before/statistics.json", max_drift=0.3) == 3
    assert drift_of(tmp_path / "after", "inputs", "x")["missing_change"] == pytest.approx(0.5)


def test_few_rows_are_not_judged(models: Models, night: dict[str, Any], tmp_path: Path) -> None:
    assert run(tmp_path / "before", **night) == 0
    night["input"] = write_lines(tmp_path / "other.jsonl", rows_of(range(500, 600)))
    assert run(tmp_path / "after", **night, baseline=tmp_path / "before", max_drift=0.2) == 0
    assert drift_of(tmp_path / "after", "inputs", "x")["note"].startswith("too few rows to judge: 100")


def test_last_nights_run_can_be_the_baseline_in_the_same_folder(models: Models, tmp_path: Path) -> None:
    flags = {"model": models.get("half_plus_two"), "key_field": "id"}
    source = write_lines(tmp_path / "in.jsonl", rows_of(range(300)))
    assert run(tmp_path / "out", **flags, input=source) == 0
    write_lines(source, rows_of(range(300, 600)))
    assert run(tmp_path / "out", **flags, input=source, baseline=tmp_path / "out") == 0
    assert drift_of(tmp_path / "out", "inputs", "x")["drift"] > 1


def test_a_damaged_baseline_is_found_before_the_start(night: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "statistics.json").write_text('{"datasets": 7}')
    arguments = [f"--{name}={value}" for name, value in (night | {"baseline": tmp_path, "output": tmp_path / "out"}).items()]
    assert main(["run", *arguments]) == 2
    assert "expected the statistics.json of a run" in capsys.readouterr().err
