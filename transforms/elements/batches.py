"""The nouns that flow: Task, Plan, Split, InstanceBatch, PredictionBatch, FailedRow, Shard (and the counts of a split)."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Mapping
from typing import Any, Protocol

import apache_beam as beam
import numpy as np
import pyarrow as pa

from transforms.elements.columns import Column, take
from transforms.elements.failed_rows import FailedRow
from transforms.elements.splits import SplitEnd
from transforms.rows.codes import RowError
from transforms.specs.job import JobSpec


class Rows(Protocol):
    """The rows of a batch as they were read, bytes a row, each created on access."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> bytes: ...

    def take(self, index: np.ndarray) -> Rows: ...


class RowTexts:
    """The rows of a block as slices of it, each copied on access."""

    def __init__(self, data: bytes, starts: np.ndarray, stops: np.ndarray) -> None:
        self.data, self.starts, self.stops = data, starts, stops

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, row: int) -> bytes:
        return self.data[self.starts[row] : self.stops[row]]

    def take(self, index: np.ndarray) -> RowTexts:
        return RowTexts(self.data, self.starts[index], self.stops[index])


@dataclasses.dataclass
class InstanceBatch:
    """Rows of one file range, converted and keyed.

    ``columns`` holds one column an input, each of ``n`` rows; ``keys`` is ``n`` JSON texts, null where a row has no key and is about to
    ``fail``; ``rows`` is the ``n`` rows as read; ``passthrough`` is ``n`` JSON texts a field. ``failed`` are the rows of the same input
    that did not become instances, and ``bytes`` is the size of that input. The read step sets ``job``, the job of the rows, and
    ``seconds``, the time it took to read them. The last batch of a split that is recorded has the split's ``end``, and no rows.
    ``key_hashes`` (uint64: all instances, then failed rows, in the order read) are set where made keys may repeat: a file list's.
    """

    order: tuple[str, int]
    source: str
    relative: str
    columns: dict[str, Column]
    offsets: np.ndarray
    rows: Rows
    keys: pa.Array
    passthrough: dict[str, pa.Array]
    failed: list[FailedRow]
    bytes: int
    job: JobSpec | None = None
    seconds: float = 0.0
    end: SplitEnd | None = None
    key_hashes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.offsets)

    def take(self, index: np.ndarray) -> InstanceBatch:
        """Return the batch with only its instances at ``index``, integers [n]; it keeps its failed rows."""
        places = pa.array(index)
        return dataclasses.replace(
            self,
            columns={name: take(column, index) for name, column in self.columns.items()},
            offsets=self.offsets[index],
            rows=self.rows.take(index),
            keys=self.keys.take(places),
            passthrough={name: column.take(places) for name, column in self.passthrough.items()},
            key_hashes=None,  # keys were compared when the rows were read
        )

    def failed_row(self, row: int, error: RowError) -> FailedRow:
        """Make the ``FailedRow`` of instance ``row``."""
        key = self.keys[row].as_py() or ""
        return FailedRow.of(error, self.source, int(self.offsets[row]), self.rows[row], key.encode())

    def fail(self, errors: Mapping[int, RowError]) -> InstanceBatch:
        """Return the batch without the instances of ``errors``, by row number: they join its failed rows, in the file's order."""
        if not errors:
            return self
        failed = [*self.failed, *(self.failed_row(row, error) for row, error in errors.items())]
        rest = self.take(np.delete(np.arange(len(self)), list(errors)))
        return dataclasses.replace(rest, failed=sorted(failed, key=lambda row: row.offset))


@dataclasses.dataclass
class PredictionBatch:
    """A batch with the model's outputs: row ``i`` of each output belongs to instance ``kept[i]``.

    ``calls`` are the rows of each model call, and ``seconds`` the time of all of them; ``load_seconds`` has the time of each load of
    a model before them. ``compared`` has a second model's predictions for the same instances.
    """

    instances: InstanceBatch
    kept: np.ndarray
    outputs: dict[str, Column]
    failed: list[FailedRow]
    calls: tuple[int, ...] = ()
    seconds: float = 0.0
    load_seconds: tuple[float, ...] = ()
    compared: PredictionBatch | None = None

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def job(self) -> JobSpec:
        """Return the job of the rows."""
        assert self.instances.job is not None
        return self.instances.job


class BatchCoder(beam.coders.Coder):
    """Coder of the two batch classes, which never leave a worker: it makes their size cheap to estimate.

    Beam estimates an element's size by encoding a sample of elements; encoding a 4 MB batch costs more than predicting on it.
    """

    def encode(self, value: Any) -> bytes:
        return pickle.dumps(value, protocol=5)

    def decode(self, encoded: bytes) -> Any:
        return pickle.loads(encoded)

    def is_deterministic(self) -> bool:
        return False

    def estimate_size(self, value: Any) -> int:
        batch = value.instances if isinstance(value, PredictionBatch) else value
        return int(batch.bytes) + 64 * len(batch)


beam.coders.registry.register_coder(InstanceBatch, BatchCoder)
beam.coders.registry.register_coder(PredictionBatch, BatchCoder)
