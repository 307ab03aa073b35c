"""The encoder of predictions as Parquet shards of a load into BigQuery, with the columns of its table."""

from __future__ import annotations

import base64
import datetime
import decimal
import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from google.cloud import bigquery

from transforms.convert.content_digest import Content
from transforms.convert.output_columns import TableSpec, make_table
from transforms.convert.refuse_rows import refuse
from transforms.convert.to_arrow import as_text, not_utf8, output_array, refuse_unfit
from transforms.elements.batches import PredictionBatch
from transforms.formats.parquet.writer import ParquetEncoder
from transforms.formats.protocols import Sink
from transforms.rows.codes import Code
from transforms.rows.keys import split_keys
from transforms.specs.errors import SpecError
from transforms.specs.job import JobSpec

# BigQuery has no array of arrays: each array but the innermost holds records with this one field.
INNER = "values"
# https://cloud.google.com/bigquery/docs/schemas#column_names, without the names that need quoting in a query.
COLUMN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,299}")


class TableEncoder(ParquetEncoder):
    """Writes a job's predictions as Parquet files that BigQuery loads with ``fields``."""

    def __init__(self, job: JobSpec) -> None:
        self.table = make_table(job.output_signature, job.output, job.key.fields)
        self.types = column_types(self.table, job)
        self.schema = pa.schema(list(self.types.items()))
        self.fields = [schema_field(name, kind) for name, kind in self.types.items()]
        self._repeating = [column.name for column in self.table.outputs if column.is_text and not column.rank]
        _check_names(list(self.types))

    @property
    def content(self) -> str:
        return self._content.digest

    def open(self, stream: Sink) -> None:
        super().open(stream)
        self._content = Content()

    def _add(self, rows: pa.RecordBatch) -> None:
        self._content.add(rows)
        super()._add(rows)

    def refuse(self, batch: PredictionBatch) -> PredictionBatch:
        batch = refuse_unfit(batch, self.table, not_utf8)
        reasons: dict[int, str] = {}
        for name, texts in self._texts(batch).items():
            try:
                typed(texts, self.types[name])
            except UNFIT:
                reasons |= {row: f"field {name!r}: {value}" for row, value in _unfit(texts, self.types[name]).items()}
        return refuse(batch, Code.OUTPUT_DOES_NOT_FIT, reasons)

    def _columns(self, batch: PredictionBatch) -> pa.RecordBatch:
        columns = {name: typed(texts, self.types[name]) for name, texts in self._texts(batch).items()}
        for column in self.table.outputs:
            columns[column.name] = _wrap(output_array(batch.outputs[column.name], column)).cast(self.types[column.name])
        return pa.RecordBatch.from_arrays([columns[name] for name in self.types], schema=self.schema)

    def _texts(self, batch: PredictionBatch) -> dict[str, pa.Array]:
        """Return the JSON texts of key and passthrough fields, one array of ``len(batch)`` texts a column."""
        rows = pa.array(batch.instance_rows, pa.int64())
        columns = split_keys(batch.instances.keys.take(rows), self.table.keys)
        return columns | {name: batch.instances.passthrough[name].take(rows) for name in self.table.passthrough}


def column_types(table: TableSpec, job: JobSpec) -> dict[str, pa.DataType]:
    """Return the Arrow types of the columns of ``table`` as BigQuery loads them: key, outputs, fields passed through."""
    types = dict(job.field_types)
    key_types = [types.get(field) for field in job.key.fields] or [None]
    return {
        **{name: table_type(kind) for name, kind in zip(table.keys, key_types, strict=True)},
        **{column.name: output_type(column.type) for column in table.outputs},
        **{name: table_type(types.get(name)) for name in table.passthrough},
    }


def _check_names(names: Sequence[str]) -> None:
    """Refuse names that BigQuery does not take as columns, or takes as one column."""
    for name in names:
        if not COLUMN_NAME.fullmatch(name):
            raise SpecError(
                "output_format",
                f"{name!r} can't be a column of BigQuery: expected up to 300 letters, digits and '_', no digit first. Rename it",
            )
    lower = [name.lower() for name in names]
    twice = [name for name in names if lower.count(name.lower()) > 1]
    if twice:
        raise SpecError("output_format", f"{', '.join(twice)} are one column to BigQuery, which does not tell upper from lower case")


# --- types -------------------------------------------------------------------------------------------------------------------

SCALARS: tuple[tuple[Callable[[pa.DataType], bool], str, pa.DataType], ...] = (
    (pt.is_boolean, "BOOL", pa.bool_()),
    (pt.is_uint64, "NUMERIC", pa.decimal128(38, 9)),
    (pt.is_integer, "INT64", pa.int64()),
    (pt.is_floating, "FLOAT64", pa.float64()),
    (pt.is_decimal128, "NUMERIC", pa.decimal128(38, 9)),
    (pt.is_decimal256, "BIGNUMERIC", pa.decimal256(76, 38)),
    (pt.is_string, "STRING", pa.string()),
    (pt.is_large_string, "STRING", pa.string()),
    (lambda kind: pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_fixed_size_binary(kind), "BYTES", pa.binary()),
    (lambda kind: pt.is_timestamp(kind) and kind.tz is not None, "TIMESTAMP", pa.timestamp("us", "UTC")),
    (pt.is_timestamp, "DATETIME", pa.timestamp("us")),
    (pt.is_date, "DATE", pa.date32()),
    (pt.is_time, "TIME", pa.time64("us")),
)


# NUMERIC and BIGNUMERIC; each type of Arrow holds all values of its SQL type.
DECIMALS = (pa.decimal128(38, 9), pa.decimal256(76, 38))


