"""The blocks of an Avro object container file: framed, checked and unpacked here, record by record decoded elsewhere.

fastavro unpacks whatever a block holds and believes every length; here both have bounds, and its decoder is fed one whole block
at a time. Avro 1.11, "Object Container Files": https://avro.apache.org/docs/1.11.1/specification/#object-container-files
"""

from __future__ import annotations

import bz2
import dataclasses
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any, BinaryIO

import fastavro
from backports import zstd
from cramjam import DecompressionError, snappy
from fastavro.schema import SchemaParseException

from transforms.formats.damage import DamagedFileError, decoding

SYNC_BYTES = 16
NOT_AVRO = "not a whole Avro file that can be read"
# What fastavro stumbles over at bytes that are not what the header promises; it has no error of its own for that.
STUMBLES = (
    ArithmeticError, AttributeError, LookupError, RecursionError, StopIteration, TypeError, ValueError, SchemaParseException,
    DecompressionError, struct.error,
)  # fmt: skip
# The first of these holds the header of nearly every file; 16 MiB hold the schema of some 100,000 columns.
HEADER_BYTES, MAX_HEADER_BYTES = 64 << 10, 16 << 20
# fastavro calls itself for what lies inside; 5,000 levels of a type that holds itself overflowed the stack, and ended the process.
MAX_DEPTH = 100
# What xz needs for the largest of its presets, -9.
XZ_MEMORY_BYTES = 128 << 20
# A record takes a byte at least, but where all its fields are of no bytes: then a block of a few bytes could say that it has 2**60.
MAX_EMPTY_RECORDS = 1 << 20


@dataclasses.dataclass(frozen=True)
class Header:
    """What a file says of itself; ``size_bytes`` to the end of its first sync marker."""

    schema: Any
    codec: str
    encoded_schema: bytes
    marker: bytes
    size_bytes: int


@dataclasses.dataclass(frozen=True)
class Block:
    """``count`` records, unpacked, that begin at ``offset`` of the file and take ``size_bytes`` of it."""

    offset: int
    size_bytes: int
    count: int
    data: bytes


def read_header(stream: BinaryIO) -> Header:
    """Read the header of a file from its beginning.

    Raises:
      DamagedFileError: it has none, or one that is nobody's.
    """
    stream.seek(0)
    start = stream.read(HEADER_BYTES)
    try:
        return _parse_header(start)
    except DamagedFileError:
        if len(start) < HEADER_BYTES:
            raise
    return _parse_header(start + stream.read(MAX_HEADER_BYTES - HEADER_BYTES))


def _parse_header(data: bytes) -> Header:
    packed = BytesIO(data)
    with decoding(0, NOT_AVRO, STUMBLES):
        reader: Any = fastavro.reader(packed)
        meta, marker, schema = reader._header["meta"], reader._header["sync"], reader.writer_schema
        encoded = meta["avro.schema"]
    if reason := unbounded(schema):
        raise DamagedFileError(0, f"its schema can't be read: {reason}")
    return Header(schema, reader.codec, encoded, marker, packed.tell())


def unbounded(schema: Any, inside: tuple[str, ...] = (), types: dict[str, Any] | None = None) -> str | None:
    """Return why a few bytes could be a value without bound by ``schema``, or None: a type inside itself, a list of items of no bytes."""
    types = {} if types is None else types
    if len(inside) > MAX_DEPTH:
        return f"types are nested deeper than {MAX_DEPTH} levels"
    if isinstance(schema, list):
        return next(filter(None, (unbounded(branch, (*inside, ""), types) for branch in schema)), None)
    if isinstance(schema, str):
        return f"type {schema} holds itself, so that a row could be nested without end" if schema in inside else None
    kind, name = schema["type"], schema.get("name", "")
    if kind == "array":
        nothing = _is_empty(schema["items"], types)
        return "it has an array of items of no bytes" if nothing else unbounded(schema["items"], (*inside, ""), types)
    if kind == "map":
        return unbounded(schema["values"], (*inside, ""), types)
    if kind in ("record", "error"):
        reasons = (unbounded(field["type"], (*inside, name), types) for field in schema["fields"])
        reason = next(filter(None, reasons), None)
        types[name] = schema
        return reason
    if name:
        types[name] = schema
    return unbounded(kind, (*inside, ""), types) if isinstance(kind, dict | list) else None


def _is_empty(schema: Any, types: dict[str, Any]) -> bool:
    """Return whether every value of a type takes no byte."""
    if isinstance(schema, str):
        return schema == "null" or (schema in types and _is_empty(types[schema], types))
    if isinstance(schema, list):
        return False
    kind = schema["type"]
    if kind in ("record", "error"):
        return all(_is_empty(field["type"], types) for field in schema["fields"])
    return kind == "null" or (kind == "fixed" and not schema["size"])


