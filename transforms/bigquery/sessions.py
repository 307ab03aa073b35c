"""Read sessions of BigQuery's Storage API."""

from __future__ import annotations

from google.cloud.bigquery_storage_v1 import types

from transforms.bigquery.client import client, read_client
from transforms.rows.row_spec import row_spec
from transforms.specs.job import JobSpec
from transforms.specs.table_name import TableName

# The service makes as many streams as suit the table's size, and never more than this.
MAX_STREAMS = 1000


def make_session(job: JobSpec, name: TableName, max_streams: int) -> types.ReadSession:
    """Create a read session of the table ``name``, with the columns that ``job`` needs and up to ``max_streams`` streams."""
    project = job.bigquery.project or client(None, None).project
    spec = row_spec(job)
    options = types.ReadSession.TableReadOptions(row_restriction=job.input.row_restriction or "")
    if "*" not in spec.passthrough_fields and spec.model_field is None:
        columns = [*(tensor.name for tensor in spec.signature.inputs), *spec.key_fields, *spec.passthrough_fields]
        options.selected_fields = list(dict.fromkeys(columns))
    session = types.ReadSession(table=name.resource, data_format=types.DataFormat.ARROW, read_options=options)
    return read_client().create_read_session(parent=f"projects/{project}", read_session=session, max_stream_count=max_streams)
