"""Two batches of the rows of one block, read in different ways → one, in the file's order."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa

from transforms.elements.batches import InstanceBatch, Rows
from transforms.elements.columns import join, take


def merge(first: InstanceBatch, second: InstanceBatch, rows: Rows, offsets: np.ndarray) -> InstanceBatch:
    """Join two batches; ``rows`` are all rows of the block and ``offsets`` where they begin."""
    failed = sorted((*first.failed, *second.failed), key=lambda row: row.offset)
    if not len(first) or not len(second):
        return dataclasses.replace(first if len(first) else second, failed=failed)
    joined = np.concatenate((first.offsets, second.offsets))
    sort = np.argsort(joined, kind="stable")
    places = pa.array(sort)
    return dataclasses.replace(
        first,
        columns={name: take(join((column, second.columns[name])), sort) for name, column in first.columns.items()},
        offsets=joined[sort],
        rows=rows.take(np.searchsorted(offsets, joined[sort])),
        keys=pa.concat_arrays([first.keys, second.keys]).take(places),
        passthrough={name: pa.concat_arrays([column, second.passthrough[name]]).take(places) for name, column in first.passthrough.items()},
        failed=failed,
    )
