"""``nightshift check``: real models and data that do not fit each other, the fix it names, and that the fix works."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jobs import write_lines
from saved_models import Models

from pipeline.check import prices
from pipeline.check.estimate import estimate
from pipeline.check.misfits import kind_of
from pipeline.check.sample import InputPlan, Sample, Speed
from pipeline.main import main

POOL = Path(__file__).resolve().parents[2] / "shared" / "pool"
needs_pool = pytest.mark.skipif(not POOL.exists(), reason="the pool of real models (../shared/pool) is not beside this checkout")


class Checked:
    """One call of ``check``: its status, what it printed and its JSON."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> None:
        capsys.readouterr()
        self.out = folder / "checked"
        self.status = main(["check", f"--output={self.out}", f"--json={folder / 'found.json'}", *flags])
        self.printed = capsys.readouterr().out
        self.json = json.loads((folder / "found.json").read_text())
        assert not self.out.exists(), "check writes nothing to the output"
        assert self.json["would_run"] == (self.status == 0)

    def misfit(self, field: str) -> dict[str, Any]:
        return next(misfit for misfit in self.json["misfits"] if misfit["field"] == field)


def rows_of(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (POOL / path).read_text(encoding="utf-8").splitlines()]


def run(folder: Path, *flags: str) -> int:
    """Runs the job; gives the predictions, having held that no row failed."""
    assert main(["run", f"--output={folder / 'out'}", *flags]) == 0
    counts = json.loads((folder / "out" / "manifest.json").read_text())["counts"]
    assert counts["failed"] == 0
    return counts["predicted"]


