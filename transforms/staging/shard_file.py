"""A temporary file being written."""

from __future__ import annotations

import dataclasses
import io
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import google_crc32c

from transforms.elements.shards import Shard
from transforms.storage import files, paths

# Order of the split, and in a mirrored layout the relative path and path of the one file its rows come from.
Place = tuple[tuple[str, int], str, str]


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Names the file in what the system says of it, such as that its disk is full."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, path) from error
        raise


class ShardFile(io.RawIOBase):
    """A temporary file being written, as a stream that counts and checksums its bytes.

    Its name is new at each attempt, so that a retry never meets its remains.
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
        """Ends the file, which holds ``rows`` rows of digest ``content``; ``codes`` counts failed ones, with an example's message."""
        with _naming(self.shard.path):
            self._stream.close()
        return dataclasses.replace(
            self.shard,
            rows=rows,
            content=content,
            bytes=self._bytes,
            crc32c=self._checksum.hexdigest().decode(),
            codes=tuple((stage, code, count, example) for (stage, code), (count, example) in (codes or {}).items()),
        )
