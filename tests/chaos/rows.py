"""Rows of a scenario, as files of every format, and by NumPy what must come out for each."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from backports import zstd

MODELS = ("m0", "m1", "m2")
PACK = {"": bytes, "gz": gzip.compress, "bz2": bz2.compress, "zst": zstd.compress}
EXTENSIONS = {"jsonl": "jsonl", "csv": "csv", "parquet": "parquet", "avro": "avro", "tf-record": "tfrecord", "file-list": "txt"}
NULLABLE = {"id": ["null", "long"], "x": ["null", "double"], "site": ["null", "string"]}


class Row(NamedTuple):
    """A row; ``x`` is None where the row can't be predicted on. ``site`` names its model."""

    id: int
    x: float | None
    site: str


class Linear(NamedTuple):
    """A model ``weight * x + bias + constant``: two variables, and a constant of its graph."""

    weight: float
    bias: float
    constant: float


LENGTH = "length"
# Halves and quarters of small numbers are exact in float32. The second line is what a model is changed to while a run goes.
WEIGHTS = {name: Linear(0.5 + number, 2.0 + 4 * number, 0.0) for number, name in enumerate(MODELS)}
CHANGED_WEIGHTS = {name: Linear(0.25 + number, 1000.0 + number, 5000.0) for number, name in enumerate(MODELS)}


class Expected(NamedTuple):
    """What must stand in an output: each prediction by its row's id, and the ids of failed rows."""

    predictions: dict[int, float]
    failed: frozenset[int]


def make_rows(count: int, factor: int, site: str | None) -> list[Row]:
    """Gives rows whose values follow from id and ``factor``; one in fifty can't be predicted on. ``site`` None is any model."""
    ids = np.arange(count)
    values = (ids * factor % 50).astype(float)
    bad = (ids * 7 + factor) % 53 == 0
    sites = [site or MODELS[number * factor % len(MODELS)] for number in range(count)]
    return [Row(number, None if bad[number] else float(values[number]), sites[number]) for number in range(count)]


def expect(rows: Iterable[Row], weights: dict[str, Linear] | None) -> Expected:
    """Computes by NumPy what ``rows`` must come to; without weights, the length of a file is predicted."""
    good = [row for row in rows if row.x is not None]
    x = np.array([row.x for row in good], np.float32)
    if weights is None:
        y = x + 1
    else:
        weight, bias, constant = np.array([weights[row.site] for row in good], np.float32).reshape(-1, 3).T
        y = weight * x + bias + constant
    return Expected(dict(zip((row.id for row in good), y.tolist(), strict=True)), frozenset(row.id for row in rows if row.x is None))


def encode(format: str, rows: Sequence[Row], packing: str = "") -> bytes:
    """Gives a file of ``rows``; Parquet and Avro pack their blocks themselves."""
    if format == "jsonl":
        content = b"".join(
            json.dumps({"x": "no" if row.x is None else row.x, "id": row.id, "site": row.site}).encode() + b"\n" for row in rows
        )
    elif format == "csv":
        text = io.StringIO()
        csv.writer(text).writerows([("id", "x", "site"), *((row.id, "no" if row.x is None else row.x, row.site) for row in rows)])
        content = text.getvalue().encode()
    elif format == "tf-record":
        content = _records(rows)
    elif format == "parquet":
        schema = pa.schema([("id", pa.int64()), ("x", pa.float64()), ("site", pa.string())])
        file = io.BytesIO()
        table = pa.Table.from_pylist([row._asdict() for row in rows], schema)
        pq.write_table(table, file, row_group_size=90, compression={"": "snappy", "gz": "gzip"}.get(packing, "zstd"))
        return file.getvalue()
    else:
        file = io.BytesIO()
        schema = {"type": "record", "name": "row", "fields": [{"name": name, "type": kind} for name, kind in NULLABLE.items()]}
        codec = {"": "null", "gz": "deflate"}.get(packing, "snappy")
        fastavro.writer(file, schema, [row._asdict() for row in rows], codec=codec, sync_interval=1500)
        return file.getvalue()
    return PACK[packing](content)


def file_name(format: str, number: int, packing: str) -> str:
    packed = f".{packing}" if packing and format not in ("parquet", "avro") else ""
    return f"rows-{number}.{EXTENSIONS[format]}{packed}"


def _records(rows: Sequence[Row]) -> bytes:
    import tensorflow as tf

    file = io.BytesIO()
    for row in rows:
        features = {"id": tf.train.Feature(int64_list=tf.train.Int64List(value=[row.id]))}
        features["site"] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[row.site.encode()]))
        if row.x is not None:
            features["x"] = tf.train.Feature(float_list=tf.train.FloatList(value=[row.x]))
        file.write(_framed(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()))
    return file.getvalue()


def _framed(record: bytes) -> bytes:
    """https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details"""
    length = len(record).to_bytes(8, "little")
    return length + _masked(length) + record + _masked(record)


def _masked(data: bytes) -> bytes:
    import google_crc32c

    crc = google_crc32c.value(data)
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def unframed(content: bytes) -> list[bytes]:
    """Gives the records of a file, their checksums compared."""
    records, place = [], 0
    while place < len(content):
        size = int.from_bytes(content[place : place + 8], "little")
        record = content[place + 12 : place + 12 + size]
        assert content[place : place + 16 + size] == _framed(record), f"a record at byte {place} is damaged"
        records.append(record)
        place += 16 + size
    return records


def export(folder: Path, model: Linear) -> None:
    """Saves a model; to be called where TensorFlow may run."""
    import tensorflow as tf

    module = tf.Module()
    module.weight, module.bias = tf.Variable(model.weight), tf.Variable(model.bias)
    module.function = tf.function(
        lambda x: {"y": module.weight * x + module.bias + model.constant}, input_signature=[tf.TensorSpec([None], tf.float32, "x")]
    )
    tf.saved_model.save(module, str(folder), signatures=module.function.get_concrete_function())
