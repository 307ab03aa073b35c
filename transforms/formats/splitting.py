"""Split a file into ranges of about 32 MB."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from transforms.elements.splits import FileRange
from transforms.formats.catalog import Format
from transforms.storage.files import FoundFile

# A split is long enough that its fixed cost (open, seek, a shard of its own) is lost in it, and short enough that
# the last one does not keep one worker busy alone: 32 MB are parsed in about a fifth of a second.
SPLIT_BYTES = 32 << 20


def split_file(found: FoundFile, format: Format) -> Iterator[FileRange]:
    """Cuts a file into ranges of about ``SPLIT_BYTES``, if its format and compression allow that.

    A large file of CSV is searched for a quote first: with one in it a line end may be part of a field, and the file is left whole.
    """
    if not format.can_split(found.path):
        yield FileRange(found.path, 0, None, found.size_bytes, found.relative, found.pin)
        return
    pieces = max(1, round(found.size_bytes / SPLIT_BYTES))
    if pieces > 1 and format.is_uncut is not None and format.is_uncut(found.path):
        pieces = 1
    borders = [found.size_bytes * piece // pieces for piece in range(pieces + 1)]
    for start, stop in itertools.pairwise(borders):
        yield FileRange(found.path, start, stop, stop - start, found.relative, found.pin)
