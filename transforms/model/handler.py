"""SavedModelHandler: batches of instances → batches of predictions, inside Beam's RunInference."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from apache_beam.ml.inference.base import ModelHandler

from transforms.elements.batches import JobInstances, JobPredictions, PredictionBatch, SplitEnd
from transforms.elements.columns import Column
from transforms.elements.failed_rows import FailedRow
from transforms.model.calls import BatchRunner
from transforms.model.pool import ModelPool
from transforms.rows.codes import Code, RowError
from transforms.rows.keys import hash_keys
from transforms.runtime import metrics, worker_causes
from transforms.specs.errors import ModelError
from transforms.specs.models import NO_COMPARISON, VARIANT, CompareSpec, ModelSpec, UnknownModel

# A second model's share of the keys is a multiple of 1 / SHARES.
SHARES = 10_000


class SavedModelHandler(ModelHandler[JobInstances | SplitEnd, JobPredictions | SplitEnd, ModelPool]):
    """Beam's handler of SavedModels: runs each batch's model on the batch, which Beam must not batch again, and passes ends of splits on.

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
        self, batch: JobInstances | SplitEnd, model: ModelPool, inference_args: dict[str, Any] | None = None
    ) -> Iterable[JobPredictions | SplitEnd]:
        """Return the predictions of one batch; two batches of them if a second model predicts a share of the keys."""
        if isinstance(batch, SplitEnd):
            return [batch]
        first, second, share = batch.model, self.compare.model, self.compare.share
        if isinstance(first, UnknownModel) or (not len(batch) and batch.job.route is not None):
            return [_all_failed(batch, "")]
        try:
            if second is None:
                return [_predict(model, first, batch)]
            if share is None:
                return [_predict(model, first, batch, compared=_run(model, second, batch))]
            return [_predict(model, spec, part) for spec, part in split_by_share(batch, (first, second), share)]
        except ModelError as error:
            if self.first is not None:
                raise
            return [_all_failed(batch, str(error))]

    def get_num_bytes(self, batch: Sequence[JobInstances | SplitEnd]) -> int:
        return batch.size_bytes if isinstance(batch, JobInstances | SplitEnd) else sum(element.size_bytes for element in batch)

    def get_metrics_namespace(self) -> str:
        return metrics.NAMESPACE

    def should_skip_batching(self) -> bool:
        return True


def _predict(pool: ModelPool, spec: ModelSpec, batch: JobInstances, compared: PredictionBatch | None = None) -> JobPredictions:
    """Return the predictions of one model, with the loads of models since the last batch."""
    predictions = _run(pool, spec, batch)
    return JobPredictions(batch.job, batch.model, batch.split_key, predictions, batch.read_seconds, pool.take_load_seconds(), compared)


def _run(pool: ModelPool, spec: ModelSpec, batch: JobInstances) -> PredictionBatch:
    runner = BatchRunner(pool.get(spec))
    with pool.notes.predicting(spec, batch):
        return runner.run(batch.instances)


def split_by_share(batch: JobInstances, models: tuple[ModelSpec, ModelSpec], share: float) -> Iterator[tuple[ModelSpec, JobInstances]]:
    """Yield both models, each with its part of the keys, the second with ``share``; a key always goes to the same model."""
    instances = batch.instances
    is_second = hash_keys(instances.keys) % np.uint64(SHARES) < np.uint64(round(share * SHARES))
    # Rows that failed earlier and the seconds of reading count once, with the first part.
    shares: tuple[tuple[ModelSpec, np.ndarray, list[FailedRow], float], ...] = (
        (models[0], ~is_second, instances.failed, batch.read_seconds),
        (models[1], is_second, [], 0.0),
    )
    for spec, is_chosen, failed, read_seconds in shares:
        chosen = instances.take(np.flatnonzero(is_chosen))
        variant = msgspec.json.encode(spec.version or spec.location).decode()
        part = dataclasses.replace(
            chosen,
            bytes=instances.bytes * len(chosen) // max(1, len(instances)),  # bytes a row decide how many rows go into a call
            passthrough=chosen.passthrough | {VARIANT: pa.array([variant] * len(chosen), pa.string())},
            failed=failed,
        )
        yield spec, JobInstances(batch.job, batch.model, batch.split_key, part, read_seconds)


def _all_failed(batch: JobInstances, message: str) -> JobPredictions:
    """Return the batch with each instance failed; ``message`` says why its model can't be loaded or run."""
    instances, signature = batch.instances, batch.model.signature
    failed = [instances.failed_row(row, RowError(Code.MODEL_LOAD_FAILED, message)) for row in range(len(instances))]
    outputs: dict[str, Column] = {spec.name: np.empty((0,), np.float32) for spec in signature.outputs}
    predictions = PredictionBatch(instances, np.empty(0, np.int64), outputs, [*instances.failed, *failed])
    return JobPredictions(batch.job, batch.model, batch.split_key, predictions, batch.read_seconds)