@needs_pool
def test_a_number_written_as_a_string(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = f"--model={POOL / 'models/penguins_keyed'}"
    good = rows_of("data/penguins_raw/penguins.jsonl")
    bad = [
        row | {"body_mass_g": str(row["body_mass_g"]), "bill_depth_mm": None if not place else row["bill_depth_mm"]}
        for place, row in enumerate(good)
    ]
    data = write_lines(tmp_path / "rows.jsonl", bad)
    checked = Checked(tmp_path, capsys, model, "--signature_name=serving_default", f"--input={data}")
    assert checked.status == 2
    misfit = checked.misfit("body_mass_g")
    assert (misfit["expected"], misfit["found"], misfit["rows"]) == ("float32, one value", "a string", 200)
    assert "write 'body_mass_g' as a number, 3750.0 and not \"3750.0\"" in misfit["fix"]
    assert checked.misfit("bill_depth_mm")["rows"] == 1, "each field of a row is looked at, not the first that fails"
    assert "in 200 of 200 rows" in checked.printed
    mended = write_lines(tmp_path / "mended.jsonl", [row | {"body_mass_g": float(row["body_mass_g"])} for row in bad[1:]])
    flags = (model, "--signature_name=serving_default", f"--input={mended}")
    assert Checked(tmp_path, capsys, *flags).status == 0
    assert run(tmp_path, *flags) == len(good) - 1


@needs_pool
def test_a_field_under_another_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = f"--model={POOL / 'models/gcp_babyweight_keras'}"
    good = rows_of("data/babyweight/keras_instances.jsonl")
    data = write_lines(
        tmp_path / "rows.jsonl", [{("Mother-Age" if name == "mother_age" else name): row[name] for name in row} for row in good]
    )
    checked = Checked(tmp_path, capsys, model, f"--input={data}")
    assert checked.status == 2
    misfit = checked.misfit("mother_age")
    assert (misfit["code"], misfit["found"], misfit["rows"]) == ("INPUT_MISSING", "no such field", len(good))
    assert "rename 'Mother-Age' to 'mother_age'" in misfit["fix"]
    assert len(checked.json["misfits"]) == 1
    assert run(tmp_path, model, f"--input={write_lines(tmp_path / 'mended.jsonl', good)}") == len(good)


@needs_pool
@pytest.mark.parametrize(
    ("model", "data", "fits"),
    [("digits_image_bytes", "digits/pixels.jsonl", ["pixels"]), ("five_signatures_no_default", "odd/java_ab.jsonl", ["add"])],
)
def test_the_wrong_signature(tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str, data: str, fits: list[str]) -> None:
    flags = (f"--model={POOL / 'models' / model}", f"--input={POOL / 'data' / data}")
    checked = Checked(tmp_path, capsys, *flags)
    assert checked.status == 2
    assert checked.json["fitting_signatures"] == fits
    assert f"give --signature_name={fits[0]}" in checked.printed
    assert run(tmp_path, *flags, f"--signature_name={fits[0]}") == len(rows_of(f"data/{data}"))


@needs_pool
def test_an_output_with_a_fixed_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_lines(tmp_path / "rows.jsonl", [{"inputs": [float(number)]} for number in range(6)])
    flags = (f"--model={POOL / 'models/half_plus_two_mkl/00000123'}", "--signature_name=regress_x2_to_y3", f"--input={data}")
    checked = Checked(tmp_path, capsys, *flags)
    assert checked.status == 2
    assert "--batch_size=1" in checked.json["reason"]
    assert Checked(tmp_path, capsys, *flags, "--batch_size=1").status == 0
    assert run(tmp_path, *flags, "--batch_size=1") == 6


@needs_pool
def test_the_path_of_an_image_instead_of_its_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = f"--model={POOL / 'models/digits_image_bytes'}"
    good = rows_of("data/digits/images.jsonl")
    bad = []
    for row in good:
        image = tmp_path / f"{row['key']}.png"
        image.write_bytes(base64.b64decode(row["image_bytes"]["b64"]))
        bad.append(row | {"image_bytes": str(image)})
    checked = Checked(tmp_path, capsys, model, f"--input={write_lines(tmp_path / 'rows.jsonl', bad)}")
    assert checked.status == 2
    misfit = checked.misfit("image_bytes")
    assert (misfit["code"], misfit["rows"]) == ("MODEL_ERROR", len(good))
    assert "holds the path of a file" in misfit["fix"]
    assert '{"b64": …}' in misfit["fix"]
    mended = [row | {"image_bytes": {"b64": base64.b64encode(Path(row["image_bytes"]).read_bytes()).decode()}} for row in bad]
    assert run(tmp_path, model, f"--input={write_lines(tmp_path / 'mended.jsonl', mended)}") == len(good)


def test_what_a_good_job_would_do(models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": f"row-{number}", "x": number, "s": "ab"[number % 2], "no": None} for number in range(500)]
    for place in range(5):
        write_lines(tmp_path / f"part-{place}.jsonl", rows[place::5])
    flags = (f"--model={models.get('two_outputs')}", f"--input={tmp_path}/part-*.jsonl")
    checked = Checked(tmp_path, capsys, *flags)
    assert checked.status == 0
    assert checked.json["sample"]["rows"] == 200
    assert checked.json["candidate_keys"] == ["id", "x"]
    assert checked.json["input"]["files"] == 5
    assert checked.json["input"]["formats"] == {"jsonl": 5}
    assert checked.json["input"]["splits"] == 1
    assert not checked.json["rows"]["counted"]
    assert checked.json["rows"]["count"] == pytest.approx(500, rel=0.02)
    first = json.loads(checked.json["sample"]["predictions"][0])
    assert first["prediction"]["upper"] == "A"
    types = {column["name"]: column["type"] for column in checked.json["bigquery_schema"]}
    assert types == {"key": "STRING", "double": "INT64", "root": "FLOAT64", "upper": "STRING", "upper_bytes": "BYTES"}
    assert {row["name"]: (row["role"], row["dtype"]) for row in checked.json["signature"]}["x"] == ("input", "int64")
    speed = checked.json["core_seconds_per_1000_rows"]
    assert speed.keys() == {"read", "convert", "predict", "write"}
    assert sum(speed.values()) > 0
    assert "estimated from bytes a row" in checked.printed
    assert f"read on {prices.READ_ON}" in checked.printed
    whole = Checked(tmp_path, capsys, *flags[:1], f"--input={tmp_path}/part-0.jsonl", "--sample_rows=100")
    assert (whole.json["rows"]["count"], whole.json["rows"]["counted"]) == (100, True)


def test_a_format_that_is_no_lines(models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(pa.table({"x": pa.array(np.arange(300), pa.float32())}), tmp_path / "rows.parquet")
    checked = Checked(tmp_path, capsys, f"--model={models.get('half_plus_two')}", f"--input={tmp_path}/rows.parquet")
    assert checked.status == 0
    assert checked.json["rows"] == {"count": 300, "counted": True}
    assert checked.json["core_seconds_per_1000_rows"]["read"] is None
    assert json.loads(checked.json["sample"]["predictions"][1])["prediction"] == 2.5


def test_columns_of_a_table_of_any_shape_and_style(models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """docs/formats.md, "BigQuery out": an output of higher rank is REPEATED, fields passed through are columns, ``*`` is none."""
    data = write_lines(tmp_path / "rows.jsonl", [{"id": "a", "x": [1.0, 2.0], "site": "north"}])
    flags = (f"--model={models.get('open_length')}", f"--input={data}", "--key_field=id", "--output_style=vertex")
    columns = [{"name": "key", "type": "STRING", "mode": "NULLABLE"}]
    columns += [{"name": "doubled", "type": "FLOAT64", "mode": "REPEATED"}, {"name": "total", "type": "FLOAT64", "mode": "NULLABLE"}]
    assert Checked(tmp_path, capsys, *flags, "--passthrough_fields=*").json["bigquery_schema"] == columns
    columns.append({"name": "site", "type": "STRING", "mode": "NULLABLE"})
    assert Checked(tmp_path, capsys, *flags, "--passthrough_fields=site").json["bigquery_schema"] == columns


def test_fewer_bad_rows_than_are_allowed_do_not_make_it_fail(models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 1.0}] * 19 + [{"x": "one"}])
    flags = (f"--model={models.get('half_plus_two')}", f"--input={data}")
    checked = Checked(tmp_path, capsys, *flags)
    assert checked.status == 0
    assert "holds text that is no number" in checked.misfit("x")["fix"]
    assert "1 of 20 sampled rows would fail" in checked.printed
    assert Checked(tmp_path, capsys, *flags, "--max_error_ratio=0").status == 2


def test_flags_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--sample_rows=none", "--model=m", "--input=i", "--output=o"]) == 2
    assert "--sample_rows=none: expected a whole number" in capsys.readouterr().err
    assert main(["run", "--json=f", "--model=m", "--input=i", "--output=o"]) == 2
    assert main(["check", "--help"]) == 0
    printed = capsys.readouterr().out
    assert "--sample_rows" in printed
    assert "usage: nightshift check" in printed


def test_the_estimate_is_a_range_of_hours_times_price() -> None:
    """A thousand million rows at 0.02 core seconds a thousand: 20,000 core seconds, by hand."""
    sample = Sample([], [], [], 200, 10**9, counted=False, speed=Speed(0.005, 0.005, 0.005, 0.005), model_mb=100)
    found = estimate(sample, InputPlan(100, 10**11, 3000, {"jsonl": 100}, True, ()))
    assert found is not None
    assert (found.workers, found.machine_type) == (3, "n2-standard-4")
    working = 20_000 / 4 / 3 / 3600
    assert found.hours == pytest.approx((working / 1.5 + 0.05, working / 0.5 + 1 / 6))
    hourly = 3 * (4 * 0.056 + 16 * 0.003557 + 25 * 0.000054)
    assert found.dollars == pytest.approx((found.hours[0] * hourly, found.hours[1] * hourly))
    large = estimate(Sample([], [], [], 1, 1, True, speed=Speed(None, 1, 1, 1), model_mb=5000), InputPlan(1, 1, 1, {}, True, ()))
    assert large is not None
    assert large.machine_type == "n2-highmem-4"


@pytest.mark.parametrize(
    ("value", "kind"), [(None, "null"), (True, "a boolean"), ([[1], [2]], "a list of 2 (a list of 1 (an integer first) first)")]
)
def test_kinds(value: Any, kind: str) -> None:
    assert kind_of(value) == kind
