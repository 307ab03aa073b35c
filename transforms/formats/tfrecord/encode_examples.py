"""Columns → serialized ``tf.train.Example``s, in protobuf's wire format by hand.

Nothing here may import TensorFlow, whose class takes eight times as long for ten floats a row. The messages are three deep
(tensorflow/core/example/feature.proto): ``Example { Features features = 1 }``, ``Features { map<string, Feature> feature = 1 }``,
``Feature { BytesList = 1 | FloatList = 2 | Int64List = 3 }``, each list's values field 1; numbers are packed.
"""

from __future__ import annotations

import enum
import functools
import itertools
from collections.abc import Iterable, Sequence

import numpy as np

LENGTH_DELIMITED = 2


class Kind(enum.IntEnum):
    """The list that a feature holds, by its field in ``Feature``."""

    BYTES = 1
    FLOATS = 2
    INTEGERS = 3


def varint(value: int) -> bytes:
    """Return a whole number from 0 on in groups of seven bits, the lowest first."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


@functools.lru_cache(1 << 16)
def head(field: int, length: int) -> bytes:
    """Return the bytes before ``length`` bytes of field ``field``."""
    return varint(field << 3 | LENGTH_DELIMITED) + varint(length)


def bytes_lists(rows: Iterable[Sequence[bytes]]) -> list[bytes]:
    """Return the content of one ``BytesList`` a row."""
    return [b"".join([head(1, len(value)) + value for value in row]) for row in rows]


def float_lists(values: np.ndarray, offsets: np.ndarray) -> list[bytes]:
    """Return the content of one ``FloatList`` a row: the values from each of ``offsets`` to the next."""
    return _packed(values.astype("<f4", copy=False).tobytes(), offsets * 4)


def integer_lists(values: np.ndarray, offsets: np.ndarray) -> list[bytes]:
    """Return the content of one ``Int64List`` a row: the values from each of ``offsets`` to the next."""
    content, lengths = _varints(values.astype(np.int64))
    return _packed(content, np.concatenate([[0], np.cumsum(lengths)])[offsets])


def _packed(content: bytes, offsets: np.ndarray) -> list[bytes]:
    pairs = itertools.pairwise(offsets.tolist())
    return [head(1, stop - start) + content[start:stop] if stop > start else b"" for start, stop in pairs]


def _varints(values: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Return all numbers in groups of seven bits, and how many bytes each has; a negative one is its 64 bits, 10 bytes."""
    bits = values.view(np.uint64)
    lengths = np.ones(len(bits), np.int64)
    for group in range(1, 10):
        lengths += bits >= np.uint64(1 << 7 * group)
    width = int(lengths.max(initial=1))
    groups = np.empty((len(bits), width), np.uint8)
    for group in range(width):
        groups[:, group] = (bits >> np.uint64(7 * group)) & np.uint64(0x7F)
        groups[:, group] |= (lengths > group + 1).astype(np.uint8) << 7
    return groups[np.arange(width) < lengths[:, np.newaxis]].tobytes(), lengths


def features(name: str, kind: Kind, lists: Iterable[bytes | None]) -> list[bytes]:
    """Return feature ``name`` of each row as an entry of the map, from the content of its list; nothing for None."""
    label = name.encode("utf-8")
    start = head(1, len(label)) + label

    @functools.lru_cache(1 << 12)
    def before(length: int) -> bytes:
        lead = head(kind, length)
        value = head(2, len(lead) + length) + lead
        return head(1, len(start) + len(value) + length) + start + value

    return [b"" if content is None else before(len(content)) + content for content in lists]


def examples(columns: Sequence[Sequence[bytes]]) -> list[bytes]:
    """Return one ``Example`` a row from the ``features`` of each column."""
    rows = [b"".join(entries) for entries in zip(*columns, strict=True)]
    return [head(1, len(row)) + row for row in rows]
