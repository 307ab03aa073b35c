"""CSV with a header: blocks of rows → columns, keys and failed rows. A field's type is its input's, never guessed.

Rows that plainly hold what the signature asks for are parsed in one call by Arrow. Its parser takes more than the rules
allow (space around numbers, leading zeros, ``+1``, ``.5``, ``5.``, ``0x1F``, ``nan``), so a look at the bytes of all fields
that are not strings comes first. Rows that it doubts are written as JSON objects and read as those are.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from pyarrow import csv as arrow_csv

from transforms.convert import from_arrow
from transforms.convert.json_texts import join_members, quote
from transforms.elements.batches import InstanceBatch, RowTexts
from transforms.elements.columns import Column
from transforms.elements.failed_rows import FailedRow
from transforms.elements.splits import FileRange
from transforms.formats.blocks import Block
from transforms.formats.csv.cells import Cells
from transforms.formats.csv.checks import impossible_inputs
from transforms.formats.csv.merge import merge
from transforms.formats.csv.rows import CsvRows, Header, RowBlock, adjoin, read_header, read_rows, take_header
from transforms.formats.empty_batch import empty_batch
from transforms.formats.jsonl.reader import LineParser, row_too_long
from transforms.formats.needed_columns import find_twins
from transforms.rows.codes import Code, RowError
from transforms.rows.keys import join_keys, make_keys, take_key
from transforms.rows.row_spec import RowSpec
from transforms.runtime.read_ahead import read_ahead


class CsvReader:
    """Reads CSV files, or ranges of those that hold no quote."""

    def __init__(self, spec: RowSpec) -> None:
        self.spec = spec
        self.lines = LineParser(spec)

    def read(self, file_range: FileRange) -> Iterator[InstanceBatch]:
        # While Arrow parses one block, the next one's rows are found and looked at.
        blocks = self._look_at_rows(file_range)
        for parser, block, plain in read_ahead(blocks) if file_range.size_bytes > self.spec.limits.block_bytes else blocks:
            yield parser.parse(block, plain, file_range)

    def _look_at_rows(self, file_range: FileRange) -> Iterator[tuple[RowParser, RowBlock, PlainRows]]:
        header = read_header(file_range) if file_range.start > 0 else None
        parser = None
        for rows in read_rows(file_range, self.spec.limits):
            if not len(rows.texts):
                continue
            header = header or take_header(rows)
            parser = parser or RowParser(self.spec, header, self.lines)
            starts = rows.texts.starts
            first = int(np.searchsorted(rows.offset + starts, header.stop))  # past the header, where it is in this block
            while first < len(starts):
                last = min(first + self.lines.max_rows, int(np.searchsorted(starts, starts[first] + 2 * self.spec.limits.block_bytes)))
                block = rows.slice(first, last)
                yield parser, block, parser.find_plain(block)
                first = last


class PlainRows(NamedTuple):
    """The numbers of rows in a block that Arrow may parse, and their lines."""

    rows: np.ndarray
    lines: memoryview


class RowParser:
    """Makes batches of the rows below one header."""

    def __init__(self, spec: RowSpec, header: Header, lines: LineParser) -> None:
        self.spec, self.header, self.lines = spec, header, lines
        inputs = spec.signature.inputs
        self.places = header.places
        self.values = {tensor.name: tensor for tensor in inputs if tensor.dtype != "string"}
        self.missing = [tensor.name for tensor in inputs if tensor.name not in self.places]
        self.twins = find_twins(spec, header.names)
        named = self.places if "*" in spec.passthrough_fields else (*spec.key_fields, *spec.passthrough_fields)
        self.texts = {name for name in named if name in self.places}
        can_parse = (
            not self.missing
            and self.twins is None
            and not impossible_inputs(spec)
            and all(field in self.places for field in spec.key_fields)
        )
        self.types = self._types() if can_parse else {}
        self.guarded = {self.places[name]: tensor.dtype for name, tensor in self.values.items() if can_parse}

    def _types(self) -> dict[str, pa.DataType]:
        """Return how Arrow reads each needed column; one needed as text and as number is read as text first."""
        types = dict.fromkeys(self.texts, pa.string())
        for tensor in self.spec.signature.inputs:
            types.setdefault(tensor.name, _arrow_type(tensor.dtype))
        return {name: types[name] for name in sorted(types, key=self.places.__getitem__)}

    def parse(self, block: RowBlock, plain_rows: PlainRows, file_range: FileRange) -> InstanceBatch:
        """Return all rows of ``block``, as instances or failed rows; ``plain_rows`` are those that Arrow may parse."""
        rows = CsvRows(block.texts, block.malformed, self.header, frozenset(self.values))
        offsets = block.offsets
        empty = empty_batch(self.spec, file_range, size_bytes=_span(block.texts))
        if block.too_long:
            return self._failed(empty, rows, offsets, {0: row_too_long(self.spec.limits)})
        table = self._parse(plain_rows.lines) if len(plain_rows.rows) else None
        plain = plain_rows.rows
        if table is None or table.num_rows != len(plain):
            plain, table = plain[:0], None
        rest = np.delete(np.arange(len(rows)), plain)
        one_by_one = self.make_other_batch(rows.take(rest), offsets[rest], empty) if len(rest) else empty
        if table is None:
            return one_by_one
        return merge(self._plain_batch(table, rows.take(plain), offsets[plain], empty), one_by_one, rows, offsets)

    def _failed(self, batch: InstanceBatch, rows: CsvRows, offsets: np.ndarray, errors: dict[int, RowError]) -> InstanceBatch:
        """Return ``batch`` with failed rows more: those of ``errors``, none of which is an instance."""
        failed = []
        for row, error in errors.items():
            offset = int(offsets[row])
            failed.append(FailedRow.of(error, batch.source, offset, rows[row], self.spec.made_key(batch.source, offset)))
        return batch.with_failed(failed)

    # --- rows that Arrow may parse ---

    def find_plain(self, block: RowBlock) -> PlainRows:
        """Return the rows that are plainly what the signature asks for."""
        rows = np.flatnonzero(~block.malformed)
        if self.types and len(rows):
            texts, separators = adjoin(block.texts.take(rows) if block.malformed.any() else block.texts, block.separators)
            is_plain = self._plain_rows(texts, separators)
            if not is_plain.all():
                rows = rows[is_plain]
                texts, _ = adjoin(texts.take(np.flatnonzero(is_plain)), None)
            if len(rows):
                return PlainRows(rows, memoryview(texts.data)[texts.starts[0] : texts.stops[-1]])
        return PlainRows(rows[:0], memoryview(b""))

    def _plain_rows(self, texts: RowTexts, separators: np.ndarray) -> np.ndarray:
        """Return which rows Arrow reads by our rules, tested in slices that stay in the processor's cache."""
        firsts = np.searchsorted(texts.starts, np.arange(texts.starts[0], texts.stops[-1], self.spec.limits.scan_bytes))
        masks = []
        for first, last in itertools.pairwise(np.append(firsts, len(texts))):
            if first < last:
                start, stop = texts.starts[first], texts.stops[last - 1]
                inner = separators[slice(*np.searchsorted(separators, (start, stop)))] - start
                masks.append(Cells(texts.data[start:stop], inner, len(self.header.names)).plain_rows(self.guarded))
        return np.concatenate(masks)

    def _parse(self, data: memoryview) -> pa.Table | None:
        """Parse rows in one call; return None where one of them must be parsed alone."""
        places = [str(self.places[name]) for name in self.types]
        names = [str(place) for place in range(len(self.header.names))]
        try:
            table = arrow_csv.read_csv(
                pa.BufferReader(pa.py_buffer(data)),
                arrow_csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=names),
                arrow_csv.ParseOptions(newlines_in_values=True),
                arrow_csv.ConvertOptions(
                    column_types=dict(zip(places, self.types.values(), strict=True)),
                    include_columns=places,
                    null_values=[],
                    strings_can_be_null=False,
                    true_values=["true"],
                    false_values=["false"],
                ),
            )
            columns = {name: _array(table, place) for name, place in zip(self.types, places, strict=True)}
            for tensor in self.values.values():
                column = columns[tensor.name].cast(_arrow_type(tensor.dtype))
                if pt.is_floating(column.type) and not pc.all(pc.is_finite(column)).as_py():
                    return None  # a number beyond a double
                columns["input " + tensor.name] = column
        except pa.ArrowInvalid:
            return None
        return pa.table(columns)

    def _plain_batch(self, table: pa.Table, rows: CsvRows, offsets: np.ndarray, empty: InstanceBatch) -> InstanceBatch:
        """Make a batch of the rows that Arrow parsed."""
        columns: dict[str, Column] = {}
        errors: dict[int, RowError] = {}
        for tensor in self.spec.signature.inputs:
            column = _array(table, tensor.name if tensor.dtype == "string" else "input " + tensor.name)
            columns[tensor.name], column_errors = from_arrow.make_column(column, self.spec.signature, tensor)
            errors = column_errors | errors
        passthrough = {name: self._passthrough(table, name) for name in self.spec.passthrough_fields}
        batch = dataclasses.replace(
            empty, columns=columns, offsets=offsets, rows=rows, keys=self._keys(table, offsets, empty.source), passthrough=passthrough
        )
        return batch.fail(errors)

    def _keys(self, table: pa.Table, offsets: np.ndarray, source: str) -> pa.Array:
        if not self.spec.key_fields:
            return make_keys(source, offsets)
        keys = [self._json(table, field) for field in self.spec.key_fields]
        return join_keys(keys)

    def _json(self, table: pa.Table, name: str) -> pa.Array:
        column = _array(table, name)
        return column if name in self.values else quote(column)

    def _passthrough(self, table: pa.Table, name: str) -> pa.Array:
        if name != "*":
            return self._json(table, name) if name in self.texts else pa.array(["null"] * table.num_rows, pa.string())
        fields = [(name, self._json(table, name)) for name in self.types if name not in self.spec.left_out]
        return join_members(fields, table.num_rows)

    # --- rows that need a look ---

    def make_other_batch(self, rows: CsvRows, offsets: np.ndarray, empty: InstanceBatch) -> InstanceBatch:
        """Read rows as JSON objects with a member a column."""
        refused: dict[int, RowError] = {}
        objects: dict[int, bytes] = {}
        for row in range(len(rows)):
            try:
                text = rows.as_object(row)
                if self.twins is not None:
                    raise RowError(Code.COLUMN_TWICE, self.twins)
                if self.missing:
                    raise self._missing(text)
                objects[row] = text
            except RowError as error:
                refused[row] = error
        batch = self._read_objects(objects, rows, offsets, empty) if objects else empty
        return self._failed(batch, rows, offsets, refused)

    def _missing(self, text: bytes) -> RowError:
        tokens = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        key = take_key([bytes(tokens.get(field, b"")) for field in self.spec.key_fields], self.spec.key_fields)
        names = ", ".join(repr(name) for name in self.header.names[:10])
        lacking = ", ".join(repr(name) for name in self.missing)
        message = f"the header lacks the input{'s' * (len(self.missing) > 1)} {lacking}; it has {names}"
        return RowError(Code.INPUT_MISSING, message, self.missing[0], key)

    def _read_objects(self, objects: dict[int, bytes], rows: CsvRows, offsets: np.ndarray, empty: InstanceBatch) -> InstanceBatch:
        numbers = np.fromiter(objects, np.int64)
        starts = np.cumsum([0, *(len(text) + 1 for text in objects.values())])[:-1]
        file_range = FileRange(empty.source, 0, None, 0, empty.relative)
        (batch,) = self.lines.parse(Block(0, b"\n".join(objects.values())), file_range)
        instances = numbers[np.searchsorted(starts, batch.offsets)]
        failed = []
        for row in batch.failed:
            offset = int(offsets[numbers[np.searchsorted(starts, row.offset)]])
            key = self.spec.made_key(empty.source, offset) or row.key
            failed.append(dataclasses.replace(row, offset=offset, key=key))
        places = offsets[instances]
        keys = batch.keys if self.spec.key_fields else make_keys(empty.source, places)
        return dataclasses.replace(batch, offsets=places, rows=rows.take(instances), keys=keys, failed=failed, bytes=empty.bytes)


def _span(texts: RowTexts) -> int:
    return int(texts.stops[-1] - texts.starts[0]) + 1 if len(texts) else 0


def _arrow_type(dtype: str) -> pa.DataType:
    """Return the Arrow type that holds every value of ``dtype``; floats are rounded from doubles, as those of JSON are."""
    if dtype in ("string", "bool"):
        return pa.string() if dtype == "string" else pa.bool_()
    if "int" in dtype:
        return pa.uint64() if dtype == "uint64" else pa.int64()
    return pa.float64()


def _array(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name)
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
