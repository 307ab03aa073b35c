"""Beam's documented way: rows as dicts, KeyedModelHandler around a handler for the model, one line a prediction.

Built as the RunInference pages build it: ReadFromText, a parse a row, RunInference with the batches it makes itself,
WriteToText. Only the handler is our own: Beam's TFModelHandler can't load a SavedModel (apache/beam#30616).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.ml.inference.base import KeyedModelHandler, ModelHandler, PredictionResult, RunInference
from apache_beam.ml.inference.utils import _convert_to_result
from apache_beam.options.pipeline_options import PipelineOptions


class SavedModelRowHandler(ModelHandler[dict[str, Any], PredictionResult, Any]):
    """Run the ``serving_default`` signature on a batch of rows, each a dict of inputs."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self.model = model

    def load_model(self) -> Any:
        import tensorflow as tf

        return tf.saved_model.load(self.model)

    def run_inference(
        self, batch: Sequence[dict[str, Any]], model: Any, inference_args: dict[str, Any] | None = None
    ) -> Iterable[PredictionResult]:
        import tensorflow as tf

        signature = model.signatures["serving_default"]
        inputs = signature.structured_input_signature[1]
        fed = {name: tf.convert_to_tensor([row[name] for row in batch], dtype=spec.dtype) for name, spec in inputs.items()}
        outputs = {name: tensor.numpy() for name, tensor in signature(**fed).items()}
        return _convert_to_result(batch, outputs)


def _parse(line: str) -> tuple[str, dict[str, Any]]:
    row = json.loads(line)
    key = row.pop("id")
    return key, {name: base64.b64decode(value["b64"]) if isinstance(value, dict) else value for name, value in row.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _format(result: tuple[str, PredictionResult]) -> str:
    key, prediction = result
    outputs = {name: _plain(value) for name, value in prediction.inference.items()}
    return json.dumps({"key": key, "prediction": outputs if len(outputs) > 1 else next(iter(outputs.values()))})


def run(model: Path, rows: Path, output: Path) -> None:
    """Predict on the file ``rows`` with the SavedModel ``model`` and write ``output-NNNNN-of-NNNNN``."""
    # The option keeps DirectRunner in this process, where it would first try to download another runner.
    with beam.Pipeline(options=PipelineOptions(["--allow_unsafe_triggers"])) as pipeline:
        (
            pipeline
            | "Read" >> beam.io.ReadFromText(str(rows))
            | "Parse" >> beam.Map(_parse)
            | "Predict" >> RunInference(KeyedModelHandler(SavedModelRowHandler(str(model))))
            | "Format" >> beam.Map(_format)
            | "Write" >> beam.io.WriteToText(str(output))
        )
