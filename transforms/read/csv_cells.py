"""Where the fields of rows of CSV stand, and which of them read as JSON's numbers and booleans, all at once."""

from __future__ import annotations

import numpy as np

from transforms.read.blocks import BYTE_ORDER_MARK
from transforms.read.csv_rows import COMMA, NEWLINE, QUOTE, RETURN, inside

ZERO, MINUS, POINT = b"0-."
CASE = 0x20  # the bit that tells "E" from "e"
PADDING = b"\n\n"


class Cells:
    """The fields of well-formed rows that ``data`` holds, one row a line; of those rows only that have ``width`` of them."""

    def __init__(self, data: bytes, width: int) -> None:
        self.data = data
        self.view = np.frombuffer(data + PADDING, np.uint8)
        view = self.view[: len(data)]
        ends = (view == COMMA) | (view == NEWLINE)
        self.bare_returns = view == RETURN if b"\r" in data else None  # Arrow takes one for a line end
        if b'"' in data:
            outside = ~inside(view == QUOTE)
            ends &= outside
            self.bare_returns = None if self.bare_returns is None else self.bare_returns & outside
        bounds = np.concatenate(([-1], np.flatnonzero(ends), [len(data)]))
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
        """Tells which rows hold numbers and booleans in the columns ``places`` (of a dtype each) as JSON writes them.

        Only what Arrow would take without a word is looked for; what else is wrong with a field it refuses itself.
        """
        good = np.ones((len(self.starts) // self.shape[1], self.shape[1]), bool)
        starts, stops = self.starts, self.stops
        if b'"' in self.data:
            quoted = (self.view[starts] == QUOTE) & (stops - starts >= 2)
            starts, stops = starts + quoted, stops - quoted
        first = self.view[starts]
        minus = first == MINUS
        digits = starts + minus
        leading = self.view[digits]
        is_number = (stops > digits) & _are_digits(leading) & _are_digits(self.view[stops - 1])
        is_zero = leading == ZERO
        is_number &= ~(minus & is_zero & (stops - digits == 1))  # "-0" is an integer of JSON, of which a float is 0.0, not -0.0
        leading_zero = is_zero & (stops - digits > 1)
        as_integer = (is_number & ~leading_zero).reshape(self.shape)
        as_float = (is_number & ~(leading_zero & _are_digits(self.view[digits + 1])) & ~self._bare_points()).reshape(self.shape)
        for place, dtype in places.items():
            if dtype == "bool":
                some = slice(place, None, self.shape[1])
                length = stops[some] - starts[some]
                good[:, place] = ((first[some] == ord("t")) & (length == 4)) | ((first[some] == ord("f")) & (length == 5))
            else:
                good[:, place] = (as_integer if "int" in dtype else as_float)[:, place]
            if dtype.startswith("u"):
                good[:, place] &= ~minus[place :: self.shape[1]]
        rows = self.right.copy()
        rows[rows] = good.all(axis=1)
        return rows & ~self._doubtful()

    def _bare_points(self) -> np.ndarray | bool:
        """Marks the fields that hold ``.e``, which Arrow takes for ``.0e``."""
        view = self.view[: len(self.data)]
        places = np.flatnonzero((view[:-1] == POINT) & (view[1:] | CASE == ord("e")))
        if not len(places):
            return False
        bare = np.zeros(len(self.starts) + 1, bool)
        bare[np.searchsorted(self.stops, places)] = True  # in a row of another width it marks a neighbour, which only costs time
        return bare[:-1]

    def _doubtful(self) -> np.ndarray:
        """Tells which rows hold a carriage return outside of quotes, or bytes that are not UTF-8."""
        doubtful = np.zeros(len(self.right), bool)
        if self.bare_returns is not None:
            doubtful[np.searchsorted(self.row_stops, np.flatnonzero(self.bare_returns))] = True
        if not self.data.isascii():
            if self.data.startswith(BYTE_ORDER_MARK):  # Arrow passes over it, as at a file's beginning
                doubtful[0] = True
            if not _is_utf8(self.data):
                starts = np.concatenate(([0], self.row_stops[:-1] + 1))
                doubtful |= [not _is_utf8(self.data[start:stop]) for start, stop in zip(starts, self.row_stops, strict=True)]
        return doubtful


def _are_digits(view: np.ndarray) -> np.ndarray:
    return view - np.uint8(ZERO) < 10  # unsigned: what is below zero is large


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
