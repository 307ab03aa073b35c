"""Writes the models in ``tests/data/models``, and beside each the rows to predict with what NumPy says of them.

Run it as ``python tests/data/make_models.py``; the tests do not, they read what it wrote. Each folder holds ``model``, a SavedModel as
one kind of exporter writes it, and ``case.json``: the flags of the job, its rows, and their predictions as ``--output_style=keyed``
writes them: an object of outputs, or the bare value of the only one.
"""

from __future__ import annotations

import base64
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

MODELS = Path(__file__).parent / "models"
WORDS = ("cat", "dog", "Zürich")
LINE, NUMBER = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
WEIGHTS = np.array([[0.5], [-2.0], [4.0]], np.float32)


def write_case(name: str, rows: list[Any], predictions: list[Any], **flags: str) -> None:
    """Write a model's rows and their predictions, in the rows' order."""
    case = {"flags": flags, "rows": rows, "predictions": predictions}
    (MODELS / name / "case.json").write_text(json.dumps(case, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def save(name: str, module: tf.Module, **signatures: Callable[..., Any]) -> None:
    """Save ``module`` with TensorFlow 2's exporter."""
    concrete = {key: function.get_concrete_function() for key, function in signatures.items()}
    tf.saved_model.save(module, str(MODELS / name / "model"), signatures=concrete)


def several_outputs() -> None:
    """A classifier: two inputs, outputs of four types and two shapes."""

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, "x"), tf.TensorSpec([None], tf.int64, "shift")])
    def serve(x: tf.Tensor, shift: tf.Tensor) -> dict[str, tf.Tensor]:
        best = tf.argmax(x, axis=1)
        return {"scores": 2.0 * x, "class": best + shift, "name": tf.gather(list(WORDS), best), "is_first": tf.equal(best, 0)}

    module = tf.Module()
    module.serve = serve
    save("several_outputs", module, serving_default=serve)
    rows = [{"x": [1.0, 0.5, 0.25], "shift": 0}, {"x": [0.0, -1.5, 8.0], "shift": 2**53}, {"x": [-3.0, -1.0, -2.0], "shift": -7}]
    best = [int(np.argmax(row["x"])) for row in rows]
    predictions = [
        {
            "scores": (2 * np.array(row["x"], np.float32)).tolist(),
            "class": place + row["shift"],
            "name": WORDS[place],
            "is_first": place == 0,
        }
        for row, place in zip(rows, best, strict=True)
    ]
    write_case("several_outputs", rows, predictions)


def open_shapes() -> None:
    """Rows of any length, batched by their lengths; outputs as long as the rows, and one number a row."""

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float64, "x")])
    def serve(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"sums": tf.cumsum(x, axis=1), "length": tf.fill([tf.shape(x)[0]], tf.shape(x)[1])}

    module = tf.Module()
    module.serve = serve
    save("open_shapes", module, serving_default=serve)
    rows = [{"x": [0.5 * place for place in range(length)]} for length in (3, 1, 5, 3, 2, 1)]
    write_case("open_shapes", rows, [{"sums": np.cumsum(row["x"]).tolist(), "length": len(row["x"])} for row in rows])


def examples() -> None:
    """The signature of TensorFlow's Estimators: one string, a serialized tf.Example, parsed in the graph."""
    features = {"x": tf.io.FixedLenFeature([], tf.float32, 1.5), "words": tf.io.VarLenFeature(tf.string)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "examples")])
    def serve(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = tf.io.parse_example(examples, features)
        words = tf.sparse.to_dense(parsed["words"])
        return {"y": 10.0 * parsed["x"], "count": tf.reduce_sum(tf.cast(tf.strings.length(words) > 0, tf.int32), axis=1)}

    module = tf.Module()
    module.serve = serve
    save("examples", module, serving_default=serve)
    rows, predictions = [], []
    for x, words in ((0.25, ["a", "b"]), (None, []), (-3.0, ["Zürich"])):
        example = tf.train.Example()
        if x is not None:
            example.features.feature["x"].float_list.value.append(x)
        example.features.feature["words"].bytes_list.value.extend(word.encode() for word in words)
        rows.append({"b64": base64.b64encode(example.SerializeToString()).decode()})
        predictions.append({"y": float(np.float32(10) * np.float32(1.5 if x is None else x)), "count": len(words)})
    write_case("examples", rows, predictions)


def keras_export() -> None:
    """A network as ``model.export`` of Keras 3 writes it, in a numbered version beside an older one."""
    for version, scale in (("1", -1.0), ("2", 1.0)):
        network = tf.keras.Sequential([tf.keras.Input((3,), name="features"), tf.keras.layers.Dense(1, "relu", name="y")])
        network.set_weights([scale * WEIGHTS, np.array([0.125], np.float32)])
        network.export(str(MODELS / "keras_export" / "model" / version), verbose=False)
    rows = [{"features": row} for row in ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [2.0, -1.0, 0.5])]
    values = [np.maximum(np.array(row["features"], np.float32) @ WEIGHTS + np.float32(0.125), 0) for row in rows]
    write_case("keras_export", rows, [value.tolist() for value in values])


