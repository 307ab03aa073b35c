"""Columns of one row an instance: put together, taken apart, dense where the rows agree in shape."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from transforms.convert.json_texts import join_members
from transforms.elements.columns import Column, Ragged, cells_of, join, spread, stack
from transforms.specs.signature import Shape, shape_text

BYTES = np.array([b"a\0", b"", b"\0"], object)


def same(column: Column, expected: Column) -> bool:
    if isinstance(column, Ragged) or isinstance(expected, Ragged):
        return (
            isinstance(column, Ragged) and isinstance(expected, Ragged) and list(map(equal, column.rows, expected.rows)).count(False) == 0
        )
    return equal(column, expected)


def equal(one: np.ndarray, two: np.ndarray) -> bool:
    return one.dtype == two.dtype and one.shape == two.shape and bool((one == two).all())


def test_rows_that_agree_make_a_dense_column() -> None:
    rows = [np.arange(3), np.zeros((), np.int64), np.arange(3) + 1]
    assert same(stack(rows, np.dtype(np.int64), {1}), np.array([[0, 1, 2], [0, 0, 0], [1, 2, 3]]))
    assert same(stack(rows, np.dtype(np.int64)), Ragged(rows))
    assert same(stack([], np.dtype(np.int64)), Ragged([]))


def test_columns_one_after_the_other() -> None:
    one, two = np.ones((2, 3)), np.ones((1, 4))
    assert join([one]) is one
    assert same(join([one, one]), np.ones((4, 3)))
    assert same(join([one, two]), Ragged([np.ones(3), np.ones(3), np.ones(4)]))
    assert same(join([Ragged([np.ones(5)]), two]), Ragged([np.ones(5), np.ones(4)]))


def test_columns_at_their_places() -> None:
    assert spread([BYTES], [np.arange(3)], 3, BYTES.dtype) is BYTES
    found = spread([np.ones((1, 2)), np.full((2, 2), 7.0)], [np.array([3]), np.array([0, 2])], 4, np.dtype(float))
    assert same(found, np.array([[7.0, 7.0], [0, 0], [7, 7], [1, 1]]))
    ragged = spread([np.ones((1, 2)), Ragged([np.ones(3)])], [np.array([1]), np.array([0])], 3, np.dtype(float))
    assert same(ragged, Ragged([np.ones(3), np.ones(2), np.zeros(())]))
    assert same(spread([np.ones((0, 2))], [np.array([], int)], 3, np.dtype(float)), np.zeros((3, 2)))


def test_cells_of_bytes_keep_their_last_zeros() -> None:
    assert [cell.item() for cell in cells_of(BYTES)] == [b"a\0", b"", b"\0"]
    assert [cell.item() for cell in cells_of(join([BYTES, np.ones((1, 1))]))][:3] == [b"a\0", b"", b"\0"]


@pytest.mark.parametrize(("shape", "text"), [(None, "[?]"), ((), "[]"), ((None, 3), "[?,3]")])
def test_a_shape_as_text(shape: Shape, text: str) -> None:
    assert shape_text(shape) == text


def test_columns_as_members_of_an_object_a_row() -> None:
    texts = join_members([('a"', pa.array(["1", "null"])), ("b", pa.array(['"x"', "[]"]))], 2)
    assert texts.to_pylist() == ['"a\\"": 1, "b": "x"', '"a\\"": null, "b": []']
    assert join_members([], 2).to_pylist() == ["", ""]
