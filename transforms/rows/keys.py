"""Instance keys: taken from fields or made from the row's file and offset, and compared by their hashes alone."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from transforms.rows.codes import Code, RowError

# The most that the manifest lists; all are counted.
LISTED_DUPLICATES = 1000
# How a text holds a byte that is not UTF-8.
BYTE_TEXT = re.compile(r"\\(?=x[0-9a-f]{2})")
# First bytes of JSON texts that can't be keys: of a list, an object and null.
NO_SCALAR = np.frombuffer(b"[{n", np.uint8)


def take_key(tokens: Sequence[bytes], fields: Sequence[str]) -> bytes:
    """Return a row's key as JSON text: the field's own text, or for several fields a list of them; empty without key fields.

    Raises:
      RowError: KEY_MISSING, KEY_NULL or KEY_NOT_SCALAR, naming the field.
    """
    if not fields:
        return b""
    for token, field in zip(tokens, fields, strict=True):
        if not token:
            raise RowError(Code.KEY_MISSING, f"the row has no field {field!r}, which --key_field names")
        if token == b"null":
            raise RowError(Code.KEY_NULL, f"key field {field!r}: expected a string, number or boolean, found null")
        if token[:1] in b"[{":
            kind = "a list" if token[:1] == b"[" else "an object"
            raise RowError(Code.KEY_NOT_SCALAR, f"key field {field!r}: expected a string, number or boolean, found {kind}")
    plain = [_plain(token) for token in tokens]
    return plain[0] if len(plain) == 1 else b"[" + b", ".join(plain) + b"]"


def _plain(token: bytes) -> bytes:
    """Write a key's strings in one spelling: ``"\\u0061"`` and ``"a"`` are one key. Numbers keep their digits: 1 and 1.0 are two."""
    return msgspec.json.encode(msgspec.json.decode(token)) if b"\\" in token else token


def take_keys(tokens: Sequence[bytes]) -> pa.Array | None:
    """Return the keys of a block of rows with one key field, as bytes; None where a row's key is missing, no scalar or has an escape."""
    keys = pa.array(tokens, pa.binary())
    _, offsets, texts = keys.buffers()
    if not len(keys) or texts is None:
        return None
    places = np.frombuffer(offsets, np.int32)[: len(keys) + 1]
    data = np.frombuffer(texts, np.uint8)[: places[-1]]
    if (places[1:] == places[:-1]).any() or np.isin(data[places[:-1]], NO_SCALAR).any() or (data == ord("\\")).any():
        return None
    return keys


def take_each(columns: Sequence[Sequence[bytes]], fields: Sequence[str]) -> tuple[pa.Array, dict[int, RowError]]:
    """Take the key of each row from the JSON texts of its key fields: a column a field, empty where a row lacks it.

    Returns the keys as JSON texts, null where a row has none, and the errors of those rows by row number.
    """
    keys = take_keys(columns[0]) if len(fields) == 1 else None
    if keys is not None:
        return keys.cast(pa.string()), {}
    taken: list[bytes | None] = []
    errors: dict[int, RowError] = {}
    for row, tokens in enumerate(zip(*columns, strict=True)):
        try:
            taken.append(take_key(tokens, fields))
        except RowError as error:
            errors[row] = error
            taken.append(None)
    return pa.array(taken, pa.binary()).cast(pa.string()), errors


def join_keys(parts: Sequence[pa.Array]) -> pa.Array:
    """Join the JSON texts of the key fields, none null, to a key a row: the text of a single field, or a list of several."""
    return parts[0] if len(parts) == 1 else pc.binary_join_element_wise("[", pc.binary_join_element_wise(*parts, ", "), "]", "")


def split_keys(keys: pa.Array, fields: Sequence[str]) -> dict[str, pa.Array]:
    """Split keys into the JSON texts of each key field, by name: the reverse of ``join_keys``; empty without key fields."""
    if len(fields) < 2:
        return dict.fromkeys(fields, keys)
    decoder = msgspec.json.Decoder(list[msgspec.Raw])
    rows = [[bytes(part) for part in decoder.decode(key)] for key in keys.to_pylist()]
    return {field: pa.array([row[place] for row in rows], pa.binary()).cast(pa.string()) for place, field in enumerate(fields)}


def make_key(source: str, offset: int) -> bytes:
    """Make the key of the row that begins at byte ``offset`` of file ``source``: ``"source:offset"``, as JSON text."""
    return msgspec.json.encode(f"{path_text(source)}:{offset}")


def make_keys(source: str, offsets: np.ndarray) -> pa.Array:
    """Make one key a row, ``"source:offset"``: the same on every run over the same file.

    All are unique, so unlike keys of fields they need no shuffle of their hashes to compare them: a file is read once and in ranges
    that do not overlap (``PlanSplits``), each row of a file has its own offset, and ``path_text`` differs for any two paths.
    """
    prefix = msgspec.json.encode(path_text(source))[:-1].decode()
    return pc.binary_join_element_wise(f"{prefix}:", pc.cast(pa.array(offsets), pa.string()), '"', "")


def path_text(path: str) -> str:
    """Return the text of a path in a key: ``readable``, and different for any two paths.

    Where a name itself holds a backslash, an x and two digits, the form of a byte that is not UTF-8, that backslash is escaped too.
    """
    return readable(BYTE_TEXT.sub(r"\\x5c", path))


def readable(text: str) -> str:
    """Write bytes of a local path that are not UTF-8 as ``\\xff``: Python has lone surrogates for them, which JSON can't hold."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def hash_keys(keys: pa.Array) -> np.ndarray:
    """Return the 64-bit hash (XXH3) of each key's JSON text: uint64 [keys]."""
    return np.fromiter(map(xxhash.xxh3_64_intdigest, keys.cast(pa.binary()).to_pylist()), np.uint64, len(keys))


@dataclasses.dataclass(frozen=True)
class Duplicates:
    """Keys of more than one row: how many, and the hashes of the first of them."""

    count: int
    hashes: tuple[int, ...]


@dataclasses.dataclass(frozen=True, order=True)
class DuplicateKey:
    """One row whose key another row has too."""

    key: str
    source: str
    offset: int
