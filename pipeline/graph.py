"""The whole job on one screen: from patterns to published output."""

from __future__ import annotations

import apache_beam as beam

from transforms.model.handler import Predict
from transforms.read.bigquery import PlanStreams
from transforms.read.duplicates import CheckKeys
from transforms.read.instances import ReadInstances
from transforms.read.splits import PlanSplits
from transforms.specs import JobSpec
from transforms.write.publish import Publish
from transforms.write.shards import WriteShards


def build(pipeline: beam.Pipeline, job: JobSpec) -> beam.PCollection:
    """Wires the job into ``pipeline``; gives the collection of its one manifest.

    Rows are read, predicted and written inside one fused stage. Between stages travel splits, shards, counts and hashes.
    """
    splits = pipeline | (PlanStreams(job) if job.input.is_bigquery else PlanSplits(job.input))
    read = splits | ReadInstances(job)
    predictions = read.batches | Predict(job.model)
    shards = predictions | WriteShards(job)
    duplicates, places = read.hashes | CheckKeys(job, splits)
    return shards | Publish(job, read.counts, duplicates, places)
