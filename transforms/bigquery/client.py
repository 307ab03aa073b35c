"""Google's clients of BigQuery, one a process, and the texts of their errors."""

from __future__ import annotations

import functools
import re

from google.api_core.exceptions import GoogleAPICallError, RetryError
from google.auth.exceptions import GoogleAuthError
from google.cloud import bigquery
from google.cloud.bigquery_storage_v1 import BigQueryReadClient

from transforms.specs.errors import RefusedError
from transforms.specs.messages import text_lines

# Errors of a request: by the service, by the connection to it, by the credentials.
ERRORS = (GoogleAPICallError, RetryError, GoogleAuthError)
AROUND_MESSAGE = re.compile(r"^(\d{3} )?([A-Z]+ https?://\S+: )?")


class TableError(RefusedError):
    """BigQuery does not have or does not allow what a request names; the message says what to do."""


@functools.cache
def client(project: str | None, location: str | None) -> bigquery.Client:
    """Make the client whose jobs run in ``project`` (None: that of the credentials) and ``location`` (None: BigQuery's choice)."""
    return bigquery.Client(project=project, location=location)


@functools.cache
def read_client() -> BigQueryReadClient:
    """Make the client of the Storage Read API."""
    return BigQueryReadClient()


def reason(error: BaseException) -> str:
    """Return the first line of an error without the request, the job's id and the list of causes."""
    lines = text_lines(str(getattr(error, "message", None) or error)) or [type(error).__name__]
    line = AROUND_MESSAGE.sub("", lines[0])
    return line.split("; reason: ", 1)[0]
