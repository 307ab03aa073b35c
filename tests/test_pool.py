"""Real and damaged SavedModels with real data, through the whole job, judged by the pool's own judge."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from pipeline.main import main
from transforms.specs.job import INPUT_FORMATS

POOL = Path(__file__).resolve().parents[2] / "shared" / "pool"
FORMATS = set(INPUT_FORMATS)

# Verdicts of a case that this project judges otherwise, and why.
OVERRULED: dict[str, str] = {}

# What the message of a refusal has to say, as a pattern; the case's own "must", made checkable.
MUST_SAY = {
    "corrupt_empty_pb": r"corrupt_empty_pb",
    "corrupt_html_pb": r"saved_model\.pb.*web page",
    "corrupt_index_truncated": r"corrupt_index_truncated",
    "corrupt_lfs_pointer": r"saved_model\.pb.*Git LFS pointer",
    "corrupt_missing_variables": r"corrupt_missing_variables.*variables",
    "corrupt_truncated_pb": r"corrupt_truncated_pb",
    "eval_tag_only": r"Its tags are: eval",
    "files.glob_no_match": r"nothing-\*\.jsonl",
    "five_signatures.none_given": r"add, get_const_matrix, get_const_scalar, get_const_vector, get_variable",
    "half_plus_two_cpu.no_such_signature": r"no signature .*serving_default",
    "no_signatures": r"no serving signature",
    "no_such_model_folder": r"does_not_exist",
    "session_bundle_half_plus_two": r"no SavedModel \(saved_model\.pb or saved_model\.pbtxt\)",
    "spotify_iris.wrong_tags": r"gpu,serve.*Its tags are: serve",
    "tfdf_adult_rf_custom_op": r"SimpleMLLoadModelFromPathWithHandle",
    "files.truncated.jsonl.gz": r"truncated\.jsonl\.gz",
    "avro.bad.avro-1238-truncated.avro": r"avro-1238-truncated\.avro",
    "parquet.bad.ARROW-GH-45185.parquet": r"ARROW-GH-45185\.parquet",
    "csv.missing_column": r"'?\bc\b'?",
    "csv.no_header": r"'?a'?, '?b'?, '?c'?",
}


def cases() -> list[dict]:
    found = [json.loads(path.read_text(encoding="utf-8")) | {"file": path} for path in sorted(POOL.glob("expected/*.json"))]
    return [case for case in found if case["outcome"] != "checklist" and case["input"][0]["format"] in FORMATS]


CASES = cases()


@pytest.mark.skipif(not CASES, reason="the pool of real models (../shared/pool) is not beside this checkout")
def test_pool_is_there() -> None:
    assert len(CASES) >= 70


def test_every_refusal_has_a_pattern() -> None:
    refusals = {case["case"] for case in CASES if case["outcome"] in ("fails_before_rows", "file_error")}
    assert refusals <= set(MUST_SAY)


OTHER_FORMATS = [
    (case, source)
    for case in CASES
    for source in case.get("same_rows_in", ())
    if source["format"].replace("tfrecord", "tf-record") in FORMATS and source.get("header") is not False
]


@pytest.mark.parametrize(("case", "source"), OTHER_FORMATS, ids=[f"{case['case']}-{source['path']}" for case, source in OTHER_FORMATS])
def test_the_same_rows_in_another_format(case: dict, source: dict, tmp_path: Path) -> None:
    flags = ["--output_style=aiplatform", "--nan=string", *([f"--signature_name={case['signature']}"] if case.get("signature") else [])]
    places = [f"--model={POOL / case['model']}", f"--input={POOL / source['path']}", f"--output={tmp_path / 'out'}"]
    status = main(["run", *places, f"--input_format={source['format'].replace('tfrecord', 'tf-record')}", *flags])
    predictions = lines_of(tmp_path / "out", "prediction.results")
    assert judge(case, tmp_path, predictions, lines_of(tmp_path / "out", "prediction.errors"), status).startswith("PASS")


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_case(case: dict, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["run", f"--model={POOL / case['model']}", f"--output={out}", "--output_style=aiplatform", "--nan=string"]
    arguments.append("--input=" + ",".join(str(POOL / source["path"]) for source in case["input"]))
    arguments.append(f"--input_format={case['input'][0]['format']}")
    for flag, value in (("signature_name", case.get("signature")), ("tags", ",".join(case.get("tags") or ()))):
        if value:
            arguments.append(f"--{flag}={value}")
    if case.get("key_field"):
        arguments.append(f"--key_field={case['key_field']}")
    if case["outcome"].startswith("mixed") or case["outcome"] == "no_wrong_rows":
        arguments.append("--max_error_ratio=1")

    status = main(arguments)

    printed = "".join(capfd.readouterr())
    predictions = lines_of(out, "prediction.results")
    errors = lines_of(out, "prediction.errors")
    check_accounts(out, status, predictions, errors)
    verdict = judge(case, tmp_path, predictions, errors, status)
    if case["case"] in MUST_SAY:
        assert verdict.startswith("LOOK"), verdict
        assert status != 0
        assert re.search(MUST_SAY[case["case"]], printed, re.DOTALL), printed
        assert "Traceback" not in printed
        assert not (out / "_SUCCESS").exists()
        return
    if case["case"] in OVERRULED:
        return
    if "sum_fare_plus_hour" in case:
        check_taxis(case, predictions)
        return
    assert verdict.startswith("PASS") or (verdict.startswith("LOOK") and may_look(case, status)), f"{verdict}\n{printed}"


def check_taxis(case: dict, predictions: list[bytes]) -> None:
    """Ten thousand rows by their sum, their counts and their first, which the judge only counts."""
    rows = [json.loads(line) for line in predictions]
    total = sum(row["fare_plus_hour"] for row in rows)
    assert total == pytest.approx(case["sum_fare_plus_hour"], rel=case["rtol_sum"])
    assert Counter(row["payment_type"] for row in rows) == case["payment_type_counts"]
    for row, expected in zip(rows, case["first"], strict=False):
        assert row["payment_type"] == expected["payment_type"]
        assert row["fare_plus_hour"] == pytest.approx(expected["fare_plus_hour"], rel=1e-5)


def may_look(case: dict, status: int) -> bool:
    """Whether the judge asks for a look that the checks here have taken: a refusal, or no row predicted wrongly."""
    return status == 2 or case["outcome"] == "no_wrong_rows"


def lines_of(out: Path, kind: str) -> list[bytes]:
    return [line for path in sorted(out.glob(f"{kind}-*")) for line in path.read_bytes().splitlines()]


def check_accounts(out: Path, status: int, predictions: list[bytes], errors: list[bytes]) -> None:
    """Every row is accounted for, whatever the case."""
    if not (out / "manifest.json").exists():
        assert not predictions
        assert status in (1, 2)
        return
    manifest = json.loads((out / "manifest.json").read_text())
    counts = manifest["counts"]
    assert counts["read"] == counts["predicted"] + counts["failed"]
    assert len(errors) == counts["failed"]
    assert (out / "_SUCCESS").exists() == (status == 0) == (manifest["status"] == "done")
    assert len(predictions) == (counts["predicted"] if status == 0 else 0)
    assert not (out / "_staging").exists()
    for line in errors:
        row = json.loads(line)
        assert row["code"]
        assert row["message"]


def judge(case: dict, folder: Path, predictions: list[bytes], errors: list[bytes], status: int) -> str:
    """Gives the judge's line: PASS, FAIL or LOOK and why."""
    given, failed = folder / "pred.jsonl", folder / "err.jsonl"
    given.write_bytes(b"".join(line + b"\n" for line in predictions))
    failed.write_bytes(b"".join(line + b"\n" for line in errors))
    command = [sys.executable, POOL / "judge.py", case["file"], "--pred", given, "--err", failed, "--exit", str(status)]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False).stdout
