"""A finished temporary file."""

from __future__ import annotations

import msgspec

from transforms.elements.splits import SplitKey


class Shard(msgspec.Struct, frozen=True):
    """A finished temporary file of ``rows`` rows and ``bytes`` bytes.

    ``kind`` is ``results`` or ``errors``; ``codes`` counts failed rows, as (stage, code, rows, an example's message). ``content`` is the
    digest of rows for a table. ``relative`` and ``source`` name the one input file in a mirrored layout, else they are empty.
    ``models`` counts the rows by model's folder and version, where each row names its model.
    """

    kind: str
    path: str
    split_key: SplitKey = msgspec.field(name="order")  # as records of finished splits have it
    relative: str
    source: str
    rows: int
    bytes: int
    crc32c: str
    codes: tuple[tuple[str, str, int, str], ...] = ()
    models: tuple[tuple[str, str | None, int], ...] = ()
    content: str = ""
