"""Dates that Python has none for: texts, in rows, fields and lists, and never the end of a run."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jobs import lines, run
from saved_models import Models

from transforms.convert.python_values import python_values

# The last day that 32 bits of days since 1970 hold.
LAST_DAY = 2**31 - 1


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([0, LAST_DAY, None], pa.date32()), [datetime.date(1970, 1, 1), "5881580-07-11", None]),
        (pa.array([-719529], pa.date32()), ["-0001-12-31"]),
        (pa.array([10**18], pa.timestamp("us")), ["33658-09-27T01:46:40.000000"]),
        (pa.array([10**12], pa.timestamp("s", "UTC")), ["33658-09-27T01:46:40Z"]),
        (pa.array([[LAST_DAY], []], pa.list_(pa.date32())), [["5881580-07-11"], []]),
        (pa.array([{"a": LAST_DAY, "b": 1}], pa.struct({"a": pa.date32(), "b": pa.int8()})), [{"a": "5881580-07-11", "b": 1}]),
        (pa.array([[("k", LAST_DAY)]], pa.map_(pa.string(), pa.date32())), [[("k", "5881580-07-11")]]),
    ],
)
def test_values(array: pa.Array, expected: list[Any]) -> None:
    assert python_values(array) == expected


@pytest.mark.parametrize("style", ["keyed", "vertex"])
def test_a_row_with_a_far_date_is_predicted_or_fails_alone(models: Models, tmp_path: Path, style: str) -> None:
    """As a field passed through, in the instance of a row and in a failed row's."""
    days = pa.array([0, LAST_DAY, LAST_DAY], pa.date32())
    pq.write_table(pa.table({"x": pa.array([1.0, 2.0, None]), "until": days}), tmp_path / "in.parquet")
    flags = {"model": models.get("half_plus_two"), "input": tmp_path / "in.parquet", "output_style": style, "max_error_ratio": 0.5}
    assert run(tmp_path / "out", **flags, passthrough_fields="until") == 0
    assert [line["prediction"] for line in lines(tmp_path / "out")] == [2.5, 3.0]
    assert [line["until"] for line in lines(tmp_path / "out")] == ["1970-01-01", "5881580-07-11"]
    (failed,) = lines(tmp_path / "out", "prediction.errors")
    assert json.loads(json.dumps(failed["instance"])) == {"x": None, "until": "5881580-07-11"}


def test_a_far_date_feeds_a_text(models: Models, tmp_path: Path) -> None:
    """The model is fed the date, and never a placeholder for one: here it counts its bytes."""
    pq.write_table(pa.table({"text": pa.array([0, LAST_DAY], pa.date32())}), tmp_path / "in.parquet")
    assert run(tmp_path / "out", model=models.get("text_length"), input=tmp_path / "in.parquet") == 0
    assert [line["prediction"] for line in lines(tmp_path / "out")] == [len("1970-01-01"), len("5881580-07-11")]
