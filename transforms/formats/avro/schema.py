"""An Avro schema as Arrow's types: what values its fields may have."""

from __future__ import annotations

import dataclasses
from typing import Any

import pyarrow as pa

from transforms.elements.splits import FileRange
from transforms.formats.avro.blocks import read_header
from transforms.formats.damage import DamagedFileError
from transforms.formats.needed_columns import find_twins, nested_twins
from transforms.formats.source import open_source
from transforms.rows.row_spec import RowSpec

PRIMITIVES = {
    "null": pa.null(), "boolean": pa.bool_(), "int": pa.int32(), "long": pa.int64(), "float": pa.float32(), "double": pa.float64(),
    "bytes": pa.binary(), "string": pa.string(), "enum": pa.string(), "fixed": pa.binary(), "map": pa.struct([]), "record": pa.struct([]),
}  # fmt: skip
# Avro 1.11, "Logical Types": https://avro.apache.org/docs/1.11.1/specification/#logical-types; one that is not known is none.
LOGICAL = {
    "date": pa.date32(), "time-millis": pa.time64("us"), "time-micros": pa.time64("us"),
    "timestamp-millis": pa.timestamp("us", "UTC"), "timestamp-micros": pa.timestamp("us", "UTC"),
    "local-timestamp-millis": pa.timestamp("us"), "local-timestamp-micros": pa.timestamp("us"), "uuid": pa.string(),
}  # fmt: skip
LONGEST_DECIMAL = 76


def arrow_types(schema: Any) -> dict[str, list[pa.DataType]]:
    """Return the Arrow types that values of each field of a record may have: several for a union; null, which fits everything, for a
    type that can't be told.
    """
    named: dict[str, pa.DataType] = {}
    return {field["name"]: _types(field["type"], named) for field in schema["fields"]}


def field_types(path: str) -> dict[str, pa.DataType]:
    """Return the types of a file's fields by name, of those that have one; none of a file that can't be read."""
    try:
        with open_source(FileRange(path, 0, None, 0, path)) as stream:
            schema = read_header(stream).schema
    except DamagedFileError:
        return {}
    if not isinstance(schema, dict) or schema.get("type") != "record":
        return {}
    return {name: kinds[0] for name, kinds in arrow_types(schema).items() if len(kinds) == 1 and not pa.types.is_null(kinds[0])}


def _types(schema: Any, named: dict[str, pa.DataType]) -> list[pa.DataType]:
    if isinstance(schema, list):
        branches = [kind for branch in schema if branch != "null" for kind in _types(branch, named)]
        return branches or [pa.null()]
    if isinstance(schema, str):
        return [PRIMITIVES[schema] if schema in PRIMITIVES else named.get(schema, pa.null())]
    if schema["type"] == "array":
        return [pa.list_(item) for item in _types(schema["items"], named)]
    kind = _type(schema)
    if kind is not None and "name" in schema:
        named |= dict.fromkeys({schema["name"], schema["name"].rpartition(".")[2]}, kind)
    return _types(schema["type"], named) if kind is None else [kind]


def _type(schema: dict[str, Any]) -> pa.DataType | None:
    """Return the one type of a schema that is not an array; None where it is another schema."""
    kind, logical = schema["type"], schema.get("logicalType")
    if logical == "decimal" and (decimal := _decimal(schema.get("precision"), schema.get("scale", 0))) is not None:
        return decimal
    if logical in LOGICAL:
        return LOGICAL[logical]
    return PRIMITIVES.get(kind) if isinstance(kind, str) else None


def _decimal(precision: Any, scale: Any) -> pa.DataType | None:
    """Return the type of decimals; None for digits that the specification does not allow, or that Arrow can't hold."""
    if not (isinstance(precision, int) and isinstance(scale, int) and 0 <= scale <= precision and 1 <= precision <= LONGEST_DECIMAL):
        return None
    return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)


def twins_of(spec: RowSpec, schema: Any) -> str | None:
    """Return what is wrong where a schema has two fields of one name that a job needs, or such fields within one, or None.

    Avro 1.11, "Records", has no such schema, but files with one are written; a record then holds the last field's value alone.
    """
    if not isinstance(schema, dict) or "fields" not in schema:
        return None
    if spec.model_field is not None:  # a record is kept until its model says which fields it needs, and keeps one of two
        spec = dataclasses.replace(spec, passthrough_fields=("*",), own_fields=())
    names = [field["name"] for field in schema["fields"]]
    if (twins := find_twins(spec, names)) is not None:
        return twins
    for field in schema["fields"]:
        inner = _twin_in(field["type"])
        if inner is not None and find_twins(spec, [field["name"]] * 2) is not None:
            return nested_twins(field["name"], inner)
    return None


def _twin_in(kind: Any) -> str | None:
    """Return the name of two fields of one record, at any depth of a type, or None."""
    if isinstance(kind, list):
        return next((twin for branch in kind if (twin := _twin_in(branch)) is not None), None)
    if not isinstance(kind, dict):
        return None
    fields = kind.get("fields", [])
    names = [field["name"] for field in fields]
    inner = [*(field["type"] for field in fields), kind.get("items"), kind.get("values"), kind["type"]]
    return next((name for name in names if names.count(name) > 1), None) or _twin_in(inner)
