"""PlanStreams: a table or query of BigQuery to the streams of a read session of the Storage Read API, each a split.

The query is run and the session created in the graph: a session ends six hours after its creation, and a template's job may wait that
long before it reads its first row. A session shows the table as it was when the session was created.
https://cloud.google.com/bigquery/docs/reference/storage
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import apache_beam as beam
from google.api_core.exceptions import Conflict

from transforms.bigquery.client import client
from transforms.bigquery.sessions import MAX_STREAMS, make_session
from transforms.elements.splits import FileRange, Split
from transforms.rows.row_spec import row_spec
from transforms.specs.job import JobSpec
from transforms.specs.table_name import TableName, parse_table


def _run_query(job: JobSpec) -> TableName:
    """Run the job's query into a temporary table, which BigQuery drops after a day; once a launch, however often this is called."""
    job_id = f"nightshift-{job.launch}-query"
    service = client(job.bigquery.project, job.bigquery.location)
    try:
        query = service.query(job.input.query or "", job_id=job_id, job_retry=None)
    except Conflict:  # an earlier attempt started it
        query = service.get_job(job_id)  # type: ignore[assignment]
    query.result(max_results=0)
    table = query.destination
    assert table is not None
    return TableName(table.project, table.dataset_id, table.table_id)


class MakeStreams(beam.DoFn):
    """Runs the query, if any, and creates the read session."""

    def __init__(self, job: JobSpec) -> None:
        self.job = job

    def process(self, _: bytes) -> Iterator[Split]:
        name = _run_query(self.job) if self.job.input.query is not None else parse_table(self.job.input.patterns[0])
        job = self.job
        session = make_session(name, row_spec(job), job.input.row_restriction, job.bigquery.project, MAX_STREAMS)
        for number, stream in enumerate(session.streams):
            size = session.estimated_total_bytes_scanned // len(session.streams)
            yield Split((FileRange(f"{name}#{number}", number, None, size, stream.name),))


@dataclasses.dataclass
class PlanStreams(beam.PTransform):
    """Plan the splits of a table or query: one for each stream of one read session.

    Expects: a pipeline.
    Gives: ``Split``s of one range each, spread over the workers; the range's path is ``bq://project.dataset.table#number``, its
    ``relative`` the stream's name.
    Guarantees: each row is in exactly one stream; no stream is read before all streams of its session are committed by the engine.
    """

    job: JobSpec

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection[Split]:
        return (
            pipeline
            | beam.Impulse()
            | "MakeStreams" >> beam.ParDo(MakeStreams(self.job)).with_output_types(Split)
            | "Spread" >> beam.Reshuffle()
        )
