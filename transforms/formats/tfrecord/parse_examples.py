"""Serialized ``tf.Example``s → columns by the signature, with tfx-bsl's parser.

Its parser takes a batch or refuses it: one record that is no Example, or one feature with values of another kind than its
neighbours', and nothing is parsed. Such batches are halved until the guilty records are alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from transforms.convert import from_arrow
from transforms.convert.from_json import numpy_dtype
from transforms.convert.json_texts import scalar_texts
from transforms.convert.json_values import integer_bounds, out_of_range
from transforms.elements.columns import Column, spread
from transforms.formats.record_batches import json_text
from transforms.rows.codes import Code, RowError
from transforms.rows.row_spec import RowSpec
from transforms.specs.signature import TensorSpec

Errors = dict[int, RowError]


@dataclasses.dataclass
class Features:
    """The features of ``count`` records: tables of some rows each, and the rows that are no Examples."""

    count: int
    tables: list[tuple[np.ndarray, pa.RecordBatch]]
    errors: Errors

    @classmethod
    def none(cls, count: int) -> Features:
        """Return the features of records that were not parsed."""
        return cls(count, [], {})

    @property
    def names(self) -> list[str]:
        return sorted({name for _, table in self.tables for name in table.schema.names})

    def texts(self, name: str) -> list[bytes]:
        """Return a feature as JSON text, one value bare and several in a list; empty where a row lacks it."""
        texts = [b""] * self.count
        for rows, table in self.tables:
            place = table.schema.get_field_index(name)
            alike = _texts_alike(table.column(place)) if place >= 0 else None
            if alike is not None:
                texts[rows[0] : rows[0] + len(rows)] = alike
                continue
            for row, values in zip(rows, table.column(place).to_pylist(), strict=True) if place >= 0 else ():
                if values:
                    plain = [_plain(value, table.schema.field(place).type.value_type) for value in values]
                    texts[row] = json_text(plain[0] if len(plain) == 1 else plain)
        return texts


def _texts_alike(feature: pa.Array) -> list[bytes] | None:
    """Return the JSON texts of a feature that has one text or one integer in each of its records, else None."""
    if feature.null_count or not len(feature) or pc.any(pc.not_equal(pc.list_value_length(feature), 1)).as_py():
        return None
    values = feature.flatten()
    if pt.is_large_binary(values.type) or pt.is_binary(values.type):
        try:
            values = values.cast(pa.large_string())
        except pa.ArrowInvalid:  # some are not UTF-8
            return None
    texts = scalar_texts(values)
    as_bytes: list[bytes] | None = None if texts is None else texts.cast(pa.binary()).to_pylist()
    return as_bytes


def _plain(value: Any, kind: pa.DataType) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value
    if isinstance(value, float) and pt.is_float32(kind) and math.isfinite(value):
        return float(str(np.float32(value)))  # the shortest digits of its own dtype
    return value


class ExampleParser:
    """Parses records by a job's signature, keys and passthrough fields."""

    def __init__(self, spec: RowSpec) -> None:
        self.spec = spec
        # Fields may be of any kind, which a schema would have to name.
        fields = spec.key_fields or spec.passthrough_fields
        self.schemas = [None] if fields or spec.lone_string is not None else [_schema(spec.signature.inputs), None]
        self.decoders: dict[bytes | None, Any] = {}

    def parse(self, records: Sequence[bytes]) -> Features:
        """Return the features of ``records``, those of other names than the signature's only where fields are wanted."""
        parsed = Features.none(len(records))
        if records:
            self._parse(records, 0, parsed)
        return parsed

    def _parse(self, records: Sequence[bytes], first: int, parsed: Features) -> None:
        reason = ""
        for schema in self.schemas:
            try:
                parsed.tables.append((np.arange(first, first + len(records)), self._decode(schema, records)))
                return
            except (RuntimeError, ValueError) as error:
                reason = str(error)
        if len(records) == 1:
            parsed.errors[first] = RowError(Code.NOT_EXAMPLE, f"expected a serialized tf.Example: {reason}")
            return
        half = len(records) // 2
        self._parse(records[:half], first, parsed)
        self._parse(records[half:], first + half, parsed)

    def _decode(self, schema: bytes | None, records: Sequence[bytes]) -> pa.RecordBatch:
        from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder  # type: ignore[import-untyped]

        # After an error a decoder keeps what it had parsed, and gives it out with the next batch: it is used no more.
        decoder = self.decoders.pop(schema, None) or ExamplesToRecordBatchDecoder(schema)
        table = decoder.DecodeBatch(list(records))
        self.decoders[schema] = decoder
        return table

    def columns(self, parsed: Features) -> tuple[dict[str, Column], Errors]:
        """Return the signature's columns, and the errors of rows, whose cells are unspecified."""
        errors: Errors = {}
        columns: dict[str, Column] = {}
        for tensor in self.spec.signature.inputs:
            parts = [self._column(table, tensor) for _, table in parsed.tables]
            places = [rows for rows, _ in parsed.tables]
            for rows, (_, column_errors) in zip(places, parts, strict=True):
                errors = {int(rows[row]): error for row, error in column_errors.items()} | errors
            columns[tensor.name] = spread([column for column, _ in parts], places, parsed.count, numpy_dtype(tensor.dtype))
        return columns, errors

    def _column(self, table: pa.RecordBatch, tensor: TensorSpec) -> tuple[Column, Errors]:
        place = table.schema.get_field_index(tensor.name)
        array = table.column(place) if place >= 0 else pa.nulls(table.num_rows, pa.large_list(pa.null()))
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        shape = self._shape(tensor)
        expected = None if None in shape else math.prod(dim or 0 for dim in shape)
        missing = RowError(Code.INPUT_MISSING, f"the Example lacks the input {tensor.name!r}, or has no value for it", tensor.name)
        errors: Errors = {}
        if expected is None:
            errors = dict.fromkeys((int(row) for row in np.flatnonzero(pc.is_null(array).to_numpy(zero_copy_only=False))), missing)
        elif (lengths != expected).any():
            for row in map(int, np.flatnonzero(lengths != expected)):
                message = f"expected {expected} values, found {lengths[row]}"
                errors[row] = RowError.of_input(Code.WRONG_SHAPE, tensor.name, message) if lengths[row] else missing
        if tensor.dtype == "bool" and pt.is_integer(array.type.value_type):
            errors = _not_boolean(array, tensor) | errors
        rows = np.delete(np.arange(len(array)), list(errors))
        values = array.take(pa.array(rows)) if errors else array
        if tensor.dtype == "bool" and pt.is_integer(array.type.value_type):
            values = values.cast(pa.large_list(pa.bool_()))
        if not len(rows):
            return np.zeros(len(array), numpy_dtype(tensor.dtype)), errors
        column, column_errors = from_arrow.make_column(_nested(values, shape), self.spec.signature, tensor)
        errors |= {int(rows[row]): error for row, error in column_errors.items()}
        return spread([column], [rows], len(array), numpy_dtype(tensor.dtype)), errors

    def _shape(self, tensor: TensorSpec) -> tuple[int | None, ...]:
        """Return the shape of a row's values: a flat list in an Example, whatever the rank; of unknown rank, a flat list."""
        shapes = [shape for shape in self.spec.signature.row_shapes(tensor) if shape is not None]
        return shapes[0] if shapes else (None,)


