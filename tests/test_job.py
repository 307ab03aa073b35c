"""Whole jobs through ``main``: what a user sees in the output folder and as exit status."""

from __future__ import annotations

import gzip
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import child
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jobs import check_output, lines, manifest, names_in, run, write_lines
from saved_models import Models

from pipeline.main import main
from transforms.specs.limits import Limits

REPORTED = {"report.html", "statistics.json"}


def test_predictions_failed_rows_and_stats(models: Models, tmp_path: Path) -> None:
    rows: list[Any] = [{"x": 1.0, "id": "a"}, {"x": "no", "id": "b"}, "{", {"x": 3, "id": "c"}, {"x": None, "id": "d"}]
    data = write_lines(tmp_path / "rows.jsonl", rows)
    out = tmp_path / "out"
    assert run(out, model=models.get("half_plus_two"), input=data, key_field="id", max_error_ratio=1) == 0
    assert lines(out) == [{"key": "a", "prediction": 2.5}, {"key": "c", "prediction": 3.5}]
    failed = {row["code"]: row for row in lines(out, "prediction.errors")}
    assert failed.keys() == {"WRONG_TYPE", "NOT_JSON", "NULL_VALUE"}
    wrong = failed["WRONG_TYPE"]
    assert (wrong["key"], wrong["source"], wrong["offset"], wrong["stage"]) == ("b", str(data), 22, "convert")
    assert wrong["instance"] == {"x": "no", "id": "b"}
    assert failed["NOT_JSON"]["instance"] == {"b64": "ew=="}
    stats = {row["code"]: row for row in lines(out, "prediction.errors_stats")}
    assert {code: row["count"] for code, row in stats.items()} == {"WRONG_TYPE": 1, "NOT_JSON": 1, "NULL_VALUE": 1}
    assert stats["NULL_VALUE"].keys() == {"code", "message", "count"}
    report = check_output(out)
    assert report["counts"] == {"read": 5, "predicted": 2, "failed": 3}


def test_keys_are_made_the_same_on_every_run(models: Models, tmp_path: Path) -> None:
    data = write_lines(tmp_path / 'a "b".jsonl', [{"x": number} for number in range(5)])
    seen = []
    for name in ("one", "two"):
        assert run(tmp_path / name, model=models.get("half_plus_two"), input=data) == 0
        seen.append([row["key"] for row in lines(tmp_path / name)])
    assert seen[0] == seen[1] == [f"{data}:{offset}" for offset in range(0, 45, 9)]


@pytest.mark.parametrize("keep", [True, False])
def test_the_gate_stays_shut_when_too_many_rows_fail(models: Models, tmp_path: Path, keep: bool) -> None:
    out = tmp_path / "out"
    good = write_lines(tmp_path / "good.jsonl", [{"x": 1}])
    if keep:
        assert run(out, model=models.get("half_plus_two"), input=good, run_id="first") == 0
    bad = write_lines(tmp_path / "bad.jsonl", [{"x": 1}] * 8 + [{"x": "a"}] * 2)
    assert run(out, model=models.get("half_plus_two"), input=bad) == 3
    report = check_output(out)
    assert report["status"] == "failed"
    assert "2 of 10 rows failed (20.00%), more than --max_error_ratio=0.1" in report["reason"]
    assert len(lines(out, "prediction.errors")) == 2
    assert lines(out) == ([{"key": f"{good}:0", "prediction": 2.5}] if keep else [])
    assert ("kept_results" in report) == keep
    assert run(out, model=models.get("half_plus_two"), input=bad, max_error_ratio=0.2) == 0
    assert len(lines(out)) == 8
    check_output(out)


