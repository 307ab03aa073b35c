"""Texts in Arrow's kernels: columns as JSON, and what is UTF-8."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

MUST_ESCAPE = r'["\\\x00-\x1f]'
ESCAPED_BYTES = np.isin(np.arange(256), [*range(0x20), *b'"\\'])  # by a byte's value


def quote(strings: pa.Array) -> pa.Array:
    """Gives each of ``strings`` as a JSON string, as msgspec writes it; null stays null."""
    quoted = pc.binary_join_element_wise('"', strings, '"', "")
    if not _escapes(strings):
        return quoted
    mask = pc.match_substring_regex(strings, MUST_ESCAPE)
    escaped = [msgspec.json.encode(text) for text in strings.filter(mask).to_pylist()]
    return pc.replace_with_mask(quoted, mask, pa.array(escaped, pa.binary()).cast(strings.type))


def _escapes(strings: pa.Array) -> bool:
    """Whether some byte of all the texts must be escaped: a look at each text by itself takes ten times as long."""
    data = strings.buffers()[2]
    return data is not None and bool(ESCAPED_BYTES[np.frombuffer(data, np.uint8)].any())


def is_utf8(data: bytes) -> bool:
    """Whether ``data`` is UTF-8, by a look at the bytes where they are: decoding would copy them."""
    if data.isascii():
        return True
    ends = pa.py_buffer(np.array([0, len(data)], np.int64))
    try:
        pa.Array.from_buffers(pa.large_string(), 1, [None, ends, pa.py_buffer(data)]).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def member_head(name: str) -> str:
    """Return the text before the value of an object's member ``name``."""
    return f"{msgspec.json.encode(name).decode()}: "


def members(columns: Iterable[tuple[str, pa.Array]]) -> list[str | pa.Array]:
    """Return the members of an object a row, as parts for ``join_texts``: each column's texts, its name before them."""
    parts: list[str | pa.Array] = []
    for name, texts in columns:
        parts += [f"{', ' if parts else ''}{member_head(name)}", texts]
    return parts


def join_members(columns: Iterable[tuple[str, pa.Array]], rows: int) -> pa.Array:
    """Join the ``members`` of each row to one text; empty texts for ``rows`` rows without columns."""
    parts = members(columns)
    return join_texts(parts) if parts else pa.array([""] * rows, pa.string())


def join_texts(parts: Sequence[str | pa.Array]) -> pa.Array:
    """Join texts a row, and those that are the same for all, to one text a row."""
    return pc.binary_join_element_wise(*parts, "")


def scalar_texts(array: pa.Array) -> pa.Array | None:
    """Gives texts, integers or booleans as JSON texts, null as null; None for an array of another type."""
    if pt.is_integer(array.type) or pt.is_boolean(array.type):
        return pc.cast(array, pa.string())
    if pt.is_string(array.type) or pt.is_large_string(array.type):
        return quote(array.cast(pa.string()))
    return None
