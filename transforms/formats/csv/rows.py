"""Where the rows of a CSV file begin and end: RFC 4180, quoted fields with commas, doubled quotes and line ends.

A quote may open a field only at its beginning, and may close it only at its end. A line where it does otherwise is
malformed, and it alone: reading goes on with the next line.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import numpy as np

from transforms.elements.batches import RowTexts
from transforms.elements.splits import FileRange
from transforms.formats.blocks import BYTE_ORDER_MARK, read_blocks
from transforms.formats.damage import DamagedFileError
from transforms.formats.source import open_source
from transforms.rows.codes import Code, RowError
from transforms.specs.limits import DEFAULT_LIMITS, Limits

QUOTE, COMMA, NEWLINE, RETURN = b'",\n\r'
HEADER_READ_BYTES = 64 << 10

_QUOTED = rb'"[^"]*+(?:""[^"]*+)*+'  # without the quote that closes it
_FIELD = rb"(?:" + _QUOTED + rb'"|[^",\n]*+)'
ROW = re.compile(_FIELD + rb"(?:," + _FIELD + rb")*+(?=\r?(?:\n|\Z))")
OPEN_ROW = re.compile(rb"(?:" + _FIELD + rb",)*+" + _QUOTED + rb"\Z")
FIELD = re.compile(_FIELD)
# JSON's number, or a boolean: what a field that is not an input of strings may hold.
PLAIN_VALUE = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false")


@dataclasses.dataclass
class RowBlock:
    """Rows of a file, the first byte of whose data is at ``offset``; ``malformed`` tells which are lines with a quote out of place.

    ``separators`` are the commas and newlines that end the fields of ``texts.data``; None where a quote is out of place.
    ``scattered`` are the offsets of rows that do not follow each other in the file.
    """

    offset: int
    texts: RowTexts
    malformed: np.ndarray
    separators: np.ndarray | None = None
    too_long: bool = False
    scattered: np.ndarray | None = None

    @property
    def offsets(self) -> np.ndarray:
        """Return where each row begins in the file."""
        return self.offset + self.texts.starts if self.scattered is None else self.scattered

    def slice(self, first: int, last: int) -> RowBlock:
        rows = slice(first, last)
        texts = RowTexts(self.texts.data, self.texts.starts[rows], self.texts.stops[rows])
        scattered = None if self.scattered is None else self.scattered[rows]
        return dataclasses.replace(self, texts=texts, malformed=self.malformed[rows], scattered=scattered)


def read_rows(file_range: FileRange, limits: Limits = DEFAULT_LIMITS) -> Iterator[RowBlock]:
    """Yield the rows that begin in a range, in blocks of some MB; a row whose quotes are open waits for the next block.

    A quote that is not closed in ``limits.row_bytes``, or in the whole file, is malformed.

    Raises:
      DamagedFileError: after all whole rows before the damage were given.
    """
    parts: list[bytes] = []
    start = size = 0
    for block in read_blocks(file_range, limits):
        if block.too_long:
            if parts:
                yield find_rows(b"".join(parts), start, last=True, limits=limits)[0]
                parts = []
            whole = RowTexts(block.data, np.array([0]), np.array([len(block.data)]))
            yield RowBlock(block.offset, whole, np.zeros(1, bool), too_long=True)
            continue
        if not parts:
            start, size = block.offset, 0
        parts.append(block.data)
        size += len(block.data)
        if len(parts) > 1 and b'"' not in block.data and size < limits.row_bytes:
            continue
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        rows, used = find_rows(data, start, last=size >= limits.row_bytes, limits=limits)
        yield rows
        parts = [data[used:]] if used < len(data) else []
        start, size = start + used, len(data) - used
    if parts:
        yield find_rows(b"".join(parts), start, last=True, limits=limits)[0]


def find_rows(data: bytes, offset: int, last: bool, limits: Limits = DEFAULT_LIMITS) -> tuple[RowBlock, int]:
    """Return the rows of ``data``, without line ends and empty lines, and where the row with still open quotes begins.

    ``last``: nothing comes after ``data``, so that a quote that stays open is malformed.
    """
    view = np.frombuffer(data, np.uint8)
    separators = find_separators(data, limits.scan_bytes)
    if (separators.is_open and last) or not (separators.is_plain or _well_placed(view, np.flatnonzero(view == QUOTE))):
        return scan(data, offset, last)
    places = separators.places
    stops = places[view[places] == NEWLINE]
    used = len(data)
    if separators.is_open:
        used = int(stops[-1]) + 1 if len(stops) else 0
    starts = np.concatenate(([0], stops + 1))
    if used == len(data) and starts[-1] < len(data):
        stops = np.append(stops, len(data))
    return _block(data, offset, starts[: len(stops)], stops, np.zeros(len(stops), bool), places), used


class Separators(NamedTuple):
    """The commas and newlines outside of quotes; whether a quote is open at the end; and whether each quote begins or ends a field."""

    places: np.ndarray
    is_open: bool
    is_plain: bool


def find_separators(data: bytes, scan_bytes: int = DEFAULT_LIMITS.scan_bytes) -> Separators:
    """Return where the fields of rows end, looking at ``scan_bytes`` at a time."""
    view = np.frombuffer(data, np.uint8)
    has_quote = b'"' in data
    is_open, quotes, at_borders = False, 0, 0
    places = [np.empty(0, np.int64)]
    before = True, False  # whether the byte before a part ends a field, and whether it is a quote
    for start in range(0, len(view), scan_bytes):
        part = view[start : start + scan_bytes]
        ends = (part == COMMA) | (part == NEWLINE)
        if has_quote:
            is_quote = part == QUOTE
            is_inside = inside(is_quote, is_open)
            ends &= ~is_inside
            is_open = bool(is_inside[-1])
            quotes += int(np.count_nonzero(is_quote))
            at_borders += int(np.count_nonzero(is_quote[1:] & ends[:-1]) + np.count_nonzero(is_quote[:-1] & ends[1:]))
            at_borders += (bool(is_quote[0]) and before[0]) + (bool(ends[0]) and before[1])
            before = bool(ends[-1]), bool(is_quote[-1])
        places.append(np.flatnonzero(ends) + start)
    at_borders += before[1] and not is_open  # the data's end ends a field
    return Separators(np.concatenate(places), is_open, quotes == at_borders)


def _block(
    data: bytes, offset: int, starts: np.ndarray, stops: np.ndarray, malformed: np.ndarray, separators: np.ndarray | None = None
) -> RowBlock:
    view = np.frombuffer(data, np.uint8)
    filled = stops > starts
    starts, stops, malformed = starts[filled], stops[filled], malformed[filled]
    stops = stops - (view[stops - 1] == RETURN)
    filled = stops > starts
    return RowBlock(offset, RowTexts(data, starts[filled], stops[filled]), malformed[filled], separators)


def _well_placed(view: np.ndarray, quotes: np.ndarray) -> bool:
    """Return whether every quote opens, closes or is doubled: of each two the first is at a field's begin or after another, and so on."""
    opening, closing = quotes[::2], quotes[1::2]
    padded = np.concatenate((view, np.array([NEWLINE, NEWLINE], np.uint8)))  # also found at place -1
    before, after = padded[opening - 1], padded[closing + 1]
    ends_line = (after == RETURN) & (padded[np.minimum(closing + 2, len(view))] == NEWLINE)
    return bool(np.isin(before, (COMMA, NEWLINE, QUOTE)).all() and (np.isin(after, (COMMA, NEWLINE, QUOTE)) | ends_line).all())