def test_a_key_that_stands_twice_shuts_the_gate_and_is_listed(models: Models, tmp_path: Path) -> None:
    rows: list[Any] = [{"x": 1, "id": 7}, {"x": 2, "id": "7"}, {"x": 3, "id": 8}, {"x": 4, "id": 7}, {"x": "bad", "id": 8}]
    data = write_lines(tmp_path / "rows.jsonl", rows)
    out = tmp_path / "out"
    flags = {"model": models.get("half_plus_two"), "input": data, "key_field": "id", "max_error_ratio": 1}
    assert run(out, **flags) == 3
    report = check_output(out)
    assert report["keys"]["duplicated"] == 2
    assert [(place["key"], place["offset"]) for place in report["keys"]["listed"]] == [("7", 0), ("7", 56), ("8", 38), ("8", 74)]
    assert "2 keys occur more than once" in report["reason"]
    assert run(out, **flags, duplicate_keys="allow") == 0
    assert [row["key"] for row in lines(out)] == [7, "7", 8, 7]
    assert check_output(out)["keys"]["duplicated"] == 2


def test_composite_keys_and_passthrough_fields(models: Models, tmp_path: Path) -> None:
    rows = [{"x": 1, "shop": "a", "day": 2**60 + 1, "note": {"b": [1, 2.50]}}, {"x": 2, "shop": "a", "day": 2}]
    data = write_lines(tmp_path / "rows.jsonl", rows)
    out = tmp_path / "out"
    assert run(out, model=models.get("half_plus_two"), input=data, key_field="shop,day", passthrough_fields="note,x") == 0
    assert lines(out) == [
        {"key": ["a", 2**60 + 1], "prediction": 2.5, "note": {"b": [1, 2.5]}, "x": 1},
        {"key": ["a", 2], "prediction": 3.0, "note": None, "x": 2},
    ]
    assert (
        run(out, model=models.get("half_plus_two"), input=data, key_field="shop,day", passthrough_fields="*", output_style="aiplatform")
        == 0
    )
    assert lines(out)[1] == {"shop": "a", "day": 2, "y": 3.0, "x": 2}


def test_a_second_run_with_fewer_shards_leaves_nothing_of_the_first(models: Models, tmp_path: Path) -> None:
    data, out, limits = tmp_path / "data", tmp_path / "out", Limits(split_bytes=200)
    write_lines(data / "big.jsonl", [{"x": number} for number in range(100)])
    out.mkdir()
    (out / "notes.txt").write_text("not ours")
    assert run(out, limits, model=models.get("half_plus_two"), input=data) == 0
    assert len(list(out.glob("prediction.results-*"))) > 3
    np.testing.assert_array_equal([row["prediction"] for row in lines(out)], np.arange(100) * 0.5 + 2)
    write_lines(data / "big.jsonl", [{"x": "bad"}, *({"x": number} for number in range(15))])
    assert run(out, limits, model=models.get("half_plus_two"), input=data) == 0
    assert len(list(out.glob("prediction.results-*"))) == 1
    assert len(lines(out)) == 15
    check_output(out)
    (data / "big.jsonl").write_text('{"x": 1}\n')
    assert run(out, model=models.get("half_plus_two"), input=data) == 0
    assert names_in(out) == REPORTED | {"notes.txt", "_SUCCESS", "manifest.json", "prediction.results-00000-of-00001"}


