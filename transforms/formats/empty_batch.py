"""A batch without instances."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from transforms.convert.from_json import numpy_dtype
from transforms.elements.batches import InstanceBatch, RowTexts
from transforms.elements.failed_rows import FailedRow
from transforms.elements.splits import FileRange
from transforms.rows.row_spec import RowSpec


def empty_batch(spec: RowSpec, file_range: FileRange, failed: Iterable[FailedRow] = (), size_bytes: int = 0) -> InstanceBatch:
    """Return a batch of ``size_bytes`` bytes of a file without an instance, all rows of which ``failed``, if it has any."""
    no_texts = pa.array([], pa.string())
    no_offsets = np.empty(0, np.int64)
    return InstanceBatch(
        source=file_range.path,
        relative=file_range.relative,
        columns={tensor.name: np.empty(0, numpy_dtype(tensor.dtype)) for tensor in spec.signature.inputs},
        offsets=no_offsets,
        rows=RowTexts(b"", no_offsets, no_offsets),
        keys=no_texts,
        passthrough=dict.fromkeys(spec.passthrough_fields, no_texts),
        failed=list(failed),
        bytes=size_bytes,
    )
