"""What a format's reader and its encoder do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from transforms.elements.batches import InstanceBatch, PredictionBatch
from transforms.elements.splits import FileRange


class Reader(Protocol):
    """Makes batches of the files of one format; one a process and job."""

    def read(self, file_range: FileRange) -> Iterator[InstanceBatch]:
        """Yield the batches of ``file_range``: every row of it is in one of them, as instance or failed row.

        Raises:
          DamagedFileError: after the batches of all rows before the damage.
        """
        ...


class Sink(Protocol):
    """Where a file's bytes go."""

    def write(self, block: bytes | memoryview, /) -> int: ...


class Encoder(Protocol):
    """Writes predictions as files of one format, one after the other; one a process and job.

    Raises:
      SpecError: when it is made, if the format can't hold what the signature gives, or what the flags ask for.
    """

    @property
    def content(self) -> str:
        """Return the digest of the rows of the file (``transforms.convert.content_digest``), where a load needs it; else empty."""
        ...

    def open(self, stream: Sink) -> None:
        """Begin a file, which ends with ``close``."""
        ...

    def refuse(self, batch: PredictionBatch) -> PredictionBatch:
        """Return the batch with the rows that the format can't hold failed."""
        ...

    def write(self, batch: PredictionBatch) -> None:
        """Write each row of a batch, all of which the format can hold."""
        ...

    def close(self) -> None:
        """Write what is still due; the file is whole then, also when it has no row. The stream stays open."""
        ...

    def join(self, paths: Sequence[str], stream: Sink) -> None:
        """Write one file of the rows of several that this encoder wrote, in order."""
        ...