def test_an_empty_input_is_a_result(models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none.jsonl").write_text("\n \n")
    assert run(tmp_path / "out", model=models.get("half_plus_two"), input=tmp_path / "none.jsonl") == 0
    assert check_output(tmp_path / "out")["counts"] == {"read": 0, "predicted": 0, "failed": 0}
    assert "read                  0" in capsys.readouterr().out


def test_mirrored_files_keep_name_and_order(models: Models, tmp_path: Path) -> None:
    data, out, limits = tmp_path / "data", tmp_path / "out", Limits(split_bytes=300, block_bytes=64)
    write_lines(data / "a" / "many.jsonl", [{"x": number} for number in range(500)])
    write_lines(data / "a" / "few.jsonl", [{"x": 7}])
    write_lines(data / "b" / "none.jsonl", [])
    (data / "b" / "packed.jsonl.gz").write_bytes(gzip.compress(b'{"x": 1}\n{"x": 2}'))
    assert run(out, limits, model=models.get("half_plus_two"), input=data, output_layout="mirror", output_style="raw") == 0
    assert names_in(out) == REPORTED | {"_SUCCESS", "manifest.json", "a/many.jsonl", "a/few.jsonl", "b/none.jsonl", "b/packed.jsonl"}
    np.testing.assert_array_equal([json.loads(line) for line in (out / "a/many.jsonl").read_text().splitlines()], np.arange(500) * 0.5 + 2)
    assert (out / "b/packed.jsonl").read_text() == "2.5\n3.0\n"
    assert (out / "b/none.jsonl").read_text() == ""
    (data / "a" / "few.jsonl").unlink()
    assert run(out, limits, model=models.get("half_plus_two"), input=data, output_layout="mirror") == 0
    assert "a/few.jsonl" not in names_in(out)


def test_many_tiny_files_are_few_shards(models: Models, tmp_path: Path) -> None:
    for number in range(300):
        write_lines(tmp_path / "data" / f"{number:03d}.jsonl", [{"x": number}])
    assert run(tmp_path / "out", model=models.get("half_plus_two"), input=tmp_path / "data") == 0
    report = check_output(tmp_path / "out")
    assert len(report["results"]) == 1
    assert report["input"]["files"] == 300
    assert sorted(row["prediction"] for row in lines(tmp_path / "out")) == [number * 0.5 + 2 for number in range(300)]


def test_a_file_named_by_two_patterns_is_read_once(models: Models, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 1}])
    assert run(tmp_path / "out", model=models.get("half_plus_two"), input=f"{data},{tmp_path}/*.jsonl") == 0
    assert len(lines(tmp_path / "out")) == 1


def test_failed_rows_have_a_folder_of_their_own(models: Models, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 1}, {"x": "a"}])
    out, errors = tmp_path / "out", tmp_path / "errors"
    for status, ratio in ((3, 0.1), (0, 1)):
        assert run(out, model=models.get("half_plus_two"), input=data, errors=errors, max_error_ratio=ratio) == status
        assert names_in(errors) == {"prediction.errors-00000-of-00001", "prediction.errors_stats-00000-of-00001"}
    assert names_in(out) == REPORTED | {"_SUCCESS", "manifest.json", "prediction.results-00000-of-00001"}


def test_corrected_failed_rows_are_input_for_a_second_run(models: Models, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "rows.jsonl", [{"x": "1", "id": 1}, {"x": 5, "id": 2}])
    assert run(tmp_path / "out", model=models.get("half_plus_two"), input=data, max_error_ratio=1, key_field="id") == 0
    (row,) = lines(tmp_path / "out", "prediction.errors")
    again = write_lines(tmp_path / "again.jsonl", [row["instance"] | {"x": 1}])
    assert run(tmp_path / "out2", model=models.get("half_plus_two"), input=again, key_field="id") == 0
    assert lines(tmp_path / "out2") == [{"key": 1, "prediction": 2.5}]


def test_nan_by_policy(models: Models, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 4, "s": "a"}, {"x": -4, "s": "b"}])
    for policy, expected in (("null", None), ("string", "NaN")):
        assert run(tmp_path / policy, model=models.get("two_outputs"), input=data, nan=policy) == 0
        assert [row["prediction"]["root"] for row in lines(tmp_path / policy)] == [2.0, expected]
    assert run(tmp_path / "error", model=models.get("two_outputs"), input=data, nan="error", max_error_ratio=0.5) == 0
    assert [row["prediction"]["double"] for row in lines(tmp_path / "error")] == [8]
    (failed,) = lines(tmp_path / "error", "prediction.errors")
    assert (failed["stage"], failed["code"], failed["instance"]) == ("write", "NOT_FINITE", {"x": -4, "s": "b"})


