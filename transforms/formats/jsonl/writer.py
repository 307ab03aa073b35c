"""Batches of predictions → blocks of JSON-lines, in the four shapes of ``--output_style``."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.convert.json_texts import join_texts, member_head, members
from transforms.convert.output_columns import check_members
from transforms.convert.to_json import json_texts
from transforms.elements.batches import PredictionBatch
from transforms.elements.failed_rows import is_json, row_as_json
from transforms.formats.row_encoder import RowEncoder
from transforms.rows.keys import split_keys


@dataclasses.dataclass
class LineEncoder(RowEncoder):
    """Writes predictions as lines, by the output's style."""

    def __post_init__(self) -> None:
        check_members(self.signature, self.output, self.key_fields)

    def refuse(self, batch: PredictionBatch) -> PredictionBatch:
        return batch  # JSON holds any prediction

    def encode_rows(self, batch: PredictionBatch) -> memoryview:
        return text_of(self._lines(batch))

    def _lines(self, batch: PredictionBatch) -> pa.Array:
        style = self.output.style
        texts = {spec.name: json_texts(batch.outputs[spec.name], spec, self.output.nan) for spec in self.signature.outputs}
        if style == "raw":
            return join_texts([*prediction_texts(texts), "\n"])
        # Rows are in order and each once: as many as there are instances are all of them, and taking all would only copy.
        rows = pa.array(batch.instance_rows) if len(batch) < len(batch.instances) else None
        passed = self._passthrough(batch, rows)
        keys = taken(batch.instances.keys, rows)
        if style == "aiplatform":
            pairs = [*split_keys(keys, self.key_fields).items(), *texts.items()]
            return join_texts(["{", *members(pairs), *passed, "}\n"])
        if style == "vertex" and not self.key_fields:
            as_read = batch.instances.rows.take(batch.instance_rows)
            instances = pa.array([_instance(as_read[row]) for row in range(len(as_read))], pa.binary()).cast(pa.string())
            first = ('{"instance": ', instances)
        else:
            first = ('{"key": ', keys)
        return join_texts([*first, ', "prediction": ', *prediction_texts(texts), *passed, "}\n"])

    def _passthrough(self, batch: PredictionBatch, rows: pa.Array | None) -> list[str | pa.Array]:
        """Return the texts that hold the passthrough fields in a line, one array a field."""
        texts: list[str | pa.Array] = []
        for name, column in batch.instances.passthrough.items():
            values = taken(column, rows)
            if name == "*":
                texts.append(pc.if_else(pc.equal(values, ""), "", pc.binary_join_element_wise(", ", values, "")))
            else:
                texts += [f", {member_head(name)}", values]
        return texts


def _instance(row: bytes) -> bytes:
    """Return a row as JSON; a raw line of text as a string."""
    try:
        return row_as_json(row) if is_json(row) else msgspec.json.encode(row.decode("utf-8"))
    except UnicodeDecodeError:
        return row_as_json(row)


def taken(column: pa.Array, rows: pa.Array | None) -> pa.Array:
    """Return the values of ``column`` at ``rows``; all of them for None."""
    return column if rows is None else column.take(rows)


def prediction_texts(texts: dict[str, pa.Array]) -> list[str | pa.Array]:
    """Return the bare value of a single output, else an object by output name, in parts, so that a line is joined once."""
    return list(texts.values()) if len(texts) == 1 else ["{", *members(texts.items()), "}"]


def text_of(lines: pa.Array) -> memoryview:
    """Return the text of all lines, without copying."""
    _, offsets, data = lines.buffers()
    bounds = np.frombuffer(offsets, np.int32)
    return memoryview(data)[bounds[lines.offset] : bounds[lines.offset + len(lines)]]
