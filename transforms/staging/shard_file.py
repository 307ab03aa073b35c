"""Temporary files that become shards."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import google_crc32c

from transforms.elements.shards import Shard
from transforms.elements.splits import SplitKey
from transforms.storage import files, paths

NO_CODES: Mapping[tuple[str, str], tuple[int, str]] = {}
NO_MODELS: Mapping[tuple[str, str | None], int] = {}


class Place(NamedTuple):
    """Where the rows of a shard come from: their split and, in a mirrored layout, the relative path and the path of their one file."""

    split_key: SplitKey
    relative: str = ""
    source: str = ""


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Name the file at ``path`` in errors of the system, such as that its disk is full."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, path) from error
        raise


class ShardFile(io.RawIOBase):
    """A temporary file, written as a stream that counts its bytes and computes their checksum.

    Each attempt writes to a new name, so that a retry never meets what an earlier attempt left.
    """

    def __init__(self, kind: str, folder: str, place: Place) -> None:
        super().__init__()
        self.kind, self.place = kind, place
        self.path = paths.join(folder, f"{kind}-{uuid.uuid4().hex}")
        self._stream = files.create(self.path)
        self._checksum = google_crc32c.Checksum()
        self._bytes = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._bytes

    def write(self, block: bytes | memoryview) -> int:  # type: ignore[override]
        content = bytes(block)
        with _naming(self.path):
            self._stream.write(content)
        self._checksum.update(content)
        self._bytes += len(content)
        return len(content)

    def finish(
        self,
        rows: int,
        content: str = "",
        codes: Mapping[tuple[str, str], tuple[int, str]] = NO_CODES,
        models: Mapping[tuple[str, str | None], int] = NO_MODELS,
    ) -> Shard:
        """Close the file and return its shard.

        ``rows`` is the number of rows in it, and ``content`` their digest. ``codes`` counts failed rows by (stage, code), with the
        message of one of them; ``models`` counts rows by the folder and version of the model that each names.
        """
        with _naming(self.path):
            self._stream.close()
        return Shard(
            self.kind,
            self.path,
            *self.place,
            rows=rows,
            bytes=self._bytes,
            crc32c=self._checksum.hexdigest().decode(),
            codes=tuple((*code, *count) for code, count in codes.items()),
            models=tuple((*model, count) for model, count in models.items()),
            content=content,
        )
