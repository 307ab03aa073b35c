"""The limit: a loop written by hand for each workload, without Beam, in one process.

It reads 4 MB blocks, parses them piece by piece with a typed struct, feeds columns to a Session's callable and writes one file. It
checks nothing: a bad row would end it, keys may repeat, and what a crash leaves is half a file.
"""

from __future__ import annotations

import gc
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import starmap
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.workloads import FLOATS, PIXELS, STRINGS

BLOCK_BYTES = 4 << 20
# Tried 32 to 2,048 KB; all from 32 to 256 are alike.
PIECE_BYTES = 128 << 10
# Tried 256, 1,024, 4,096 and the whole block. Each call costs W1 about 1 ms for its 23 inputs; images want to stay in
# the processor's cache.
CALL_ROWS = {"w1": 1 << 30, "w2": 1 << 30, "w3": 256}
Columns = dict[str, np.ndarray]

# --- rows → columns, one typed struct a workload -----------------------------------------------------------------------

_MixedRow = msgspec.defstruct("_MixedRow", [*((n, float) for n in FLOATS), *((n, str) for n in STRINGS), ("id", msgspec.Raw)], gc=False)


class _VectorRow(msgspec.Struct, gc=False):
    id: msgspec.Raw
    pixels: list[float]


class _Image(msgspec.Struct, gc=False):
    b64: bytes


class _ImageRow(msgspec.Struct, gc=False):
    id: msgspec.Raw
    image: _Image


def _objects(values: list[Any]) -> np.ndarray:
    column = np.empty(len(values), object)
    column[:] = values
    return column


# Records packed by ``struct`` take half the time of ``np.fromiter`` over each value, and round alike.
_pack_mixed = struct.Struct(f"{len(FLOATS)}f").pack
_pack_pixels = struct.Struct(f"{PIXELS}f").pack
_first_floats = itemgetter(slice(len(FLOATS)))


def _mixed_columns(pieces: Iterator[Sequence[Any]]) -> tuple[list[bytes], Columns]:
    keys: list[bytes] = []
    records: list[bytes] = []
    strings: dict[str, list[str]] = {name: [] for name in STRINGS}
    for rows in pieces:
        keys += map(bytes, map(attrgetter("id"), rows))
        records += starmap(_pack_mixed, map(_first_floats, map(msgspec.structs.astuple, rows)))
        for name, values in strings.items():
            values += map(attrgetter(name), rows)
    floats = np.ascontiguousarray(np.frombuffer(b"".join(records), np.float32).reshape(len(keys), len(FLOATS)).T)
    return keys, dict(zip(FLOATS, floats, strict=True)) | {name: _objects(values) for name, values in strings.items()}


def _vector_columns(pieces: Iterator[Sequence[Any]]) -> tuple[list[bytes], Columns]:
    keys: list[bytes] = []
    records: list[bytes] = []
    for rows in pieces:
        keys += map(bytes, map(attrgetter("id"), rows))
        records += starmap(_pack_pixels, map(attrgetter("pixels"), rows))
    return keys, {"pixels": np.frombuffer(b"".join(records), np.float32).reshape(len(keys), PIXELS)}


def _image_columns(pieces: Iterator[Sequence[Any]]) -> tuple[list[bytes], Columns]:
    keys: list[bytes] = []
    images: list[bytes] = []
    for rows in pieces:
        keys += map(bytes, map(attrgetter("id"), rows))
        images += map(attrgetter("image.b64"), rows)
    return keys, {"image": _objects(images)}


ROWS: dict[str, tuple[type, Callable[[Iterator[Sequence[Any]]], tuple[list[bytes], Columns]]]] = {
    "w1": (_MixedRow, _mixed_columns),
    "w2": (_VectorRow, _vector_columns),
    "w3": (_ImageRow, _image_columns),
}


# --- the loop ------------------------------------------------------------------------------------------------------------


