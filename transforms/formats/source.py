"""The file of a range, opened: the one that the run planned to read, from the first byte to the last."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from transforms.elements.splits import FileRange
from transforms.formats.damage import DamagedFileError
from transforms.storage import files


@contextmanager
def open_source(piece: FileRange) -> Iterator[BinaryIO]:
    """Open the file of ``piece`` for reading its bytes as they are stored; whoever reads a file opens it here.

    Raises:
      FileChangedError: it is not what ``piece.pin`` says, or no longer at the end. Damage that comes of a change is that change.
    """
    with files.open_raw(piece.path, piece.pin) as stream:
        try:
            yield stream
        except DamagedFileError:
            files.check_unchanged(piece.path, piece.pin, stream)
            raise
        files.check_unchanged(piece.path, piece.pin, stream)
