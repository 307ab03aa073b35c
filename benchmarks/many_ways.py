"""The ways of W4, each in a process of its own: ``python -m benchmarks.many_ways WAY TASKS MODELS OUTPUT``.

Prints seconds and the processor's seconds from after the imports to the end; the whole process is timed by its parent.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np


def _tasks(path: Path, count: int) -> list[dict[str, str]]:
    """Return the first tasks of small inputs."""
    tasks = [json.loads(line) for line in path.read_text().splitlines()]
    return [task for task in tasks if Path(task["input"]).stat().st_size < 1 << 20][:count]


def _rows(task: dict[str, str]) -> tuple[list[int], np.ndarray]:
    rows = [json.loads(line) for line in Path(task["input"]).read_text().splitlines()]
    return [row["id"] for row in rows], np.array([row["x"] for row in rows], np.float32)


def _write(folder: Path, number: int, keys: list[int], predictions: np.ndarray) -> None:
    lines = (json.dumps({"key": key, "prediction": value}) + "\n" for key, value in zip(keys, predictions.tolist(), strict=True))
    (folder / f"{number}.jsonl").write_text("".join(lines))


def loop(tasks: list[dict[str, str]], output: Path) -> None:
    """Load each model, call it once, write one file."""
    import tensorflow as tf

    for number, task in enumerate(tasks):
        keys, x = _rows(task)
        function = tf.saved_model.load(task["model"]).signatures["serving_default"]
        (found,) = function(x=tf.constant(x)).values()
        _write(output, number, keys, found.numpy())


def shared(tasks: list[dict[str, str]], output: Path) -> None:
    """Use one Session for all models whose protobufs are the same bytes, with the variables of one after the other: the limit."""
    import tensorflow as tf

    sessions: dict[bytes, tuple[Any, Any]] = {}
    for number, task in enumerate(tasks):
        keys, x = _rows(task)
        content = (Path(task["model"]) / "saved_model.pb").read_bytes()
        if content not in sessions:
            session = tf.compat.v1.Session(graph=tf.Graph())
            with session.graph.as_default():
                meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], task["model"])
            sessions[content] = session, meta_graph
        session, meta_graph = sessions[content]
        saver, signature = meta_graph.saver_def, meta_graph.signature_def["serving_default"]
        prefix = f"{task['model']}/variables/variables"
        session.run(session.graph.get_operation_by_name(saver.restore_op_name), {saver.filename_tensor_name: prefix})
        (tensor,) = signature.outputs.values()
        _write(output, number, keys, session.run(tensor.name, {signature.inputs["x"].name: x}))


def keyed(tasks: list[dict[str, str]], output: Path) -> None:
    """Run Beam's KeyedModelHandler with a mapping a model, as its documentation builds it."""
    import apache_beam as beam
    from apache_beam.ml.inference.base import KeyedModelHandler, KeyModelMapping, RunInference
    from apache_beam.options.pipeline_options import PipelineOptions

    from benchmarks.documented import SavedModelRowHandler

    def read(task: dict[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
        for key, x in zip(*_rows(task), strict=True):
            yield task["model"], {"id": key, "x": x}

    def line(result: Any) -> str:
        (value,) = result[1].inference.values()
        return json.dumps({"model": result[0], "key": result[1].example["id"], "prediction": value.tolist()})

    mappings = [KeyModelMapping([task["model"]], SavedModelRowHandler(task["model"])) for task in tasks]
    with beam.Pipeline(options=PipelineOptions(["--allow_unsafe_triggers"])) as pipeline:
        (
            pipeline
            | beam.Create(tasks)
            | "Read" >> beam.FlatMap(read)
            | RunInference(KeyedModelHandler(mappings, max_models_per_worker_hint=1))
            | "Format" >> beam.Map(line)
            | beam.io.WriteToText(str(output / "predictions"))
        )


WAYS: dict[str, Callable[[list[dict[str, str]], Path], None]] = {"loop": loop, "shared": shared, "keyed": keyed}


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main(way: str, path: Path, count: int, output: Path) -> None:
    import apache_beam  # noqa: F401
    import tensorflow  # noqa: F401

    output.mkdir(parents=True, exist_ok=True)
    tasks = _tasks(path, count)
    started, cpu_started = time.perf_counter(), _cpu_seconds()
    WAYS[way](tasks, output)
    print(json.dumps({"seconds": time.perf_counter() - started, "cpu_seconds": _cpu_seconds() - cpu_started}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
