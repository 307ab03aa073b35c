"""Batches of predictions as the write step gets them, and whole jobs, for the tests of the output formats."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from transforms.elements.batches import InstanceBatch, PredictionBatch, RowTexts
from transforms.elements.columns import Column
from transforms.specs.signature import Signature, TensorSpec

X = TensorSpec("x", "x:0", "float32", (None,))


def signature_of(*outputs: TensorSpec, inputs: tuple[TensorSpec, ...] = (X,)) -> Signature:
    return Signature("serving_default", ("serve",), inputs, outputs)


def output_spec(name: str, dtype: str, rank: int) -> TensorSpec:
    return TensorSpec(name, f"{name}:0", dtype, (None,) * (rank + 1))


def instances(keys: list[str], passthrough: dict[str, list[str]] | None = None) -> InstanceBatch:
    """A batch whose rows are ``{}``; keys and passthrough fields are JSON texts."""
    number = len(keys)
    starts = np.arange(number) * 3
    return InstanceBatch(
        source="in.jsonl", relative="in.jsonl", columns={}, offsets=starts,
        rows=RowTexts(b"{}\n" * number, starts, starts + 2), keys=pa.array(keys, pa.string()),
        passthrough={name: pa.array(texts, pa.string()) for name, texts in (passthrough or {}).items()}, failed=[], bytes=3 * number,
    )  # fmt: skip


def predictions(outputs: dict[str, Column], **made: Any) -> PredictionBatch:
    number = len(next(iter(outputs.values())))
    batch = instances(**({"keys": [f'"k{row}"' for row in range(number)]} | made))
    return PredictionBatch(batch, np.arange(number), outputs, [])


def objects(values: list[Any], shape: tuple[int, ...] = (-1,)) -> np.ndarray:
    column = np.empty(len(values), object)
    column[:] = values
    return column.reshape(shape)
