"""A row's error on its way to the errors: its code, its message, the input that it is about, the row's key."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from transforms.elements.batches import InstanceBatch, RowTexts
from transforms.elements.failed_rows import FailedRow
from transforms.formats.jsonl.row import RowReader
from transforms.rows.codes import Code, RowError, Stage
from transforms.rows.row_spec import RowSpec
from transforms.specs.signature import Signature, TensorSpec

SIGNATURE = Signature("s", (), (TensorSpec("it's", "a", "float32", (None,)), TensorSpec("b", "b", "int32", (None,))), ())


@pytest.mark.parametrize(
    ("row", "code", "field"),
    [
        (b'{"k": 1}', Code.INPUT_MISSING, "it's"),
        (b'{"k": 1, "it\'s": 1}', Code.INPUT_MISSING, "b"),
        (b'{"k": 1, "it\'s": "1", "b": 1}', Code.WRONG_TYPE, "it's"),
        (b'{"k": 1, "it\'s": 1, "b": null}', Code.NULL_VALUE, "b"),
        (b'{"k": 1, "it\'s": 1, "b": 1e300}', Code.WRONG_TYPE, "b"),
        (b'{"k": 1, "it\'s": 1, "b": 4000000000}', Code.OUT_OF_RANGE, "b"),
        (b'{"k": 1, "it\'s": [1, [2]], "b": 1}', Code.WRONG_SHAPE, "it's"),
        (b'{"k": 1', Code.NOT_JSON, None),
    ],
)
def test_an_error_names_the_input_that_it_is_about(row: bytes, code: Code, field: str | None) -> None:
    with pytest.raises(RowError) as failure:
        RowReader(RowSpec(SIGNATURE, ("k",))).read(row)
    assert (failure.value.code, failure.value.field) == (code, field)
    assert failure.value.key == (b"" if code is Code.NOT_JSON else b"1")


def test_the_published_line_has_the_members_that_are_documented() -> None:
    row = FailedRow.of(RowError.of_input(Code.WRONG_TYPE, "x", "why"), "in", 7, b"no json", b'"k"')
    assert row.field == "x"
    assert json.loads(row.to_json()) == {
        "key": "k", "source": "in", "offset": 7, "stage": "convert", "code": "WRONG_TYPE", "message": "input 'x': why",
        "instance": {"b64": "bm8ganNvbg=="},
    }  # fmt: skip


def test_instances_that_fail_join_the_failed_rows_in_their_order() -> None:
    data = b"0123"
    batch = InstanceBatch(
        source="in",
        relative="in",
        columns={"x": np.arange(4)},
        offsets=np.array([0, 2, 4, 6]),
        rows=RowTexts(data, np.arange(4), np.arange(1, 5)),
        keys=pa.array(['"a"', '"b"', None, '"d"']),
        passthrough={},
        failed=[FailedRow.of(RowError(Code.NOT_JSON, "before"), "in", 1, b"?")],
        bytes=4,
    )
    assert batch.fail({}) is batch
    rest = batch.fail({2: RowError(Code.KEY_NULL, "no key"), 0: RowError.of_input(Code.NULL_VALUE, "x", "null")})
    assert (rest.columns["x"].tolist(), rest.keys.to_pylist()) == ([1, 3], ['"b"', '"d"'])
    assert [(row.offset, row.key, row.stage, row.instance, row.field) for row in rest.failed] == [
        (0, b'"a"', Stage.CONVERT, b"0", "x"),
        (1, b"", Stage.READ, b'{"b64":"Pw=="}', None),
        (4, b"", Stage.KEY, b"2", None),
    ]
