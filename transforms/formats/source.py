"""The file of a range, opened: the one that the run planned to read, from the first byte to the last."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from transforms.elements.splits import FileRange
from transforms.formats.damage import DamagedFileError
from transforms.storage import files


@contextmanager
def open_source(file_range: FileRange) -> Iterator[BinaryIO]:
    """Open the file of ``file_range`` for reading its bytes as they are stored; every reader of a file opens it here.

    Raises:
      FileChangedError: it is not what ``file_range.pin`` says, or no longer at the end. Damage that comes of a change is that change.
    """
    with files.open_raw(file_range.path, file_range.pin) as stream:
        try:
            yield stream
        except DamagedFileError:
            files.check_unchanged(file_range.path, file_range.pin, stream)
            raise
        files.check_unchanged(file_range.path, file_range.pin, stream)
