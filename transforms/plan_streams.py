"""Tables and queries of BigQuery, through the Storage Read API: its streams are splits, its Arrow batches become instances.

The query is run, and the read session made, in the graph: a session ends six hours after it was made, and a template's job may wait
that long before its first row is read. A session shows the table as it was at that moment.
https://cloud.google.com/bigquery/docs/reference/storage
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa
from google.api_core.exceptions import Conflict
from google.cloud import bigquery
from google.cloud.bigquery_storage_v1 import types

from transforms.bigquery.client import ERRORS, TableError, client, read_client, reason
from transforms.convert import from_arrow
from transforms.elements.batches import FileRange, InstanceBatch, Split
from transforms.formats.jsonl.row import RowSpec
from transforms.formats.record_batches import TableBatcher, batch_rows, needed_columns
from transforms.read_instances import row_spec
from transforms.rows.codes import Code
from transforms.specs.job import JobSpec
from transforms.specs.table_name import TableName, parse_table

# The service makes as many as the table is worth, up to a thousand; more than that it never gives.
MAX_STREAMS = 1000
READABLE = ("TABLE", "SNAPSHOT", "MATERIALIZED_VIEW", "CLONE")


# --- before the job starts -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class TableFound:
    """What a job will read: its columns by name, as Arrow's types, and where the data lies."""

    columns: dict[str, pa.DataType]
    location: str | None


def find_table(job: JobSpec) -> TableFound:
    """Looks at the table, or lets BigQuery look at the query, and holds its columns against what the job takes from a row.

    Raises:
      TableError: there is no such table, no permission, an error in the query or the restriction, a column missing or of a type
        that no input takes.
    """
    try:
        found = _find_query(job) if job.input.query is not None else _find_table(job)
    except ERRORS as error:
        what = "--input_query" if job.input.query is not None else f"--input={job.input.patterns[0]}"
        raise TableError(f"{what} can't be read: {reason(error)}. Check the names, and the permissions of the account in use") from error
    _check_columns(job, found.columns)
    return found


def _find_table(job: JobSpec) -> TableFound:
    name = parse_table(job.input.patterns[0])
    table = client(job.bigquery.project, job.bigquery.location).get_table(name.dotted)
    if table.table_type not in READABLE:
        raise TableError(
            f"{name} is a {table.table_type.lower().replace('_', ' ')}, which can't be read as a table: "
            f"give --input_query='SELECT * FROM `{name.dotted}`' instead"
        )
    there = [field.name for field in table.schema]
    _check_names(job, there)
    try:
        session = _make_session(job, name, max_streams=1)  # also a look at the restriction, and at the right to read
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
    there = [field.name for field in query.schema or ()]
    _check_names(job, there)
    return TableFound({field.name: arrow_type(field) for field in query.schema or ()}, query.location)


def _check_names(job: JobSpec, there: Sequence[str]) -> None:
    """Refuses a job that takes from a row what the table does not have."""
    inputs = [tensor.name for tensor in job.model.signature.inputs]
    passed = [name for name in job.output.passthrough_fields if name != "*"]
    wanted = [(inputs, f"signature {job.model.signature.name}"), (job.key.fields, "--key_field"), (passed, "--passthrough_fields")]
    if job.route is not None:
        wanted.append(([job.route.field], "--model_field"))
    for names, who in wanted:
        missing = [name for name in names if name not in there]
        if missing:
            raise TableError(f"{job.input.source} has no column {', '.join(missing)}, which {who} names; it has {', '.join(there[:30])}")


def _check_columns(job: JobSpec, columns: dict[str, pa.DataType]) -> None:
    signature = job.model.signature
    for tensor in signature.inputs:
        _, errors = from_arrow.make_column(pa.nulls(1, columns[tensor.name]), signature, tensor)
        if errors[0].code is Code.WRONG_TYPE:
            raise TableError(f"{job.input.source}: {errors[0].message}, which can't be one: choose or cast another in --input_query")


SCALARS = {
    "INTEGER": pa.int64(), "INT64": pa.int64(), "FLOAT": pa.float64(), "FLOAT64": pa.float64(),
    "BOOLEAN": pa.bool_(), "BOOL": pa.bool_(), "STRING": pa.string(), "BYTES": pa.binary(), "JSON": pa.string(), "GEOGRAPHY": pa.string(),
    "NUMERIC": pa.decimal128(38, 9), "BIGNUMERIC": pa.decimal256(76, 38), "DATE": pa.date32(), "TIME": pa.time64("us"),
    "DATETIME": pa.timestamp("us"), "TIMESTAMP": pa.timestamp("us", "UTC"), "INTERVAL": pa.month_day_nano_interval(),
}  # fmt: skip


def arrow_type(field: bigquery.SchemaField) -> pa.DataType:
    """Gives the Arrow type in which the Storage Read API gives a column."""
    if field.field_type in ("RECORD", "STRUCT"):
        kind = pa.struct([(inner.name, arrow_type(inner)) for inner in field.fields])
    else:
        kind = SCALARS.get(field.field_type, pa.string())
    return pa.list_(kind) if field.mode == "REPEATED" else kind


