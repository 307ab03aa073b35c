"""Comparison of a job's output with the dataset and table that exist, before the job starts."""

from __future__ import annotations

from collections.abc import Sequence

from google.api_core.exceptions import NotFound
from google.cloud import bigquery

from transforms.bigquery.client import ERRORS, TableError, client, reason
from transforms.bigquery.table_writer import TableEncoder
from transforms.specs.job import JobSpec
from transforms.specs.output import TableOutput
from transforms.specs.table_name import TableName, parse_table


def check_table(job: JobSpec, output: TableOutput) -> None:
    """Compare the table of the job's ``output`` with the dataset and the table that exist.

    Raises:
      TableError: there is no dataset, or the table can't take the predictions; the message names each column that does not fit.
    """
    name = output.name
    encoder = TableEncoder(job)
    _check_layout(output, {field.name: field.field_type for field in encoder.fields})
    if job.input.is_bigquery and job.input.query is None and parse_table(job.input.patterns[0]) == name:
        raise TableError(f"--output={name} is the input too, which it would replace; give another table")
    service = client(job.bigquery.project, job.bigquery.location)
    try:
        if not _has_dataset(service, name):
            if output.create_dataset:
                return
            raise TableError(
                f"--output={name}: there is no dataset {name.project}.{name.dataset}: check the name, or give --create_dataset=true"
            )
        table = service.get_table(name.dotted)
    except NotFound:
        return
    except ERRORS as error:
        raise TableError(f"--output={name} can't be checked: {reason(error)}. Check the name and your permissions") from error
    if table.table_type != "TABLE":
        raise TableError(f"--output={name} is a {table.table_type.lower()}, which can't be loaded into; give another table")
    disposition = output.write_disposition
    if disposition == "empty" and table.num_rows:
        raise TableError(f"--output={name} holds {table.num_rows} rows already, and --write_disposition=empty was given")
    conflicts = _conflicts(encoder.fields, table.schema) if disposition != "truncate" else []
    if conflicts:
        raise TableError(
            f"--output={name} can't take these predictions: {'; '.join(conflicts)}. Give another table, or --write_disposition=truncate"
        )


def _has_dataset(service: bigquery.Client, name: TableName) -> bool:
    try:
        service.get_dataset(f"{name.project}.{name.dataset}")
    except NotFound:
        return False
    return True


def _check_layout(output: TableOutput, types: dict[str, str]) -> None:
    """Check the fields of partitions and clusters against the ``types`` of the table's columns, by name."""
    partition = output.partition_field
    if partition and types.get(partition) not in ("DATE", "TIMESTAMP", "DATETIME"):
        column = f"a column of {types[partition]}" if partition in types else f"no column; there is {', '.join(types)}"
        raise TableError(f"--partition_field={partition}: expected a column of DATE, DATETIME or TIMESTAMP, found {column}")
    unknown = [name for name in output.cluster_fields if name not in types]
    if unknown:
        raise TableError(f"--cluster_fields: {', '.join(unknown)} is no column; there is {', '.join(types)}")


SAME_TYPES = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL", "STRUCT": "RECORD"}


def _shape(field: bigquery.SchemaField) -> str:
    """Return the type of a column as text, with its mode if REPEATED and its inner fields."""
    kind = SAME_TYPES.get(field.field_type, field.field_type)
    if kind == "RECORD":
        kind = f"RECORD<{', '.join(f'{inner.name} {_shape(inner)}' for inner in field.fields)}>"
    return f"REPEATED {kind}" if field.mode == "REPEATED" else kind


def _conflicts(fields: Sequence[bigquery.SchemaField], existing: Sequence[bigquery.SchemaField]) -> list[str]:
    """Return a text for each column of which ``fields``, to be loaded, differ from an ``existing`` table's."""
    by_name = {field.name.lower(): field for field in existing}
    conflicts = []
    for field in fields:
        other = by_name.pop(field.name.lower(), None)
        if other is None:
            conflicts.append(f"it has no column {field.name} ({_shape(field)})")
        elif _shape(other) != _shape(field):
            conflicts.append(f"column {field.name} is {_shape(other)} and would be {_shape(field)}")
    return conflicts + [f"column {field.name} is REQUIRED and would be empty" for field in by_name.values() if field.mode == "REQUIRED"]
