"""Folders of Delta, Iceberg and Hudi tables. Their files still hold overwritten and deleted rows, so they are not read as files.

A table's log says which files hold its current rows: ``_delta_log/`` (https://github.com/delta-io/delta/blob/master/PROTOCOL.md),
``metadata/NUMBER-UUID.metadata.json`` (https://iceberg.apache.org/spec/, "File System Tables" and "Metastore Tables") or
``.hoodie/`` (https://hudi.apache.org/tech-specs/).
"""

from __future__ import annotations

import functools
import itertools
import os
import re
from collections.abc import Callable

from transforms.storage import gcs

DATA_FILE = re.compile(r"\.(parquet|avro|orc)$", re.IGNORECASE)
ICEBERG_METADATA = r"(?:v\d+|\d{5,}-[0-9a-f-]{36})(?:\.gz)?\.metadata\.json(?:\.gz)?"
# The path of an object of a table's log: the table's folder, and the kind of table as the name of a group.
LOG_FILE = re.compile(rf"(?P<folder>.*?)/(?:(?P<Delta>_delta_log)/|(?P<Hudi>\.hoodie)/|(?P<Iceberg>metadata)/{ICEBERG_METADATA}$)")
# An Iceberg table's metadata folder also holds several lists of files for each change; NUMBER-….metadata.json sorts before those.
LISTED_NAMES = 5000


class TableFolderError(PermissionError):
    """An input file is part of a Delta, Iceberg or Hudi table."""


def _refusal(path: str, folder: str, kind: str) -> TableFolderError:
    """Return the error for the file ``path`` in ``folder``, which is a table of ``kind``."""
    return TableFolderError(
        f"{path} lies in {folder}, the folder of a {kind} table: rows that were overwritten or deleted still lie in its files, so they are "
        f"not the table. Write the table's current rows to files of their own with a reader of {kind} tables, or load them into BigQuery "
        "and give that table; or name the files that are current, each by its path"
    )


class Tables:
    """Tables on a disk: looks at each folder once."""

    def __init__(self) -> None:
        self.find = functools.cache(self._find)

    def check(self, path: str, real_folder: str) -> None:
        """Raise TableFolderError if the file ``path``, of a format that tables use, lies in a table; ``real_folder`` has no links."""
        table = self.find(real_folder) if DATA_FILE.search(path) else None
        if table is not None:
            raise _refusal(path, *table)

    def _find(self, folder: str) -> tuple[str, str] | None:
        kind = _local_kind(folder)
        if kind is not None:
            return folder, kind
        above = os.path.dirname(folder)
        table: tuple[str, str] | None = self.find(above) if above != folder else None
        return table


def _local_kind(folder: str) -> str | None:
    if os.path.isdir(os.path.join(folder, "_delta_log")):
        return "Delta"
    if os.path.isdir(os.path.join(folder, ".hoodie")):
        return "Hudi"
    try:
        names = os.listdir(os.path.join(folder, "metadata"))
    except OSError:
        return None
    return "Iceberg" if any(re.fullmatch(ICEBERG_METADATA, name) for name in names) else None


class ListedTables:
    """Tables in the listing of a bucket, which comes in order of names and is not kept.

    Objects of one folder follow one another, so if any input file lies in a table, the last one taken before the table's log does.
    """

    def __init__(self, find: Callable[[str], tuple[str, str] | None] | None = None) -> None:
        self.find = find or find_above
        self.table: tuple[str, str] | None = None
        self.last = ""

    def see(self, path: str) -> None:
        """Note any object of the listing, an input file or not.

        Raises:
          TableFolderError: the object is a table's log, and the last input file lies in that table.
        """
        log = LOG_FILE.match(path)
        if log is None or (self.table is not None and path.startswith(self.table[0] + "/")):
            return
        self.table = log["folder"], str(log.lastgroup)
        if self.last.startswith(self.table[0] + "/"):
            raise _refusal(self.last, *self.table)

    def take(self, path: str) -> None:
        """Note an object that is an input file.

        Raises:
          TableFolderError: it lies in a table.
        """
        if not DATA_FILE.search(path):
            return
        first = not self.last
        self.last = path
        if self.table is not None and path.startswith(self.table[0] + "/"):
            raise _refusal(path, *self.table)
        above = self.find(path.rpartition("/")[0]) if first else None
        if above is not None:
            raise _refusal(path, *above)


def find_above(folder: str) -> tuple[str, str] | None:
    """Return the innermost table that ``folder`` of a bucket is or lies in, as its folder and kind; None if there is none."""
    while gcs.split(folder)[1]:
        kind = bucket_kind(folder)
        if kind is not None:
            return folder, kind
        folder = folder.rpartition("/")[0]
    kind = bucket_kind(folder)
    return None if kind is None else (folder, kind)


@functools.lru_cache(10_000)
def bucket_kind(folder: str) -> str | None:
    """Return the kind of table that ``folder`` is, or None; cached, since thousands of tasks have their inputs side by side."""
    if any(True for _ in gcs.list_prefix(folder + "/_delta_log/", most=1)):
        return "Delta"
    if any(True for _ in gcs.list_prefix(folder + "/.hoodie/", most=1)):
        return "Hudi"
    metadata = itertools.islice(gcs.list_prefix(folder + "/metadata/"), LISTED_NAMES)
    return "Iceberg" if any(LOG_FILE.fullmatch(listed.path) for listed in metadata) else None
