"""A range of a file as blocks of whole lines, decompressed as they are read."""

from __future__ import annotations

import bz2
import dataclasses
import functools
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, BinaryIO

from backports import zstd
from isal import igzip_lib

from transforms.elements.splits import FileRange
from transforms.formats.damage import POSSIBLE, DamagedFileError, is_damage
from transforms.formats.source import open_source
from transforms.specs.limits import Limits

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# How much is unpacked at a time: what comes before damage is lost from that much.
PACKED_BYTES, UNPACKED_BYTES = 64 << 10, 256 << 10
COMPRESSIONS = {"gz": "gzip", "bz2": "bzip2", "zst": "zstd"}


@dataclasses.dataclass(frozen=True)
class Block:
    """Whole lines of a file, the first of which begins at byte ``offset`` (of the decompressed file)."""

    offset: int
    data: bytes
    too_long: bool = False

    def place(self, start: Any) -> Any:
        """Return the offset in the file of ``start`` in the block, one or an array of them."""
        return self.offset + start


def compression_of(path: str) -> str | None:
    """Return ``gzip``, ``bzip2`` or ``zstd`` by the path's extension, else None."""
    return COMPRESSIONS.get(path.rsplit(".", 1)[-1].lower()) if "." in path else None


@contextmanager
def open_stream(file_range: FileRange) -> Iterator[IO[bytes]]:
    """Open a file for reading its bytes, decompressed."""
    with open_source(file_range) as raw:
        yield _unpacked(raw, compression_of(file_range.path))


def _unpacked(raw: BinaryIO, compression: str | None) -> IO[bytes]:
    if compression == "gzip":
        unpacked = _Unpacked(raw, functools.partial(igzip_lib.IgzipDecompressor, igzip_lib.DECOMP_GZIP))
        return io.BufferedReader(unpacked, UNPACKED_BYTES)
    if compression == "bzip2":
        return io.BufferedReader(_Unpacked(raw, bz2.BZ2Decompressor), UNPACKED_BYTES)
    if compression == "zstd":
        return zstd.ZstdFile(raw)  # type: ignore[return-value]
    return raw


class _Unpacked(io.RawIOBase):
    """Bytes of a gzip or bzip2 file of one or more streams.

    Not the libraries' own files: where a second stream does not begin well, ``bz2.BZ2File`` takes what is left for padding and ends
    without a word; ``igzip.IGzipFile`` loses what it has of a block when damage comes.
    """

    def __init__(self, raw: IO[bytes], make_decompressor: Callable[[], Any]) -> None:
        self._raw = raw
        self._make_decompressor = make_decompressor
        self._decompressor = make_decompressor()
        self._is_empty = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            packed = b""
            if self._decompressor.eof:
                # Zeros may follow a stream: what writes to tapes fills blocks up with them.
                packed = (self._decompressor.unused_data or self._raw.read(PACKED_BYTES)).lstrip(b"\0")
                while not packed and (packed := self._raw.read(PACKED_BYTES)):
                    packed = packed.lstrip(b"\0")
                if not packed:
                    return 0
                self._decompressor = self._make_decompressor()
            elif self._decompressor.needs_input:
                packed = self._raw.read(PACKED_BYTES)
                if not packed:
                    if self._is_empty:
                        return 0
                    raise EOFError("the compressed file ends before its end-of-stream marker")
            self._is_empty = False
            data = self._decompressor.decompress(packed, len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)


def read_blocks(file_range: FileRange, limits: Limits) -> Iterator[Block]:
    """Yield the lines that begin in ``[file_range.start, file_range.stop)``, in blocks of about ``limits.block_bytes``.

    A line belongs to the range that holds its first byte. A byte order mark at the file's beginning is left out.
    A line longer than ``limits.row_bytes`` (give or take a block) comes as a block of its own that holds its beginning, ``too_long``.

    Raises:
      DamagedFileError: after all whole lines before the damage were given.
    """
    with open_stream(file_range) as stream:
        yield from _blocks(Cursor(stream), file_range, limits)


class Cursor:
    """Reads a stream forward, knowing where it stands; damage is raised after the bytes before it were given."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.offset = 0
        self.damage: DamagedFileError | None = None

    def read(self, count: int) -> bytes:
        if self.damage is not None:
            raise self.damage
        parts: list[bytes] = []
        while count > 0:
            try:
                # Not read(): it would throw away what it has when the damage comes before ``count`` bytes are there.
                data = self.stream.read1(count)  # type: ignore[attr-defined]
            except POSSIBLE as error:
                if not is_damage(error):
                    raise
                self.damage = DamagedFileError(self.offset, f"{type(error).__name__}: {error}")
                if parts:
                    break
                raise self.damage from error
            if not data:
                break
            parts.append(data)
            self.offset += len(data)
            count -= len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _blocks(cursor: Cursor, file_range: FileRange, limits: Limits) -> Iterator[Block]:
    parts: list[bytes] = []  # the beginning of a line whose end is not read yet
    if file_range.start > 0:
        cursor.stream.seek(file_range.start - 1)
        cursor.offset = file_range.start - 1
        parts = [_skip_line(cursor)]
    start, stop = cursor.offset - sum(map(len, parts)), file_range.stop
    while stop is None or start < stop:
        data = parts.pop() if len(parts) == 1 and b"\n" in parts[0] else cursor.read(limits.block_bytes)
        if not data:
            if any(parts):
                yield Block(start, _owned(b"".join(parts), start, stop))
            return
        if cursor.offset == len(data) and data.startswith(BYTE_ORDER_MARK):
            start, data = len(BYTE_ORDER_MARK), data[len(BYTE_ORDER_MARK) :]
            stop = None if stop is None else max(stop, start + 1)  # the first line belongs to the range with the file's first byte
        whole = data.rfind(b"\n") + 1
        if whole:
            block = b"".join((*parts, memoryview(data)[:whole]))
            yield Block(start, _owned(block, start, stop))
            start, parts = start + len(block), [data[whole:]]
            continue
        parts.append(data)
        if cursor.offset - start > limits.row_bytes:
            yield Block(start, b"".join(parts)[: limits.shown_bytes], too_long=True)
            parts = [_skip_line(cursor)]
            start = cursor.offset - len(parts[0])


def _skip_line(cursor: Cursor) -> bytes:
    """Read past the next line end; return what was read beyond it."""
    while data := cursor.read(64 << 10):
        end = data.find(b"\n") + 1
        if end:
            return data[end:]
    return b""


def _owned(data: bytes, start: int, stop: int | None) -> bytes:
    """Cut off the lines that begin at ``stop`` or later."""
    if stop is None or start + len(data) <= stop:
        return data
    end = data.find(b"\n", max(0, stop - start - 1)) + 1
    return data[:end] if end else data