def test_a_damaged_file_shuts_the_gate_and_says_where(models: Models, tmp_path: Path) -> None:
    write_lines(tmp_path / "data" / "good.jsonl", [{"x": number} for number in range(1000)])
    packed = gzip.compress("".join(f'{{"x": {number}}}\n' for number in range(100_000)).encode(), mtime=0)
    (tmp_path / "data" / "cut.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    out = tmp_path / "out"
    assert run(out, model=models.get("half_plus_two"), input=tmp_path / "data") == 3
    report = check_output(out)
    assert report["input"]["damaged"] == [str(tmp_path / "data" / "cut.jsonl.gz")]
    assert "cut.jsonl.gz" in report["reason"]
    assert report["counts"]["read"] > 20_000
    (failed,) = lines(out, "prediction.errors")
    assert failed["code"] == "FILE_DAMAGED"


REFUSALS = [
    ({"input": "{tmp}/nothing-*.jsonl"}, r"nothing-\*\.jsonl matches no file"),
    ({"input": "{tmp}/rows.txt"}, r"rows\.txt: its extension is none of"),
    ({"model": "{tmp}/nowhere"}, r"no model at .*nowhere"),
    ({"output": "{tmp}/rows.jsonl/out"}, r"can't be written"),
    ({"input": "{tmp}", "output": "{tmp}/out"}, r"lies in the input folder"),
    (
        {"input": "{tmp}/full/prediction.results-00000-of-00001", "output": "{tmp}/full", "input_format": "jsonl"},
        r"lies in the output folder",
    ),
    ({"output": "{tmp}/full", "write_disposition": "empty"}, r"holds the results of a run already"),
    ({"include_fields": "x,zz"}, r"zz is no input of signature serving_default; inputs are x"),
    ({"exclude_fields": "x"}, r"leaves out x, which signature serving_default needs"),
    ({"passthrough_fields": "y", "output_style": "aiplatform"}, r"y is an output of signature serving_default too"),
    ({"key_field": "y", "output_style": "aiplatform"}, r"--key_field: y is an output of signature serving_default too"),
    ({"signature_name": "other"}, r"no signature 'other'.*serving_default"),
    ({"model_version": "3"}, r"without numbered versions; leave out --model_version=3"),
]


@pytest.mark.parametrize(("flags", "message"), REFUSALS, ids=[message[:25] for _, message in REFUSALS])
def test_what_can_be_known_before_the_start_is_refused(
    models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: dict[str, str], message: str
) -> None:
    write_lines(tmp_path / "rows.jsonl", [{"x": 1}])
    write_lines(tmp_path / "rows.txt", ["x", "1"])
    write_lines(tmp_path / "full" / "prediction.results-00000-of-00001", [{"x": 1}])
    before = names_in(tmp_path)
    given = {"model": models.get("half_plus_two"), "input": "{tmp}/rows.jsonl", "output": "{tmp}/out"} | flags
    status = main(["run", *(f"--{name}={value.format(tmp=tmp_path)}" for name, value in given.items())])
    assert status == 2
    import re

    assert re.search(message, capsys.readouterr().err)
    assert names_in(tmp_path) == before
    assert not (tmp_path / "out").exists()


def test_unsafe_ops_are_refused_by_name_and_can_be_allowed(models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "secret").write_text("content")
    data = write_lines(tmp_path / "rows.jsonl", [{"name": str(tmp_path / "secret")}])
    assert run(tmp_path / "out", model=models.get("reads_a_file"), input=data) == 2
    assert "ReadFile" in capsys.readouterr().err
    assert run(tmp_path / "out", model=models.get("reads_a_file"), input=data, allow_unsafe_ops="true") == 0
    assert lines(tmp_path / "out")[0]["prediction"] == "content"


def test_versions_and_odd_paths(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = tmp_path / "my models [v1] ü"
    versions.mkdir()
    for name in ("2", "10"):
        (versions / name).symlink_to(models.get("half_plus_two"))
    (versions / "11").mkdir()  # being copied: no saved_model.pb yet
    data = write_lines(tmp_path / "rows [1] ü.jsonl", [{"x": 2}])
    monkeypatch.chdir(tmp_path)
    assert main(["run", f"--model={versions.name}/", f"--input={data.name}", "--output=out/deep/er"]) == 0
    assert manifest(tmp_path / "out/deep/er")["model"]["version"] == "10"
    assert run(tmp_path / "out2", model=versions, input=data, model_version="2") == 0
    assert lines(tmp_path / "out2")[0]["prediction"] == 3.0


def test_two_worker_processes_give_the_same_rows(models: Models, tmp_path: Path) -> None:
    write_lines(tmp_path / "rows.jsonl", [{"x": number, "id": number} for number in range(2000)])
    flags = {"model": models.get("half_plus_two"), "input": tmp_path / "rows.jsonl", "key_field": "id"}
    limits = Limits(split_bytes=2000)
    assert run(tmp_path / "one", limits, **flags) == 0
    assert run(tmp_path / "two", limits, **flags, direct_num_workers=2, direct_running_mode="multi_processing") == 0
    assert lines(tmp_path / "one") == lines(tmp_path / "two")
    check_output(tmp_path / "two")


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.binary(max_size=40), st.integers(-5, 5).map(lambda x: b'{"x": %d, "id": %d}' % (x, x))), max_size=30))
def test_every_line_of_any_file_ends_as_prediction_or_failed_row(models: Models, tmp_path: Path, content: list[bytes]) -> None:
    data = tmp_path / "any.jsonl"
    data.write_bytes(b"\n".join(content))
    out = tmp_path / "out"
    flags = {"model": models.get("below_hundred"), "input": data, "key_field": "id", "duplicate_keys": "allow", "max_error_ratio": 1}
    assert run(out, **flags) == 0
    counts = check_output(out)["counts"]
    text = data.read_bytes().removeprefix(b"\xef\xbb\xbf")
    assert counts["read"] == sum(1 for line in text.split(b"\n") if line.strip(b" \t\r"))
    expected = Counter(int(line.split(b":")[2][:-1]) for line in content if line.startswith(b'{"x"') and line.endswith(b"}"))
    assert Counter(row["key"] for row in lines(out)) == expected
    assert all(row["prediction"] == row["key"] + 1 for row in lines(out))