def _not_boolean(array: pa.Array, tensor: TensorSpec) -> Errors:
    """Find the rows with an integer other than 0 and 1, which is how an Example holds a boolean."""
    flat = array.flatten().to_numpy(zero_copy_only=False)
    parents = pc.list_parent_indices(array).to_numpy()
    is_out = (flat < 0) | (flat > 1)
    return {int(row): out_of_range(tensor, value) for row, value in zip(parents[is_out], flat[is_out], strict=True)}


def impossible_inputs(spec: RowSpec) -> list[TensorSpec]:
    """Return the inputs that no feature can feed: of several open dimensions, complex, or of more digits than a feature holds."""
    if spec.lone_string is not None:
        return []
    shapes = {tensor.name: spec.signature.row_shapes(tensor)[0] or () for tensor in spec.signature.inputs}
    return [
        tensor
        for tensor in spec.signature.inputs
        if tensor.dtype.startswith("complex") or (None in shapes[tensor.name] and len(shapes[tensor.name]) > 1)
    ]


def why_not(spec: RowSpec, path: str) -> str | None:
    """Return why a job can't read records of tf.Examples, or None."""
    impossible = impossible_inputs(spec)
    if impossible:
        return f"{path}: no feature of a tf.Example can feed {', '.join(map(str, impossible))}; give the rows as JSON-lines"
    return None


def _nested(array: pa.Array, shape: tuple[int | None, ...]) -> pa.Array:
    """Flat lists as lists in lists of ``shape``; single values for an empty one."""
    if None in shape:
        return array
    nested = array.flatten()
    for dim in reversed(shape):
        nested = pa.FixedSizeListArray.from_arrays(nested, dim)
    return nested


def _schema(inputs: Sequence[TensorSpec]) -> bytes:
    from tensorflow_metadata.proto.v0 import schema_pb2

    schema = schema_pb2.Schema()
    for tensor in inputs:
        whole = integer_bounds(tensor.dtype) is not None or tensor.dtype == "bool"
        kind = schema_pb2.BYTES if tensor.dtype == "string" else schema_pb2.INT if whole else schema_pb2.FLOAT
        schema.feature.add(name=tensor.name, type=kind)
    return bytes(schema.SerializeToString())
