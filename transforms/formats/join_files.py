"""One file of several shards, where their bytes may simply follow each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from transforms.storage import files

BLOCK_BYTES = 8 << 20


class Sink(Protocol):
    """Where a file's bytes go."""

    def write(self, block: bytes | memoryview, /) -> int: ...


def concatenate(paths: Sequence[str], stream: Sink, skip_bytes: int = 0) -> None:
    """Write the files at ``paths`` to ``stream``, in order; all but the first without their first ``skip_bytes``."""
    for place, path in enumerate(paths):
        with files.open_raw(path) as source:
            if place:
                source.seek(skip_bytes)
            while block := source.read(BLOCK_BYTES):
                stream.write(block)
