"""manifest.json of each kind of job, compared with a golden file: its fields, their order, and which are left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gcp_fixtures import BigQuery, CloudStorage
from jobs import check_output, run, write_lines
from msgspec import UNSET
from saved_models import Models

from transforms.output import publisher
from transforms.output.manifest import read_manifest, result_names
from transforms.specs.manifest import Counts, Manifest, TaskLine, decode_manifest

GOLDEN = Path(__file__).parent / "golden" / "manifests"
# Values that differ from run to run.
CHANGING = {
    "launch", "started", "finished", "seconds", "fingerprint", "crc32c", "load_seconds", "longest_load_seconds", "read", "predict", "write",
    "processes", "model_calls", "models_loaded", "load_job", "errors_load_job", "load_digest", "bytes",
}  # fmt: skip
ROWS = [{"id": f"r{number}", "x": number} for number in range(8)]
BAD = {"id": "bad", "x": "no"}


def blank(value: Any, path: tuple[str, ...] = ()) -> Any:
    """Return a manifest's value with those that change from run to run replaced."""
    if isinstance(value, dict):
        return {name: blank(inner, (*path, name)) for name, inner in value.items()}
    if isinstance(value, list):
        return [blank(inner, path) for inner in value]
    is_changing = path and path[-1] in CHANGING and not (path[0] == "counts" or path[-2:-1] == ("counts",))
    return f"<{path[-1]}>" if is_changing else value


def check(name: str, content: bytes | str, *folders: tuple[str | Path, str]) -> None:
    """Compare the manifest ``content`` with the golden file ``name``; each of ``folders`` is a path and the word to show for it."""
    text = json.dumps(blank(json.loads(content)), indent=1, ensure_ascii=False) + "\n"
    for folder, word in folders:
        text = text.replace(str(folder), word)
    assert text == (GOLDEN / f"{name}.json").read_text(encoding="utf-8")


@pytest.fixture
def job(models: Models, tmp_path: Path) -> dict[str, Any]:
    data = write_lines(tmp_path / "rows.jsonl", [*ROWS, BAD])
    return {"model": models.get("half_plus_two"), "input": data, "key_field": "id", "run_id": "night", "max_error_ratio": 0.5}


@pytest.fixture
def check_out(models: Models, tmp_path: Path) -> Callable[..., None]:
    """Compare the manifest in a folder below ``tmp_path`` with a golden file."""

    def check_out(name: str, folder: str = "out") -> None:
        check(name, (tmp_path / folder / "manifest.json").read_text(), (models.folder, "MODELS"), (tmp_path, "TMP"))

    return check_out


def test_one_job(job: dict[str, Any], tmp_path: Path, check_out: Callable[..., None]) -> None:
    assert run(tmp_path / "out", **job) == 0
    check_out("one_job")


def test_styles_and_keys_that_are_doubled(job: dict[str, Any], tmp_path: Path, check_out: Callable[..., None]) -> None:
    write_lines(tmp_path / "rows.jsonl", [*ROWS, ROWS[0]])
    assert run(tmp_path / "out", **job, output_style="aiplatform", duplicate_keys="allow", report="false", errors=tmp_path / "failed") == 0
    check_out("aiplatform")


def test_a_refused_job_keeps_the_results_before(job: dict[str, Any], tmp_path: Path, check_out: Callable[..., None]) -> None:
    assert run(tmp_path / "out", **job, output_layout="mirror", report="false") == 0
    check_out("mirrored")
    for name in ("refused", "refused"):  # the second finds the results by the manifest of the first
        assert run(tmp_path / "out", **(job | {"max_error_ratio": 0, "run_id": "late"}), output_layout="mirror", report="false") == 3
        check_out(name)


def test_a_second_model_and_a_baseline(job: dict[str, Any], models: Models, tmp_path: Path, check_out: Callable[..., None]) -> None:
    assert run(tmp_path / "before", **job) == 0
    write_lines(tmp_path / "rows.jsonl", [*ROWS, {"id": "far", "x": 60}, {"id": "farther", "x": 2000}])
    second = {"compare_model": models.get("retrained")}
    assert run(tmp_path / "out", **job, **second, baseline=tmp_path / "before") == 0
    check_out("compared")
    assert run(tmp_path / "out", **job, **second, compare_share=0.5) == 0
    check_out("shared")


def test_rows_that_name_their_models(job: dict[str, Any], models: Models, tmp_path: Path, check_out: Callable[..., None]) -> None:
    models.get("half_plus_two")
    rows = [row | {"m": "half_plus_two"} for row in [*ROWS, BAD]]
    write_lines(tmp_path / "rows.jsonl", [*rows, {"id": "lost", "x": 1, "m": "nowhere"}])
    assert run(tmp_path / "out", **(job | {"model": f"{models.folder}/{{m}}"}), model_field="m") == 0
    check_out("row_models")


