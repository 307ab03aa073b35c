"""Two models' predictions side by side: a line a row, and counts of agreement."""

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


def compare_batch(
    one: PredictionBatch, other: PredictionBatch, signature: Signature, nan: str, tolerance: float
) -> tuple[bytes | memoryview, Comparison]:
    """Return the lines of prediction.comparison-* for the rows that both models predicted, and the counts of these rows.

    A line is ``{"key", "agree", "prediction", "compared", "difference"}``; ``difference`` has the largest absolute difference of each
    output of numbers. ``signature`` is that of both models, ``nan`` the JSON text of NaN.
    """
    aligned = align(one, other)
    comparison = Comparison(rows=len(aligned.rows), first_only=len(one) - len(aligned.rows))
    if not comparison.rows:
        return b"", comparison
    pairs = {spec.name: columns_of(one, other, aligned, spec.name) for spec in signature.outputs}
    differences = {name: differ(*columns, tolerance) for name, columns in pairs.items()}
    agrees = np.logical_and.reduce([difference.agrees for difference in differences.values()])
    comparison.agreed = int(np.count_nonzero(agrees))
    for name, difference in differences.items():
        comparison.outputs[name] = OutputComparison()
        comparison.outputs[name].add(difference)
    first, second = ({spec.name: json_texts(pairs[spec.name][side], spec, nan) for spec in signature.outputs} for side in (0, 1))
    keys = one.instances.keys.take(pa.array(aligned.rows))
    lines = join_texts(
        [
            '{"key": ', keys, ', "agree": ', pa.array(np.where(agrees, "true", "false").tolist(), pa.string()),
            ', "prediction": ', *prediction_texts(first), ', "compared": ', *prediction_texts(second),
            ', "difference": {', *_differences(signature, differences), "}}\n",
        ]
    )  # fmt: skip
    comparison.keep(_most_changed(lines, differences))
    return text_of(lines), comparison


def _differences(signature: Signature, differences: dict[str, Difference]) -> list[str | pa.Array]:
    """Return the texts of the members of ``difference``, a text or an array of a text a row each."""
    texts: list[str | pa.Array] = []
    for spec in signature.outputs:
        apart = differences[spec.name].apart
        if apart is not None:
            number = TensorSpec(spec.name, spec.tensor, "float64", (None,))
            name = spec.name.replace("\\", "\\\\").replace('"', '\\"')
            texts += [f'{", " if texts else ""}"{name}": ', json_texts(apart, number, "null")]
    return texts


def _most_changed(lines: pa.Array, differences: dict[str, Difference]) -> list[tuple[float, str]]:
    """Return the rows that differ most, each as the difference in tolerances and the row's line."""
    times = np.maximum.reduce([difference.times for difference in differences.values()])
    rows = np.argsort(-times, kind="stable")[:MOST_CHANGED]
    return [
        (min(float(times[row]), 1e300) if not math.isnan(times[row]) else 1e300, lines[int(row)].as_py().rstrip("\n")[:CHANGED_CHARACTERS])
        for row in rows
        if times[row] > 0
    ]
