"""Checks of the table or query that a job reads, before the start."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pyarrow as pa
from google.cloud.bigquery import QueryJobConfig

from transforms.bigquery.client import ERRORS, TableError, client, reason
from transforms.bigquery.sessions import make_session
from transforms.bigquery.types import arrow_type
from transforms.convert import from_arrow
from transforms.rows.codes import Code
from transforms.rows.row_spec import RowSpec
from transforms.specs.job import BigQuerySpec, InputSpec
from transforms.specs.table_name import parse_table

READABLE = ("TABLE", "SNAPSHOT", "MATERIALIZED_VIEW", "CLONE")


@dataclasses.dataclass(frozen=True)
class TableFound:
    """The table or query result that a job reads: Arrow types of its columns by name, and the location of the data."""

    columns: dict[str, pa.DataType]
    location: str | None


def find_table(input: InputSpec, bigquery: BigQuerySpec, rows: RowSpec) -> TableFound:
    """Find the input's table, or let BigQuery check its query, and check the columns that ``rows`` need.

    Raises:
      TableError: there is no such table or no permission, the query or the row restriction has an error, or a column is missing or
        has a type that its input can't take.
    """
    try:
        table = (_find_table if input.query is None else _find_query)(input, bigquery, rows)
    except ERRORS as error:
        flag = "--input_query" if input.query is not None else f"--input={input.patterns[0]}"
        raise TableError(f"{flag} can't be read: {reason(error)}. Check the names, and the permissions of the account in use") from error
    _check_columns(input, rows, table.columns)
    return table


def _find_table(input: InputSpec, bigquery: BigQuerySpec, rows: RowSpec) -> TableFound:
    name = parse_table(input.patterns[0])
    table = client(bigquery.project, bigquery.location).get_table(name.dotted)
    if table.table_type not in READABLE:
        raise TableError(
            f"{name} is a {table.table_type.lower().replace('_', ' ')}, which can't be read as a table: "
            f"give --input_query='SELECT * FROM `{name.dotted}`' instead"
        )
    _check_names(input, rows, [field.name for field in table.schema])
    try:
        # Also checks the row restriction and the permission to read.
        session = make_session(name, rows, input.row_restriction, bigquery.project, max_streams=1)
    except ERRORS as error:
        if input.row_restriction is None:
            raise
        raise TableError(f"--row_restriction={input.row_restriction}: {reason(error)}") from error
    schema = pa.ipc.read_schema(pa.py_buffer(session.arrow_schema.serialized_schema))
    return TableFound(dict(zip(schema.names, schema.types, strict=True)), table.location)


def _find_query(input: InputSpec, bigquery: BigQuerySpec, rows: RowSpec) -> TableFound:
    config = QueryJobConfig(dry_run=True, use_query_cache=False)
    query = client(bigquery.project, bigquery.location).query(input.query or "", job_config=config)
    if query.statement_type != "SELECT":
        raise TableError(f"--input_query: expected a SELECT, found {query.statement_type or 'no statement'}")
    _check_names(input, rows, [field.name for field in query.schema or ()])
    return TableFound({field.name: arrow_type(field) for field in query.schema or ()}, query.location)


def _check_names(input: InputSpec, rows: RowSpec, columns: Sequence[str]) -> None:
    """Check that a table with ``columns`` has all that ``rows`` need."""
    inputs = [tensor.name for tensor in rows.signature.inputs]
    passthrough = [name for name in rows.passthrough_fields if name != "*"]
    needs = [(inputs, f"signature {rows.signature.name}"), (rows.key_fields, "--key_field"), (passthrough, "--passthrough_fields")]
    if rows.model_field is not None:
        needs.append(([rows.model_field], "--model_field"))
    for names, source in needs:
        missing = [name for name in names if name not in columns]
        if missing:
            raise TableError(f"{input.source} has no column {', '.join(missing)}, which {source} names; it has {', '.join(columns[:30])}")


def _check_columns(input: InputSpec, rows: RowSpec, columns: dict[str, pa.DataType]) -> None:
    """Check that the type of each model input's column is one that the input can take."""
    for tensor in rows.signature.inputs:
        _, errors = from_arrow.make_column(pa.nulls(1, columns[tensor.name]), rows.signature, tensor)
        if errors[0].code is Code.WRONG_TYPE:
            raise TableError(f"{input.source}: {errors[0].message}, which can't be one: choose or cast another in --input_query")
