"""How much is read, held in memory and put together at once."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of splits, blocks, batches and rows, which no user sets: each has one good value, whatever the job.

    Attributes:
      split_bytes: of a file, read by one worker at once. A split is long enough that its fixed cost (open, seek, a shard of its own) is
        lost in it, and short enough that the last one does not keep one worker busy alone: 32 MB are parsed in about a fifth of a second.
      split_files: small files that one split takes. Opening one costs some milliseconds, more from a bucket.
      block_bytes: of a file, read and parsed at once, in whole rows.
      scan_bytes: of a block of CSV, as much as stays in the processor's cache with the masks that are made of it.
      batch_bytes: of a file, made into instances at once, in formats that know the sizes of their rows.
      batch_rows: made into instances at once, however small they are.
      tensor_bytes: of one batch, in and out, by the signature; rows beyond it are in the next batch.
      row_bytes: of a row of text, a record or a listed file; a longer one fails.
      shown_bytes: of a row or a value that is too long, shown in the failed row.
      row_values: of a row of JSON; 30 million numbers of 60 MB took a minute and 1.6 GB.
      unpacked_bytes: of a block, a column's value or a row of typed columns, unpacked, whatever the file says. Turning it into an
        instance takes some ten times as much (a list of numbers of one byte each is eight bytes a number, and again as an array), so that
        one of this size fits a worker of 4 GB with its model.
    """

    split_bytes: int = 32 << 20
    split_files: int = 1000
    block_bytes: int = 4 << 20
    scan_bytes: int = 512 << 10
    batch_bytes: int = 4 << 20
    batch_rows: int = 65_536
    tensor_bytes: int = 64 << 20
    row_bytes: int = 256 << 20
    shown_bytes: int = 1024
    row_values: int = 10_000_000
    unpacked_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"{field.name} is {getattr(self, field.name)}; expected 1 or more")


DEFAULT_LIMITS = Limits()