def read_blocks(stream: BinaryIO, header: Header, start: int, most_bytes: int) -> Iterator[Block]:
    """Yield the blocks of a file from byte ``start`` on, where one begins.

    Raises:
      DamagedFileError: after all whole blocks before the damage, or before one that unpacks to more than ``most_bytes``.
    """
    unpack = UNPACKERS.get(header.codec)
    if unpack is None:
        raise DamagedFileError(0, f"{NOT_AVRO}: it is packed by {header.codec!r}; expected one of {', '.join(UNPACKERS)}")
    stream.seek(start)
    position = start
    while (count := _read_long(stream, position)) is not None:
        size = _read_long(stream, position)
        if size is None or size < 0 or count < 0:
            raise DamagedFileError(position, f"{NOT_AVRO}: no block begins at byte {position}")
        if size > most_bytes:
            raise _too_large(position, most_bytes)
        packed = stream.read(size + SYNC_BYTES)
        if len(packed) < size + SYNC_BYTES:
            raise DamagedFileError(position, f"{NOT_AVRO}: it ends inside the block at byte {position}")
        if packed[size:] != header.marker:
            raise DamagedFileError(position, f"{NOT_AVRO}: the block at byte {position} does not end with the file's marker")
        with decoding(position, NOT_AVRO, STUMBLES):
            data = unpack(packed[:size], most_bytes)
        if data is None or len(data) > most_bytes:
            raise _too_large(position, most_bytes)
        if count > max(len(data), MAX_EMPTY_RECORDS):
            raise DamagedFileError(position, f"{NOT_AVRO}: the block at byte {position} has {len(data)} bytes, not {count} records")
        end = stream.tell()
        yield Block(position, end - position, count, data)
        position = end


def _too_large(position: int, most_bytes: int) -> DamagedFileError:
    most = f"{most_bytes >> 20} MiB, the most that one may have: write smaller blocks"
    return DamagedFileError(position, f"the block at byte {position} unpacks to more than {most}")


def _read_long(stream: BinaryIO, position: int) -> int | None:
    """Read a zigzag number; None at the file's end."""
    value = shift = 0
    while data := stream.read(1):
        value |= (data[0] & 0x7F) << shift
        if data[0] < 0x80:
            return (value >> 1) ^ -(value & 1)
        shift += 7
        if shift > 63:
            raise DamagedFileError(position, f"{NOT_AVRO}: no block begins at byte {position}")
    if shift:
        raise DamagedFileError(position, f"{NOT_AVRO}: it ends inside the block at byte {position}")
    return None


class Decoder:
    """Decodes the records of blocks, one block after the other: fastavro, fed a file of one unpacked block at a time."""

    def __init__(self, header: Header) -> None:
        self.marker = header.marker
        codec, schema = (b"avro.codec", b"null"), (b"avro.schema", header.encoded_schema)
        texts = b"".join(_long(len(text)) + text for pair in (codec, schema) for text in pair)
        self.file = BytesIO(b"Obj\x01" + _long(2) + texts + _long(0) + header.marker)
        with decoding(0, NOT_AVRO, STUMBLES):
            self.blocks: Any = fastavro.block_reader(self.file)

    def decode(self, block: Block) -> Iterator[Any]:
        """Give the records of ``block``; to be called inside ``decoding``, each step of the iterator as well."""
        self.file.seek(0)
        self.file.truncate()
        self.file.write(_long(block.count) + _long(len(block.data)) + block.data + self.marker)
        self.file.seek(0)
        return iter(next(self.blocks))


def _long(value: int) -> bytes:
    """Encode a number that is not negative as Avro does."""
    value, encoded = value << 1, bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*encoded, value))


# --- codecs: each unpacks a block, but no more than a byte above ``most`` bytes; None where it says itself that it is more ------------


def _null(data: bytes, most: int) -> bytes:
    return data


def _deflate(data: bytes, most: int) -> bytes:
    return zlib.decompressobj(-15).decompress(data, most + 1)


def _bzip2(data: bytes, most: int) -> bytes:
    return _whole(bz2.BZ2Decompressor(), data, most)


def _xz(data: bytes, most: int) -> bytes:
    return _whole(lzma.LZMADecompressor(memlimit=XZ_MEMORY_BYTES), data, most)


def _zstandard(data: bytes, most: int) -> bytes:
    return _whole(zstd.ZstdDecompressor(), data, most)


def _whole(decompressor: Any, data: bytes, most: int) -> bytes:
    unpacked: bytes = decompressor.decompress(data, most + 1)
    if not decompressor.eof and len(unpacked) <= most:
        raise EOFError("a block's packed bytes break off")
    return unpacked


def _snappy(data: bytes, most: int) -> bytes | None:
    if snappy.decompress_raw_len(data[:-4]) > most:
        return None
    unpacked = bytes(snappy.decompress_raw(data[:-4]))
    if zlib.crc32(unpacked) != int.from_bytes(data[-4:], "big"):
        raise ValueError("a block does not have its checksum")
    return unpacked


UNPACKERS: dict[str, Callable[[bytes, int], bytes | None]] = {
    "null": _null, "deflate": _deflate, "bzip2": _bzip2, "xz": _xz, "zstandard": _zstandard, "snappy": _snappy,
}  # fmt: skip
