"""Encoder of the formats whose files are rows one after the other: JSON-lines, CSV and TFRecord."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator, Sequence

from transforms.convert.refuse_rows import cut_batch
from transforms.elements.batches import PredictionBatch
from transforms.formats.protocols import Sink
from transforms.specs.output import OutputSpec
from transforms.specs.signature import Signature
from transforms.storage import files

JOINED_BYTES = 8 << 20


@dataclasses.dataclass
class RowEncoder(abc.ABC):
    """Writes predictions as files of rows, which may be joined as bytes; a file may begin with a ``header``.

    Rows are made in blocks of about ``block_bytes``: much less than the 2 GB that Arrow's strings can hold, and flat in memory.
    """

    signature: Signature
    output: OutputSpec
    key_fields: tuple[str, ...]
    block_bytes: int = 64 << 20
    header = b""
    content = ""

    @abc.abstractmethod
    def refuse(self, batch: PredictionBatch) -> PredictionBatch:
        """Return the batch with the rows that the format can't hold failed."""

    @abc.abstractmethod
    def encode_rows(self, batch: PredictionBatch) -> bytes | memoryview:
        """Return the rows of a batch as they are in a file."""

    def encode(self, batch: PredictionBatch) -> Iterator[tuple[bytes | memoryview, int]]:
        """Yield blocks of whole rows, each with the number of its rows."""
        for part in cut_batch(batch, self.block_bytes):
            yield self.encode_rows(part), len(part)

    def open(self, stream: Sink) -> None:
        self._stream = stream
        if self.header:
            stream.write(self.header)

    def write(self, batch: PredictionBatch) -> None:
        for block, _ in self.encode(batch):
            self._stream.write(block)

    def close(self) -> None:
        """Let the stream go: a file of rows has no end to write."""
        del self._stream

    def join(self, paths: Sequence[str], stream: Sink) -> None:
        for number, path in enumerate(paths):
            with files.open_raw(path) as source:
                if number:
                    source.seek(len(self.header))
                while block := source.read(JOINED_BYTES):
                    stream.write(block)
