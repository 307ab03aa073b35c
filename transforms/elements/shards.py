"""A finished temporary file."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Shard:
    """A finished temporary file of ``rows`` rows and ``bytes`` bytes.

    ``kind`` is ``results`` or ``errors``; ``codes`` counts failed rows, as (stage, code, rows, an example's message). ``content`` is the
    digest of rows for a table. ``relative`` and ``source`` name the one input file in a mirrored layout, else they are empty.
    ``models`` counts the rows by model's folder and version, where each row names its model.
    """

    kind: str
    path: str
    order: tuple[str, int]
    relative: str
    source: str
    rows: int
    bytes: int
    crc32c: str
    codes: tuple[tuple[str, str, int, str], ...] = ()
    models: tuple[tuple[str, str | None, int], ...] = ()
    content: str = ""
