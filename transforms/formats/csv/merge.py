"""Two batches of the rows of one block, read in different ways → one, in the file's order."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa

from transforms.elements.batches import InstanceBatch, Rows
from transforms.elements.columns import join, take


def merge(one: InstanceBatch, two: InstanceBatch, rows: Rows, offsets: np.ndarray) -> InstanceBatch:
    """Join two batches; ``rows`` are all rows of the block and ``offsets`` where they begin."""
    failed = sorted((*one.failed, *two.failed), key=lambda row: row.offset)
    if not len(one) or not len(two):
        return dataclasses.replace(one if len(one) else two, failed=failed)
    joined = np.concatenate((one.offsets, two.offsets))
    sort = np.argsort(joined, kind="stable")
    places = pa.array(sort)
    return dataclasses.replace(
        one,
        columns={name: take(join((column, two.columns[name])), sort) for name, column in one.columns.items()},
        offsets=joined[sort],
        rows=rows.take(np.searchsorted(offsets, joined[sort])),
        keys=pa.concat_arrays([one.keys, two.keys]).take(places),
        passthrough={name: pa.concat_arrays([column, two.passthrough[name]]).take(places) for name, column in one.passthrough.items()},
        failed=failed,
    )
