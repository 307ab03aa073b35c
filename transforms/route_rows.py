"""RouteRows: rows that name their models, shuffled as they were read, to batches by model."""

from __future__ import annotations

import dataclasses
import functools
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator

import apache_beam as beam
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import TaggedOutput

from transforms.convert.output_columns import check_members, difference
from transforms.elements.batches import InstanceBatch, JobInstances, SplitElement
from transforms.elements.failed_rows import FailedRow
from transforms.elements.splits import FileRange, Split
from transforms.formats.empty_batch import empty_batch
from transforms.formats.splitting import Group, groups
from transforms.many.row_models import folder_of, request_of
from transforms.many.waiting_rows import InstanceMaker, RowBlock, keep, keep_failed
from transforms.model.locate import locate_model
from transforms.read_instances import ACCOUNT_TYPES, RangeReader, RowsRead, SplitAccount, timed
from transforms.rows.codes import Code, RowError
from transforms.rows.row_spec import RowSpec, row_spec
from transforms.runtime import metrics
from transforms.specs.errors import RefusedError, SpecError
from transforms.specs.job import JobSpec
from transforms.specs.models import AnyModel

LOG = logging.getLogger("nightshift")
# Rows of one model that one worker gets together.
GROUP_BYTES = 64 << 20
KEPT_MODELS = 1000
KEPT_MAKERS = 64
# The key of rows that failed before their model was known.
NO_MODEL = ""
# Rows of one model come from many splits.
NO_SPLIT = ("", 0)


class _Route(beam.DoFn):
    """Reads each row's model name and key."""

    def __init__(self, job: JobSpec, progress_folder: str | None) -> None:
        self.job, self.progress_folder = job, progress_folder

    def setup(self) -> None:
        assert self.job.route is not None
        self.progress = metrics.Progress(self.progress_folder)
        self.field = self.job.route.field
        limits = self.job.input.limits
        spec = RowSpec(self.job.model.signature, self.job.key.fields, (self.field,), model_field=self.field, limits=limits)
        self.reader = RangeReader(spec, self.job.input.format)

    def process(self, split: Split) -> Iterator[tuple[str, RowBlock] | TaggedOutput]:
        account = SplitAccount(self.job, split, self.progress)
        for file_range in split.ranges:
            for batch in self.reader.read(file_range):
                account.add(file_range, batch)
                yield from self._by_model(batch)
            account.end_range(file_range)
        yield from account.tagged(account.finish())

    def finish_bundle(self) -> None:
        self.progress.write()

    def _by_model(self, batch: InstanceBatch) -> Iterator[tuple[str, RowBlock]]:
        """Yield the rows of a batch by the model that they name, and its failed rows under ``NO_MODEL``."""
        failed = list(batch.failed)
        if len(batch):
            tokens = pc.dictionary_encode(batch.passthrough[self.field])
            indices = tokens.indices.to_numpy()
            order = np.argsort(indices, kind="stable")
            ends = np.searchsorted(indices[order], np.arange(len(tokens.dictionary) + 1))
            for number, token in enumerate(tokens.dictionary.to_pylist()):
                rows = order[ends[number] : ends[number + 1]]
                name = _name(token)
                if name is None:
                    failed += [self._nameless(batch, int(row), token) for row in rows]
                    continue
                yield name, keep(batch, rows)
        if failed:
            yield NO_MODEL, keep_failed(batch, failed)

    def _nameless(self, batch: InstanceBatch, row: int, token: str) -> FailedRow:
        value = "nothing or null" if token == "null" else token[:60]
        message = f"expected the name of a model in field {self.field!r}, which --model_field names; found {value}"
        return batch.failed_row(row, RowError(Code.MODEL_NOT_FOUND, message))


def _name(token: str) -> str | None:
    """Return the model's name from its JSON text, a string or a whole number; None for other values."""
    value = msgspec.json.decode(token)
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) and value != "" else None


class _CutModels(beam.DoFn):
    """Cuts the rows of one model into groups, each of a size for one worker."""

    def process(self, model: tuple[str, Iterable[RowBlock]]) -> Iterator[tuple[str, list[RowBlock]]]:
        name, blocks = model
        for group in groups(blocks, lambda block: block.size_bytes, Group(GROUP_BYTES)):
            yield name, group


