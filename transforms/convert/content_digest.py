"""Rows of Arrow columns → a digest of what they hold: the same whatever their order, and however they are cut into files and batches.

The bytes of a file would not do: the streams of a table are divided anew at each launch, and small files are packed as they are found.
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
    """The digest of rows that are added batch by batch: two sums of 64-bit hashes, one a row."""

    def __init__(self) -> None:
        self._sums = (0, 0)

    def add(self, rows: pa.RecordBatch) -> None:
        hashes = row_hashes(rows)
        some = (_mixed(hashes), _mixed(hashes ^ OTHER))
        self._sums = _added(self._sums, tuple(int(each.sum()) for each in some))

    @property
    def digest(self) -> str:
        """The digest of all rows so far, as hexadecimal digits."""
        return "".join(f"{each:0{DIGITS}x}" for each in self._sums)


def merge(digests: Iterable[str]) -> str:
    """Return the digest of the rows of several files from those of each; an empty text is a file without rows."""
    merged = Content()
    for digest in digests:
        if digest:
            merged._sums = _added(merged._sums, (int(digest[:DIGITS], 16), int(digest[DIGITS:], 16)))
    return merged.digest


def _added(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, int]:
    first, second = ((a + b) & (2**64 - 1) for a, b in zip(one, other, strict=True))
    return first, second


def row_hashes(rows: pa.RecordBatch) -> np.ndarray:
    """Return a 64-bit hash of each row's values; nulls, empty texts and empty lists differ."""
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
    """Hash values of a fixed width, which a decimal's 128 or 256 bits are too."""
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
    """Hash lists by their elements' hashes, each mixed with its place, and their lengths."""
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    elements = _hashes(array.flatten())
    ends = np.cumsum(lengths)
    starts = ends - lengths
    places = np.arange(len(elements)) - np.repeat(starts, lengths)
    sums = np.concatenate(([np.uint64(0)], np.cumsum(_mixed(elements + (places + 1).astype(np.uint64) * GOLDEN), dtype=np.uint64)))
    return _mixed(sums[ends] - sums[starts] + lengths.astype(np.uint64) * OTHER)
