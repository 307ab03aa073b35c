"""How large what is read may get in memory: what a few packed bytes unpack to has a bound, whatever the file says."""

from __future__ import annotations

# A block, a column's value or a row of typed columns, unpacked. Turning it into an instance takes some ten times as much (a list of
# numbers of one byte each is eight bytes a number, and again as an array), so that one of this size fits a worker of 4 GB with its model.
MAX_UNPACKED_BYTES = 64 << 20
# Values of one row of JSON: 30 million numbers of 60 MB took a minute and 1.6 GB. Below the first bound a row is not looked at.
LONG_ROW_BYTES, MAX_ROW_VALUES = 8 << 20, 10_000_000
# A column of a row group that is both larger than this and packed by more than the ratio holds nothing but repetitions, and Arrow
# unpacks a page of it whole: 49 KB took 1 GB. Text of all kinds is packed to a tenth or a fiftieth.
MAX_PACKED_COLUMN_BYTES, MAX_PACKED_RATIO = 256 << 20, 1000
