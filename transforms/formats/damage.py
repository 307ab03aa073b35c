"""What is damage of a file, what the engine is to try again, and what is a bug: one rule for all formats.

- **Damage**: bytes that came as they are stored do not decode. A second attempt would meet the same bytes, so the file is named.
- **Tried again**: the storage or the machine did not give the bytes, or had no memory for them. Raised as it is.
- **A bug**: what our own code raises. Raised as it is, too.

So only calls of a library that decodes stand inside ``decoding``, never code of ours.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
from backports import zstd
from isal import igzip_lib

from transforms.specs.errors import NightshiftError

# What the libraries raise at bytes that do not decode. Arrow and bz2 raise bare OSErrors, beside those of the system and the storage.
POSSIBLE: tuple[type[Exception], ...] = (
    EOFError, OSError, UnicodeDecodeError, lzma.LZMAError, zlib.error, igzip_lib.error, zstd.ZstdError, pa.ArrowException,
)  # type: ignore[assignment]  # fmt: skip  # isal's stub is wrong


class DamagedFileError(NightshiftError):
    """The file breaks off or can't be decoded; ``offset`` is the first byte, or row, not read."""

    def __init__(self, offset: int, message: str) -> None:
        super().__init__(message)
        self.offset = offset


def is_damage(error: BaseException) -> bool:
    """Return whether ``error``, a ``POSSIBLE`` one of a library that decodes a file, says that the file's bytes are damaged.

    An OSError of the system or the storage has an errno, or is of a class of its own; those about bytes have neither.
    """
    if isinstance(error, MemoryError):  # ArrowMemoryError is both
        return False
    return not isinstance(error, OSError) or (error.errno is None and type(error) is OSError)


@contextmanager
def decoding(offset: int, what: str, stumbles: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Raise what is damage as a DamagedFileError at ``offset`` whose message begins with ``what``; leave all else as it is.

    ``stumbles`` are what a library that has no errors of its own for damage raises at it, beside ``POSSIBLE``.
    """
    try:
        yield
    except (*POSSIBLE, *stumbles) as error:
        if not is_damage(error):
            raise
        raise DamagedFileError(offset, f"{what}: {type(error).__name__}: {error}") from error
