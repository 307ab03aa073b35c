"""The names of BigQuery's tables, ``bq://project.dataset.table``."""

from __future__ import annotations

import dataclasses
import re

SCHEME = "bq://"
PREDICTIONS = "predictions"
# https://cloud.google.com/bigquery/docs/datasets#dataset-naming and …/docs/tables#table_naming; old project ids begin with a domain.
NAME = re.compile(r"bq://(?P<project>(?:[a-z0-9.-]+:)?[a-z0-9-]+)\.(?P<dataset>\w+)(?:\.(?P<table>[^./`]{1,1024}))?")


def is_table(path: str) -> bool:
    """Return whether ``path`` names a table or dataset of BigQuery."""
    return path.startswith(SCHEME)


@dataclasses.dataclass(frozen=True)
class TableName:
    """One table: project, dataset and table."""

    project: str
    dataset: str
    table: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.dotted}"

    @property
    def dotted(self) -> str:
        """Return the name in the form of the client library."""
        return f"{self.project}.{self.dataset}.{self.table}"

    @property
    def resource(self) -> str:
        """Return the name in the form of the Storage Read API."""
        return f"projects/{self.project}/datasets/{self.dataset}/tables/{self.table}"


def parse_table(text: str) -> TableName:
    """Parse a table's name, ``bq://project.dataset.table``.

    Raises:
      ValueError: it is no table's name; the message says what is expected.
    """
    match = NAME.fullmatch(text)
    if match is None or not match["table"]:
        raise ValueError(f"{text!r} is not the name of a table; expected {SCHEME}project.dataset.table")
    return TableName(match["project"], match["dataset"], match["table"])


def name_or_default(text: str) -> str:
    """Return the table's name for an output: for a dataset alone, its table ``predictions``."""
    match = NAME.fullmatch(text)
    return f"{text}.{PREDICTIONS}" if match and not match["table"] else text
