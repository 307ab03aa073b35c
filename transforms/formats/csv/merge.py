"""Two batches of the rows of one block, read in different ways → one, in the file's order."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa

from transforms.elements.batches import InstanceBatch, Rows
from transforms.elements.columns import join, take


def merge(first: InstanceBatch, second: InstanceBatch, rows: Rows, offsets: np.ndarray) -> InstanceBatch:
    """Join two batches; ``rows`` are all rows of the block and ``offsets`` where they begin."""
    if not len(second):
        return first.with_failed(second.failed)
    if not len(first):
        return second.with_failed(first.failed)
    both = np.concatenate((first.offsets, second.offsets))
    sort = np.argsort(both, kind="stable")
    places = pa.array(sort)
    batch = dataclasses.replace(
        first,
        columns={name: take(join((column, second.columns[name])), sort) for name, column in first.columns.items()},
        offsets=both[sort],
        rows=rows.take(np.searchsorted(offsets, both[sort])),
        keys=pa.concat_arrays([first.keys, second.keys]).take(places),
        passthrough={name: pa.concat_arrays([column, second.passthrough[name]]).take(places) for name, column in first.passthrough.items()},
    )
    return batch.with_failed(second.failed)
