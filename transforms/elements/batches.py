"""What flows from read to write: batches of instances and of predictions with their job, and the end of each split."""

from __future__ import annotations

import abc
import dataclasses
import pickle
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import apache_beam as beam
import numpy as np
import pyarrow as pa

from transforms.elements.columns import Column, take
from transforms.elements.failed_rows import FailedRow
from transforms.elements.splits import SplitCount, SplitKey
from transforms.rows.codes import RowError
from transforms.specs.job import JobSpec
from transforms.specs.models import AnyModel


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
    """Rows of one file range, converted and keyed, as a reader makes them.

    ``columns`` holds one column an input, each of ``n`` rows; ``keys`` is ``n`` JSON texts, null where a row has no key and is about to
    ``fail``; ``rows`` is the ``n`` rows as read; ``passthrough`` is ``n`` JSON texts a field. ``failed`` are the rows of the same input
    that did not become instances, and ``bytes`` is the size of that input. ``key_hashes`` (uint64: all instances, then failed rows, in
    the order read) are there where made keys may repeat: a file list's.
    """

    source: str
    relative: str
    columns: dict[str, Column]
    offsets: np.ndarray
    rows: Rows
    keys: pa.Array
    passthrough: dict[str, pa.Array]
    failed: list[FailedRow]
    bytes: int
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
        failed = [self.failed_row(row, error) for row, error in errors.items()]
        return self.take(np.delete(np.arange(len(self)), list(errors))).with_failed(failed)

    def with_failed(self, failed: Iterable[FailedRow]) -> InstanceBatch:
        """Return the batch with more failed rows, all in the file's order; none of them is one of its instances."""
        return dataclasses.replace(self, failed=sorted((*self.failed, *failed), key=lambda row: row.offset))


@dataclasses.dataclass
class PredictionBatch:
    """The outputs of one model for a batch of instances: row ``i`` of each output is that of instance ``instance_rows[i]``.

    ``failed`` are the failed rows of the instances, and those that the model failed on. ``calls`` are the rows of each model call, and
    ``seconds`` the time of all of them.
    """

    instances: InstanceBatch
    instance_rows: np.ndarray
    outputs: dict[str, Column]
    failed: list[FailedRow]
    calls: tuple[int, ...] = ()
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.instance_rows)


class SplitElement(abc.ABC):
    """Base of what flows from read to write, so that all of it has one coder: Beam has none for a union of types.

    After the batches of a split comes its ``SplitEnd``, where the split is recorded.
    """

    @property
    @abc.abstractmethod
    def size_bytes(self) -> int:
        """Return the size of the input that the element was made of."""

    @abc.abstractmethod
    def __len__(self) -> int: ...


@dataclasses.dataclass(frozen=True)
class JobInstances(SplitElement):
    """Instances to predict on: their job and model, the key of their split, and the seconds that reading them took."""

    job: JobSpec
    model: AnyModel
    split_key: SplitKey
    instances: InstanceBatch
    read_seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.instances)

    @property
    def size_bytes(self) -> int:
        return self.instances.bytes


@dataclasses.dataclass(frozen=True)
class JobPredictions(SplitElement):
    """Predictions to write: their job and model, the key of their split, and the seconds that reading them and each load of a model took.

    ``compared`` has a second model's predictions for the same instances.
    """

    job: JobSpec
    model: AnyModel
    split_key: SplitKey
    predictions: PredictionBatch
    read_seconds: float = 0.0
    load_seconds: tuple[float, ...] = ()
    compared: PredictionBatch | None = None

    def __len__(self) -> int:
        return len(self.predictions)

    @property
    def size_bytes(self) -> int:
        return self.predictions.instances.bytes


@dataclasses.dataclass(frozen=True)
class SplitEnd(SplitElement):
    """The end of a split: the name of its resume record, its counts, and the packed hashes of its keys."""

    job: JobSpec
    record: str
    count: SplitCount
    hashes: bytes

    def __len__(self) -> int:
        return 0

    @property
    def size_bytes(self) -> int:
        return len(self.hashes)


class SplitElementCoder(beam.coders.Coder):
    """Coder of the kinds of ``SplitElement``, which never leave a worker: it makes their size cheap to estimate.

    Beam estimates an element's size by encoding a sample of elements; encoding a 4 MB batch costs more than predicting on it.
    """

    def encode(self, value: Any) -> bytes:
        return pickle.dumps(value, protocol=5)

    def decode(self, encoded: bytes) -> Any:
        return pickle.loads(encoded)

    def is_deterministic(self) -> bool:
        return False

    def estimate_size(self, value: SplitElement) -> int:
        return value.size_bytes + 64 * len(value)


beam.coders.registry.register_coder(SplitElement, SplitElementCoder)
