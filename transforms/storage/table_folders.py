"""Folders of Delta, Iceberg and Hudi tables: also rows that were overwritten or deleted lie in their files, so they are not read as files.

Which files are a table's rows stands in its log: ``_delta_log/`` (https://github.com/delta-io/delta/blob/master/PROTOCOL.md),
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
# In the path of any object of a table's log: the table's folder, and what kind it is of.
LOG_FILE = re.compile(rf"(?P<folder>.*?)/(?:(?P<Delta>_delta_log)/|(?P<Hudi>\.hoodie)/|(?P<Iceberg>metadata)/{ICEBERG_METADATA}$)")
# An Iceberg table's folder of metadata also holds lists of its files, some for each change; metadata of numbers sorts before them.
LOOKED_AT_NAMES = 5000


class TableFolderError(PermissionError):
    """A file that is part of a table is read as if it were one of many files."""


def refuse(path: str, folder: str, kind: str) -> TableFolderError:
    """Return the error that ``path`` lies in ``folder``, which is a table's."""
    return TableFolderError(
        f"{path} lies in {folder}, the folder of a {kind} table: rows that were overwritten or deleted still lie in its files, so they are "
        f"not the table. Write the table's current rows to files of their own with a reader of {kind} tables, or load them into BigQuery "
        "and give that table; or name the files that are current, each by its path"
    )


class Tables:
    """Tells which local folders lie in a table's, each folder looked at once."""

    def __init__(self) -> None:
        self.find = functools.cache(self._find)

    def check(self, path: str, real_folder: str) -> None:
        """Raise TableFolderError where the file ``path`` of a table's format lies in a table's folder, as ``real_folder`` does."""
        found = self.find(real_folder) if DATA_FILE.search(path) else None
        if found is not None:
            raise refuse(path, *found)

    def _find(self, folder: str) -> tuple[str, str] | None:
        kind = _local_kind(folder)
        if kind is not None:
            return folder, kind
        above = os.path.dirname(folder)
        found: tuple[str, str] | None = self.find(above) if above != folder else None
        return found


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
    """Tells which objects of a listing lie in a table's folder; the listing comes in the order of names, and is not kept.

    All that lies in one folder follows each other there, so the last file that was taken is in a table's folder if any was.
    """

    def __init__(self, find: Callable[[str], tuple[str, str] | None] | None = None) -> None:
        self.find = find or find_above
        self.table: tuple[str, str] | None = None
        self.last = ""

    def see(self, path: str) -> None:
        """Note an object that the listing shows, whether or not it is taken.

        Raises:
          TableFolderError: it shows that a file that was taken lies in a table.
        """
        found = LOG_FILE.match(path)
        if found is None or (self.table is not None and path.startswith(self.table[0] + "/")):
            return
        self.table = found["folder"], str(found.lastgroup)
        if self.last.startswith(self.table[0] + "/"):
            raise refuse(self.last, *self.table)

    def take(self, path: str) -> None:
        """Note an object that is taken.

        Raises:
          TableFolderError: it lies in a table.
        """
        if not DATA_FILE.search(path):
            return
        first = not self.last
        self.last = path
        if self.table is not None and path.startswith(self.table[0] + "/"):
            raise refuse(path, *self.table)
        above = self.find(path.rpartition("/")[0]) if first else None
        if above is not None:
            raise refuse(path, *above)


def find_above(folder: str) -> tuple[str, str] | None:
    """Return the innermost folder of a bucket that is ``folder`` or above it and a table's, and the table's kind; None if there is none."""
    while gcs.split(folder)[1]:
        kind = _bucket_kind(folder)
        if kind is not None:
            return folder, kind
        folder = folder.rpartition("/")[0]
    kind = _bucket_kind(folder)
    return None if kind is None else (folder, kind)


@functools.lru_cache(10_000)
def _bucket_kind(folder: str) -> str | None:
    """Ask for a folder once: tasks by the thousand lie side by side."""
    if any(True for _ in gcs.list_prefix(folder + "/_delta_log/", most=1)):
        return "Delta"
    if any(True for _ in gcs.list_prefix(folder + "/.hoodie/", most=1)):
        return "Hudi"
    metadata = itertools.islice(gcs.list_prefix(folder + "/metadata/"), LOOKED_AT_NAMES)
    return "Iceberg" if any(LOG_FILE.fullmatch(found.path) for found in metadata) else None
