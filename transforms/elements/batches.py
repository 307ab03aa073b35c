"""The nouns that flow: Task, Plan, Split, InstanceBatch, PredictionBatch, FailedRow, Shard (and the counts of a split)."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any, Protocol

import apache_beam as beam
import msgspec
import numpy as np
import pyarrow as pa

from transforms.convert.from_json import Column, take
from transforms.rows.codes import Code, Stage
from transforms.rows.keys import readable
from transforms.specs.job import JobSpec
from transforms.specs.models import ModelSpec
from transforms.storage.pins import Pin


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """One model on one input to one output, as a line of ``--model_map`` names them."""

    number: int
    model: str
    input: str
    output: str
    signature_name: str | None = None
    model_version: str | None = None
    key_field: str | None = None

    def as_line(self) -> dict[str, Any]:
        """Gives the fields that were given, as a line of a model map."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "number" and value is not None}


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What a task became: the model that was found for it, or the reason why it can't run. A run of one job has one plan, of no task.

    Key hashes are compared in ``key_buckets`` parts. ``published`` is the manifest of a task that an earlier launch of the run
    has done already.
    """

    task: Task | None = None
    model: ModelSpec | None = None
    key_buckets: int = 1
    reason: str | None = None
    published: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True, order=True, slots=True)
class FileRange:
    """Bytes ``[start, stop)`` of one file; ``stop`` None: to its end (a compressed file has no known end).

    ``relative`` is the file's path below the fixed part of the pattern that matched it; ``pin`` is what the whole file was when the
    range was planned: who reads it compares.
    """

    path: str
    start: int
    stop: int | None
    size_bytes: int
    relative: str
    pin: Pin | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Split:
    """What one worker reads in one go: a range of a large file, or several whole small files.

    ``plan`` is its task's in a run of many; None where the run has one job.
    """

    ranges: tuple[FileRange, ...]
    plan: Plan | None = None

    @property
    def order(self) -> tuple[str, int]:
        """Where the split stands in the whole input."""
        return self.ranges[0].path, self.ranges[0].start


@dataclasses.dataclass(frozen=True, order=True, slots=True)
class Incomplete:
    """A file that could not be read as it was planned, so that nobody knows how many rows are missing: why, as its failed row has it."""

    path: str
    code: Code
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class SplitCount:
    """What the read step saw of one split: the other half of the job's accounts. ``resumed``: an earlier launch saw it."""

    order: tuple[str, int]
    rows: int
    bytes: int
    files: int
    incomplete: tuple[Incomplete, ...] = ()
    seconds: float = 0.0
    resumed: bool = False


@dataclasses.dataclass(frozen=True)
class SplitEnd:
    """All of a split's rows have gone by: ``record`` is the name under which what they came to is kept, ``hashes`` their keys'."""

    record: str
    count: SplitCount
    hashes: bytes


@dataclasses.dataclass(frozen=True)
class FailedRow:
    """A row that ended in the errors. ``instance`` and ``key`` are JSON text."""

    key: bytes
    source: str
    offset: int
    stage: Stage
    code: Code
    message: str
    instance: bytes

    def to_json(self) -> bytes:
        """Gives one line of ``prediction.errors``, without its line end."""
        fields = (readable(self.source), self.offset, str(self.stage), str(self.code), self.message)
        source, offset, stage, code, message = (msgspec.json.encode(value) for value in fields)
        return b'{"key": %b, "source": %b, "offset": %b, "stage": %b, "code": %b, "message": %b, "instance": %b}' % (
            self.key or b"null",
            source,
            offset,
            stage,
            code,
            message,
            self.instance,
        )


def is_json(row: bytes) -> bool:
    """Whether a row is one JSON value in UTF-8."""
    try:
        row.decode("utf-8")
        msgspec.json.decode(row, type=msgspec.Raw)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return False
    return True


def on_one_line(text: bytes) -> bytes:
    """Gives JSON text without carriage returns: there they are space, but many readers end a line at one."""
    return text.replace(b"\r", b" ") if b"\r" in text else text


def row_as_json(row: bytes) -> bytes:
    """Gives a row as JSON text: itself where it is JSON, else ``{"b64": ...}``."""
    return on_one_line(row) if is_json(row) else msgspec.json.encode({"b64": row})


class Rows(Protocol):
    """The rows of a batch as they were read, each made only when asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> bytes: ...

    def take(self, index: np.ndarray) -> Rows: ...


class RowTexts:
    """The rows of a block as slices of it, cut out only when asked for."""

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

    ``columns`` holds one column an input, each ``n`` rows; ``keys`` is ``n`` JSON texts; ``rows`` is the ``n`` rows as
    read; ``passthrough`` is ``n`` JSON texts a field. ``failed`` are the rows of the same bytes that did not become
    instances. ``bytes`` is the input they all came from. ``job`` is whose they are, and ``seconds`` what reading them took: set by
    the read step, whatever the format. The last batch of a split that is recorded has its ``end``, and no rows.
    ``key_hashes`` tells keys apart where they are made but can stand twice: of all instances, then of failed rows, as they were read.
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
        """Gives the batch with those of its instances that stand at ``index``; its failed rows stay."""
        places = pa.array(index)
        return dataclasses.replace(
            self,
            columns={name: take(column, index) for name, column in self.columns.items()},
            offsets=self.offsets[index],
            rows=self.rows.take(index),
            keys=self.keys.take(places),
            passthrough={name: column.take(places) for name, column in self.passthrough.items()},
            key_hashes=None,  # they were compared when the rows were read
        )

    def failed_row(self, row: int, code: Code, stage: Stage, message: str) -> FailedRow:
        """Makes the ``FailedRow`` of instance ``row``."""
        key = self.keys[row].as_py().encode()
        return FailedRow(key, self.source, int(self.offsets[row]), stage, code, message, row_as_json(self.rows[row]))


@dataclasses.dataclass
class PredictionBatch:
    """A batch with the model's outputs: row ``i`` of each output belongs to instance ``kept[i]``.

    ``calls`` are the rows of each model call, ``seconds`` what they took, and ``load_seconds`` what loading each model took that
    was loaded before them. ``compared`` is what a second model made of the same instances.
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
        """The job whose rows they are."""
        assert self.instances.job is not None
        return self.instances.job


@dataclasses.dataclass(frozen=True, slots=True)
class Shard:
    """A finished temporary file. ``kind`` is ``results`` or ``errors``; ``codes`` counts the latter, as
    (stage, code, rows, an example's message). ``content`` is the digest of its rows, where they are for a table.

    ``relative`` and ``source`` name the one input file in a mirrored layout, else they are empty. ``models`` counts the rows by
    model's folder and version, where each row names its own.
    """

    kind: str
    path: str
    order: tuple[str, int]
    relative: str
    source: str
    rows: int
    bytes: int
    crc32c: str
    codes: tuple[tuple[str, str, int, str], ...] = ()
    models: tuple[tuple[str, str | None, int], ...] = ()
    content: str = ""


class BatchCoder(beam.coders.Coder):
    """Coder of the two batch classes: they never leave a worker, so all that counts is a cheap size.

    Beam estimates an element's size by encoding a sample of them; encoding a 4 MB batch costs more than predicting on it.
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
