"""Arrow's types for BigQuery's."""

from __future__ import annotations

import pyarrow as pa
from google.cloud import bigquery

SCALARS = {
    "INTEGER": pa.int64(), "INT64": pa.int64(), "FLOAT": pa.float64(), "FLOAT64": pa.float64(),
    "BOOLEAN": pa.bool_(), "BOOL": pa.bool_(), "STRING": pa.string(), "BYTES": pa.binary(), "JSON": pa.string(), "GEOGRAPHY": pa.string(),
    "NUMERIC": pa.decimal128(38, 9), "BIGNUMERIC": pa.decimal256(76, 38), "DATE": pa.date32(), "TIME": pa.time64("us"),
    "DATETIME": pa.timestamp("us"), "TIMESTAMP": pa.timestamp("us", "UTC"), "INTERVAL": pa.month_day_nano_interval(),
}  # fmt: skip


def arrow_type(field: bigquery.SchemaField) -> pa.DataType:
    """Return the Arrow type that the Storage Read API sends for a column."""
    if field.field_type in ("RECORD", "STRUCT"):
        kind = pa.struct([(inner.name, arrow_type(inner)) for inner in field.fields])
    else:
        kind = SCALARS.get(field.field_type, pa.string())
    return pa.list_(kind) if field.mode == "REPEATED" else kind
