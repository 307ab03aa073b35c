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

from transforms.bigquery.client import client, read_client
from transforms.bigquery.sessions import MAX_STREAMS, _make_session
from transforms.elements.batches import InstanceBatch
from transforms.elements.splits import FileRange, Split
from transforms.formats.record_batches import TableBatcher, batch_rows, needed_columns
from transforms.rows.row_spec import RowSpec
from transforms.specs.job import JobSpec
from transforms.specs.table_name import TableName, parse_table


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
