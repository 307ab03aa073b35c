"""The seeded workloads: what a row looks like, the model that predicts on it, and both as files in ``benchmarks/data``.

W1: 20 floats and 3 strings a row; string lookup, hashing and dense layers. W2: vectors of 784 floats; dense layers.
W3: 64×64 JPEGs in base64; decoded in the graph, then one convolution.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

DATA = Path(__file__).parent / "data"
# Part of every name in DATA: files of an older recipe are not taken for today's.
RECIPE = 1
CHUNK_ROWS = {"w1": 50_000, "w2": 2_000, "w3": 5_000}
FLOATS = tuple(f"f{number}" for number in range(20))
STRINGS = ("s0", "s1", "s2")
PIXELS = 784
JPEGS = 400
JPEG_SIDE = 64
CITIES = (
    "Zürich",
    "Genève",
    "Oslo",
    "Lyon",
    "Gent",
    "Porto",
    "Kraków",
    "Riga",
    "Bari",
    "Cork",
    "Graz",
    "Brno",
    "Vigo",
    "Lund",
    "Pisa",
    "Nice",
)


@dataclasses.dataclass(frozen=True)
class Workload:
    """One kind of job: ``make_lines`` returns JSON-lines of rows ``[start, stop)``, ``make_model`` exports into a folder."""

    name: str
    title: str
    make_lines: Callable[[int, int], pa.Array]
    make_model: Callable[[str], None]

    @property
    def model(self) -> Path:
        return DATA / f"{self.name}-model-{RECIPE}"

    def rows_file(self, rows: int) -> Path:
        return DATA / f"{self.name}-{rows}-{RECIPE}.jsonl"

    def build(self, rows: int) -> None:
        """Make the model and a file of ``rows`` rows, if they do not exist."""
        DATA.mkdir(exist_ok=True)
        path = self.rows_file(rows)
        if not path.exists():
            partial = path.with_suffix(".partial")
            with partial.open("wb") as stream:
                for block in self._blocks(rows):
                    stream.write(block)
            partial.rename(path)
        if not self.model.exists():
            partial = self.model.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            self.make_model(str(partial))
            partial.rename(self.model)

    def _blocks(self, rows: int) -> Iterator[bytes]:
        step = CHUNK_ROWS[self.name]
        for start in range(0, rows, step):
            lines = self.make_lines(start, min(start + step, rows))
            yield pc.binary_join(pa.LargeListArray.from_arrays([0, len(lines)], lines), "")[0].as_py().encode()


def _keys(start: int, stop: int) -> pa.Array:
    return pa.array([f'{{"id": "row-{number:08d}"' for number in range(start, stop)])


def _texts(values: np.ndarray) -> pa.Array:
    return pc.cast(pa.array(values), pa.string())


# --- W1 ----------------------------------------------------------------------------------------------------------------


def _mixed_lines(start: int, stop: int) -> pa.Array:
    """Return rows of 20 floats of up to 7 digits, a city, an article number and a short text."""
    rng = np.random.default_rng([1, start])
    pieces: list[Any] = [_keys(start, stop)]
    for name in FLOATS:
        pieces += [f', "{name}": ', _texts(rng.normal(0, 3, stop - start).round(6))]
    words = (
        [CITIES[place] for place in rng.integers(0, len(CITIES), stop - start)],
        [f"sku-{number}" for number in rng.integers(0, 5_000, stop - start)],
        [f"batch {first} of line {second}" for first, second in rng.integers(0, 90, (stop - start, 2))],
    )
    for name, column in zip(STRINGS, words, strict=True):
        pieces += [f', "{name}": "', pa.array(column), '"']
    return pc.binary_join_element_wise(*pieces, "}\n", "")


def _mixed_model(folder: str) -> None:
    import tensorflow as tf

    rng = np.random.default_rng(1)

    def weights(*shape: int) -> tf.Variable:
        return tf.Variable(rng.normal(0, shape[0] ** -0.5, shape).astype(np.float32))

    class Mixed(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            table = tf.lookup.KeyValueTensorInitializer(list(CITIES), list(range(1, len(CITIES) + 1)), tf.string, tf.int64)
            self.cities = tf.lookup.StaticHashTable(table, 0)
            self.embeddings = [weights(len(CITIES) + 1, 4), weights(1000, 4), weights(1000, 4)]
            self.hidden, self.out = weights(len(FLOATS) + 12, 32), weights(32, 1)
            self.labels = tf.constant(["no", "maybe", "yes"])

        def predict(self, **columns: tf.Tensor) -> dict[str, tf.Tensor]:
            places = [self.cities.lookup(columns["s0"])]
            places += [tf.strings.to_hash_bucket_fast(columns[name], 1000) for name in STRINGS[1:]]
            embedded = [tf.gather(table, place) for table, place in zip(self.embeddings, places, strict=True)]
            features = tf.concat([tf.stack([columns[name] for name in FLOATS], axis=1), *embedded], axis=1)
            score = tf.sigmoid(tf.nn.relu(features @ self.hidden) @ self.out)[:, 0]
            return {"label": tf.gather(self.labels, tf.cast(score * 2.999, tf.int32)), "score": score}

    model = Mixed()
    specs = {name: tf.TensorSpec([None], tf.float32, name=name) for name in FLOATS}
    specs |= {name: tf.TensorSpec([None], tf.string, name=name) for name in STRINGS}
    tf.saved_model.save(model, folder, signatures=tf.function(model.predict).get_concrete_function(**specs))


# --- W2 ----------------------------------------------------------------------------------------------------------------


def _vector_lines(start: int, stop: int) -> pa.Array:
    """Return rows of 784 floats of 4 to 8 digits."""
    rng = np.random.default_rng([2, start])
    digits = 10.0 ** rng.integers(4, 9, (stop - start) * PIXELS)
    texts = _texts(np.maximum(1, np.rint(rng.random(len(digits)) * digits)) / digits)
    offsets = np.arange(stop - start + 1) * PIXELS
    vectors = pc.binary_join(pa.LargeListArray.from_arrays(pa.array(offsets), texts), ", ").cast(pa.string())
    return pc.binary_join_element_wise(_keys(start, stop), ', "pixels": [', vectors, "]}\n", "")


def _vector_model(folder: str) -> None:
    import tensorflow as tf

    rng = np.random.default_rng(2)

    class Dense(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = tf.Variable(rng.normal(0, 0.04, (PIXELS, 64)).astype(np.float32))
            self.out = tf.Variable(rng.normal(0, 0.15, (64, 10)).astype(np.float32))

        @tf.function(input_signature=[tf.TensorSpec([None, PIXELS], tf.float32, name="pixels")])
        def predict(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"probabilities": tf.nn.softmax(tf.nn.relu(pixels @ self.hidden) @ self.out)}

    model = Dense()
    tf.saved_model.save(model, folder, signatures=model.predict)


# --- W3 ----------------------------------------------------------------------------------------------------------------


def _jpegs() -> list[str]:
    """Return a pool of JPEGs as base64: soft random pictures with some noise, about 2 KB each."""
    from PIL import Image

    rng = np.random.default_rng(3)
    pool = []
    for _ in range(JPEGS):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((JPEG_SIDE, JPEG_SIDE), Image.Resampling.BICUBIC)
        noisy = np.clip(np.asarray(coarse, np.int16) + rng.integers(-12, 13, (JPEG_SIDE, JPEG_SIDE, 3)), 0, 255).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(noisy).save(stream, "JPEG", quality=85)
        pool.append(base64.b64encode(stream.getvalue()).decode())
    return pool


def _image_lines(start: int, stop: int) -> pa.Array:
    pool = pa.array(_jpegs())
    picked = pool.take(pa.array(np.random.default_rng([3, start]).integers(0, JPEGS, stop - start)))
    return pc.binary_join_element_wise(_keys(start, stop), ', "image": {"b64": "', picked, '"}}\n', "")


def _image_model(folder: str) -> None:
    import tensorflow as tf

    rng = np.random.default_rng(3)

    class Images(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.filters = tf.Variable(rng.normal(0, 0.2, (5, 5, 3, 8)).astype(np.float32))
            self.out = tf.Variable(rng.normal(0, 0.05, (16 * 16 * 8, 5)).astype(np.float32))

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image")])
        def predict(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
            pictures = tf.map_fn(lambda jpeg: tf.io.decode_jpeg(jpeg, channels=3), image, fn_output_signature=tf.uint8)
            pictures = tf.reshape(tf.cast(pictures, tf.float32) / 255, [-1, JPEG_SIDE, JPEG_SIDE, 3])
            filtered = tf.nn.relu(tf.nn.conv2d(pictures, self.filters, strides=4, padding="SAME"))
            return {"scores": tf.nn.softmax(tf.reshape(filtered, [-1, 16 * 16 * 8]) @ self.out)}

    model = Images()
    tf.saved_model.save(model, folder, signatures=model.predict)


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("w1", "20 floats and 3 strings a row", _mixed_lines, _mixed_model),
        Workload("w2", "vectors of 784 floats", _vector_lines, _vector_model),
        Workload("w3", "64×64 JPEGs in base64", _image_lines, _image_model),
    )
}


if __name__ == "__main__":  # NAME ROWS: in a process of its own, which may grow large
    WORKLOADS[sys.argv[1]].build(int(sys.argv[2]))
