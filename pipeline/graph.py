"""The whole job on one screen: from patterns to published output."""

from __future__ import annotations

import apache_beam as beam

from transforms.model.handler import Predict
from transforms.read.duplicates import CheckKeys
from transforms.read.instances import ReadInstances
from transforms.read.tasks import PlanJob, PlanTasks
from transforms.specs import JobSpec
from transforms.tasks import RunSpec
from transforms.write.load import TablePublisher
from transforms.write.publish import Publish, Publisher
from transforms.write.shards import WriteShards


def build(pipeline: beam.Pipeline, spec: JobSpec | RunSpec) -> beam.PCollection:
    """Wires a run of one job, or of many, into ``pipeline``; gives the collection of its one manifest.

    Rows are read, predicted and written inside one fused stage. Between stages travel splits, shards, counts and hashes. In a
    run of many each split names its job, and the jobs are data: the graph does not grow with them.
    """
    job, run = (spec, None) if isinstance(spec, JobSpec) else (None, spec)
    splits, plans = pipeline | (PlanJob(job) if job else PlanTasks(run))
    read = splits | ReadInstances(job, spec.progress_folder)
    predictions = read.batches | Predict(job.model if job else None, spec.model_memory_bytes, spec.processes)
    shards = predictions | WriteShards(spec.progress_folder)
    duplicates, places = read.hashes | CheckKeys(job, splits)
    publisher = TablePublisher if job and job.output.table else Publisher
    return shards | Publish(run, plans, read.counts, duplicates, places, publisher)
