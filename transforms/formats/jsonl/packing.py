"""Parsed rows → columns of values, a few hundred rows at a time.

What a parser makes of 128 KB of text stays in the processor's cache until its values are taken out, and its memory is used
again for the next: blocks of 4 MB, parsed at once, took half as long again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from itertools import starmap
from operator import attrgetter, itemgetter
from typing import Any

import msgspec
import numpy as np

from transforms.convert.json_values import is_ones
from transforms.specs.signature import Signature, TensorSpec

SLICE_BYTES = 128 << 10
# How ``struct`` and NumPy name what one number of a dtype takes in a record.
CODES = {
    "float32": "f",
    "float64": "d",
    "int8": "b",
    "int16": "h",
    "int32": "i",
    "int64": "q",
    "uint8": "B",
    "uint16": "H",
    "uint32": "I",
    "uint64": "Q",
    "bool": "?",
}


def line_slices(data: bytes) -> Iterator[memoryview]:
    """Yield ``data`` in slices of whole lines, each of about ``SLICE_BYTES``."""
    view, start = memoryview(data), 0
    while start < len(data):
        stop = data.find(b"\n", start + SLICE_BYTES) + 1 or len(data)
        yield view[start:stop]
        start = stop


class Packing:
    """Which of ``inputs`` are packed as they are parsed: one number a row, all of a row in one record, and flat lists of floats.

    Packing takes a third of the time that filling an array from an iterator does.
    """

    def __init__(self, signature: Signature, inputs: Sequence[TensorSpec]) -> None:
        shapes = {spec.name: signature.row_shapes(spec) for spec in inputs}
        self.scalars = [spec for spec in inputs if shapes[spec.name] == ((),) and spec.dtype in CODES]
        self.record = struct.Struct("=" + "".join(CODES[spec.dtype] for spec in self.scalars))
        self.dtype = np.dtype([(f"f{place}", CODES[spec.dtype]) for place, spec in enumerate(self.scalars)])
        self.vectors: dict[str, struct.Struct] = {}
        for spec in inputs:
            (*others, shape) = shapes[spec.name]
            if not others and shape and len(shape) == 1 and shape[0] and not is_ones(shape) and spec.dtype in ("float32", "float64"):
                self.vectors[spec.name] = struct.Struct(f"={shape[0]}{CODES[spec.dtype]}")


class Gatherer:
    """Collects the values of parsed rows, by input, and the JSON texts of their raw fields.

    ``attributes`` names what holds an input in a row, None where the row is itself its only value; in the order of the
    struct's fields those of ``packing.scalars`` come first.
    """

    def __init__(self, attributes: Mapping[str, str | None], token_attributes: Mapping[str, str], packing: Packing | None) -> None:
        self.count = 0
        self.tokens: dict[str, Sequence[bytes]] = {name: [] for name in token_attributes}
        self._token_attributes = token_attributes
        self._packing = packing
        bare = None in attributes.values()
        self._scalars = [spec.name for spec in packing.scalars] if packing and not bare else []
        self._records: list[bytes] = []
        self._vectors: dict[str, list[bytes]] = {name: [] for name in packing.vectors} if packing else {}
        self._lists: dict[str, list[Any]] = {n: [] for n in attributes if n not in self._scalars and n not in self._vectors}
        self._take = {name: attrgetter(attribute) if attribute else None for name, attribute in attributes.items()}

    def add(self, rows: Sequence[Any]) -> None:
        """Take the values out of ``rows``.

        Raises:
          OverflowError, struct.error: a number is too large for its dtype.
        """
        self.count += len(rows)
        if self._scalars and self._packing:
            first = map(itemgetter(slice(len(self._scalars))), map(msgspec.structs.astuple, rows))
            self._records += starmap(self._packing.record.pack, first)
        for name, packed in self._vectors.items():
            assert self._packing is not None
            packed += starmap(self._packing.vectors[name].pack, self._values(rows, name))
        for name, values in self._lists.items():
            values += self._values(rows, name)
        for name, tokens in self.tokens.items():
            tokens += map(bytes, map(attrgetter(self._token_attributes[name]), rows))  # type: ignore[operator]

    def _values(self, rows: Sequence[Any], name: str) -> Any:
        take = self._take[name]
        return map(take, rows) if take else rows

    def values(self) -> dict[str, Sequence[Any] | np.ndarray]:
        """Return a list of values an input, or its column where it was packed."""
        values: dict[str, Sequence[Any] | np.ndarray] = dict(self._lists)
        if self._scalars and self._packing:
            table = np.frombuffer(b"".join(self._records), self._packing.dtype)
            values |= {name: np.ascontiguousarray(table[f"f{place}"]) for place, name in enumerate(self._scalars)}
        for name, packed in self._vectors.items():
            assert self._packing is not None
            code = self._packing.vectors[name].format[-1:]
            values[name] = np.frombuffer(b"".join(packed), code).reshape(self.count, -1)
        return values
