"""Temporary files that become shards."""

from __future__ import annotations

import dataclasses
import io
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import google_crc32c

from transforms.elements.shards import Shard
from transforms.storage import files, paths

# The split's order; in a mirrored layout also the relative path and the path of the one file its rows come from, else "" and "".
Place = tuple[tuple[str, int], str, str]


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
        self.shard = Shard(kind, paths.join(folder, f"{kind}-{uuid.uuid4().hex}"), *place, rows=0, bytes=0, crc32c="")
        self._stream = files.create(self.shard.path)
        self._checksum = google_crc32c.Checksum()
        self._bytes = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._bytes

    def write(self, block: bytes | memoryview) -> int:  # type: ignore[override]
        content = bytes(block)
        with _naming(self.shard.path):
            self._stream.write(content)
        self._checksum.update(content)
        self._bytes += len(content)
        return len(content)

    def finish(self, rows: int, content: str = "", codes: dict[tuple[str, str], tuple[int, str]] | None = None) -> Shard:
        """Close the file and return its shard.

        ``rows`` is the number of rows in it, and ``content`` their digest. ``codes`` counts failed rows by (stage, code), with the
        message of one of them.
        """
        with _naming(self.shard.path):
            self._stream.close()
        return dataclasses.replace(
            self.shard,
            rows=rows,
            content=content,
            bytes=self._bytes,
            crc32c=self._checksum.hexdigest().decode(),
            codes=tuple((stage, code, count, message) for (stage, code), (count, message) in (codes or {}).items()),
        )
