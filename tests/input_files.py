"""The same values as a file of each format, and what a reader makes of it."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import fastavro
import google_crc32c
import pyarrow as pa
import pyarrow.parquet as pq
from backports import zstd

from transforms.elements.batches import InstanceBatch
from transforms.elements.splits import FileRange
from transforms.formats import splitting
from transforms.formats.catalog import format_of
from transforms.read_instances import RangeReader
from transforms.rows.codes import Code
from transforms.rows.row_spec import RowSpec
from transforms.specs.limits import DEFAULT_LIMITS, Limits
from transforms.specs.signature import Signature, TensorSpec
from transforms.storage import files

NUMBERS = Signature("s", ("serve",), (TensorSpec("x", "x:0", "float32", (None,)),), (TensorSpec("y", "y:0", "float32", (None,)),))
TEXTS = Signature("s", ("serve",), (TensorSpec("t", "t:0", "string", (None,)),), (TensorSpec("y", "y:0", "float32", (None,)),))


def jsonl(values: Sequence[float]) -> bytes:
    return b"".join(json.dumps({"x": value}).encode() + b"\n" for value in values)


def csv(values: Sequence[float]) -> bytes:
    return b"x\n" + b"".join(b"%d\n" % value for value in values)


def parquet(values: Sequence[float]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"x": pa.array(values, pa.float32())}), out, row_group_size=50)
    return out.getvalue()


def avro(values: Sequence[float]) -> bytes:
    out = io.BytesIO()
    fastavro.writer(
        out, {"type": "record", "name": "r", "fields": [{"name": "x", "type": "float"}]}, [{"x": v} for v in values], sync_interval=100
    )
    return out.getvalue()


def tf_record(values: Sequence[float]) -> bytes:
    """As tensorflow/core/lib/io/record_writer.h frames records."""

    def masked(data: bytes) -> bytes:
        crc = google_crc32c.value(data)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    texts = [b"%d" % value for value in values]
    lengths = [struct.pack("<Q", len(text)) for text in texts]
    return b"".join(length + masked(length) + text + masked(text) for length, text in zip(lengths, texts, strict=True))


CONTENTS: dict[str, Callable[[Sequence[float]], bytes]] = {
    "rows.jsonl": jsonl,
    "rows.csv": csv,
    "rows.parquet": parquet,
    "rows.avro": avro,
    "rows.tfrecord": tf_record,
    "rows.jsonl.gz": lambda values: gzip.compress(jsonl(values)),
    "rows.jsonl.bz2": lambda values: b"".join(bz2.compress(jsonl(values[first : first + 1000])) for first in range(0, len(values), 1000)),
    "rows.csv.zst": lambda values: zstd.compress(csv(values)),
}


def ranges_of(path: Path | str, limits: Limits = DEFAULT_LIMITS) -> list[FileRange]:
    (found,) = files.match(str(path))
    return list(splitting.split_file(found, format_of(found.path, None), limits))


def values_and_failed(batches: Iterator[InstanceBatch]) -> tuple[list[float], list[Code]]:
    values, failed = [], []
    for batch in batches:
        for column in batch.columns.values():
            values += [float(value) for value in column]
        failed += [row.code for row in batch.failed]
    return values, failed


def reader_of(name: str, limits: Limits = DEFAULT_LIMITS) -> RangeReader:
    return RangeReader(RowSpec(TEXTS if name.endswith("tfrecord") else NUMBERS, limits=limits), None)
