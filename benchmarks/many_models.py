"""W4: thousands of small models, each with its own little input; built quickly, but from real exports.

Of each architecture a few models are really exported, anew each time, as retraining does; the others are such an export with
other variables, written by TensorFlow's own saver op.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

FEATURES = 8
ROWS = 20
EXPORTS = 5


def build(folder: Path, models: int, architectures: int = 1, large_rows: int = 0) -> Path:
    """Build ``models`` models with inputs of 20 rows (the first of ``large_rows``, if given); return the model map."""
    task_map = folder / "tasks.jsonl"
    if task_map.exists():
        return task_map
    generator = np.random.default_rng(4)
    exports = [_export(folder / "exports" / f"{kind}-{number}", kind) for kind in range(architectures) for number in range(EXPORTS)]
    variables = [_variables(export) for export in exports]
    lines = []
    for number in range(models):
        place = number % len(exports)
        model = folder / "models" / f"site-{number:05d}"
        (model / "variables").mkdir(parents=True)
        shutil.copy(exports[place] / "saved_model.pb", model)
        _write_variables(model, variables[place], generator)
        rows = large_rows if large_rows and number == 0 else ROWS
        data = folder / "data" / f"site-{number:05d}.jsonl"
        data.parent.mkdir(exist_ok=True)
        data.write_text("".join(_rows(generator, rows)))
        lines.append({"model": str(model), "input": str(data), "output": f"site-{number:05d}"})
    task_map.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return task_map


def _rows(generator: np.random.Generator, count: int) -> Iterator[str]:
    for number, row in enumerate(generator.normal(size=(count, FEATURES)).round(4)):
        yield json.dumps({"id": number, "x": row.tolist()}) + "\n"


def _export(folder: Path, kind: int) -> Path:
    """Export a small dense model; every ``kind`` is an architecture of its own."""
    import keras
    import tensorflow as tf

    model = keras.Sequential([keras.Input((FEATURES,), name="x"), keras.layers.Dense(16 + kind, activation="relu"), keras.layers.Dense(1)])
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", lambda x: {"y": model(x)}, [tf.TensorSpec([None, FEATURES], tf.float32, name="x")])
    archive.write_out(str(folder), verbose=False)
    return folder


def _variables(export: Path) -> dict[str, np.ndarray | bytes]:
    import tensorflow as tf

    path = str(export / "variables" / "variables")
    reader = tf.train.load_checkpoint(path)
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def _write_variables(model: Path, variables: dict[str, np.ndarray | bytes], generator: np.random.Generator) -> None:
    import tensorflow as tf

    values = [
        tf.constant(value if isinstance(value, bytes) else value + generator.normal(scale=0.5, size=value.shape).astype(value.dtype))
        for value in variables.values()
    ]
    prefix = str(model / "variables" / "variables")
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=list(variables), shape_and_slices=[""] * len(variables), tensors=values)


if __name__ == "__main__":
    print(build(Path(sys.argv[1]), *map(int, sys.argv[2:])))