def tf1_builder() -> None:
    """A graph of TensorFlow 1 with variables, an asset that its init op reads, and a signature and tags of names of its own."""
    v1 = tf.compat.v1
    with tempfile.TemporaryDirectory() as folder, v1.Graph().as_default(), v1.Session() as session:
        vocabulary = Path(folder) / "vocabulary.txt"
        vocabulary.write_text("".join(f"{word}\n" for word in WORDS), encoding="utf-8")
        asset = tf.constant(str(vocabulary))
        v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, asset)
        table = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(asset, tf.string, LINE, tf.int64, NUMBER),
            -1,
        )
        words = v1.placeholder(tf.string, [None], "words")
        weights = v1.get_variable("weights", initializer=np.append(WEIGHTS[:, 0], np.float32(0)), use_resource=False)
        places = table.lookup(words)
        score = tf.gather(weights, tf.where(places < 0, tf.fill(tf.shape(places), tf.constant(3, tf.int64)), places))
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        builder = v1.saved_model.Builder(str(MODELS / "tf1_builder" / "model"))
        signature = v1.saved_model.predict_signature_def({"word": words}, {"score": score, "place": places})
        assets = v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS)
        builder.add_meta_graph_and_variables(session, ["serve", "cpu"], {"score_words": signature}, assets, main_op=v1.tables_initializer())
        builder.save()
    rows = [{"word": word} for word in ("dog", "Zürich", "unknown", "cat", "")]
    places = [WORDS.index(row["word"]) if row["word"] in WORDS else -1 for row in rows]
    predictions = [{"score": float(WEIGHTS[place, 0]) if place >= 0 else 0.0, "place": place} for place in places]
    write_case("tf1_builder", rows, predictions, signature_name="score_words", tags="serve,cpu")


def table_lookup() -> None:
    """A vocabulary in an asset file, with buckets for words that it lacks; the weights are variables."""
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder) / "words.txt"
        vocabulary.write_text("".join(f"{word}\n" for word in WORDS), encoding="utf-8")
        module = tf.Module()
        module.asset = tf.saved_model.Asset(str(vocabulary))
        initializer = tf.lookup.TextFileInitializer(module.asset.asset_path, tf.string, LINE, tf.int64, NUMBER)
        module.table = tf.lookup.StaticHashTable(initializer, -1)
        module.weights = tf.Variable(WEIGHTS[:, 0])

        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.string, "pair")])
        def serve(pair: tf.Tensor) -> dict[str, tf.Tensor]:
            places = module.table.lookup(pair)
            known = tf.where(places < 0, tf.zeros_like(pair, tf.float32), tf.gather(module.weights, tf.maximum(places, 0)))
            return {"total": tf.reduce_sum(known, axis=1), "places": places}

        module.serve = serve
        save("table_lookup", module, serving_default=serve)
    rows = [{"pair": pair} for pair in (["cat", "dog"], ["Zürich", "Zürich"], ["", "dog"], ["Cat", "cow"])]
    places = [[WORDS.index(word) if word in WORDS else -1 for word in row["pair"]] for row in rows]
    totals = [sum(float(WEIGHTS[place, 0]) for place in pair if place >= 0) for pair in places]
    write_case("table_lookup", rows, [{"total": total, "places": pair} for total, pair in zip(totals, places, strict=True)])


CASES = (several_outputs, open_shapes, examples, keras_export, tf1_builder, table_lookup)


def main() -> None:
    for make in CASES:
        if not sys.argv[1:] or make.__name__ in sys.argv[1:]:
            shutil.rmtree(MODELS / make.__name__, ignore_errors=True)
            (MODELS / make.__name__).mkdir(parents=True)
            make()


if __name__ == "__main__":
    main()
