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
from transforms.specs.job import JobSpec
from transforms.specs.run import RunSpec
from transforms.write_shards import WriteShards


def build(pipeline: beam.Pipeline, spec: JobSpec | RunSpec) -> beam.PCollection:
    """Wire a run of one job, or of many tasks, into ``pipeline``; return the collection of its one manifest.

    Rows are read, predicted and written inside one fused stage. Splits, shards, counts and hashes travel between stages. In a run of
    many each split names its task, and the tasks are data, so that the graph does not grow with them.
    """
    job = spec if isinstance(spec, JobSpec) else None
    splits, plans = pipeline | (PlanJob(spec) if isinstance(spec, JobSpec) else PlanTasks(spec))
    read = splits | (RouteRows(job) if job and job.route else ReadInstances(spec))
    model = job.model if job and not job.route else None
    predictions = read.batches | Predict(model, spec.model_memory_bytes, spec.processes, spec.compare, spec.staging_in(spec.folder))
    written = predictions | WriteShards(spec.progress_folder)
    duplicates, places = read.hashes | CheckKeys(spec, splits)
    statistics = (written.statistics, *read.statistics)
    publisher = TablePublisher if job and job.output.table else Publisher
    return written.shards | Publish(spec, plans, read.accounts, duplicates, places, statistics, publisher)