class _ReadModel(beam.DoFn):
    """Makes instances of the rows of one model by its signature; rows of a model that does not exist fail."""

    def __init__(self, job: JobSpec) -> None:
        self.job = job

    def setup(self) -> None:
        self.models: OrderedDict[str, tuple[AnyModel, RowError | None]] = OrderedDict()

    def process(self, rows: tuple[str, list[RowBlock]]) -> Iterator[JobInstances]:
        name, blocks = rows
        model, error = self._model_of(name)
        spec = row_spec(self.job, model)
        maker = _maker(spec, threading.get_ident())
        for chunk in _chunks(blocks, self.job.input.limits.block_bytes):
            for batch, seconds in timed(maker.make(chunk)):
                if error is not None:
                    batch = batch.fail(dict.fromkeys(range(len(batch)), error))
                yield self._with_model(batch, model, seconds)
        failed = [row for block in blocks for row in block.failed]
        if failed:
            yield self._with_model(empty_batch(spec, FileRange("", 0, None, 0, ""), failed), model)

    def _with_model(self, batch: InstanceBatch, model: AnyModel, seconds: float = 0.0) -> JobInstances:
        """Return the batch with its model and, if ``--model_column`` names one, the column of the model's version."""
        assert self.job.route is not None
        column = self.job.route.column
        if column is not None:
            version = msgspec.json.encode(model.version or model.location).decode()
            versions = pa.array([version] * len(batch), pa.string())
            batch = dataclasses.replace(batch, passthrough=batch.passthrough | {column: versions})
        return JobInstances(self.job, model, NO_SPLIT, batch, seconds)

    def _model_of(self, name: str) -> tuple[AnyModel, RowError | None]:
        if name not in self.models:
            self.models[name] = self._find(name)
            if len(self.models) > KEPT_MODELS:
                self.models.popitem(last=False)
        self.models.move_to_end(name)
        return self.models[name]

    def _find(self, name: str) -> tuple[AnyModel, RowError | None]:
        """Return the model of the rows that name it, and the error that fails them all, or None."""
        job, route = self.job, self.job.route
        assert route is not None
        if name == NO_MODEL:
            return job.model, None
        folder = ""
        try:
            folder = folder_of(route, name)
            model = locate_model(request_of(route, folder), shares=True)
        except RefusedError as error:
            LOG.warning("%s", error)
            return route.unknown_model(folder or route.template), RowError(Code.MODEL_NOT_FOUND, str(error))
        reason = difference(model.signature, job.example) if job.example is not None else None
        try:
            check_members(model.signature, job.output, job.key.fields, route.column)
        except SpecError as error:
            return self._unfit(route.unknown_model(folder), folder, str(error))
        return (model, None) if reason is None else self._unfit(model, folder, reason)

    def _unfit(self, model: AnyModel, folder: str, reason: str) -> tuple[AnyModel, RowError]:
        LOG.warning("%s: %s", folder, reason)
        return model, RowError(Code.OUTPUT_DOES_NOT_FIT, f"{folder}: {reason}")


@functools.lru_cache(KEPT_MAKERS)
def _maker(spec: RowSpec, thread: int) -> InstanceMaker:
    return InstanceMaker(spec)


def _chunks(blocks: list[RowBlock], chunk_bytes: int) -> Iterator[list[RowBlock]]:
    """Yield lists of blocks of one file, in its order, of about ``chunk_bytes`` each."""
    chunk: list[RowBlock] = []
    size = 0
    for block in sorted((block for block in blocks if len(block.offsets)), key=lambda block: (block.source, block.offsets[0])):
        if chunk and (chunk[0].source != block.source or size >= chunk_bytes):
            yield chunk
            chunk, size = [], 0
        chunk.append(block)
        size += block.size_bytes
    if chunk:
        yield chunk


@dataclasses.dataclass
class RouteRows(beam.PTransform):
    """Read rows that name their models, group them by model and make instances of them.

    Expects: ``Split``s.
    Gives: ``RowsRead``, with ``batches`` one model after the other.
    Guarantees: every row that is not blank is in exactly one batch; a model that does not exist fails its own rows only.
    """

    job: JobSpec
    progress_folder: str | None = None

    def expand(self, splits: beam.PCollection[Split]) -> RowsRead:
        route = beam.ParDo(_Route(self.job, self.progress_folder)).with_output_types(tuple[str, RowBlock], **ACCOUNT_TYPES)
        routed = splits | "Route" >> route.with_outputs(*ACCOUNT_TYPES, main="rows")
        batches = (
            routed.rows
            | "GroupByModel" >> beam.GroupByKey()
            | "CutModels" >> beam.ParDo(_CutModels()).with_output_types(tuple[str, list[RowBlock]])
            | "SpreadModels" >> beam.Reshuffle()
            | "ReadModel" >> beam.ParDo(_ReadModel(self.job)).with_output_types(SplitElement)
        )
        return RowsRead(batches, routed.accounts, routed.hashes)
