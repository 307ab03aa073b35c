"""Batches of predictions → TFRecord files of ``tf.train.Example``s."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pyarrow as pa

from transforms.convert.output_columns import OutputColumn, make_table
from transforms.convert.to_arrow import flatten, refuse_unfit, text_columns
from transforms.elements.batches import PredictionBatch
from transforms.elements.columns import Column, Ragged
from transforms.formats.row_encoder import RowEncoder
from transforms.formats.tfrecord.encode_examples import Kind, bytes_lists, examples, features, float_lists, integer_lists
from transforms.formats.tfrecord.framing import frame
from transforms.specs.errors import SpecError
from transforms.specs.signature import shape_text


@dataclasses.dataclass
class ExampleEncoder(RowEncoder):
    """Writes predictions as TFRecord files: key, outputs and passthrough fields are the features of an ``Example``."""

    block_bytes: int = 16 << 20

    def __post_init__(self) -> None:
        self.table = make_table(self.signature, self.output, self.key_fields)
        for column in self.table.outputs:
            if column.shape.count(None) > 1:
                raise SpecError(
                    "output_format",
                    f"output {column.name!r} of signature {self.signature.name} is {column.dtype}{shape_text(column.shape)} a row, and a "
                    "feature of tf-record is a flat list, from which two open dimensions can't be told: write jsonl or parquet, or export "
                    "fixed ones",
                )

    def refuse(self, batch: PredictionBatch) -> PredictionBatch:
        return refuse_unfit(batch, self.table, too_large)

    def encode_rows(self, batch: PredictionBatch) -> bytes:
        return b"".join(map(frame, self._examples(batch)))

    def _examples(self, batch: PredictionBatch) -> list[bytes]:
        keys, passthrough = text_columns(batch, self.table)
        columns = [features(name, Kind.BYTES, _texts(texts)) for name, texts in {**keys, **passthrough}.items()]
        columns += [features(column.name, *_lists(batch.outputs[column.name], column)) for column in self.table.outputs]
        return examples(columns)


def _texts(texts: pa.Array) -> list[bytes | None]:
    """Return one list of one text a row, none where it is null: the feature is left out then."""
    return [None if text is None else bytes_lists([[text]])[0] for text in texts.cast(pa.binary()).to_pylist()]


def _lists(values: Column, column: OutputColumn) -> tuple[Kind, list[bytes]]:
    """Return the values of each row, the last dimension first to change; a complex number is two."""
    flat, shapes = flatten(values, column)
    offsets = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))])
    if column.dtype == "string":
        cells = flat.tolist()
        return Kind.BYTES, bytes_lists(cells[start:stop] for start, stop in itertools.pairwise(offsets.tolist()))
    if column.dtype == "bool" or "int" in column.dtype:
        return Kind.INTEGERS, integer_lists(flat, offsets)
    if column.dtype.startswith("complex"):
        flat, offsets = flat.view(np.float32 if column.dtype == "complex64" else np.float64), offsets * 2
    return Kind.FLOATS, float_lists(flat, offsets)


def too_large(values: Column, column: OutputColumn) -> dict[int, str]:
    """Return, by row, which numbers are beyond what a feature holds: signed integers of 64 bits, floats of 32."""
    if column.dtype not in ("uint64", "float64", "complex128"):
        return {}
    arrays = values.rows if isinstance(values, Ragged) else [values]
    if not any(_beyond(array).any() for array in arrays):
        return {}
    rows = values.rows if isinstance(values, Ragged) else list(values)
    holds = "integers below 2**63" if column.dtype == "uint64" else "floats of 32 bits"
    message = f"output {column.name!r}: a feature of tf-record holds {holds}; found a larger one"
    return {row: message for row, cell in enumerate(rows) if _beyond(np.asarray(cell)).any()}


def _beyond(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "u":
        return values > np.uint64(2**63 - 1)
    with np.errstate(over="ignore"):
        return np.isfinite(values) & ~np.isfinite(values.astype(np.complex64 if values.dtype.kind == "c" else np.float32))