def run(name: str, model: Path, rows: Path, output: Path) -> dict[str, float]:
    """Predict on the file ``rows`` with the SavedModel ``model``, write ``output`` and return the seconds of each step."""
    clock = Clock()
    predict = load_model(model)
    row_type, columns_of = ROWS[name]
    decode: Callable[[memoryview], Sequence[Any]] = msgspec.json.Decoder(row_type).decode_lines
    gc.freeze()
    gc.disable()
    clock.end("load")
    with rows.open("rb", buffering=0) as source, output.open("wb", buffering=0) as sink:
        for block in _blocks(source):
            clock.end("read")
            keys, columns = columns_of(map(decode, _pieces(block)))
            clock.end("parse to columns")
            outputs = _call(predict, columns, len(keys), CALL_ROWS[name])
            clock.end("predict")
            lines = encode(keys, outputs)
            clock.end("encode")
            sink.write(lines)
            del keys, columns
            clock.end("write and free")
    return clock.seconds


class Clock:
    """The time between calls, added up by what it was spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def end(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step] = self.seconds.get(step, 0.0) + now - self._last
        self._last = now


def _blocks(source: Any) -> Iterator[bytes]:
    rest = b""
    while data := source.read(BLOCK_BYTES):
        end = data.rfind(b"\n") + 1
        yield rest + data[:end]
        rest = data[end:]


def _pieces(block: bytes) -> Iterator[memoryview]:
    """Yield a block's lines in pieces whose values fit the processor's cache: parsed all at once they take half as long again."""
    view, start = memoryview(block), 0
    while start < len(block):
        stop = block.find(b"\n", start + PIECE_BYTES) + 1 or len(block)
        yield view[start:stop]
        start = stop


def load_model(model: Path) -> Callable[[Columns], dict[str, np.ndarray]]:
    """Return the model's one signature as a Session's callable, which calls 23 inputs faster than a concrete function."""
    import tensorflow as tf

    graph = tf.Graph()
    with graph.as_default():
        session = tf.compat.v1.Session(graph=graph)
        signature = tf.compat.v1.saved_model.load(session, ["serve"], str(model)).signature_def["serving_default"]
    inputs, outputs = sorted(signature.inputs), sorted(signature.outputs)
    call = session.make_callable(
        [graph.get_tensor_by_name(signature.outputs[name].name) for name in outputs],
        feed_list=[graph.get_tensor_by_name(signature.inputs[name].name) for name in inputs],
    )
    return lambda columns: dict(zip(outputs, call(*(columns[name] for name in inputs)), strict=True))


def _call(predict: Callable[[Columns], dict[str, np.ndarray]], columns: Columns, rows: int, step: int) -> dict[str, np.ndarray]:
    if rows <= step:
        return predict(columns)
    slices = [slice(start, start + step) for start in range(0, rows, step)]
    calls = [predict({name: column[some] for name, column in columns.items()}) for some in slices]
    return {name: np.concatenate([call[name] for call in calls]) for name in calls[0]}


def encode(key_texts: list[bytes], outputs: dict[str, np.ndarray]) -> memoryview:
    """Return the lines of a block; the key's JSON text is written as it was read."""
    keys = pa.array(key_texts, pa.binary()).cast(pa.string())
    pieces: list[Any] = []
    for name, column in outputs.items():
        pieces += [f'{", " if pieces else ""}"{name}": ', *_texts(column)]
    prediction = ["{", *pieces, "}"] if len(outputs) > 1 else pieces[1:]
    lines = pc.binary_join_element_wise('{"key": ', keys, ', "prediction": ', *prediction, "}\n", "")
    _, offsets, data = lines.buffers()
    return memoryview(data)[: np.frombuffer(offsets, np.int32)[len(lines)]]


def _texts(column: np.ndarray) -> list[Any]:
    if column.dtype.kind == "O":
        return ['"', pa.array(column, pa.binary()).cast(pa.string()), '"']
    texts = pc.cast(pa.array(column.reshape(-1)), pa.string())
    if column.ndim == 1:
        return [texts]
    offsets = pa.array(np.arange(len(column) + 1, dtype=np.int64) * column.shape[1])
    return ["[", pc.binary_join(pa.LargeListArray.from_arrays(offsets, texts), ", "), "]"]
