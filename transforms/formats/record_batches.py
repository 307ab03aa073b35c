"""Arrow record batches → batches of instances: what Parquet, Avro and their kin share."""

from __future__ import annotations

import decimal
import math
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from transforms.convert import from_arrow
from transforms.convert.json_texts import join_members, member_head, scalar_texts
from transforms.convert.python_values import python_values
from transforms.elements.batches import InstanceBatch
from transforms.elements.columns import Column
from transforms.elements.failed_rows import FailedRow
from transforms.elements.splits import FileRange
from transforms.formats.empty_batch import empty_batch
from transforms.formats.needed_columns import find_nested_twins, find_twins, twin_in
from transforms.formats.row_sizes import is_small, row_bytes, slices, value_bytes
from transforms.rows.codes import Code, RowError
from transforms.rows.keys import join_keys, make_keys, take_each
from transforms.rows.row_spec import RowSpec


def json_text(value: Any) -> bytes:
    """Return a value out of Arrow as JSON text.

    Bytes are ``{"b64": ...}``, decimals numbers with all their digits, dates and times ISO 8601 texts, NaN and infinities
    ``null``, and a map, which Arrow gives as pairs, a list of lists of two.
    """
    return msgspec.json.encode(_plain(value), enc_hook=str)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"b64": value}
    if isinstance(value, decimal.Decimal):
        return msgspec.Raw(format(value, "f").encode()) if value.is_finite() else None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    return value


class TableRows:
    """The rows of a table as JSON objects, each made only when asked for."""

    def __init__(self, table: pa.RecordBatch) -> None:
        self.table = table
        # Columns of records with two fields of one name, which no JSON object can be: they are left out.
        self.unnamed = {place for place, kind in enumerate(table.schema.types) if twin_in(kind) is not None}

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, row: int) -> bytes:
        names, table = self.table.schema.names, self.table.slice(int(row), 1)
        if len(set(names)) == len(names) and not self.unnamed:
            (values,) = python_values(table.to_struct_array())
            return json_text(values)
        columns = (
            (name, column) for place, (name, column) in enumerate(zip(names, table.columns, strict=True)) if place not in self.unnamed
        )
        fields = [member_head(name).encode() + json_text(python_values(column)[0]) for name, column in columns]
        return b"{" + b", ".join(fields) + b"}"  # each of two columns of one name, as they were read

    def take(self, index: np.ndarray) -> TableRows:
        return TableRows(self.table.take(pa.array(index)))


def needed_columns(spec: RowSpec, names: Sequence[str]) -> list[str]:
    """Return those of a table's columns ``names`` that a job needs, in the table's order; the others are not read."""
    if "*" in spec.passthrough_fields or spec.model_field is not None:
        return list(names)
    wanted = {tensor.name for tensor in spec.signature.inputs} | {*spec.key_fields, *spec.passthrough_fields}
    return [name for name in names if name in wanted]


def batch_rows(spec: RowSpec, row_bytes: float) -> int:
    """Return how many rows make a batch, where one takes ``row_bytes`` in the file."""
    limits = spec.limits
    by_tensors = limits.tensor_bytes // max(1, spec.signature.row_bytes)
    return max(1, min(limits.batch_rows, int(limits.batch_bytes / max(1.0, row_bytes)), by_tensors))


