"""The findings of ``nightshift check`` as a page of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.check.findings import Findings, bigquery_schema, signature_rows
from pipeline.check.misfits import Misfit
from pipeline.check.sample import SAMPLED_SPLITS, InputPlan, Sample
from pipeline.process.terminal import one_line
from transforms.specs.messages import cut

LONGEST_LINE = 300


def text(findings: Findings) -> str:
    """Return the findings as a page of text, the verdict first."""
    lines = list(_verdict(findings))
    if findings.job is not None:
        model = findings.job.model
        lines += ["", f"signature {model.signature.name} of {model.location}"]
        head = ("", "name", "dtype", "shape", "where")
        lines += _columns([head, *(tuple(row.values()) for row in signature_rows(findings.job))])
    if findings.job is not None and findings.job.input.is_bigquery:
        lines += ["", "input: the table exists and its columns were checked; rows of BigQuery are not sampled"]
    if findings.misfits:
        lines += ["", *_misfits(findings.misfits, findings.sample)]
    if findings.sample is not None and findings.input is not None:
        lines += ["", *_input(findings.input, findings.sample)]
        if findings.keys:
            lines.append(f"candidate keys, present and different in every sampled row: {', '.join(findings.keys)}")
        if findings.sample.lines:
            lines += ["", "predictions would look like this:", *(f"  {cut(line, LONGEST_LINE)}" for line in findings.sample.lines)]
    if findings.job is not None:
        lines += _schema(findings)
    lines += _plan(findings)
    return "\n".join(map(one_line, lines))


def _verdict(findings: Findings) -> Iterator[str]:
    if findings.reason is None:
        failures = f": {len(findings.sample.failed)} of {findings.sample.rows} sampled rows would fail" if findings.sample else ""
        yield f"the job would run{failures}"
    else:
        yield f"THE JOB WOULD FAIL: {findings.reason}"
    if findings.unfinished is not None:
        yield f"note: {findings.unfinished}"
    for name in findings.fitting_signatures:
        yield f"  signature {name} fits the sampled rows: give --signature_name={name}"


def _misfits(misfits: Sequence[Misfit], sample: Sample | None) -> Iterator[str]:
    yield "what does not fit:"
    rows = sample.rows if sample is not None else 0
    for misfit in misfits:
        yield f"  {misfit.field}: expected {misfit.expected}; found {misfit.found}, in {misfit.rows} of {rows} rows ({misfit.code})"
        yield f"    such as: {cut(misfit.example, LONGEST_LINE)}"
        yield f"    to fix: {misfit.fix}"


def _input(plan: InputPlan, sample: Sample) -> Iterator[str]:
    formats = ", ".join(f"{name} ({count:,})" for name, count in plan.formats.items())
    more = "" if plan.whole else ", and more files that were not listed"
    yield f"input: {plan.files:,} files, {plan.bytes:,} bytes, {plan.splits:,} splits; formats: {formats}{more}"
    source = "counted" if sample.counted else "estimated from bytes a row of the sample"
    yield f"rows:  {sample.rows_in_input:,}, {source}; {sample.rows:,} of them, from at most {SAMPLED_SPLITS} splits, were sampled"


def _schema(findings: Findings) -> Iterator[str]:
    assert findings.job is not None
    schema = bigquery_schema(findings.job)
    if schema is not None:
        yield ""
        yield "as columns (types of BigQuery):"
        yield from _columns([(column["name"], column["type"], column["mode"]) for column in schema])


def _plan(findings: Findings) -> Iterator[str]:
    sample, plan = findings.sample, findings.estimate
    if sample is None or sample.speed is None or plan is None:
        return
    speed = sample.speed
    read = "with convert" if speed.read is None else f"{speed.read:.4f}"
    yield ""
    yield (
        f"seconds of one core of this machine a 1,000 rows: read {read}, convert {speed.convert:.4f}, predict {speed.predict:.4f}, "
        f"write {speed.write:.4f}"
    )
    yield f"model: {sample.model_mb:,.0f} MB more memory when loaded, loaded in {sample.load_seconds:.2f} s"
    low, high = plan.hours
    cheap, dear = plan.dollars
    yield f"on Dataflow, an estimate: {plan.workers} x {plan.machine_type}, {low:.2f} to {high:.2f} hours, {cheap:.2f} to {dear:.2f} USD"
    yield "  assuming that"
    yield from (f"  - {assumption}" for assumption in plan.assumptions)


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
