"""What the columns of a table can't give a job: seen in its schema, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from transforms.read.arrow import fits
from transforms.read.row import RowSpec


def refuse_columns(spec: RowSpec, path: str, columns: Mapping[str, Sequence[pa.DataType]]) -> str | None:
    """Gives why a job can't use the columns of the file ``path``, or None.

    ``columns`` gives for each column the types that its values may have; one that fits is enough.
    """
    wanted = {
        "an input of the model": [tensor.name for tensor in spec.signature.inputs],
        "--key_field": list(spec.key_fields),
        "--model_field": [] if spec.model_field is None else [spec.model_field],
        "--passthrough_fields": [name for name in spec.passthrough_fields if name != "*"],
    }
    there = ", ".join(list(columns)[:20])
    for reason, names in wanted.items():
        missing = [name for name in names if name not in columns]
        if missing:
            return f"{path} has no column {', '.join(map(repr, missing))} ({reason}); its columns are {there}"
    for tensor in spec.signature.inputs:
        kinds = columns[tensor.name]
        if not any(fits(kind, tensor.dtype) for kind in kinds):
            found = " or ".join(map(str, kinds))
            return f"column {tensor.name!r} of {path} is {found}, and the model's input of that name wants {tensor}: convert the column"
    return None
