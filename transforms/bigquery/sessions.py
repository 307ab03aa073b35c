"""Read sessions of BigQuery's Storage API."""

from __future__ import annotations

from google.cloud.bigquery_storage_v1 import types

from transforms.bigquery.client import client, read_client
from transforms.rows.row_spec import RowSpec
from transforms.specs.table_name import TableName

# The service makes as many streams as suit the table's size, and never more than this.
MAX_STREAMS = 1000


def make_session(name: TableName, rows: RowSpec, row_restriction: str | None, project: str | None, max_streams: int) -> types.ReadSession:
    """Create a read session of the table ``name``, with the columns that ``rows`` need and up to ``max_streams`` streams."""
    project = project or client(None, None).project
    options = types.ReadSession.TableReadOptions(row_restriction=row_restriction or "")
    if "*" not in rows.passthrough_fields and rows.model_field is None:
        columns = [*(tensor.name for tensor in rows.signature.inputs), *rows.key_fields, *rows.passthrough_fields]
        options.selected_fields = list(dict.fromkeys(columns))
    session = types.ReadSession(table=name.resource, data_format=types.DataFormat.ARROW, read_options=options)
    return read_client().create_read_session(parent=f"projects/{project}", read_session=session, max_stream_count=max_streams)