def test_a_run_of_many(models: Models, tmp_path: Path, check_out: Callable[..., None]) -> None:
    data = str(write_lines(tmp_path / "rows.jsonl", [*ROWS, BAD]))
    tasks = [
        {"model": models.get("half_plus_two"), "input": data, "output": "done", "key_field": "id"},
        {"model": "nowhere", "input": data, "output": "unplanned"},
        {"model": models.get("half_plus_two"), "input": f"{data}.gone", "output": "refused", "model_version": "3"},
    ]
    flags = {"model_map": write_lines(tmp_path / "map.jsonl", tasks), "run_id": "night", "max_error_ratio": 0.5}
    assert run(tmp_path / "out", **flags) == 3
    check_out("many")
    check_out("many_done", "out/done")
    check_out("many_unplanned", "out/unplanned")
    lines = [json.loads(line) for line in (tmp_path / "out" / "tasks-00000-of-00001.jsonl").read_text().splitlines()]
    check("many_tasks", json.dumps(lines), (models.folder, "MODELS"), (tmp_path, "TMP"))


def test_a_resumed_job(
    job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check_out: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(publisher, "with_drift", fail)
        assert run(tmp_path / "out", **job) == 1
    assert run(tmp_path / "out", **job, resume="true") == 0
    check_out("resumed")
    capsys.readouterr()
    assert run(tmp_path / "out", **job, resume="true") == 0
    assert "run night is done already" in capsys.readouterr().err


def test_a_job_to_a_table(job: dict[str, Any], models: Models, gcs: CloudStorage, bigquery: BigQuery, tmp_path: Path) -> None:
    bucket, dataset = gcs.make_bucket(), bigquery.make_dataset()
    assert run(f"{dataset}.t", **job, temp_location=f"{bucket}/tmp") == 0
    content = gcs.read(f"{bucket}/tmp/nightshift/{dataset[5:]}.t/manifest.json")
    check("table", content, (models.folder, "MODELS"), (tmp_path, "TMP"), (dataset, "bq://P.D"), (bucket, "gs://B"))


# --- read back -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_a_manifest_is_read_as_it_was_written(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for word in CHANGING - {"launch", "started", "finished", "fingerprint", "crc32c", "load_job", "errors_load_job", "load_digest"}:
        text = text.replace(f'"<{word}>"', "7")
    kind = list[TaskLine] if path.stem == "many_tasks" else Manifest
    assert msgspec.to_builtins(msgspec.json.decode(text, type=kind)) == json.loads(text)


def test_fields_of_another_version_are_passed_over() -> None:
    content = b'{"status": "done", "new": [1], "effort": 5, "counts": {"read": 1, "predicted": 1, "failed": 0, "more": {}}, "keys": null}'
    manifest = decode_manifest(content)
    assert (manifest.status, manifest.counts, manifest.effort, manifest.keys) == ("done", Counts(1, 1, 0), UNSET, UNSET)
    with pytest.raises(msgspec.ValidationError, match=r"Expected `object`, got `int` - at `\$.effort`"):
        decode_manifest(content, frozenset({"effort"}))
    assert decode_manifest(content, frozenset({"counts"})) == manifest


def test_results_are_known_by_name_whatever_else_of_them_can_not_be_read(tmp_path: Path) -> None:
    """The next run would leave those that it doesn't know beside its own."""
    whole = {"name": "a/b.jsonl", "rows": 1, "bytes": 2, "crc32c": "x"}
    fields = {
        "status": "done",
        "results": [whole, {"name": "c.jsonl", "bytes": "2"}, {"rows": 1}, {"name": "../d"}],
        "kept_results": {"run_id": 7, "names": ["z.jsonl", 7]},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(fields))
    assert result_names(read_manifest(str(tmp_path / "manifest.json"))) == {"a/b.jsonl", "c.jsonl", "z.jsonl"}


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b'{"status": "do', b"[" * 100_000, b"\xff"])
def test_what_is_no_manifest_is_read_as_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    assert read_manifest(f"{tmp_path}/manifest.json") is None
    assert read_manifest(f"{tmp_path}/nothing.json") is None


def test_a_manifest_that_another_program_wrote_stands_in_no_runs_way(job: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text(
        '{"name": "app", "files": {"a.js": "b.js"}, "results": [{"name": "x"}], "task": "build"}'
    )
    assert run(tmp_path / "out", **job, resume="true") == 0
    assert check_output(tmp_path / "out")["counts"] == {"read": 9, "predicted": 8, "failed": 1}
