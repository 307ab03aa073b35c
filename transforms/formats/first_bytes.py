"""Is a file what its name says? Seen at its first bytes, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping

from transforms.elements.splits import FileRange
from transforms.formats.blocks import compression_of, open_stream
from transforms.formats.damage import DamagedFileError, decoding
from transforms.storage import files

# What compressed files begin with: RFC 1952, bzip2's own, zstd's (RFC 8878).
COMPRESSED = {"gzip": b"\x1f\x8b\x08", "bzip2": b"BZh", "zstd": b"\x28\xb5\x2f\xfd"}


def contradiction(path: str, format: str, magic: bytes, unreadable: Mapping[bytes, str], beginnings: Mapping[str, bytes]) -> str | None:
    """Return how the beginning of the file ``path`` contradicts its name or its ``format``, or None.

    ``magic`` is what files of the format begin with, if they all begin alike; ``unreadable`` are other beginnings, each with what such a
    file is; ``beginnings`` are those of all formats, by name. An empty file, and one that breaks off later, contradict nothing: what is
    wrong with them shows when they are read.
    """
    with files.open_raw(path) as stream:
        start = stream.read(4)
    compression = compression_of(path)
    if not start:
        return None
    if compression is not None:
        if not start.startswith(COMPRESSED[compression]):
            return f"{path} is no {compression} file, as its name says it is: it begins with {start!r}. Name it as what it is"
        broken = _broken(path)
        return f"{path} can't be decompressed, from its beginning on: {broken}. Write it again" if broken else None
    if start in unreadable:
        return f"{path} is {unreadable[start]}"
    if magic:
        if start == magic:
            return None
        return f"{path} is no {format} file: it begins with {start!r}. Name it as what it is, or give --input_format"
    for other, beginning in (COMPRESSED | dict(beginnings)).items():
        if start.startswith(beginning) and not _may_be_text(beginning):
            return f"{path} begins as {other} does, and is to be read as {format}: give its name the extension of {other}"
    return None


def _may_be_text(beginning: bytes) -> bool:
    """Return whether a text may begin so: a header of CSV may well begin with PAR1, or with BZh."""
    try:
        return beginning.decode("utf-8").isprintable()
    except UnicodeDecodeError:
        return False


def _broken(path: str) -> str | None:
    """Return what is wrong with the first byte of a compressed file, decompressed, or None."""
    try:
        with open_stream(FileRange(path, 0, None, 0, path)) as stream, decoding(0, "its first bytes do not unpack"):
            stream.read(1)
    except DamagedFileError as damage:
        return str(damage)
    return None
