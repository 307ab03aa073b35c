"""Two models' predictions side by side: a line a row, and what they come to."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa

from transforms.convert.json_texts import join_texts
from transforms.convert.to_json import json_texts
from transforms.elements.batches import PredictionBatch
from transforms.formats.jsonl.writer import prediction_texts, text_of
from transforms.specs.signature import Signature, TensorSpec
from transforms.statistics.agreement import MOST_CHANGED, Comparison, Difference, OutputComparison, align, columns_of, differ

CHANGED_CHARACTERS = 1000


def compare_batch(batch: PredictionBatch, nan: str, tolerance: float) -> tuple[bytes | memoryview, Comparison]:
    """Gives a line of ``{"key", "agree", "prediction", "compared", "difference"}`` for each row that both models predicted.

    With the lines the comparison, of as many rows. ``difference`` has, for each output of numbers, the largest absolute difference.
    """
    signature = batch.job.model.signature
    aligned = align(batch)
    found = Comparison(rows=len(aligned.rows), first_only=len(batch) - len(aligned.rows))
    if not found.rows:
        return b"", found
    pairs = {spec.name: columns_of(batch, aligned, spec.name) for spec in signature.outputs}
    differences = {name: differ(*columns, tolerance) for name, columns in pairs.items()}
    agrees = np.logical_and.reduce([difference.agrees for difference in differences.values()])
    found.agreed = int(np.count_nonzero(agrees))
    for name, difference in differences.items():
        found.outputs[name] = OutputComparison()
        found.outputs[name].add(difference)
    first, second = ({spec.name: json_texts(pairs[spec.name][side], spec, nan) for spec in signature.outputs} for side in (0, 1))
    keys = batch.instances.keys.take(pa.array(aligned.rows))
    lines = join_texts(
        [
            '{"key": ', keys, ', "agree": ', pa.array(np.where(agrees, "true", "false").tolist(), pa.string()),
            ', "prediction": ', *prediction_texts(first), ', "compared": ', *prediction_texts(second),
            ', "difference": {', *_differences(signature, differences), "}}\n",
        ]
    )  # fmt: skip
    found.keep(_most_changed(lines, differences))
    return text_of(lines), found


def _differences(signature: Signature, differences: dict[str, Difference]) -> list[str | pa.Array]:
    pieces: list[str | pa.Array] = []
    for spec in signature.outputs:
        apart = differences[spec.name].apart
        if apart is not None:
            number = TensorSpec(spec.name, spec.tensor, "float64", (None,))
            name = spec.name.replace("\\", "\\\\").replace('"', '\\"')
            pieces += [f'{", " if pieces else ""}"{name}": ', json_texts(apart, number, "null")]
    return pieces


def _most_changed(lines: pa.Array, differences: dict[str, Difference]) -> list[tuple[float, str]]:
    times = np.maximum.reduce([difference.times for difference in differences.values()])
    some = np.argsort(-times, kind="stable")[:MOST_CHANGED]
    return [
        (min(float(times[row]), 1e300) if not math.isnan(times[row]) else 1e300, lines[int(row)].as_py().rstrip("\n")[:CHANGED_CHARACTERS])
        for row in some
        if times[row] > 0
    ]