class TableBatcher:
    """Makes the instances of record batches by a job's signature, keys and passthrough fields."""

    def __init__(self, spec: RowSpec) -> None:
        self.spec = spec

    def batches(self, table: pa.RecordBatch, offsets: np.ndarray, file_range: FileRange, size_bytes: int) -> Iterator[InstanceBatch]:
        """Give the rows of ``table`` as ``batch`` does, no more at once than memory holds; a row that is too long to be unpacked fails."""
        limits = self.spec.limits
        if is_small(table, limits.unpacked_bytes):
            yield self.batch(table, offsets, file_range, size_bytes)
            return
        sizes = row_bytes(table)
        long = np.flatnonzero(sizes > limits.unpacked_bytes)
        if len(long):
            most = f"at most {limits.unpacked_bytes >> 20} MiB are possible"
            errors = [RowError(Code.ROW_TOO_LONG, f"the row takes {sizes[row]:,} bytes in memory; {most}") for row in long]
            # Of a row too long to hold, what is short is shown.
            short = [
                place
                for place, column in enumerate(table.columns)
                if not pt.is_nested(column.type) and value_bytes(column)[long].max() <= limits.shown_bytes
            ]
            shown = TableRows(table.select(short).take(pa.array(long)))
            failed = [
                self._lost(errors[place], shown[place] if short else b"null", int(offsets[row]), file_range)
                for place, row in enumerate(long)
            ]
            yield empty_batch(self.spec, file_range, failed)
            rest = np.delete(np.arange(table.num_rows), long)
            table, offsets, sizes = table.take(pa.array(rest)), offsets[rest], sizes[rest]
        for first, last in slices(sizes, limits.unpacked_bytes):
            share = size_bytes * (last - first) // len(sizes)
            yield self.batch(table.slice(first, last - first), offsets[first:last], file_range, share)

    def _lost(self, error: RowError, instance: bytes, offset: int, file_range: FileRange) -> FailedRow:
        """Make the failed row of one that nothing can be made of."""
        return FailedRow.of(error, file_range.path, offset, instance, self.spec.made_key(file_range.path, offset))

    def batch(self, table: pa.RecordBatch, offsets: np.ndarray, file_range: FileRange, size_bytes: int) -> InstanceBatch:
        """Return the rows of ``table`` as instances and failed rows; ``offsets`` are their places in the file."""
        twins = find_twins(self.spec, table.schema.names) or find_nested_twins(self.spec, table.schema)
        if twins is not None:
            return self.fail(table, offsets, file_range, size_bytes, RowError(Code.COLUMN_TWICE, f"{twins}"))
        wrong = rows_not_utf8(table)
        if len(wrong):
            return self._without(table, wrong, offsets, file_range, size_bytes)
        keys, errors = self._keys(table, file_range.path, offsets)
        columns: dict[str, Column] = {}
        for tensor in self.spec.signature.inputs:
            place = table.schema.get_field_index(tensor.name)
            if place < 0:
                names = ", ".join(table.schema.names[:10])
                missing = RowError(Code.INPUT_MISSING, f"there is no column {tensor.name!r}; there is {names}", tensor.name)
                columns[tensor.name] = np.zeros(table.num_rows)
                errors = dict.fromkeys(range(table.num_rows), missing) | errors
                continue
            columns[tensor.name], column_errors = from_arrow.make_column(table.column(place), self.spec.signature, tensor)
            errors = column_errors | errors
        passthrough = {name: self._passthrough(table, name) for name in self.spec.passthrough_fields}
        batch = InstanceBatch(
            file_range.path, file_range.relative, columns, offsets, TableRows(table), keys, passthrough, [], size_bytes
        )  # fmt: skip
        return batch.fail(errors)

    def fail(self, table: pa.RecordBatch, offsets: np.ndarray, file_range: FileRange, size_bytes: int, error: RowError) -> InstanceBatch:
        """Return a batch in which all rows of ``table`` have failed; their fields are not read, so only made keys are known."""
        rows = TableRows(table)
        failed = [self._lost(error, rows[row], int(offset), file_range) for row, offset in enumerate(offsets)]
        return empty_batch(self.spec, file_range, failed, size_bytes)

    def _without(
        self, table: pa.RecordBatch, wrong: np.ndarray, offsets: np.ndarray, file_range: FileRange, size_bytes: int
    ) -> InstanceBatch:
        """Return the batch without the rows of ``wrong``, whose text is not UTF-8; those fail."""
        rest = np.delete(np.arange(table.num_rows), wrong)
        batch = self.batch(table.take(pa.array(rest)), offsets[rest], file_range, size_bytes)
        error = RowError(Code.NOT_UTF8, "the row holds a text that is not UTF-8: write such a column as binary")
        as_bytes = TableRows(pa.RecordBatch.from_arrays([texts_as_bytes(column) for column in table.columns], table.schema.names))
        lost = [self._lost(error, as_bytes[row], int(offsets[row]), file_range) for row in wrong]
        return batch.with_failed(lost)

    def _keys(self, table: pa.RecordBatch, source: str, offsets: np.ndarray) -> tuple[pa.Array, dict[int, RowError]]:
        fields = self.spec.key_fields
        if not fields:
            return make_keys(source, offsets), {}
        columns = [_column(table, field) for field in fields]
        texts = [None if column is None or column.null_count else scalar_texts(column) for column in columns]
        plain = [text for text in texts if text is not None]
        if len(plain) == len(fields):
            return join_keys(plain), {}
        return take_each([_texts(column, table.num_rows).cast(pa.binary()).to_pylist() for column in columns], fields)

    def _passthrough(self, table: pa.RecordBatch, name: str) -> pa.Array:
        if name != "*":
            column = _column(table, name)
            return _texts(pa.nulls(table.num_rows) if column is None else column, table.num_rows)
        names = [name for name in table.schema.names if name not in self.spec.left_out]
        return join_members(((name, _texts(_column(table, name), table.num_rows)) for name in names), table.num_rows)


def rows_not_utf8(table: pa.RecordBatch) -> np.ndarray:
    """Return the rows with a text that is not UTF-8: neither writers of Parquet and Avro nor Arrow's reader check that."""
    columns = [column for column in map(_decoded, table.columns) if not _is_valid(column)]
    rows = range(table.num_rows) if columns else ()
    return np.array([row for row in rows if not all(_is_valid(column.slice(row, 1)) for column in columns)], np.int64)


def _is_valid(column: pa.Array) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def texts_as_bytes(column: pa.Array) -> pa.Array:
    """Return a column of texts as their bytes; a nested one as nulls."""
    column = _decoded(column)
    if pt.is_string(column.type) or pt.is_large_string(column.type):
        return column.cast(pa.large_binary())
    return pa.nulls(len(column)) if pt.is_nested(column.type) else column


def without_dictionaries(table: pa.RecordBatch) -> pa.RecordBatch:
    """Return a table whose columns hold their values, so that a few of its rows take no more than they are."""
    if not any(map(pt.is_dictionary, table.schema.types)):
        return table
    return pa.RecordBatch.from_arrays(list(map(_decoded, table.columns)), table.schema.names)


def _column(table: pa.RecordBatch, name: str) -> pa.Array | None:
    place = table.schema.get_field_index(name)
    return None if place < 0 else _decoded(table.column(place))


def _decoded(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pt.is_dictionary(column.type) else column


def _texts(column: pa.Array | None, rows: int) -> pa.Array:
    """Return a column's values as JSON texts; empty texts where the table has no such column."""
    if column is None:
        return pa.array([""] * rows, pa.string())
    texts = scalar_texts(column)
    if texts is None:
        return pa.array([json_text(value) for value in python_values(column)], pa.binary()).cast(pa.string())
    return pc.fill_null(texts, "null") if texts.null_count else texts
