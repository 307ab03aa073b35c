"""JSON-lines: blocks of lines → columns, keys and failed rows.

A block is parsed in one call with a type made from the signature. Where that fails, or where a line is not plainly one
JSON value, the block's lines are looked at one by one, and each ends as an instance or as a failed row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from transforms.convert import from_json
from transforms.elements.batches import InstanceBatch, RowTexts
from transforms.elements.columns import Column
from transforms.elements.failed_rows import FailedRow, on_one_line
from transforms.elements.splits import FileRange
from transforms.formats.blocks import Block, read_blocks
from transforms.formats.jsonl.row import LONG_ROW_BYTES, RowReader
from transforms.rows.codes import Code, RowError
from transforms.rows.keys import make_keys, take_each
from transforms.rows.row_spec import RowSpec
from transforms.specs.limits import Limits

NEWLINE, SPACE, TAB, RETURN = b"\n \t\r"
IS_SPACE = np.isin(np.arange(256), (SPACE, TAB, RETURN))  # by a byte's value
CLOSING = {ord("{"): ord("}"), ord("["): ord("]"), ord('"'): ord('"')}


@dataclasses.dataclass
class _Parsed:
    """Rows parsed: their line numbers, one list of values (or the column itself) an input, one list of JSON texts a field."""

    lines: np.ndarray
    values: dict[str, Sequence[Any] | np.ndarray]
    tokens: dict[str, Sequence[bytes]]


class JsonLinesReader:
    """Reads files of JSON-lines, or ranges of them."""

    def __init__(self, spec: RowSpec) -> None:
        self.parser = LineParser(spec)

    def read(self, file_range: FileRange) -> Iterator[InstanceBatch]:
        for block in read_blocks(file_range, self.parser.spec.limits):
            yield from self.parser.parse(block, file_range)


class LineParser:
    """Makes batches of the blocks of a file; one a process, since making its types costs milliseconds."""

    def __init__(self, spec: RowSpec) -> None:
        self.spec = spec
        self.row_reader = RowReader(spec)
        self.max_rows = max(1, spec.limits.tensor_bytes // max(1, spec.signature.row_bytes))

    def parse(self, block: Block, file_range: FileRange) -> Iterator[InstanceBatch]:
        """Yield the batches of ``block``: every line that is not blank is in one of them, as instance or failed row."""
        if block.too_long:
            whole = RowTexts(block.data, np.array([0]), np.array([len(block.data)]))
            yield self._batch(block, whole, file_range)
            return
        starts, stops = find_lines(block.data, keep_space=self.spec.lone_string is not None)
        for first in range(0, len(starts), self.max_rows):
            last = first + self.max_rows
            yield self._batch(block, RowTexts(block.data, starts[first:last], stops[first:last]), file_range)

    def _batch(self, block: Block, texts: RowTexts, file_range: FileRange) -> InstanceBatch:
        source = file_range.path
        failed: list[FailedRow] = []

        def lose(line: int, error: RowError) -> None:
            """Keep the failed row of a line that is no instance, not its error: with a traceback a row takes twice the time."""
            offset = int(block.place(texts.starts[line]))
            failed.append(FailedRow.of(error, source, offset, texts[line], self.spec.made_key(source, offset)))

        if block.too_long:
            lose(0, row_too_long(self.spec.limits))
            parsed = self._parse_lines(texts.take(np.empty(0, np.int64)), lose)
        else:
            parsed = self._parse_block(texts) or self._parse_lines(texts, lose)
        offsets = block.place(texts.starts[parsed.lines])
        keys, bad_keys = self._keys(parsed, source, offsets)
        columns: dict[str, Column] = {}
        errors: dict[int, RowError] = {}
        for spec in self.spec.signature.inputs:
            columns[spec.name], column_errors = from_json.make_column(parsed.values[spec.name], self.spec.signature, spec)
            errors = column_errors | errors
        batch = InstanceBatch(
            source=source,
            relative=file_range.relative,
            columns=columns,
            offsets=offsets,
            rows=texts if len(parsed.lines) == len(texts) else texts.take(parsed.lines),
            keys=keys,
            passthrough={name: _texts(name, parsed.tokens.get(name, ())) for name in self.spec.passthrough_fields},
            failed=failed,
            bytes=int(texts.stops[-1] - texts.starts[0]) + 1 if len(texts) else 0,
        )
        return batch.fail(errors | bad_keys)

    def _keys(self, parsed: _Parsed, source: str, offsets: np.ndarray) -> tuple[pa.Array, dict[int, RowError]]:
        fields = self.spec.key_fields
        if not fields:
            return make_keys(source, offsets), {}
        return take_each([parsed.tokens.get(field, ()) for field in fields], fields)

    def _parse_block(self, texts: RowTexts) -> _Parsed | None:
        """Parse all lines in one call; return None where a line must be parsed alone.

        The parser reads values, not lines: it would take ``{"x":1}{"x":2}`` for two rows and an object over two lines
        for one. That every line begins and ends as one value does, and that there are as many values as lines, rules
        both out: after a line that closes an object, list or string, no other can open inside it.
        """
        if not len(texts) or (len(texts.data) > LONG_ROW_BYTES and (texts.stops - texts.starts).max() > LONG_ROW_BYTES):
            return None
        view = np.frombuffer(texts.data, np.uint8)
        opening, closing = view[texts.starts], view[texts.stops - 1]
        first = int(opening[0])
        if first not in CLOSING or (opening != first).any() or (closing != CLOSING[first]).any():
            return None
        start, stop = int(texts.starts[0]), int(texts.stops[-1])
        whole = start == 0 and stop >= len(texts.data) - len(b"\r\n")  # then a slice would only be a copy
        parsed = self.row_reader.parse_typed(texts.data if whole else texts.data[start:stop], len(texts))
        return None if parsed is None else _Parsed(np.arange(len(texts)), *parsed)

    def _parse_lines(self, texts: RowTexts, lose: Callable[[int, RowError], None]) -> _Parsed:
        """Parse the lines one by one; call ``lose`` with the number and the error of each that is no instance."""
        names = [spec.name for spec in self.spec.signature.inputs]
        lines: list[int] = []
        values: dict[str, list[Any]] = {name: [] for name in names}
        tokens: dict[str, list[bytes]] = {name: [] for name in self.row_reader.token_fields}
        for number in range(len(texts)):
            try:
                row = self.row_reader.read(texts[number])
            except RowError as error:
                lose(number, error)
                continue
            lines.append(number)
            for name in names:
                values[name].append(row.values[name])
            for name, column in tokens.items():
                column.append(row.tokens.get(name, b""))
        return _Parsed(np.array(lines, np.int64), dict(values), dict(tokens))


def row_too_long(limits: Limits) -> RowError:
    """Make the error of a row of text that was not read whole."""
    return RowError(Code.ROW_TOO_LONG, f"the row is longer than {limits.row_bytes >> 20} MiB; its first bytes are kept as the instance")


def find_lines(data: bytes, keep_space: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return where the lines of ``data`` start and stop, without line ends and blank lines.

    Also without the space around them, unless it is kept for a model that takes a line as it stands.
    """
    if data.isspace() and b"\v" not in data and b"\f" not in data:  # a few bytes unpack to gigabytes of line ends; ends at the first other
        return np.empty(0, np.int64), np.empty(0, np.int64)
    view = np.frombuffer(data, np.uint8)
    stops = np.flatnonzero(view == NEWLINE)
    if not len(data) or data[-1] != NEWLINE:
        stops = np.append(stops, len(data))
    starts, stops = _filled(np.concatenate(([0], stops[:-1] + 1)), stops)
    if not (IS_SPACE[view[starts]].any() or IS_SPACE[view[stops - 1]].any()):
        return starts, stops
    starts, stops = _filled(starts, stops - (view[stops - 1] == RETURN))
    lines = starts, stops = starts.astype(np.int64), stops.astype(np.int64)
    if keep_space:
        starts, stops = starts.copy(), stops.copy()
    for line in np.flatnonzero(IS_SPACE[view[starts]] | IS_SPACE[view[stops - 1]]):
        text = data[starts[line] : stops[line]]
        content = text.lstrip(b" \t\r")
        starts[line] += len(text) - len(content)
        stops[line] = starts[line] + len(content.rstrip(b" \t\r"))
    filled = stops > starts
    return (lines[0][filled], lines[1][filled]) if keep_space else (starts[filled], stops[filled])


def _filled(starts: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leave out lines of no bytes."""
    filled = stops > starts
    return (starts, stops) if filled.all() else (starts[filled], stops[filled])


def _texts(name: str, tokens: Sequence[bytes]) -> pa.Array:
    absent = b"" if name == "*" else b"null"
    return pa.array([on_one_line(token) or absent for token in tokens], pa.binary()).cast(pa.string())
