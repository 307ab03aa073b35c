"""Values that thousands of elements hold alike, such as the signature of models of one program."""

from __future__ import annotations

import dataclasses
import functools
import pickle
from collections.abc import Callable
from typing import Any

KEPT = 1000


class Interned:
    """Base of frozen dataclasses of which a process has one object for each value that it is sent.

    It travels as the bytes that it was pickled to once: then a comparison of bytes is all that it takes to receive it again.
    """

    @functools.cached_property
    def _packed(self) -> bytes:
        assert dataclasses.is_dataclass(self)
        return pickle.dumps((type(self), [getattr(self, field.name) for field in dataclasses.fields(self)]), protocol=5)

    def __reduce__(self) -> tuple[Callable[[bytes], Any], tuple[bytes]]:
        return _unpack, (self._packed,)


@functools.lru_cache(KEPT)
def _unpack(packed: bytes) -> Any:
    kind, values = pickle.loads(packed)
    return kind(*values)
