"""Statistics of inputs and predictions, gathered a batch at a time and merged over splits."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterable, Sequence

import apache_beam as beam
import numpy as np

from transforms.elements.batches import PredictionBatch
from transforms.elements.columns import Column, Ragged
from transforms.elements.failed_rows import FailedRow
from transforms.rows.codes import Code
from transforms.specs.signature import Signature, TensorSpec
from transforms.statistics.agreement import Comparison
from transforms.statistics.effort import Effort
from transforms.statistics.guard import COMPARISON, EFFORT, STATISTICS, Failures, guarded
from transforms.statistics.sketches import NumberSketch, Sketch, TextSketch, count_moments

# The first batches of a `Statistics` have larger samples than later ones. Sampled rows are weighted by the rows they represent, so that
# a few rows are described well and many cost little. All numbers of W1, at 50 ns each, would take 10 % of its time.
FIRST_BATCHES = 4
SAMPLED_ROWS = (1024, 128)
SAMPLED_VALUES = (8192, 1024)
SAMPLED_TEXTS = (256, 32)
# A sketch is a few KB; a model of thousands of inputs must not make every split's statistics larger than its rows.
MOST_FEATURES = 300
EXAMPLES_A_CODE = 3
EXAMPLE_BYTES = 1000
TEXT_KINDS = ("O", "S", "U")
MISSING = (Code.INPUT_MISSING, Code.NULL_VALUE)


@dataclasses.dataclass
class Statistics:
    """Statistics of the rows of one or more splits.

    Attributes:
      inputs, outputs: a sketch a feature, at most ``MOST_FEATURES`` each.
      missing: failed rows by the input that they lack.
      examples: a few failed rows as JSON, by stage and code.
      left_out: names of features beyond ``MOST_FEATURES``.
      failures: reasons why some rows are not counted.
    """

    batches: int = 0
    instances: int = 0
    predictions: int = 0
    inputs: dict[str, Sketch] = dataclasses.field(default_factory=dict)
    outputs: dict[str, Sketch] = dataclasses.field(default_factory=dict)
    missing: Counter[str] = dataclasses.field(default_factory=Counter)
    examples: dict[tuple[str, str], list[str]] = dataclasses.field(default_factory=dict)
    left_out: set[str] = dataclasses.field(default_factory=set)
    effort: Effort = dataclasses.field(default_factory=Effort)
    comparison: Comparison = dataclasses.field(default_factory=Comparison)
    failures: Failures = dataclasses.field(default_factory=dict)

    def add(self, batch: PredictionBatch, signature: Signature) -> None:
        """Add the inputs, outputs and failed rows of a batch that a model of ``signature`` predicted."""
        self.batches += 1
        self.instances += len(batch.instances)
        self.predictions += len(batch)
        self._add_columns(self.inputs, batch.instances.columns, signature.inputs, len(batch.instances))
        self._add_columns(self.outputs, batch.outputs, signature.outputs, len(batch))
        for row in batch.failed:
            self._add_failed(row)

    def _add_columns(self, sketches: dict[str, Sketch], columns: dict[str, Column], specs: Iterable[TensorSpec], rows: int) -> None:
        if not rows:
            return
        later = int(self.batches > FIRST_BATCHES)
        alike: dict[tuple[np.dtype, tuple[int, ...]], list[tuple[NumberSketch, np.ndarray]]] = {}
        for spec in specs:
            if spec.name not in columns:
                continue
            column = columns[spec.name]
            flat = _known(_flat(column.rows) if isinstance(column, Ragged) else column)
            if flat is None or spec.dtype.startswith("complex"):
                continue
            if spec.name not in sketches and len(sketches) >= MOST_FEATURES:
                self.left_out.add(spec.name)
                continue
            sketch = sketches.setdefault(spec.name, _sketch(spec.dtype))
            if isinstance(sketch, TextSketch) != (flat.dtype.kind in TEXT_KINDS):
                continue  # a signature may be wrong, and models of one run may use a name for both: the first model's kind stays
            if isinstance(column, Ragged):  # its values count as one column of more rows; count the true rows
                sketch.rows += len(column) - len(flat)
            if isinstance(sketch, TextSketch):
                sketch.add(flat, *_sampled(flat, SAMPLED_TEXTS[later]))
                continue
            alike.setdefault((flat.dtype, flat.shape), []).append((sketch, flat))
        for (_, shape), group in alike.items():
            wanted = min(SAMPLED_ROWS[later], SAMPLED_VALUES[later] // max(1, int(np.prod(shape[1:]))))
            _add_numbers([sketch for sketch, _ in group], np.stack([column for _, column in group]), max(1, wanted))

    def _add_failed(self, row: FailedRow) -> None:
        if row.code in MISSING and row.field is not None:
            self.missing[row.field] += 1
        examples = self.examples.setdefault((row.stage, row.code), [])
        if len(examples) < EXAMPLES_A_CODE:
            examples.append(row.to_json()[:EXAMPLE_BYTES].decode(errors="replace"))

    def merge(self, other: Statistics) -> None:
        """Add the rows of ``other``; what can't be added is named in ``failures``."""
        self.failures.update({what: text for what, text in other.failures.items() if what not in self.failures})
        with guarded(STATISTICS, self.failures):
            self._merge_features(other)
        with guarded(EFFORT, self.failures):
            self.effort.merge(other.effort)
        with guarded(COMPARISON, self.failures):
            self.comparison.merge(other.comparison)

    def _merge_features(self, other: Statistics) -> None:
        self.instances += other.instances
        self.predictions += other.predictions
        _merge(self.inputs, other.inputs)
        _merge(self.outputs, other.outputs)
        self.missing.update(other.missing)
        for code, rows in other.examples.items():
            self.examples[code] = [*self.examples.get(code, ()), *rows][:EXAMPLES_A_CODE]
        self.left_out |= other.left_out


