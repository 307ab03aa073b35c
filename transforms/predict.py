"""Predict: batches of instances to batches of predictions."""

from __future__ import annotations

import dataclasses

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference

from transforms.elements.batches import SplitElement
from transforms.model.handler import SavedModelHandler
from transforms.specs.models import NO_COMPARISON, CompareSpec, ModelSpec


@dataclasses.dataclass
class Predict(beam.PTransform):
    """Predict each batch with its model.

    Expects: ``JobInstances``, and a ``SplitEnd`` after those of a recorded split.
    Gives: ``JobPredictions`` for each batch, and the ``SplitEnd``s in their places.
    Guarantees: each instance is in its batch's outputs or in its failed rows; a row on which the model fails costs no other row, and
    in a run of many (``model`` None) a model that can't run costs no other model's rows.
    """

    model: ModelSpec | None
    memory_bytes: int | None = None
    processes: int = 1
    compare: CompareSpec = NO_COMPARISON
    staging: str | None = None

    def expand(self, batches: beam.PCollection[SplitElement]) -> beam.PCollection[SplitElement]:
        handler = SavedModelHandler(self.model, self.memory_bytes, self.processes, self.compare, self.staging)
        return batches | RunInference(handler).with_output_types(SplitElement)
