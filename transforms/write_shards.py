"""WriteShards: batches of predictions to shards, finished temporary files in the output's staging folder."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from transforms.accounts.coders import AccountEntry
from transforms.compare.comparison_lines import compare_batch
from transforms.convert.refuse_rows import refuse_non_finite
from transforms.elements.batches import JobPredictions, PredictionBatch, SplitElement, SplitEnd
from transforms.elements.failed_rows import FailedRow
from transforms.elements.shards import Shard
from transforms.formats import catalog
from transforms.formats.protocols import Encoder
from transforms.runtime import metrics
from transforms.specs.job import JobSpec
from transforms.specs.models import AnyModel
from transforms.specs.output import FolderOutput
from transforms.staging import split_records
from transforms.staging.failed_row_files import failed_row_writer
from transforms.staging.shard_file import Place, ShardFile
from transforms.staging.split_records import SplitRecord
from transforms.statistics import stored
from transforms.statistics.agreement import Comparison
from transforms.statistics.guard import COMPARISON, EFFORT, STATISTICS, guarded
from transforms.statistics.statistics import Statistics

EXAMPLE_CHARACTERS = 300


def make_encoder(job: JobSpec, model: AnyModel | None = None) -> Encoder:
    """Make the encoder of a job's results: of files of the output's format, or of Parquet for a load into a table.

    ``model`` is the one that the rows name; None: the job's own.

    Raises:
      SpecError: the format or table can't hold the signature's outputs or the fields that the flags name.
    """
    if isinstance(job.output, FolderOutput):
        return catalog.make_encoder(job, model)
    from transforms.bigquery.table_writer import TableEncoder

    return TableEncoder(job)


class WriteRows(beam.DoFn):
    """Writes the batches of a split, which come one after the other, to one results and one errors shard."""

    def __init__(self, identity: str, progress_folder: str | None) -> None:
        self.identity, self.progress_folder = identity, progress_folder

    def setup(self) -> None:
        self.progress = metrics.Progress(self.progress_folder)

    def start_bundle(self) -> None:
        self.current: tuple[int, Place] | None = None
        self.job: JobSpec | None = None
        self.results: ShardFile | None = None
        self.errors: ShardFile | None = None
        self.comparison: ShardFile | None = None
        self.rows: Counter[str] = Counter()
        self.codes: dict[tuple[str, str], tuple[int, str]] = {}
        self.models: dict[str, Counter[tuple[str, str | None]]] = {"results": Counter(), "errors": Counter()}
        self.statistics: dict[int, Statistics] = {}
        self.merged: dict[int, Statistics] = {}  # of the bundle's finished splits, by task
        self.of_split: list[Shard] = []

    def process(self, element: JobPredictions | SplitEnd) -> Iterator[tuple[int, Shard]]:
        if isinstance(element, SplitEnd):
            yield from self._end_split(element)
        else:
            yield from self._write(element)

    def _write(self, batch: JobPredictions) -> Iterator[tuple[int, Shard]]:
        """Write a batch; yield the shards of the split or file before it."""
        job, predictions = batch.job, batch.predictions
        started = time.perf_counter()
        mirrored = job.output.layout == "mirror"
        instances = predictions.instances
        place = Place(batch.split_key, instances.relative, instances.source) if mirrored else Place(batch.split_key)
        if (job.task, place) != self.current:
            yield from self._finish()
            self.current = job.task, place
        if self.job is None or self.job.task != job.task:
            self.job, self.model = job, batch.model
            self.encoder, self.failed_rows = make_encoder(job, batch.model), failed_row_writer(job.output)
        elif job.route is not None and self.model is not batch.model:
            self._take_model(job, batch.model)
        if job.output.nan == "error":
            predictions = refuse_non_finite(predictions)
        predictions = self.encoder.refuse(predictions)
        predicted, failed = len(predictions), len(predictions.failed)
        if predicted or (mirrored and self.results is None):
            self.write_results(predictions, job, place)
        if failed:
            self._write_errors(predictions.failed, job, place)
        if batch.compared is not None:
            self._write_comparison(predictions, batch.compared, job, place)
        self.progress.add(predicted + failed, predicted, failed)
        if (job.report and predicted + failed) or batch.compared is not None:
            self._gather(batch, predictions, time.perf_counter() - started)

    def _end_split(self, end: SplitEnd) -> Iterator[tuple[int, Shard]]:
        """Finish the split's files and write its record."""
        job = end.job
        yield from self._finish()
        self.current = None
        statistics = self.statistics.pop(job.task, None)
        encoded = None if statistics is None else stored.encode_or_say(statistics)
        if statistics is not None:
            self.statistics[job.task] = Statistics(batches=statistics.batches)
            if job.task in self.merged:  # one for all splits of a bundle: for each of thousands they would be larger than its accounts
                with guarded(STATISTICS, self.merged[job.task].failures):
                    self.merged[job.task].merge(statistics)
            else:
                self.merged[job.task] = statistics
        split_records.write(job, end.record, SplitRecord(self.identity, dict(job.flags), end.count, end.hashes, self.of_split, encoded))
        self.of_split = []

    def _write_comparison(self, predictions: PredictionBatch, compared: PredictionBatch, job: JobSpec, place: Place) -> None:
        if self.comparison is None:
            self.comparison = ShardFile("comparison", job.staging_in(job.output.folder), place)
        statistics = self.statistics.setdefault(job.task, Statistics())
        lines: bytes | memoryview = b""
        comparison = Comparison()
        with guarded(COMPARISON, statistics.failures):
            lines, comparison = compare_batch(predictions, compared, job.model.signature, job.output.nan, job.compare.tolerance)
        self.comparison.write(lines)
        self.rows["comparison"] += comparison.rows
        with guarded(COMPARISON, statistics.failures):
            statistics.comparison.merge(comparison)

    def _gather(self, batch: JobPredictions, predictions: PredictionBatch, write_seconds: float) -> None:
        """Add a batch to the statistics of its job; ``predictions`` are those of its predictions that were written."""
        statistics = self.statistics.setdefault(batch.job.task, Statistics())
        with guarded(STATISTICS, statistics.failures):
            statistics.add(predictions, batch.model.signature)
        with guarded(EFFORT, statistics.failures):
            statistics.effort.add(batch, write_seconds)

    def _take_model(self, job: JobSpec, model: AnyModel) -> None:
        """Continue the same files with rows of another model; in formats with columns all models have the same outputs."""
        self.model = model
        if job.example is not None:
            return
        self.encoder = make_encoder(job, model)
        if self.results is not None:
            self.encoder.open(self.results)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        self.progress.write()
        for shard in self._finish():
            yield _at_the_end(shard)
        for statistics in (*self.merged.items(), *self.statistics.items()):
            yield TaggedOutput("statistics", _at_the_end(statistics))

    def write_results(self, batch: PredictionBatch, job: JobSpec, place: Place) -> None:
        if self.results is None:
            self.results = ShardFile("results", job.staging_in(job.output.folder), place)
            self.encoder.open(self.results)
        self.encoder.write(batch)
        self._count("results", job, len(batch))
        metrics.predictions_written.inc(len(batch))

    def _write_errors(self, failed: list[FailedRow], job: JobSpec, place: Place) -> None:
        if self.errors is None:
            self.errors = ShardFile("errors", job.staging_in(job.output.errors), place)
            self.failed_rows.open(self.errors)
        self.failed_rows.write(failed)
        self._count("errors", job, len(failed))
        for row in failed:
            count, message = self.codes.get((row.stage, row.code), (0, row.message[:EXAMPLE_CHARACTERS]))
            self.codes[row.stage, row.code] = count + 1, message
            metrics.rows_failed[row.stage].inc()

    def _count(self, kind: str, job: JobSpec, rows: int) -> None:
        self.rows[kind] += rows
        if job.route is not None:
            self.models[kind][self.model.location, self.model.version] += rows

    def _finish(self) -> Iterator[tuple[int, Shard]]:
        """Finish the open files; yield their shards."""
        task = self.current[0] if self.current else 0
        finished: list[Shard] = []
        if self.results is not None:
            self.encoder.close()
            finished.append(self.results.finish(self.rows["results"], self.encoder.content, models=self.models["results"]))
        if self.errors is not None:
            self.failed_rows.close()
            finished.append(self.errors.finish(self.rows["errors"], self.failed_rows.content, self.codes, self.models["errors"]))
        if self.comparison is not None:
            finished.append(self.comparison.finish(self.rows["comparison"]))
        self.of_split += finished
        for shard in finished:
            yield task, shard
        self.results, self.errors, self.comparison, self.rows, self.codes = None, None, None, Counter(), {}
        self.models = {"results": Counter(), "errors": Counter()}


def _at_the_end(element: Any) -> WindowedValue:
    return WindowedValue(element, GlobalWindow().max_timestamp(), [GlobalWindow()])


@dataclasses.dataclass
class WriteShards(beam.PTransform):
    """Write predictions and failed rows to temporary files; records of finished splits have the run's ``identity``.

    Expects: ``JobPredictions``, those of a split one after the other, and a ``SplitEnd`` after those of a recorded split.
    Gives: ``shards`` of (task, ``Shard``), and ``statistics`` of (task, ``Statistics``), each of some of the batches.
    Guarantees: every row of a batch is in exactly one shard; a file that a dead worker left is none of them.
    """

    identity: str = ""
    progress_folder: str | None = None

    def expand(self, predictions: beam.PCollection[SplitElement]) -> beam.pvalue.DoOutputsTuple:
        write = beam.ParDo(WriteRows(self.identity, self.progress_folder))
        write = write.with_output_types(tuple[int, AccountEntry], statistics=tuple[int, Statistics])
        return predictions | write.with_outputs("statistics", main="shards")
