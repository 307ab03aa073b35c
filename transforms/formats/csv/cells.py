"""Where the fields of rows of CSV stand, and which of them read as JSON's numbers and booleans, all at once."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from transforms.convert.json_texts import is_utf8
from transforms.formats.blocks import BYTE_ORDER_MARK
from transforms.formats.csv.rows import NEWLINE, QUOTE, RETURN, inside

ZERO, MINUS, POINT = b"0-."
CASE = 0x20  # the bit that tells "E" from "e"
PADDING = b"\n\n"
# Of places at which fields start and at which they stop, which fields pass.
Test = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Cells:
    """The fields of well-formed rows that ``data`` holds, one row a line, as ``separators`` part them; of those rows only that
    have ``width`` fields."""

    def __init__(self, data: bytes, separators: np.ndarray, width: int) -> None:
        self.data = data
        self.view = np.frombuffer(data + PADDING, np.uint8)
        bounds = np.concatenate(([-1], separators, [len(data)]))
        lasts = np.flatnonzero(self.view[bounds[1:]] == NEWLINE)  # the padding ends the last row
        counts = np.diff(lasts, prepend=-1)
        self.row_stops = bounds[lasts + 1]
        self.right = counts == width
        self.starts, self.stops = bounds[:-1] + 1, bounds[1:]
        if not self.right.all():
            fields = np.repeat(self.right, counts)
            self.starts, self.stops = self.starts[fields], self.stops[fields]
        self.shape = -1, width

    def plain_rows(self, places: dict[int, str]) -> np.ndarray:
        """Return which rows hold numbers and booleans in the columns ``places`` (of a dtype each) as JSON writes them.

        Only what Arrow would take without a word is looked for; what else is wrong with a field it refuses itself.
        """
        starts, stops = self.starts.reshape(self.shape), self.stops.reshape(self.shape)
        is_plain = np.ones(len(starts), bool)
        for kind in dict.fromkeys(map(_kind, places.values())):
            columns = [place for place, dtype in places.items() if _kind(dtype) == kind]
            is_plain &= self._plain_fields(self._test(kind), starts[:, columns], stops[:, columns]).all(axis=1)
        is_plain[self._bare_points([place for place, dtype in places.items() if _kind(dtype) == "float"])] = False
        rows = self.right.copy()
        rows[rows] = is_plain
        return rows & ~self._doubtful()

    def _plain_fields(self, test: Test, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
        """Return which fields, by where they start and stop, pass a test: a mask."""
        passes = test(starts, stops)
        if b'"' in self.data and not passes.all():
            fields = np.nonzero(~passes)
            starts, stops = starts[fields], stops[fields]
            passes[fields] = (self.view[starts] == QUOTE) & (stops - starts >= 2) & test(starts + 1, stops - 1)
        return passes

    def _test(self, kind: str) -> Test:
        """Return a test: (starts, stops) → mask of the fields that read as ``kind``."""
        if kind == "bool":
            return self._are_booleans
        begins, is_digit = self._numbers_begin(kind), self.is_digit
        return lambda starts, stops: begins[starts] & is_digit[stops - 1]

    def _are_booleans(self, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
        first, length = self.view[starts], stops - starts
        return ((first == ord("t")) & (length == 4)) | ((first == ord("f")) & (length == 5))

    @functools.cached_property
    def is_digit(self) -> np.ndarray:
        """Return a mask of the bytes that are digits."""
        return self.view - np.uint8(ZERO) < 10  # unsigned: what is below zero is large

    def _numbers_begin(self, kind: str) -> np.ndarray:
        """Return where a number of JSON may begin, a mask of bytes; not ``-0``, an integer there, of which a float is 0.0, not -0.0."""
        view, is_digit = self.view, self.is_digit
        is_zero = view == ZERO
        begins = is_digit & ~is_zero
        minus = (view[:-1] == MINUS) & begins[1:]
        if kind == "float":
            begins[:-1] |= is_zero[:-1] & ~is_digit[1:]
            minus[:-1] |= (view[:-2] == MINUS) & is_zero[1:-1] & (view[2:] == POINT)
        else:
            begins[:-1] |= is_zero[:-1] & (view[1:] < MINUS)  # a comma, a line end or a quote
        if kind != "unsigned":
            begins[:-1] |= minus
        return begins

    def _bare_points(self, columns: list[int]) -> np.ndarray:
        """Return the rows with a field in ``columns`` that holds ``.e``, which Arrow takes for ``.0e``."""
        view = self.view[: len(self.data)]
        places = np.flatnonzero((view[:-1] == POINT) & (view[1:] | CASE == ord("e")))
        rows, fields = np.divmod(np.searchsorted(self.stops, places), self.shape[1])
        # In a row of another width it marks a neighbour, which only costs time.
        return rows[np.isin(fields, columns) & (rows < len(self.stops) // self.shape[1])]

    def _doubtful(self) -> np.ndarray:
        """Return which rows hold a carriage return outside of quotes, or bytes that are not UTF-8."""
        doubtful = np.zeros(len(self.right), bool)
        if b"\r" in self.data:  # Arrow takes one for a line end
            view = self.view[: len(self.data)]
            doubtful[np.searchsorted(self.row_stops, np.flatnonzero((view == RETURN) & ~inside(view == QUOTE)))] = True
        if not self.data.isascii():
            if self.data.startswith(BYTE_ORDER_MARK):  # Arrow passes over it, as at a file's beginning
                doubtful[0] = True
            if not is_utf8(self.data):
                starts = np.concatenate(([0], self.row_stops[:-1] + 1))
                doubtful |= [not is_utf8(self.data[start:stop]) for start, stop in zip(starts, self.row_stops, strict=True)]
        return doubtful


def _kind(dtype: str) -> str:
    """Return what the fields of an input of ``dtype`` are tested for."""
    if "int" in dtype:
        return "unsigned" if dtype.startswith("u") else "integer"
    return "bool" if dtype == "bool" else "float"
