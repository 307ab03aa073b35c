"""Rows of Arrow columns → a digest of their values, independent of the rows' order and of their division into files and batches.

A digest of the bytes would not do: each launch divides the streams of a table anew, and packs small files as it finds them.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
import xxhash

DIGITS = 16
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
OTHER = np.uint64(0xD1B54A32D192ED03)
NULL = np.uint64(0x2545F4914F6CDD1D)


class Content:
    """A digest of rows added batch by batch: two sums, modulo 2^64, of a 64-bit hash a row."""

    def __init__(self) -> None:
        self._sums = (0, 0)

    def add(self, rows: pa.RecordBatch) -> None:
        """Add the hashes of ``rows`` to the digest."""
        hashes = row_hashes(rows)
        pair = (_mixed(hashes), _mixed(hashes ^ OTHER))
        self._sums = _added(self._sums, tuple(int(part.sum()) for part in pair))

    @property
    def digest(self) -> str:
        """Return the digest of all rows added so far: 32 hexadecimal digits."""
        return "".join(f"{part:0{DIGITS}x}" for part in self._sums)


def merge(digests: Iterable[str]) -> str:
    """Merge the digests of several files into the digest of all their rows; an empty text is a file without rows."""
    merged = Content()
    for digest in digests:
        if digest:
            merged._sums = _added(merged._sums, (int(digest[:DIGITS], 16), int(digest[DIGITS:], 16)))
    return merged.digest


def _added(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, int]:
    first, second = ((a + b) & (2**64 - 1) for a, b in zip(one, other, strict=True))
    return first, second


def row_hashes(rows: pa.RecordBatch) -> np.ndarray:
    """Return a 64-bit hash of each row's values, uint64 [rows]; nulls, empty texts and empty lists differ."""
    hashes = np.zeros(rows.num_rows, np.uint64)
    for column in rows.columns:
        hashes = _mixed(hashes + _hashes(column) + GOLDEN)
    return hashes


def _mixed(values: np.ndarray) -> np.ndarray:
    """Mix all bits of each value (the finalizer of SplitMix64: Steele, Lea and Flood, 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))


def _hashes(array: pa.Array) -> np.ndarray:
    """Hash each value of ``array``: uint64 [values]."""
    kind = array.type
    if pt.is_list(kind):
        hashes = _of_lists(array)
    elif pt.is_struct(kind):
        hashes = np.zeros(len(array), np.uint64)
        for field in array.flatten():
            hashes = _mixed(hashes + _hashes(field) + GOLDEN)
    elif pt.is_string(kind) or pt.is_binary(kind):
        texts = pc.fill_null(array.cast(pa.binary()), b"")
        hashes = np.fromiter(map(xxhash.xxh3_64_intdigest, texts.to_pylist()), np.uint64, len(array))
    else:
        hashes = _of_words(array)
    if array.null_count:
        hashes = np.where(array.is_null().to_numpy(zero_copy_only=False), NULL, hashes)
    return hashes


def _of_words(array: pa.Array) -> np.ndarray:
    """Hash values of a fixed width, decimals of 128 or 256 bits among them."""
    if pt.is_boolean(array.type):
        array = array.cast(pa.uint8())
    size = array.type.byte_width
    content = np.frombuffer(array.buffers()[1] or b"", np.uint8)[array.offset * size : (array.offset + len(array)) * size]
    padded = np.zeros((len(array), -(-size // 8) * 8), np.uint8)
    padded[:, :size] = content.reshape(len(array), size)
    hashes = np.zeros(len(array), np.uint64)
    for word in padded.view(np.uint64).T:
        hashes = _mixed(hashes + word + GOLDEN)
    return hashes


def _of_lists(array: pa.Array) -> np.ndarray:
    """Hash each list by its length and its elements' hashes, each mixed with the element's place."""
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    elements = _hashes(array.flatten())
    ends = np.cumsum(lengths)
    starts = ends - lengths
    places = np.arange(len(elements)) - np.repeat(starts, lengths)
    sums = np.concatenate(([np.uint64(0)], np.cumsum(_mixed(elements + (places + 1).astype(np.uint64) * GOLDEN), dtype=np.uint64)))
    return _mixed(sums[ends] - sums[starts] + lengths.astype(np.uint64) * OTHER)