def test_a_killed_run_leaves_one_output_or_the_other(models: Models, tmp_path: Path) -> None:
    """SIGKILL at many moments of a second run."""
    out = tmp_path / "out"
    flags = {"model": models.get("half_plus_two"), "key_field": "id"}
    old = write_lines(tmp_path / "old.jsonl", [{"x": 1, "id": number} for number in range(1000)])
    new = write_lines(tmp_path / "new.jsonl", [{"x": 2, "id": number} for number in range(20_000)])
    assert run(out, input=old, **flags) == 0
    started = time.monotonic()
    child.start(tmp_path / "whole", input=new, **flags).join()
    seconds = time.monotonic() - started
    endings = Counter()
    for step in range(12):
        second = child.start(out, input=new, **flags)
        second.join(seconds * step / 10 if step < 11 else None)
        second.kill()
        second.join()
        report = manifest(out)
        values = {row["prediction"] for row in lines(out)}
        assert (report["counts"]["predicted"], values) in ((1000, {2.5}), (20_000, {3.0}))
        assert len(lines(out)) == report["counts"]["predicted"]
        assert (out / "_SUCCESS").exists()
        endings[report["counts"]["predicted"]] += 1
    assert endings[1000], "every kill came too late"
    assert endings[20_000], "every kill came too early"
    assert run(out, input=old, **flags) == 0
    assert check_output(out)["counts"]["predicted"] == 1000
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".out")] == []
