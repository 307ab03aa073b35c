"""From a batch of instances to model calls and back: slices, padding, bisection, one call a row."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence

import numpy as np

from transforms.elements.batches import InstanceBatch, PredictionBatch
from transforms.elements.columns import Column, Ragged, join, take
from transforms.elements.failed_rows import FailedRow
from transforms.model.session import LoadedModel, cant_run, telling_line
from transforms.rows.codes import Code, RowError
from transforms.runtime import metrics
from transforms.specs.errors import ModelError, NightshiftError
from transforms.specs.signature import Batching

# A row costs ten times as much in calls of 64 rows as in calls of 1,024, and a call of many inputs costs a millisecond or two by itself:
# so one call takes 4 MB of small rows, up to 16,384. A string of a kilobyte or more is an image or a similar value, which the
# model turns into something many times larger: calls of 256 were the fastest, and use little memory.
CALL_ROWS = 16_384
CALL_BYTES = 4 << 20
LARGE_STRING_BYTES = 1 << 10
LARGE_STRING_CALL_ROWS = 256


@dataclasses.dataclass
class _Answer:
    """One model call's outputs for the instances with indices ``rows``."""

    rows: np.ndarray
    outputs: Sequence[np.ndarray]


class BatchRunner:
    """The calls of a loaded model on one batch; a limit of rows that memory sets is kept with the model."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self.signature = model.signature
        self.failed: list[FailedRow] = []
        self.calls: list[int] = []

    def run(self, batch: InstanceBatch) -> PredictionBatch:
        """Return the outputs of the instances that the model predicted, and a failed row for each other.

        Raises:
          ModelError: the model can't run at all, whatever the rows.
        """
        started = time.perf_counter()
        self.batch = batch
        self.columns = [batch.columns[spec.name] for spec in self.signature.inputs]
        answers = [answer for rows, whole in self._groups() for answer in self._answers(rows, whole)]
        rows = np.concatenate([answer.rows for answer in answers]) if answers else np.empty(0, np.int64)
        outputs: dict[str, Column] = {
            spec.name: join([answer.outputs[index] for answer in answers]) if answers else np.empty((0,), np.float32)
            for index, spec in enumerate(self.signature.outputs)
        }
        if (np.diff(rows) < 0).any():  # only groups of rows by shape are out of order; sorting others would copy for nothing
            order = np.argsort(rows, kind="stable")
            rows, outputs = rows[order], {name: take(column, order) for name, column in outputs.items()}
        return PredictionBatch(batch, rows, outputs, [*batch.failed, *self.failed], tuple(self.calls), time.perf_counter() - started)

    # --- which rows may be fed together ---

    def _groups(self) -> Iterator[tuple[np.ndarray, bool]]:
        """Yield the indices of rows of one shape, and whether each of these rows is a whole tensor of its own."""
        if not len(self.batch):
            return
        columns = self.columns
        if not any(isinstance(column, Ragged) for column in columns):
            yield np.arange(len(self.batch)), self._is_whole([column[0] for column in columns if isinstance(column, np.ndarray)])
            return
        groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for row in range(len(self.batch)):
            cells = [column.rows[row] if isinstance(column, Ragged) else column[row] for column in columns]
            groups.setdefault(tuple(np.shape(cell) for cell in cells), []).append(row)
        for shapes, rows in groups.items():
            yield np.array(rows), self._is_whole([np.empty(shape) for shape in shapes])

    def _is_whole(self, cells: Sequence[np.ndarray]) -> bool:
        """Return whether a row with these cells is fed alone, without a batch dimension added."""
        if self.signature.batching is Batching.ROWWISE:
            return True
        return self.signature.batching is Batching.FIXED and any(
            np.ndim(cell) == len(spec.shape or ()) for cell, spec in zip(cells, self.signature.inputs, strict=True)
        )

    def _slice_rows(self) -> int:
        if self.signature.batching is Batching.FIXED:
            return self.signature.fixed_rows
        row_bytes = max(1, self.batch.bytes // max(1, len(self.batch)))
        rows = max(1, min(CALL_ROWS, CALL_BYTES // row_bytes))
        if row_bytes >= LARGE_STRING_BYTES and any(spec.dtype == "string" for spec in self.signature.inputs):
            rows = min(rows, LARGE_STRING_CALL_ROWS)
        return min(self.model.spec.batch_size or rows, self.model.max_rows)

    def _answers(self, rows: np.ndarray, whole: bool) -> Iterator[_Answer]:
        if whole:
            for row in rows:
                yield from self._isolate(np.array([row]), whole=True)
            return
        start = 0
        while start < len(rows):
            call_rows = rows[start : start + self._slice_rows()]
            start += len(call_rows)
            yield from self._isolate(call_rows, whole=False)

    # --- one call, and what to do when it fails ---

    def _isolate(self, rows: np.ndarray, whole: bool) -> Iterator[_Answer]:
        """Call the model on ``rows``; if that fails, on each half, until only the rows that fail are left out."""
        import tensorflow as tf

        try:
            yield _Answer(rows, self._checked(self._call(rows, whole), rows, whole))
            return
        except (tf.errors.ResourceExhaustedError, MemoryError) as error:
            code, message = Code.OUT_OF_MEMORY, telling_line(error)
            self.model.max_rows = max(1, min(self.model.max_rows, len(rows) // 2))
        except ModelError:  # the model's variables can't be restored, whatever the rows
            raise
        except _RowsDifferError as error:
            self._fail(rows, Code.OUTPUT_ROWS_DIFFER, str(error))
            return
        except Exception as error:  # a model may raise anything; the one place where everything is caught, to isolate rows
            if isinstance(error, tf.errors.OpError) and cant_run(error):
                raise ModelError(f"{self.model.spec.location} can't run: {telling_line(error)}") from error
            code, message = Code.MODEL_ERROR, telling_line(error)
        if len(rows) == 1:
            self._fail(rows, code, message)
            return
        yield from self._isolate(rows[: len(rows) // 2], whole)
        yield from self._isolate(rows[len(rows) // 2 :], whole)

    def _fail(self, rows: np.ndarray, code: Code, message: str) -> None:
        self.failed += [self.batch.failed_row(int(row), RowError(code, message)) for row in rows]

    def _call(self, rows: np.ndarray, whole: bool) -> Sequence[np.ndarray]:
        cells = [self._feed(column, rows) for column in self.columns]
        if whole:
            # One row: an input with a free first dimension is fed with it, the others without.
            cells = [cell if spec.is_batched else cell[0] for cell, spec in zip(cells, self.signature.inputs, strict=True)]
        elif self.signature.batching is Batching.FIXED and len(rows) < self.signature.fixed_rows:
            padding = self.signature.fixed_rows - len(rows)
            cells = [np.concatenate([cell, np.repeat(cell[-1:], padding, axis=0)]) for cell in cells]
        metrics.model_calls.inc()
        metrics.model_call_rows.update(len(rows))
        self.calls.append(len(rows))
        return self.model.call(cells)

    def _feed(self, column: Column, rows: np.ndarray) -> np.ndarray:
        if isinstance(column, Ragged):
            return np.stack([column.rows[row] for row in rows])
        if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
            return column[rows[0] : rows[-1] + 1]  # a view: consecutive rows need no copy
        return column[rows]

    def _checked(self, outputs: Sequence[np.ndarray], rows: np.ndarray, whole: bool) -> Sequence[np.ndarray]:
        """Return the outputs with one row an instance, without padding.

        Raises:
          _RowsDifferError: an output has another number of rows.
        """
        expected = self.signature.fixed_rows if self.signature.batching is Batching.FIXED else len(rows)
        checked = []
        for spec, output in zip(self.signature.outputs, outputs, strict=True):
            output = np.asarray(output)
            if whole and not (self.signature.batching is Batching.ROWWISE and spec.is_batched and spec.shape is not None):
                checked.append(output[np.newaxis])
                continue
            if output.ndim == 0 or len(output) != expected:
                actual = "one scalar" if output.ndim == 0 else f"{len(output)} rows"
                raise _RowsDifferError(f"output {spec.name!r}: expected {expected} rows for {len(rows)} instances, found {actual}")
            checked.append(output[: len(rows)])
        return checked


class _RowsDifferError(NightshiftError):
    """An output does not have one row an instance."""
