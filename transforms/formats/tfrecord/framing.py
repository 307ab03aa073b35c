"""TFRecord's framing: each record between its length and checksums (tensorflow/core/lib/io/record_writer.h)."""

from __future__ import annotations

import functools
import struct

import google_crc32c

LENGTH, CHECKSUM = struct.Struct("<Q"), struct.Struct("<I")
# Of a record: its length with that one's checksum before it, its own checksum behind it.
HEAD_BYTES = LENGTH.size + CHECKSUM.size
FRAME_BYTES = HEAD_BYTES + CHECKSUM.size
# tensorflow/core/lib/hash/crc32c.h: a checksum of bytes that hold checksums is masked.
MASK_DELTA = 0xA282EAD8


def frame(record: bytes) -> bytes:
    """Return a record as it is in a file: its length, the length's checksum, the record, its checksum."""
    return _head(len(record)) + record + CHECKSUM.pack(_masked(record))


@functools.lru_cache(1 << 16)
def _head(length: int) -> bytes:
    packed = LENGTH.pack(length)
    return packed + CHECKSUM.pack(_masked(packed))


def _masked(content: bytes) -> int:
    """Return the masked CRC-32C of ``content``."""
    crc = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF


def split_frames(data: bytes, row_bytes: int) -> tuple[list[bytes], list[int], int, str]:
    """Return the whole records of ``data``, where each begins, where the next begins, and what is wrong with that one.

    A record of more than ``row_bytes`` is wrong.
    """
    records: list[bytes] = []
    places: list[int] = []
    place = 0
    while place + HEAD_BYTES <= len(data):
        first = place + HEAD_BYTES
        (length,) = LENGTH.unpack_from(data, place)
        if data[place:first] != _head(length):
            return records, places, place, "a record's length does not have its checksum, or this is no TFRecord file"
        if length > row_bytes:
            return records, places, place, f"a record of {length} bytes; at most {row_bytes >> 20} MiB are possible"
        stop = first + length
        if stop + CHECKSUM.size > len(data):
            break
        record = data[first:stop]
        if CHECKSUM.unpack_from(data, stop)[0] != _masked(record):
            return records, places, place, "a record does not have its checksum"
        records.append(record)
        places.append(place)
        place = stop + CHECKSUM.size
    return records, places, place, ""
