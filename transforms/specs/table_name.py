"""The names of BigQuery's tables, ``bq://project.dataset.table``."""

from __future__ import annotations

import dataclasses
import re

SCHEME = "bq://"
PREDICTIONS = "predictions"
# https://cloud.google.com/bigquery/docs/datasets#dataset-naming and …/docs/tables#table_naming; old project ids begin with a domain.
NAME = re.compile(r"bq://(?P<project>(?:[a-z0-9.-]+:)?[a-z0-9-]+)\.(?P<dataset>\w+)(?:\.(?P<table>[^./`]{1,1024}))?")


def is_table(path: str) -> bool:
    """Whether ``path`` names something in BigQuery."""
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
        """The name as the client library takes it."""
        return f"{self.project}.{self.dataset}.{self.table}"

    @property
    def resource(self) -> str:
        """The name as the Storage Read API takes it."""
        return f"projects/{self.project}/datasets/{self.dataset}/tables/{self.table}"


def parse_table(text: str) -> TableName:
    """Reads ``bq://project.dataset.table``.

    Raises:
      ValueError: it is none, and what is expected.
    """
    found = NAME.fullmatch(text)
    if found is None or not found["table"]:
        raise ValueError(f"{text!r} is not the name of a table; expected {SCHEME}project.dataset.table")
    return TableName(found["project"], found["dataset"], found["table"])


def name_or_default(text: str) -> str:
    """Gives the name of the table for an output that names a dataset alone: its ``predictions``."""
    found = NAME.fullmatch(text)
    return f"{text}.{PREDICTIONS}" if found and not found["table"] else text
