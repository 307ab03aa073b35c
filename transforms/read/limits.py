"""How large what is read may get in memory: what a few packed bytes unpack to has a bound, whatever the file says."""

from __future__ import annotations

# A block, a column's value or a row of typed columns, unpacked. Turning it into an instance takes some ten times as much (a list of
# numbers of one byte each is eight bytes a number, and again as an array), so that one of this size fits a worker of 4 GB with its model.
MAX_UNPACKED_BYTES = 64 << 20
