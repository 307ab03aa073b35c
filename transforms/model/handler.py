"""SavedModelHandler: batches of instances → batches of predictions, inside Beam's RunInference."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import time
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from apache_beam.ml.inference.base import ModelHandler

from transforms.elements.batches import InstanceBatch, PredictionBatch
from transforms.elements.columns import Column
from transforms.model.calls import BatchRunner
from transforms.model.pool import ModelPool
from transforms.rows.codes import Code, RowError
from transforms.rows.keys import hash_keys
from transforms.runtime import metrics, worker_causes
from transforms.specs.errors import ModelError
from transforms.specs.models import NO_COMPARISON, VARIANT, CompareSpec, ModelSpec

# A second model's share of the keys is a multiple of 1 / SHARES.
SHARES = 10_000


class SavedModelHandler(ModelHandler[InstanceBatch, PredictionBatch, ModelPool]):
    """Beam's handler of SavedModels: runs each batch's model on the batch, which Beam must not batch again.

    ``first`` is the model of a run with one model: it is loaded at once, and if that fails, the run fails. In a run of many models
    a model that can't be loaded fails its rows only. ``compare`` may hold a second model for the same rows. The reason why a worker can't
    load its models is written into ``staging``.
    """

    def __init__(
        self,
        first: ModelSpec | None,
        memory_bytes: int | None = None,
        processes: int = 1,
        compare: CompareSpec = NO_COMPARISON,
        staging: str | None = None,
    ) -> None:
        super().__init__()
        self.first, self.memory_bytes, self.processes, self.compare, self.staging = first, memory_bytes, processes, compare, staging

    def load_model(self) -> ModelPool:
        """Return an empty pool, or one with the run's model and the second one loaded."""
        from transforms.model.import_tensorflow import import_tensorflow

        with worker_causes.recorded(self.staging) if self.staging is not None else contextlib.nullcontext():
            import_tensorflow()
            pool = ModelPool(self.memory_bytes, self.processes)
            if self.first is not None:
                pool.get(self.first)
            if self.compare.model is not None:
                pool.get(self.compare.model)
        if self.first is None or pool.has_loaded:
            # The collector would visit TensorFlow's millions of objects again and again: JSON is read 1.5 times faster without that.
            gc.collect()
            gc.freeze()
        return pool

    def run_inference(
        self, batch: InstanceBatch, model: ModelPool, inference_args: dict[str, Any] | None = None
    ) -> Iterable[PredictionBatch]:
        """Return the predictions of one batch; two batches of them if a second model predicts a share of the keys."""
        assert batch.job is not None
        if not len(batch) and batch.job.route is not None:  # failed rows that name no model, or one that was not found
            return [_all_failed(batch, "")]
        try:
            if self.compare.model is None:
                return [_predict(model, batch.job.model, batch)]
            if self.compare.share is None:
                compared = _predict(model, self.compare.model, batch)
                return [dataclasses.replace(_predict(model, batch.job.model, batch), compared=compared)]
            return _predict_parts(model, batch, self.compare.model, self.compare.share)
        except ModelError as error:
            if self.first is not None:
                raise
            return [_all_failed(batch, str(error))]

    def get_num_bytes(self, batch: Sequence[InstanceBatch]) -> int:
        return batch.bytes if isinstance(batch, InstanceBatch) else sum(one.bytes for one in batch)

    def get_metrics_namespace(self) -> str:
        return metrics.NAMESPACE

    def should_skip_batching(self) -> bool:
        return True


def _predict(pool: ModelPool, spec: ModelSpec, batch: InstanceBatch) -> PredictionBatch:
    runner = BatchRunner(pool.get(spec))
    started = time.perf_counter()
    with pool.notes.predicting(spec, batch):
        predictions = runner.run(batch)
    seconds = time.perf_counter() - started
    return dataclasses.replace(predictions, seconds=seconds, load_seconds=pool.take_load_seconds())


def _predict_parts(pool: ModelPool, batch: InstanceBatch, second: ModelSpec, share: float) -> list[PredictionBatch]:
    """Return the predictions of each model for its share of the keys; a key always goes to the same model."""
    assert batch.job is not None
    is_second = hash_keys(batch.keys) % np.uint64(SHARES) < np.uint64(round(share * SHARES))
    parts: list[PredictionBatch] = []
    for spec, is_chosen in ((batch.job.model, ~is_second), (second, is_second)):
        part = batch.take(np.flatnonzero(is_chosen))
        part.bytes = batch.bytes * len(part) // max(1, len(batch))  # bytes a row decide how many rows go into a call
        variant = msgspec.json.encode(spec.version or spec.location).decode()
        part.passthrough = part.passthrough | {VARIANT: pa.array([variant] * len(part), pa.string())}
        if parts:  # rows that failed earlier and the seconds of reading count once, with the first part
            part = dataclasses.replace(part, failed=[], seconds=0.0)
        parts.append(_predict(pool, spec, part))
    return parts


def _all_failed(batch: InstanceBatch, message: str) -> PredictionBatch:
    failed = [batch.failed_row(row, RowError(Code.MODEL_LOAD_FAILED, message)) for row in range(len(batch))]
    assert batch.job is not None
    outputs: dict[str, Column] = {spec.name: np.empty((0,), np.float32) for spec in batch.job.model.signature.outputs}
    return PredictionBatch(batch, np.empty(0, np.int64), outputs, [*batch.failed, *failed])
