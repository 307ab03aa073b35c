"""W1's rows as CSV, Parquet, Avro and TFRecord, and the model that takes serialized Examples: what ``benchmarks.formats`` measures on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
from isal import igzip

from benchmarks.workloads import DATA, FLOATS, RECIPE, STRINGS, WORKLOADS


def rows_file(format: str, rows: int) -> Path:
    return DATA / f"w1-{rows}-{RECIPE}.{format}"


def examples_model() -> Path:
    """Return the model that takes serialized Examples."""
    return DATA / f"w1-examples-model-{RECIPE}"


def build(rows: int, formats: Collection[str] = ("csv", "parquet", "avro", "tfrecord", "jsonl.gz")) -> None:
    """Write W1's rows as JSON-lines and in ``formats``, and the model that takes Examples, if they do not exist."""
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet

    workload = WORKLOADS["w1"]
    workload.build(rows)
    schema = pa.schema([("id", pa.string()), *((name, pa.float32()) for name in FLOATS), *((name, pa.string()) for name in STRINGS)])
    parse = pyarrow.json.ParseOptions(explicit_schema=schema)
    table = pyarrow.json.read_json(workload.rows_file(rows), parse_options=parse)
    writers: dict[str, Callable[[Path], Any]] = {
        "csv": lambda path: pyarrow.csv.write_csv(table, path),
        "parquet": lambda path: pyarrow.parquet.write_table(table, path, row_group_size=131_072),
        "avro": lambda path: _write_avro(table, path),
        "tfrecord": lambda path: _write_examples(table, path),
        "jsonl.gz": lambda path: _pack(workload.rows_file(rows), path),
    }
    for format in formats:
        path = rows_file(format, rows)
        if not path.exists():
            partial = path.with_suffix(".partial")
            writers[format](partial)
            partial.rename(path)
    if not examples_model().exists():
        partial = examples_model().with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        _make_examples_model(str(workload.model), str(partial))
        partial.rename(examples_model())


def _pack(source: Path, path: Path) -> None:
    with source.open("rb") as rows, igzip.open(path, "wb", compresslevel=1) as packed:
        shutil.copyfileobj(rows, packed, 1 << 20)


def _write_avro(table: pa.Table, path: Path) -> None:
    import fastavro

    fields = [{"name": name, "type": "float" if name in FLOATS else "string"} for name in table.schema.names]
    schema = {"type": "record", "name": "Row", "fields": fields}
    with path.open("wb") as stream:
        fastavro.writer(stream, schema, (row for batch in table.to_batches(10_000) for row in batch.to_pylist()), codec="deflate")


def _write_examples(table: pa.Table, path: Path) -> None:
    import tensorflow as tf

    train = tf.train
    with tf.io.TFRecordWriter(str(path)) as writer:
        for batch in table.to_batches(10_000):
            for row in batch.to_pylist():
                features = {
                    name: train.Feature(float_list=train.FloatList(value=[value]))
                    if name in FLOATS
                    else train.Feature(bytes_list=train.BytesList(value=[value.encode()]))
                    for name, value in row.items()
                }
                writer.write(train.Example(features=train.Features(feature=features)).SerializeToString())


def _make_examples_model(model: str, folder: str) -> None:
    import tensorflow as tf

    features = {name: tf.io.FixedLenFeature([], tf.float32) for name in FLOATS}
    features |= {name: tf.io.FixedLenFeature([], tf.string) for name in STRINGS}

    class Examples(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = tf.saved_model.load(model)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
        def predict(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
            found = self.model.signatures["serving_default"](**tf.io.parse_example(examples, features))
            # In a list of one: tfx-bsl's RunInference fails on a row's bare string.
            return {name: tf.expand_dims(values, 1) for name, values in found.items()}

    examples = Examples()
    tf.saved_model.save(examples, folder, signatures=examples.predict)
