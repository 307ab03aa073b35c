"""TFRecord: records → columns, keys and failed rows.

A signature with one string a row is fed the records as they are. For another, each record is a ``tf.Example``, whose features
are the inputs by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import pyarrow as pa

from transforms.convert.json_texts import member_head
from transforms.elements.batches import InstanceBatch, Rows
from transforms.elements.columns import Column
from transforms.elements.splits import FileRange
from transforms.formats.blocks import Cursor, open_stream
from transforms.formats.damage import DamagedFileError
from transforms.formats.record_batches import batch_rows
from transforms.formats.tfrecord.framing import FRAME_BYTES, split_frames
from transforms.formats.tfrecord.parse_examples import ExampleParser, Features
from transforms.rows.codes import RowError
from transforms.rows.keys import make_keys, take_each
from transforms.rows.row_spec import RowSpec
from transforms.specs.limits import Limits


class Records(Sequence[bytes]):
    """Records, each as JSON text ``{"b64": ...}`` when asked for."""

    def __init__(self, records: Sequence[bytes]) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, row: int) -> bytes:  # type: ignore[override]
        return msgspec.json.encode({"b64": self.records[row]})

    def take(self, index: np.ndarray) -> Rows:
        return Records([self.records[row] for row in index])


def read_records(file_range: FileRange, limits: Limits) -> Iterator[tuple[list[bytes], list[int]]]:
    """Yield the records of a whole file, in blocks of some MB, and the byte at which each begins.

    Raises:
      DamagedFileError: after all whole records before the damage were given.
    """
    with open_stream(file_range) as stream:
        cursor = Cursor(stream)
        data, start = b"", 0
        while True:
            try:
                block = cursor.read(limits.block_bytes)
            except DamagedFileError as damage:
                raise DamagedFileError(start, f"{damage}, inside the record that begins at byte {start}") from damage
            data += block
            records, places, used, wrong = split_frames(data, limits.row_bytes)
            yield records, [start + place for place in places]
            start, data = start + used, data[used:]
            if wrong:
                raise DamagedFileError(start, wrong)
            if not block:
                if data:
                    raise DamagedFileError(start, f"the file ends inside the record that begins at byte {start}")
                return


class RecordReader:
    """Reads TFRecord files; without an index one can't be cut."""

    def __init__(self, spec: RowSpec) -> None:
        self.spec = spec
        self.fields = [*spec.key_fields, *spec.passthrough_fields]
        self.parser = ExampleParser(spec)

    def read(self, file_range: FileRange) -> Iterator[InstanceBatch]:
        for records, places in read_records(file_range, self.spec.limits):
            size = sum(map(len, records)) / max(1, len(records))
            step = batch_rows(self.spec, size)
            for first in range(0, len(records), step):
                yield self._batch(records[first : first + step], np.array(places[first : first + step], np.int64), file_range)

    def _batch(self, records: list[bytes], offsets: np.ndarray, file_range: FileRange) -> InstanceBatch:
        lone = self.spec.lone_string
        as_they_are = lone is not None and not self.fields
        parsed = Features.none(len(records)) if as_they_are else self.parser.parse(records)
        errors = dict(parsed.errors)
        keys, bad_keys = self._keys(parsed, offsets, file_range.path)
        errors = bad_keys | errors
        columns: dict[str, Column]
        if lone is not None:
            shaped = () in self.spec.signature.row_shapes(lone) or None in self.spec.signature.row_shapes(lone)
            values = np.empty(len(records), object)
            values[:] = records
            columns = {lone.name: values if shaped else values.reshape(-1, 1)}
        else:
            columns, column_errors = self.parser.columns(parsed)
            errors = column_errors | errors
        batch = InstanceBatch(
            source=file_range.path,
            relative=file_range.relative,
            columns=columns,
            offsets=offsets,
            rows=Records(records),
            keys=keys,
            passthrough={name: self._passthrough(parsed, name) for name in self.spec.passthrough_fields},
            failed=[],
            bytes=sum(map(len, records)) + FRAME_BYTES * len(records),
        )
        return batch.fail(errors)

    def _keys(self, parsed: Features, offsets: np.ndarray, source: str) -> tuple[pa.Array, dict[int, RowError]]:
        """Take the keys from the features; a feature that is absent or empty is a missing key."""
        fields = self.spec.key_fields
        if not fields:
            return make_keys(source, offsets), {}
        return take_each([parsed.texts(field) for field in fields], fields)

    def _passthrough(self, parsed: Features, name: str) -> pa.Array:
        if name != "*":
            return pa.array([text or b"null" for text in parsed.texts(name)], pa.binary()).cast(pa.string())
        rows: list[list[bytes]] = [[] for _ in range(parsed.count)]
        for name in parsed.names:
            if name in self.spec.left_out:
                continue
            head = member_head(name).encode()
            for row, text in zip(rows, parsed.texts(name), strict=True):
                if text:
                    row.append(head + text)
        return pa.array([b", ".join(row) for row in rows], pa.binary()).cast(pa.string())