def scan(data: bytes, offset: int, last: bool) -> tuple[RowBlock, int]:
    """Find the rows as ``find_rows`` does where some quote is out of place, slowly, and whose it is."""
    starts, stops, malformed = [], [], []
    place = 0
    while place < len(data):
        row = ROW.match(data, place)
        if row is None and not last and OPEN_ROW.match(data, place):
            break
        end = data.find(b"\n", place if row is None else row.end())
        starts.append(place)
        stops.append(end if end >= 0 else len(data))
        malformed.append(row is None)
        place = stops[-1] + 1
    return _block(data, offset, np.array(starts, np.int64), np.array(stops, np.int64), np.array(malformed, bool)), min(place, len(data))


def inside(marks: np.ndarray, is_open: bool = False) -> np.ndarray:
    """Return for each place whether an odd number of ``marks`` is at it or before it: a third of the time of xor's own ``accumulate``.

    Within words of 64 places by doubling shifts, then from word to word. ``is_open``: one more stands before all places.
    """
    words = np.zeros(-(-len(marks) // 64), np.uint64)
    words.view(np.uint8)[: -(-len(marks) // 8)] = np.packbits(marks, bitorder="little")
    for shift in (1, 2, 4, 8, 16, 32):
        words ^= words << np.uint64(shift)
    odd = np.bitwise_xor.accumulate(words >> np.uint64(63))
    words[1:] ^= odd[:-1] * np.uint64(2**64 - 1)
    if is_open:
        words = ~words
    return np.unpackbits(words.view(np.uint8), count=len(marks), bitorder="little").view(bool)


def adjoin(texts: RowTexts, separators: np.ndarray | None) -> tuple[RowTexts, np.ndarray]:
    """Return well-formed rows one after another, a newline between each two, and where the fields of their data end."""
    starts, stops = texts.starts, texts.stops
    if separators is not None and np.array_equal(starts[1:], stops[:-1] + 1):
        return texts, separators
    data = b"\n".join([texts[row] for row in range(len(texts))])
    lengths = stops - starts
    stops = np.cumsum(lengths + 1) - 1
    return RowTexts(data, stops - lengths, stops), find_separators(data).places


def split_row(text: bytes) -> list[bytes]:
    """Return the fields of a row that is not malformed, without their quotes."""
    if b'"' not in text:
        return text.split(b",")
    fields, place = [], -1
    while place < len(text):
        match = FIELD.match(text, place + 1)
        assert match is not None
        field = match[0]
        fields.append(field[1:-1].replace(b'""', b'"') if field[:1] == b'"' else field)
        place = match.end()
    return fields


@dataclasses.dataclass(frozen=True)
class Header:
    """The names of a file's columns, and the byte at which the row of names ends."""

    names: tuple[str, ...]
    stop: int

    @property
    def places(self) -> dict[str, int]:
        """Return each name's column; of two columns of one name, which no one may need, the last."""
        return {name: place for place, name in enumerate(self.names)}


def take_header(rows: RowBlock) -> Header:
    """Return the header that is the first row of ``rows``.

    Raises:
      DamagedFileError: it is none.
    """
    start = rows.offset + int(rows.texts.starts[0])
    if rows.too_long or rows.malformed[0]:
        raise DamagedFileError(start, "its first line is no header of a CSV file")
    try:
        names = tuple(field.decode("utf-8") for field in split_row(rows.texts[0]))
    except UnicodeDecodeError as error:
        raise DamagedFileError(start, f"its first line, the header, is not UTF-8: {error.reason} at byte {error.start}") from None
    return Header(names, rows.offset + int(rows.texts.stops[0]))


def read_header(file_range: FileRange) -> Header | None:
    """Return the header of the uncompressed file of a range, from a look at its beginning; None where it holds no row.

    Raises:
      DamagedFileError: the first row is no header.
    """
    data = b""
    with open_source(file_range) as stream:
        while True:
            block = stream.read(HEADER_READ_BYTES)
            data += block
            mark = len(BYTE_ORDER_MARK) if data.startswith(BYTE_ORDER_MARK) else 0
            lines = data[mark:] if not block else data[mark : data.rfind(b"\n") + 1]
            rows, _ = find_rows(lines, mark, last=not block)
            if len(rows.texts):
                return take_header(rows)
            if not block:
                return None


class CsvRows:
    """Rows of CSV as JSON objects by the header, each made only when asked for; a line that is no row, as a JSON string.

    A field is a number or boolean where it reads as one and its column is an input of another dtype than string, null
    where such a field is empty, and a string as it stands everywhere else.
    """

    def __init__(self, texts: RowTexts, malformed: np.ndarray, header: Header, values: frozenset[str]) -> None:
        self.texts, self.malformed, self.header, self.values = texts, malformed, header, values

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, row: int) -> bytes:
        text = self.texts[row]
        try:
            return self.as_object(row)
        except RowError:
            pass
        try:
            return msgspec.json.encode(text.decode("utf-8"))
        except UnicodeDecodeError:
            return msgspec.json.encode({"b64": text})

    def take(self, index: np.ndarray) -> CsvRows:
        return CsvRows(self.texts.take(index), self.malformed[index], self.header, self.values)

    def as_object(self, row: int) -> bytes:
        """Return a row as a JSON object.

        Raises:
          RowError: NOT_UTF8, or NOT_CSV where a quote is out of place or the fields are not as many as the header's.
        """
        text = self.texts[row]
        try:
            text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise RowError(Code.NOT_UTF8, f"the row is not UTF-8: {error.reason} at byte {error.start}") from None
        if self.malformed[row]:
            raise RowError(Code.NOT_CSV, "a quote is not closed, or stands inside a field that is not quoted, or text follows one that is")
        fields = split_row(text)
        if len(fields) != len(self.header.names):
            raise RowError(Code.NOT_CSV, f"the row has {len(fields)} fields, the header {len(self.header.names)}")
        pairs = zip(self.header.names, fields, strict=True)
        return b"{" + b", ".join(msgspec.json.encode(name) + b": " + self._value(name, field) for name, field in pairs) + b"}"

    def _value(self, name: str, field: bytes) -> bytes:
        if name not in self.values:
            return msgspec.json.encode(field.decode("utf-8"))
        if not field:
            return b"null"
        return field if PLAIN_VALUE.fullmatch(field) else msgspec.json.encode(field.decode("utf-8"))
