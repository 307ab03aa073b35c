"""``make demo``: train a small real model on real data, run the job on it, and show the output.

The data are the 569 tumours of the Wisconsin breast cancer set (30 measurements each, UCI, in scikit-learn's wheel);
three rows are spoiled on purpose, to show what becomes of bad rows.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

FOLDER = Path("demo")


def train(model: Path) -> list[dict[str, object]]:
    """Train on two thirds of the rows, export to ``model``; return all rows as instances."""
    from transforms.model.saved_model import import_tensorflow

    import_tensorflow()
    import numpy as np
    import tensorflow as tf
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    features, labels = data.data.astype(np.float32), data.target.astype(np.float32)
    normalize = tf.keras.layers.Normalization()
    normalize.adapt(features)
    network = tf.keras.Sequential([normalize, tf.keras.layers.Dense(8, "relu"), tf.keras.layers.Dense(1, "sigmoid", name="benign")])
    network.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    train_rows = np.arange(len(labels)) % 3 != 0
    network.fit(features[train_rows], labels[train_rows], epochs=30, verbose=0)
    _, accuracy = network.evaluate(features[~train_rows], labels[~train_rows], verbose=0)
    print(f"trained on {train_rows.sum()} rows; accuracy on the other {(~train_rows).sum()}: {accuracy:.3f}")

    @tf.function(input_signature=[tf.TensorSpec([None, features.shape[1]], tf.float32, name="measurements")])
    def serve(measurements: tf.Tensor) -> dict[str, tf.Tensor]:
        benign = network(measurements)[:, 0]
        return {"benign": benign, "diagnosis": tf.where(benign > 0.5, "benign", "malignant")}

    module = tf.Module()
    module.network = network
    tf.saved_model.save(module, str(model), signatures=serve)
    return [{"id": f"tumour-{number:03d}", "measurements": row.tolist()} for number, row in enumerate(features)]


def main() -> int:
    """Train, write ``demo/data``, run the job, show its output."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    rows = train(FOLDER / "model")
    lines = [json.dumps(row) for row in rows]
    lines[100] = lines[100][:60]
    lines[200] = json.dumps(rows[200] | {"measurements": [*rows[200]["measurements"][:-1], "n/a"]})  # type: ignore[index]
    del rows[300]["id"]
    lines[300] = json.dumps(rows[300])
    (FOLDER / "data").mkdir()
    for number in range(3):
        (FOLDER / "data" / f"part-{number}.jsonl").write_text("".join(line + "\n" for line in lines[number::3]))

    from pipeline.main import main as nightshift

    arguments = ["run", "--model=demo/model", "--input=demo/data/*.jsonl", "--key_field=id", "--output=demo/out"]
    print("\n$ nightshift " + " ".join(arguments), flush=True)
    status = nightshift(arguments)
    for name in ("prediction.results-00000-of-00001", "prediction.errors-00000-of-00001"):
        print(f"\n$ head -3 demo/out/{name}")
        print("\n".join(line[:200] for line in (FOLDER / "out" / name).read_text().splitlines()[:3]))
    return status


if __name__ == "__main__":
    sys.exit(main())