# --- sessions and streams ----------------------------------------------------------------------------------------------------


def _make_session(job: JobSpec, name: TableName, max_streams: int) -> types.ReadSession:
    project = job.bigquery.project or client(None, None).project
    spec = row_spec(job)
    options = types.ReadSession.TableReadOptions(row_restriction=job.input.row_restriction or "")
    if "*" not in spec.passthrough_fields and spec.model_field is None:
        named = [*(tensor.name for tensor in spec.signature.inputs), *spec.key_fields, *spec.passthrough_fields]
        options.selected_fields = list(dict.fromkeys(named))
    session = types.ReadSession(table=name.resource, data_format=types.DataFormat.ARROW, read_options=options)
    return read_client().create_read_session(parent=f"projects/{project}", read_session=session, max_stream_count=max_streams)


def _run_query(job: JobSpec) -> TableName:
    """Runs the job's query into a temporary table, which BigQuery drops after a day; once a launch, however often it is tried."""
    by_id = f"nightshift-{job.launch}-query"
    service = client(job.bigquery.project, job.bigquery.location)
    try:
        query = service.query(job.input.query or "", job_id=by_id, job_retry=None)
    except Conflict:  # an attempt before started it
        query = service.get_job(by_id)  # type: ignore[assignment]
    query.result(max_results=0)
    table = query.destination
    assert table is not None
    return TableName(table.project, table.dataset_id, table.table_id)


class _MakeStreams(beam.DoFn):
    def __init__(self, job: JobSpec) -> None:
        self.job = job

    def process(self, _: bytes) -> Iterator[Split]:
        name = _run_query(self.job) if self.job.input.query is not None else parse_table(self.job.input.patterns[0])
        session = _make_session(self.job, name, MAX_STREAMS)
        for number, stream in enumerate(session.streams):
            size = session.estimated_total_bytes_scanned // len(session.streams)
            yield Split((FileRange(f"{name}#{number}", number, None, size, stream.name),))


@dataclasses.dataclass
class PlanStreams(beam.PTransform):
    """Makes the splits of a table or query: one a stream of one read session.

    Expects: a pipeline. Gives: ``Split``s, spread over the workers, whose range's path is ``bq://project.dataset.table#number``, and
    its ``relative`` the stream's name. Guarantees: each row is in exactly one stream; nobody sees a stream before all of its session
    are made for good.
    """

    job: JobSpec

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection:
        return (
            pipeline
            | beam.Impulse()
            | "MakeStreams" >> beam.ParDo(_MakeStreams(self.job)).with_output_types(Split)
            | "Spread" >> beam.Reshuffle()
        )


# --- rows --------------------------------------------------------------------------------------------------------------------


class StreamReader:
    """Reads one stream; a row's offset is its number in it.

    A connection that breaks off is taken up again by Google's client at the row where it broke.
    """

    def __init__(self, spec: RowSpec) -> None:
        self.spec = spec
        self.batcher = TableBatcher(spec)

    def nothing(self, piece: FileRange, order: tuple[str, int]) -> InstanceBatch:
        return self.batcher.nothing(piece, order)

    def read(self, piece: FileRange, order: tuple[str, int]) -> Iterator[InstanceBatch]:
        row = 0
        for table in regroup(self._messages(piece.relative), self.spec):
            offsets = np.arange(row, row + table.num_rows, dtype=np.int64)
            row += table.num_rows
            yield from self.batcher.batches(table, offsets, piece, order, table.nbytes)

    def _messages(self, stream: str) -> Iterator[pa.RecordBatch]:
        schema = None
        for message in read_client().read_rows(stream):
            if schema is None:  # only the first message brings it
                schema = pa.ipc.read_schema(pa.py_buffer(message.arrow_schema.serialized_schema))
            packed = pa.py_buffer(message.arrow_record_batch.serialized_record_batch)
            batch = pa.ipc.read_record_batch(packed, schema)
            yield batch.select(needed_columns(self.spec, schema.names))


def regroup(messages: Iterable[pa.RecordBatch], spec: RowSpec) -> Iterator[pa.RecordBatch]:
    """Gives the rows of ``messages`` in batches of the size that the model is best fed with: the service's are small, or large."""
    due: list[pa.RecordBatch] = []
    for message in messages:
        if not message.num_rows:
            continue
        due.append(message)
        rows = batch_rows(spec, sum(some.nbytes for some in due) / sum(some.num_rows for some in due))
        if sum(some.num_rows for some in due) >= rows:
            yield from _cut(due, rows)
            due = []
    if due:
        yield from _cut(due, batch_rows(spec, sum(some.nbytes for some in due) / sum(some.num_rows for some in due)))


def _cut(due: Sequence[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    whole = due[0] if len(due) == 1 else pa.concat_batches(due)
    pieces = max(1, round(whole.num_rows / rows))
    borders = [whole.num_rows * piece // pieces for piece in range(pieces + 1)]
    for start, stop in itertools.pairwise(borders):
        yield whole.slice(start, stop - start)
