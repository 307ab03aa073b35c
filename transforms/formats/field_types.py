"""The types of the fields of files that say them: what a table of BigQuery can have of its own for keys and passthrough fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.elements.splits import FileRange
from transforms.formats.avro.blocks import read_header
from transforms.formats.damage import DamagedFileError, decoding
from transforms.formats.reading import format_of
from transforms.formats.source import open_source

AVRO = {
    "boolean": pa.bool_(), "int": pa.int64(), "long": pa.int64(), "float": pa.float64(), "double": pa.float64(), "string": pa.string(),
    "bytes": pa.binary(), "enum": pa.string(),
}  # fmt: skip
# Avro 1.11, "Logical Types": https://avro.apache.org/docs/1.11.1/specification/#logical-types
AVRO_LOGICAL = {
    "date": pa.date32(), "time-millis": pa.time64("us"), "time-micros": pa.time64("us"),
    "timestamp-millis": pa.timestamp("us", "UTC"), "timestamp-micros": pa.timestamp("us", "UTC"),
    "local-timestamp-millis": pa.timestamp("us"), "local-timestamp-micros": pa.timestamp("us"),
}  # fmt: skip


def known_types(paths: Sequence[str], given: str | None) -> dict[str, pa.DataType]:
    """Gives the fields' Arrow types as the first of each pattern's files, ``paths``, have them; those alone on which they agree.

    Files of texts know none. A file that can't be read is not judged here: reading it says what is wrong.
    """
    found = [_types(path, given) for path in paths]
    first = found[0] if found else {}
    return {name: kind for name, kind in first.items() if all(other.get(name) == kind for other in found)}


def _types(path: str, given: str | None) -> dict[str, pa.DataType]:
    format = format_of(path, given).name
    if format not in ("parquet", "avro"):
        return {}
    try:
        with open_source(FileRange(path, 0, None, 0, path)) as stream:
            if format == "parquet":
                with decoding(0, path):
                    columns = pq.read_schema(stream)
                return dict(zip(columns.names, columns.types, strict=True))
            schema = read_header(stream).schema
    except DamagedFileError:
        return {}
    fields = schema["fields"] if isinstance(schema, dict) and schema.get("type") == "record" else ()
    return {field["name"]: kind for field in fields if (kind := _avro_type(field["type"])) is not None}


def _avro_type(kind: Any) -> pa.DataType | None:
    if isinstance(kind, list):
        some = [one for one in kind if one != "null"]
        return _avro_type(some[0]) if len(some) == 1 else None
    if not isinstance(kind, dict):
        return AVRO.get(kind)
    if kind["type"] == "array":
        inner = _avro_type(kind["items"])
        return None if inner is None else pa.list_(inner)
    if kind.get("logicalType") == "decimal":
        return pa.decimal128(kind["precision"], kind.get("scale", 0)) if kind["precision"] <= 38 else None
    return AVRO_LOGICAL.get(kind.get("logicalType", ""), AVRO.get(kind["type"]))
