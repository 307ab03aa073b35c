"""Checks of the table or query that a job reads, before the start."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pyarrow as pa
from google.cloud import bigquery

from transforms.bigquery.client import ERRORS, TableError, client, reason
from transforms.bigquery.sessions import make_session
from transforms.bigquery.types import arrow_type
from transforms.convert import from_arrow
from transforms.rows.codes import Code
from transforms.specs.job import JobSpec
from transforms.specs.table_name import parse_table

READABLE = ("TABLE", "SNAPSHOT", "MATERIALIZED_VIEW", "CLONE")


@dataclasses.dataclass(frozen=True)
class TableFound:
    """The table or query result that a job reads: Arrow types of its columns by name, and the location of the data."""

    columns: dict[str, pa.DataType]
    location: str | None


def find_table(job: JobSpec) -> TableFound:
    """Find the job's table, or let BigQuery check its query, and check the columns that the job needs.

    Raises:
      TableError: there is no such table or no permission, the query or the row restriction has an error, or a column is missing or
        has a type that its input can't take.
    """
    try:
        table = _find_query(job) if job.input.query is not None else _find_table(job)
    except ERRORS as error:
        flag = "--input_query" if job.input.query is not None else f"--input={job.input.patterns[0]}"
        raise TableError(f"{flag} can't be read: {reason(error)}. Check the names, and the permissions of the account in use") from error
    _check_columns(job, table.columns)
    return table


def _find_table(job: JobSpec) -> TableFound:
    name = parse_table(job.input.patterns[0])
    table = client(job.bigquery.project, job.bigquery.location).get_table(name.dotted)
    if table.table_type not in READABLE:
        raise TableError(
            f"{name} is a {table.table_type.lower().replace('_', ' ')}, which can't be read as a table: "
            f"give --input_query='SELECT * FROM `{name.dotted}`' instead"
        )
    _check_names(job, [field.name for field in table.schema])
    try:
        session = make_session(job, name, max_streams=1)  # also checks the row restriction and the permission to read
    except ERRORS as error:
        if job.input.row_restriction is None:
            raise
        raise TableError(f"--row_restriction={job.input.row_restriction}: {reason(error)}") from error
    schema = pa.ipc.read_schema(pa.py_buffer(session.arrow_schema.serialized_schema))
    return TableFound(dict(zip(schema.names, schema.types, strict=True)), table.location)


def _find_query(job: JobSpec) -> TableFound:
    config = bigquery.QueryJobConfig(dry_run=True, use_query_cache=False)
    query = client(job.bigquery.project, job.bigquery.location).query(job.input.query or "", job_config=config)
    if query.statement_type != "SELECT":
        raise TableError(f"--input_query: expected a SELECT, found {query.statement_type or 'no statement'}")
    _check_names(job, [field.name for field in query.schema or ()])
    return TableFound({field.name: arrow_type(field) for field in query.schema or ()}, query.location)


def _check_names(job: JobSpec, columns: Sequence[str]) -> None:
    """Check that a table with ``columns`` has all that the job needs."""
    inputs = [tensor.name for tensor in job.model.signature.inputs]
    passthrough = [name for name in job.output.passthrough_fields if name != "*"]
    needs = [(inputs, f"signature {job.model.signature.name}"), (job.key.fields, "--key_field"), (passthrough, "--passthrough_fields")]
    if job.route is not None:
        needs.append(([job.route.field], "--model_field"))
    for names, source in needs:
        missing = [name for name in names if name not in columns]
        if missing:
            raise TableError(
                f"{job.input.source} has no column {', '.join(missing)}, which {source} names; it has {', '.join(columns[:30])}"
            )


def _check_columns(job: JobSpec, columns: dict[str, pa.DataType]) -> None:
    """Check that the type of each input's column is one that the input can take."""
    signature = job.model.signature
    for tensor in signature.inputs:
        _, errors = from_arrow.make_column(pa.nulls(1, columns[tensor.name]), signature, tensor)
        if errors[0].code is Code.WRONG_TYPE:
            raise TableError(f"{job.input.source}: {errors[0].message}, which can't be one: choose or cast another in --input_query")
