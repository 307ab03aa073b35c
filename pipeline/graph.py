"""The pipeline's graph on one screen: from patterns to published output."""

from __future__ import annotations

import apache_beam as beam

from transforms.bigquery.publisher import TablePublisher
from transforms.check_keys import CheckKeys
from transforms.output.publisher import Publisher
from transforms.plan_tasks import PlanJob, PlanTasks
from transforms.predict import Predict
from transforms.publish import Publish
from transforms.read_instances import ReadInstances
from transforms.route_rows import RouteRows
from transforms.specs.output import TableOutput
from transforms.specs.run import JobRun, RunSpec, TasksRun
from transforms.write_shards import WriteShards


def build(pipeline: beam.Pipeline, run: RunSpec, progress_folder: str | None = None) -> beam.PCollection:
    """Wire a run of one job, or of many tasks, into ``pipeline``; return the collection of its one manifest.

    Rows are read, predicted and written inside one fused stage. Splits, shards, counts and hashes travel between stages. In a run of
    many each split names its task, and the tasks are data, so that the graph does not grow with them. Workers on this machine count
    their rows in ``progress_folder``.
    """
    match run:
        case JobRun(job=job):
            splits, plans = pipeline | PlanJob(job)
            read = splits | (RouteRows(job, progress_folder) if job.route else ReadInstances(run, progress_folder))
        case TasksRun():
            splits, plans = pipeline | PlanTasks(run)
            read = splits | ReadInstances(run, progress_folder)
    predictions = read.batches | Predict(run.model, run.model_memory_bytes, run.processes, run.compare, run.staging_in(run.folder))
    written = predictions | WriteShards(run.identity, progress_folder)
    duplicates, places = read.hashes | CheckKeys(run, splits)
    statistics = (written.statistics, *read.statistics)
    publisher = TablePublisher if isinstance(run.output, TableOutput) else Publisher
    return written.shards | Publish(run, plans, read.accounts, duplicates, places, statistics, publisher)