def table_type(kind: pa.DataType | None) -> pa.DataType:
    """Return the Arrow type of a table's column for an input field of type ``kind``: BigQuery's own, or text where it has none."""
    own = None if kind is None else _own_type(kind)
    return pa.string() if own is None else own


def _own_type(kind: pa.DataType) -> pa.DataType | None:
    """Return the Arrow type that BigQuery loads for values of ``kind``, or None where it has no such type."""
    if pt.is_dictionary(kind):
        return _own_type(kind.value_type)
    if pt.is_struct(kind):
        inner = [(kind.field(index).name, _own_type(kind.field(index).type)) for index in range(kind.num_fields)]
        fits = inner and all(own is not None and COLUMN_NAME.fullmatch(name) for name, own in inner)
        return pa.struct(inner) if fits else None
    if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        item = None if pt.is_nested(kind.value_type) and not pt.is_struct(kind.value_type) else _own_type(kind.value_type)
        return None if item is None else pa.list_(item)
    if pt.is_decimal(kind):
        return next((decimal for decimal in DECIMALS if _holds(decimal, kind)), None)
    return next((scalar for is_one, _, scalar in SCALARS if is_one(kind)), None)


def _holds(decimal: pa.DataType, kind: pa.DataType) -> bool:
    """Return whether values of ``kind`` have no more digits before and after the point than ``decimal`` has room for."""
    return kind.scale <= decimal.scale and kind.precision - kind.scale <= decimal.precision - decimal.scale


def output_type(kind: pa.DataType) -> pa.DataType:
    """Return the Arrow type of an output's column: numbers of BigQuery's types, lists of lists as lists of records."""
    if pt.is_list(kind):
        inner = output_type(kind.value_type)
        return pa.list_(pa.struct([(INNER, inner)]) if pt.is_list(inner) else inner)
    if pt.is_struct(kind):
        return pa.struct([(field.name, output_type(field.type)) for field in kind])
    own = _own_type(kind)
    assert own is not None, kind
    return own


def _wrap(array: pa.Array) -> pa.Array:
    """Wrap the inner lists of a list of lists in records of one field ``INNER``, without copying."""
    if not pt.is_list(array.type):
        return array
    inner = _wrap(array.values)
    if pt.is_list(inner.type):
        inner = pa.StructArray.from_arrays([inner], [INNER])
    return pa.ListArray.from_arrays(array.offsets, inner)


def schema_field(name: str, kind: pa.DataType) -> bigquery.SchemaField:
    """Return BigQuery's column for an Arrow column of type ``kind``."""
    mode = "NULLABLE"
    if pt.is_list(kind):
        mode, kind = "REPEATED", kind.value_type
    if pt.is_struct(kind):
        return bigquery.SchemaField(name, "RECORD", mode=mode, fields=[schema_field(field.name, field.type) for field in kind])
    return bigquery.SchemaField(name, next(sql for is_one, sql, _ in SCALARS if is_one(kind)), mode=mode)


# Raised by ``typed`` for a value that its column can't hold; the last where an object is expected and another value is there.
UNFIT = (ValueError, TypeError, KeyError, OverflowError, decimal.InvalidOperation, pa.ArrowException, AttributeError)

# --- JSON texts → typed columns ----------------------------------------------------------------------------------------------


def typed(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """Parse JSON texts, one a row, to a column of type ``kind``; the empty text of a field that a row lacks becomes null.

    Raises:
      one of ``UNFIT``: a value has another type, or is out of its type's range.
    """
    if pt.is_string(kind):
        return as_text(texts)
    if pt.is_integer(kind) or pt.is_boolean(kind):
        return pc.cast(_null_is_null(texts), kind)
    if pt.is_floating(kind):
        return pc.cast(_null_is_null(texts), kind)
    return pa.array([_value(text, kind) for text in texts.to_pylist()], kind)


def _null_is_null(texts: pa.Array) -> pa.Array:
    return pc.if_else(pc.is_in(texts, pa.array(["null", ""])), pa.scalar(None, pa.string()), texts)


def _unfit(texts: pa.Array, kind: pa.DataType) -> dict[int, str]:
    """Return why each text that does not fit a column of type ``kind`` does not, by row."""
    reasons = {}
    for row in range(len(texts)):
        try:
            typed(texts.slice(row, 1), kind)
        except UNFIT:
            reasons[row] = f"expected {kind}, as in the first of the input, found {texts[row].as_py()[:100]}"
    return reasons


_EXACT = msgspec.json.Decoder(float_hook=decimal.Decimal)


def _value(text: str | None, kind: pa.DataType) -> Any:
    return None if not text else _from_json(_EXACT.decode(text), kind)


def _from_json(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if pt.is_list(kind):
        return [_from_json(item, kind.value_type) for item in value]
    if pt.is_struct(kind):
        return {field.name: _from_json(value.get(field.name), field.type) for field in kind}
    if pt.is_binary(kind):
        return base64.b64decode(value["b64"], validate=True)
    if pt.is_decimal(kind):
        return decimal.Decimal(value).quantize(decimal.Decimal(1).scaleb(-kind.scale), context=decimal.Context(prec=80))
    if pt.is_timestamp(kind):
        return datetime.datetime.fromisoformat(value)
    if pt.is_date(kind):
        return datetime.date.fromisoformat(value)
    if pt.is_time(kind):
        return datetime.time.fromisoformat(value)
    if pt.is_floating(kind):
        return float(value)
    return value if not pt.is_string(kind) or isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode()
