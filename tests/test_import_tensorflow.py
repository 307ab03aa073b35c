"""TensorFlow as a run imports it, each time in a process that has imported nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from saved_models import Models


def run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[1], check=True, timeout=120)


def test_tensorflow_comes_without_keras_and_keras_when_it_is_asked_for() -> None:
    run("""
import sys
from transforms.model.import_tensorflow import import_keras, import_tensorflow

import_tensorflow()
assert not [name for name in sys.modules if name.partition(".")[0] == "keras"]
import tensorflow as tf
assert tf.keras.Sequential([tf.keras.layers.Dense(1, kernel_initializer="ones")])(tf.ones((1, 3))).numpy() == 3
import_keras()
assert sys.modules["keras.src.optimizers"].Adam is tf.keras.optimizers.Adam
""")


def test_keras_that_is_there_already_stays() -> None:
    run("""
import keras
from transforms.model.import_tensorflow import import_tensorflow

import_tensorflow()
import tensorflow as tf
assert tf.keras.optimizers.Adam is keras.optimizers.Adam
""")


def test_a_process_without_keras_loads_what_keras_wrote(models: Models) -> None:
    """A model that only TensorFlow's loader of objects restores, which looks for Keras' classes."""
    run(f"""
import sys
import numpy as np
from transforms.model.locate import locate_model
from transforms.specs.models import ModelRequest
from transforms.model.session import LoadedModel

model = LoadedModel(locate_model(ModelRequest({models.get("keras")!r})))
assert model.session is None and "keras.src.optimizers" in sys.modules
assert np.allclose(model.call([np.array([[1, 2]], np.float32)])[0], 8.5)
""")


def test_threads_that_import_tensorflow_at_once_all_get_it_whole() -> None:
    """As a worker's do, whose bundles begin together, or one when another has imported half of it."""
    code = """
import sys, threading
from transforms.model.import_tensorflow import import_tensorflow

go, found = threading.Barrier(7), []

def work():
    go.wait()
    import_tensorflow()
    import tensorflow as tf
    found.append(tf.saved_model.load and tf.constant(1).numpy())

def come_late():
    while not hasattr(sys.modules.get("tensorflow"), "saved_model"):
        pass
    import_tensorflow()
    found.append(sys.modules["tensorflow"].xla and 1)

threads = [threading.Thread(target=work) for _ in range(7)] + [threading.Thread(target=come_late)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert found == [1] * 8, found
"""
    run(code)
