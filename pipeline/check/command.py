"""``nightshift check``: whether the job would run, its first predictions, its cost. Nothing is written to the output."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import msgspec
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.check import text
from pipeline.check.estimate import estimate
from pipeline.check.findings import Findings
from pipeline.check.flags import CheckOptions
from pipeline.check.misfits import candidate_keys, find_misfits
from pipeline.check.sample import plan_input, predict_sample, read_sample
from pipeline.flags import specs_of
from pipeline.flags.options import RunOptions
from pipeline.preflight import job as preflight
from pipeline.process.terminal import say
from transforms.formats.catalog import format_of
from transforms.model.locate import find_folder, read_meta_graphs
from transforms.model.saved_model import select_meta_graph
from transforms.output import journal
from transforms.specs.errors import ModelError, RefusedError

# Rows on which other signatures are tried: enough to see whether they fit.
TRIED_ROWS = 20
TRIED_SIGNATURES = 10


def check(options: CheckOptions, beam_options: PipelineOptions) -> bool:
    """Print the findings and, with ``--json``, write them as JSON; return whether the job would run and the findings were printed."""
    findings = look(options, beam_options)
    if findings.job is not None:
        findings.unfinished = journal.pending(findings.job.folder)
    is_printed = say(text.text(findings))
    if options.json is not None:
        with open(options.json, "wb") as stream:
            stream.write(msgspec.json.format(msgspec.json.encode(findings.as_json()), indent=2) + b"\n")
    return is_printed and findings.reason is None


def look(options: CheckOptions, beam_options: PipelineOptions) -> Findings:
    """Check model, signature and a sample of the rows, as a run would."""
    try:
        job = preflight.prepare(options.run, beam_options, probe_output=False)[0].job
    except RefusedError as error:
        fitting = tuple(_fitting(options.run, beam_options)) if options.run.signature_name is None else ()
        return Findings(reason=str(error), fitting_signatures=fitting)
    if job.input.is_bigquery:
        return Findings(job=job)
    plan = plan_input(job)
    sample = read_sample(job, plan, options.sample_rows)
    findings = Findings(job=job, input=plan, sample=sample)
    try:
        predict_sample(job, sample)
    except ModelError as error:
        findings.reason = str(error)
    format = format_of(plan.ranges[0].path, job.input.format)
    findings.misfits = tuple(find_misfits(sample.failed, job.model.signature, format, job.key.fields))
    if not job.key.fields or any(misfit.code.startswith("KEY") for misfit in findings.misfits):
        findings.keys = tuple(candidate_keys(sample.batches, sample.failed))
    findings.estimate = estimate(sample, plan)
    ratio = len(sample.failed) / max(1, sample.rows)
    if findings.reason is None and ratio > job.max_error_ratio:
        failed = f"{len(sample.failed)} of {sample.rows} sampled rows fail ({ratio:.0%})"
        findings.reason = f"{failed}, more than --max_error_ratio={job.max_error_ratio} allows"
    if findings.reason is not None:
        findings.fitting_signatures = tuple(name for name in _fitting(options.run, beam_options) if name != job.model.signature.name)
    return findings


def _fitting(options: RunOptions, beam_options: PipelineOptions) -> Iterator[str]:
    """Yield the names of the MetaGraph's signatures that predict every row of a small sample."""
    try:
        request = specs_of.model_request(options, threads=1)
        folder, _ = find_folder(request.location, request.version)
        graph = select_meta_graph(read_meta_graphs(folder), request.tags, request.location)
    except (RefusedError, OSError):
        return
    names = sorted(graph.signatures)
    for name in names[:TRIED_SIGNATURES] if len(names) > 1 else ():
        other = dataclasses.replace(options, signature_name=name)
        try:
            job = preflight.prepare(other, beam_options, probe_output=False)[0].job
            if job.input.is_bigquery:
                return
            sample = read_sample(job, plan_input(job), TRIED_ROWS)
            predict_sample(job, sample, timed=False)
        except RefusedError:
            continue
        if sample.predicted and not sample.failed:
            yield name
