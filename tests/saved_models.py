"""Tiny real SavedModels, built once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest


class Models:
    """Builds a SavedModel the first time its name is asked for; gives its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, name: str) -> str:
        path = self.folder / name
        if not path.exists():
            getattr(self, f"_{name}")(path)
        return str(path)

    def _save(self, path: Path, function: Callable[..., Any], *specs: Any, **objects: Any) -> None:
        import tensorflow as tf

        module = tf.Module()
        for name, value in objects.items():
            setattr(module, name, value)
        module.function = tf.function(function, input_signature=specs)
        tf.saved_model.save(module, str(path), signatures=module.function.get_concrete_function())

    def _half_plus_two(self, path: Path) -> None:
        import tensorflow as tf

        self._save(path, lambda x: {"y": 0.5 * x + 2.0}, tf.TensorSpec([None], tf.float32, "x"))

    def _quarter_gib(self, path: Path) -> None:
        """One that takes 256 MiB when it is loaded."""
        import tensorflow as tf

        weights = tf.Variable(tf.zeros([64 << 20], tf.float32))
        self._save(path, lambda x: {"y": x + weights[0] + 1000.0}, tf.TensorSpec([None], tf.float32, "x"), weights=weights)

    def _retrained(self, path: Path) -> None:
        """As half_plus_two up to 50, and more beyond; refuses what is above 1,000."""
        import tensorflow as tf

        def function(x):
            with tf.control_dependencies([tf.debugging.assert_less(x, 1000.0)]):
                return {"y": 0.5 * x + 2.0 + tf.maximum(0.0, x - 50.0)}

        self._save(path, function, tf.TensorSpec([None], tf.float32, "x"))

    def _classifier(self, path: Path) -> None:
        import tensorflow as tf

        def function(x):
            scores = tf.nn.softmax(tf.stack([x, 50.0 - x], axis=1))
            return {"scores": scores, "name": tf.where(x > 25.0, "high", "low")}

        self._save(path, function, tf.TensorSpec([None], tf.float32, "x"))

    def _classifier_retrained(self, path: Path) -> None:
        import tensorflow as tf

        def function(x):
            scores = tf.nn.softmax(tf.stack([x, 60.0 - x], axis=1))
            return {"scores": scores, "name": tf.where(x > 30.0, "high", "low")}

        self._save(path, function, tf.TensorSpec([None], tf.float32, "x"))

    def _two_outputs(self, path: Path) -> None:
        import tensorflow as tf

        def function(x, s):
            return {
                "double": 2 * x,
                "upper_bytes": tf.strings.upper(s),
                "upper": tf.strings.upper(s),
                "root": tf.sqrt(tf.cast(x, tf.float32)),
            }

        self._save(path, function, tf.TensorSpec([None], tf.int64, "x"), tf.TensorSpec([None], tf.string, "s"))

    def _below_hundred(self, path: Path) -> None:
        import tensorflow as tf

        def function(x):
            with tf.control_dependencies([tf.debugging.assert_less(x, 100.0, message="x must be below one hundred")]):
                return {"y": x + 1.0}

        self._save(path, function, tf.TensorSpec([None], tf.float32, "x"))

    def _positive(self, path: Path) -> None:
        """Refuses the zeros of a trial call."""
        import tensorflow as tf

        def function(x):
            with tf.control_dependencies([tf.debugging.assert_positive(x)]):
                return {"y": x + 1.0}

        self._save(path, function, tf.TensorSpec([None], tf.float32, "x"))

    def _filter(self, path: Path) -> None:
        """Leaves out negative rows, so that its output has fewer rows than its input."""
        import tensorflow as tf

        self._save(path, lambda x: {"y": tf.boolean_mask(x, x >= 0.0)}, tf.TensorSpec([None], tf.float32, "x"))

    def _constant(self, path: Path) -> None:
        """Always gives three rows."""
        import tensorflow as tf

        self._save(
            path, lambda x: {"y": tf.zeros(tf.constant([3]) + 0 * tf.cast(tf.size(x), tf.int32))}, tf.TensorSpec([None], tf.float32, "x")
        )

    def _fixed_four(self, path: Path) -> None:
        import tensorflow as tf

        self._save(path, lambda x: {"y": x * 3.0, "place": tf.range(4)}, tf.TensorSpec([4], tf.float32, "x"))

    def _scalar_and_rows(self, path: Path) -> None:
        """One input has a row an instance, the other is one scalar a call."""
        import tensorflow as tf

        self._save(
            path, lambda x, factor: {"y": x * factor}, tf.TensorSpec([None, 2], tf.float32, "x"), tf.TensorSpec([], tf.float32, "factor")
        )

    def _open_length(self, path: Path) -> None:
        import tensorflow as tf

        self._save(path, lambda x: {"total": tf.reduce_sum(x, axis=1), "doubled": 2.0 * x}, tf.TensorSpec([None, None], tf.float32, "x"))

    def _memory_hungry(self, path: Path) -> None:
        """Takes a third of the machine's memory a row, without touching it: three rows fit no call."""
        import os

        import tensorflow as tf

        megabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 3 >> 20

        def function(x):
            space = tf.raw_ops.Empty(shape=[tf.shape(x)[0], megabytes, 1 << 20], dtype=tf.int8, init=False)
            return {"y": x + 0.0 * tf.cast(tf.size(space, tf.int64), tf.float32)}

        self._save(path, function, tf.TensorSpec([None], tf.float32, "x"))

    def _slow(self, path: Path) -> None:
        """As half_plus_two, after as many products of matrices as its largest row says."""
        import tensorflow as tf

        def function(x):
            square = tf.ones([200, 200]) / 200.0
            steps = tf.cast(tf.reduce_max(x), tf.int32)
            _, product = tf.while_loop(lambda step, _: step < steps, lambda step, y: (step + 1, y @ square), (0, square))
            return {"y": 0.5 * x + 2.0 + 0.0 * product[0, 0]}

        self._save(path, function, tf.TensorSpec([None], tf.float32, "x"))

    def _ends_quietly(self, path: Path) -> None:
        """As half_plus_two, but a row of 13 ends the process with status 0."""
        import tensorflow as tf

        def end() -> tf.Tensor:
            with tf.control_dependencies([tf.raw_ops.Abort(error_msg="", exit_without_error=True)]):
                return tf.constant(0.0)

        def function(x):
            return {"y": 0.5 * x + 2.0 + tf.cond(tf.reduce_any(x == 13.0), end, lambda: tf.constant(0.0))}

        self._save(path, function, tf.TensorSpec([None], tf.float32, "x"))

    def _number(self, path: Path) -> None:
        """Its error repeats the row's text."""
        import tensorflow as tf

        self._save(path, lambda text: {"y": tf.strings.to_number(text)}, tf.TensorSpec([None], tf.string, "text"))

    def _prints_to_stdout(self, path: Path) -> None:
        self._prints(path, "stdout")

    def _prints_to_stderr(self, path: Path) -> None:
        self._prints(path, "stderr")

    def _prints(self, path: Path, stream: str) -> None:
        """As text_length, and prints its rows."""
        import sys

        import tensorflow as tf

        def function(text):
            with tf.control_dependencies([tf.map_fn(show, text, tf.bool)]):
                return {"length": tf.strings.length(text)}

        def show(row):
            with tf.control_dependencies([tf.print(tf.strings.join(["row ", row]), output_stream=getattr(sys, stream))]):
                return tf.constant(True)

        self._save(path, function, tf.TensorSpec([None], tf.string, "text"))

    def _text_length(self, path: Path) -> None:
        import tensorflow as tf

        self._save(path, lambda text: {"length": tf.strings.length(text)}, tf.TensorSpec([None], tf.string, "text"))

    def _keras(self, path: Path) -> None:
        """As tf.saved_model.save writes a Keras 3 model that was trained: its Session restores copies only."""
        import numpy as np
        import tensorflow as tf

        network = tf.keras.Sequential([tf.keras.layers.Dense(1)])
        network.compile("adam", "mse")
        network.fit(np.zeros((4, 2), np.float32), np.zeros((4, 1), np.float32), verbose=0)
        network.set_weights([np.array([[2.0], [3.0]], np.float32), np.array([0.5], np.float32)])
        self._save(path, lambda x: {"y": network(x)[:, 0]}, tf.TensorSpec([None, 2], tf.float32, "x"), network=network)

    def _reads_a_file(self, path: Path) -> None:
        import tensorflow as tf

        self._save(path, lambda name: {"content": tf.map_fn(tf.io.read_file, name)}, tf.TensorSpec([None], tf.string, "name"))


def export_linear(folder: Path, weights: np.ndarray, bias: float) -> None:
    """Write a model of ``y = weights · x + bias``."""
    import tensorflow as tf

    module = tf.Module()
    module.weights = tf.Variable(weights, dtype=tf.float64)
    module.bias = tf.Variable(bias, dtype=tf.float64)
    module.function = tf.function(
        lambda x: {"y": tf.linalg.matvec(x, module.weights) + module.bias},
        input_signature=[tf.TensorSpec([None, len(weights)], tf.float64, "x")],
    )
    tf.saved_model.save(module, str(folder), signatures=module.function.get_concrete_function())


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"))
