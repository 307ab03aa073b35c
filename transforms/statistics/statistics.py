"""The statistics of some splits' rows, of inputs and of predictions, gathered a batch at a time and merged."""

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
from transforms.specs.signature import TensorSpec
from transforms.statistics.agreement import Comparison
from transforms.statistics.effort import Effort
from transforms.statistics.guard import COMPARISON, EFFORT, STATISTICS, Failures, guarded
from transforms.statistics.sketches import NumberSketch, Sketch, TextSketch, count_moments

# Of a worker's first batches more rows are looked at than of those that follow: what a row stands for is counted in, so few rows
# are described well, and of many it costs little. All of W1's numbers would take 10 % of its time, at 50 ns each.
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
    """What the rows of some splits looked like and took; ``left_out`` are features beyond ``MOST_FEATURES``.

    With ``failures`` some rows are missing in it.
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

    def add(self, batch: PredictionBatch) -> None:
        """Takes a batch's inputs, outputs and failed rows."""
        signature = batch.job.model.signature
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
                continue  # a signature may lie, and models of one run may differ in what a name means: the first one's kind stays
            if isinstance(column, Ragged):  # its values are looked at as one column, and its rows stay as many as they are
                sketch.rows += len(column) - len(flat)
            if isinstance(sketch, TextSketch):
                sketch.add(flat, *_sampled(flat, SAMPLED_TEXTS[later]))
                continue
            alike.setdefault((flat.dtype, flat.shape), []).append((sketch, flat))
        for (_, shape), some in alike.items():
            wanted = min(SAMPLED_ROWS[later], SAMPLED_VALUES[later] // max(1, int(np.prod(shape[1:]))))
            _add_numbers([sketch for sketch, _ in some], np.stack([column for _, column in some]), max(1, wanted))

    def _add_failed(self, row: FailedRow) -> None:
        if row.code in MISSING and row.field is not None:
            self.missing[row.field] += 1
        examples = self.examples.setdefault((row.stage, row.code), [])
        if len(examples) < EXAMPLES_A_CODE:
            examples.append(row.to_json()[:EXAMPLE_BYTES].decode(errors="replace"))

    def merge(self, other: Statistics) -> None:
        """Adds the rows of ``other``, as far as that can be done."""
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
    """Gives the places of rows to look at, one of each ``stride`` at a place by chance, and the stride; None for all rows."""
    stride = 1 << max(0, (rows // wanted).bit_length() - 1)
    if stride == 1:
        return None, 1
    starts = np.arange(0, rows - stride + 1, stride)
    return starts + np.random.default_rng(rows).integers(0, stride, len(starts)), stride


def _sampled(column: np.ndarray, wanted: int) -> tuple[np.ndarray, int]:
    places, stride = _sample(len(column), wanted)
    return column if places is None else column[places], stride


def _add_numbers(sketches: Sequence[NumberSketch], features: np.ndarray, wanted: int) -> None:
    """Adds columns of one shape and type at once: ``features`` has one for each sketch, then rows, then values."""
    count, rows = features.shape[:2]
    places, stride = _sample(rows, wanted)
    samples = (features if places is None else features[:, places]).reshape(count, -1)
    for sketch, moments, sample in zip(sketches, count_moments(features.reshape(count, -1)), samples, strict=True):
        sketch.add(rows, moments, sample, stride)


def _known(column: np.ndarray) -> np.ndarray | None:
    """Gives a column of texts, or of numbers of NumPy's own types; None for others, such as complex ones."""
    kind, name = column.dtype.kind, column.dtype.name
    if kind == "b":
        return column.view(np.uint8)
    if kind == "V" and ("int" in name or "float" in name):  # int4, bfloat16 and their like, of ml_dtypes
        return column.astype(np.int8 if "int" in name else np.float32)
    return column if kind in (*TEXT_KINDS, *"fiu") else None


def _flat(rows: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.ravel(row) for row in rows]) if rows else np.empty(0, np.float32)


def _merge(mine: dict[str, Sketch], others: dict[str, Sketch]) -> None:
    for name, other in others.items():
        sketch = mine.get(name)
        if sketch is None:
            if len(mine) < MOST_FEATURES:
                mine[name] = _copy(other)
        elif isinstance(sketch, NumberSketch) and isinstance(other, NumberSketch):
            sketch.merge(other)
        elif isinstance(sketch, TextSketch) and isinstance(other, TextSketch):
            sketch.merge(other)  # models of one run may differ in what a name means: the first one's kind stays


def _copy(sketch: Sketch) -> Sketch:
    empty: Sketch = TextSketch() if isinstance(sketch, TextSketch) else NumberSketch(sketch.whole)
    empty.merge(sketch)  # type: ignore[arg-type]
    return empty


class MergeStatistics(beam.CombineFn):
    """Merges the statistics of a task's splits, in any order, before they travel and after."""

    def create_accumulator(self) -> Statistics:
        return Statistics()

    def add_input(self, accumulator: Statistics, statistics: Statistics) -> Statistics:
        with guarded(STATISTICS, accumulator.failures):
            accumulator.merge(statistics)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[Statistics]) -> Statistics:
        merged = Statistics()
        for some in accumulators:
            with guarded(STATISTICS, merged.failures):
                merged.merge(some)
        return merged

    def extract_output(self, accumulator: Statistics) -> Statistics:
        return accumulator

    def get_accumulator_coder(self) -> beam.coders.Coder:
        return beam.coders.registry.get_coder(Statistics)
