"""Arrow columns as JSON texts, and the test of UTF-8, in Arrow's kernels."""

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
    """Write each of ``strings`` as a JSON string, as msgspec does; null stays null."""
    quoted = pc.binary_join_element_wise('"', strings, '"', "")
    if not _escapes(strings):
        return quoted
    mask = pc.match_substring_regex(strings, MUST_ESCAPE)
    escaped = [msgspec.json.encode(text) for text in strings.filter(mask).to_pylist()]
    return pc.replace_with_mask(quoted, mask, pa.array(escaped, pa.binary()).cast(strings.type))


def _escapes(strings: pa.Array) -> bool:
    """Return whether any byte of the texts must be escaped: to test each text by itself takes ten times as long."""
    data = strings.buffers()[2]
    return data is not None and bool(ESCAPED_BYTES[np.frombuffer(data, np.uint8)].any())


def is_utf8(data: bytes) -> bool:
    """Return whether ``data`` is UTF-8, without the copy that decoding makes."""
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
    """Return the parts, for ``join_texts``, of one object a row: each column's name, then its texts."""
    parts: list[str | pa.Array] = []
    for name, texts in columns:
        parts += [f"{', ' if parts else ''}{member_head(name)}", texts]
    return parts


def join_members(columns: Iterable[tuple[str, pa.Array]], rows: int) -> pa.Array:
    """Join the ``members`` of each row to one text; empty texts for ``rows`` rows without columns."""
    parts = members(columns)
    return join_texts(parts) if parts else pa.array([""] * rows, pa.string())


def join_texts(parts: Sequence[str | pa.Array]) -> pa.Array:
    """Join parts to one text a row: an array has a text a row, a string is the same in all rows."""
    return pc.binary_join_element_wise(*parts, "")


def scalar_texts(array: pa.Array) -> pa.Array | None:
    """Write texts, integers or booleans as JSON texts, null as null; return None for an array of another type."""
    if pt.is_integer(array.type) or pt.is_boolean(array.type):
        return pc.cast(array, pa.string())
    if pt.is_string(array.type) or pt.is_large_string(array.type):
        return quote(array.cast(pa.string()))
    return None