def _sketch(dtype: str) -> Sketch:
    return TextSketch() if dtype == "string" else NumberSketch(whole=dtype == "bool" or "int" in dtype)


@functools.lru_cache(64)
def _sample(rows: int, wanted: int) -> tuple[np.ndarray | None, int]:
    """Return the indices of about ``wanted`` of ``rows`` rows, a random one of each ``stride`` rows, and the stride; None for all rows."""
    stride = 1 << max(0, (rows // wanted).bit_length() - 1)
    if stride == 1:
        return None, 1
    starts = np.arange(0, rows - stride + 1, stride)
    return starts + np.random.default_rng(rows).integers(0, stride, len(starts)), stride


def _sampled(column: np.ndarray, wanted: int) -> tuple[np.ndarray, int]:
    indices, stride = _sample(len(column), wanted)
    return column if indices is None else column[indices], stride


def _add_numbers(sketches: Sequence[NumberSketch], features: np.ndarray, wanted: int) -> None:
    """Add columns of one shape and dtype to their sketches; ``features`` has the axes sketches × rows × values."""
    count, rows = features.shape[:2]
    indices, stride = _sample(rows, wanted)
    samples = (features if indices is None else features[:, indices]).reshape(count, -1)
    for sketch, moments, sample in zip(sketches, count_moments(features.reshape(count, -1)), samples, strict=True):
        sketch.add(rows, moments, sample, stride)


def _known(column: np.ndarray) -> np.ndarray | None:
    """Return the column as texts or as real numbers of a dtype of NumPy's own; None if it is neither, such as a complex one."""
    kind, name = column.dtype.kind, column.dtype.name
    if kind == "b":
        return column.view(np.uint8)
    if kind == "V" and ("int" in name or "float" in name):  # int4, bfloat16 and their like, of ml_dtypes
        return column.astype(np.int8 if "int" in name else np.float32)
    return column if kind in (*TEXT_KINDS, *"fiu") else None


def _flat(rows: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.ravel(row) for row in rows]) if rows else np.empty(0, np.float32)


def _merge(sketches: dict[str, Sketch], others: dict[str, Sketch]) -> None:
    for name, other in others.items():
        sketch = sketches.get(name)
        if sketch is None:
            if len(sketches) < MOST_FEATURES:
                sketches[name] = _copy(other)
        elif isinstance(sketch, NumberSketch) and isinstance(other, NumberSketch):
            sketch.merge(other)
        elif isinstance(sketch, TextSketch) and isinstance(other, TextSketch):
            sketch.merge(other)  # models of one run may use a name for both: the first model's kind stays


def _copy(sketch: Sketch) -> Sketch:
    empty: Sketch = TextSketch() if isinstance(sketch, TextSketch) else NumberSketch(sketch.whole)
    empty.merge(sketch)  # type: ignore[arg-type]
    return empty


class MergeStatistics(beam.CombineFn):
    """Merge the statistics of a task's splits, in any order, on each worker and then on one."""

    def create_accumulator(self) -> Statistics:
        return Statistics()

    def add_input(self, accumulator: Statistics, statistics: Statistics) -> Statistics:
        with guarded(STATISTICS, accumulator.failures):
            accumulator.merge(statistics)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[Statistics]) -> Statistics:
        merged = Statistics()
        for statistics in accumulators:
            with guarded(STATISTICS, merged.failures):
                merged.merge(statistics)
        return merged

    def extract_output(self, accumulator: Statistics) -> Statistics:
        return accumulator

    def get_accumulator_coder(self) -> beam.coders.Coder:
        return beam.coders.registry.get_coder(Statistics)
