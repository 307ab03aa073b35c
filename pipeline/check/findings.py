"""Findings of ``nightshift check``, for people and machines."""

from __future__ import annotations

import dataclasses
from typing import Any

from pipeline.check.estimate import Estimate
from pipeline.check.misfits import Misfit
from pipeline.check.sample import InputPlan, Sample
from transforms.bigquery.table_writer import column_types, schema_field
from transforms.convert.output_columns import make_table
from transforms.specs.errors import SpecError
from transforms.specs.job import JobSpec
from transforms.specs.signature import shape_text


@dataclasses.dataclass
class Findings:
    """All findings of a check; ``reason`` is why the job would fail, None where nothing that was checked would make it fail."""

    reason: str | None = None
    job: JobSpec | None = None
    input: InputPlan | None = None
    sample: Sample | None = None
    misfits: tuple[Misfit, ...] = ()
    fitting_signatures: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    estimate: Estimate | None = None
    unfinished: str | None = None  # that a run was cut off while it published to the output

    def as_json(self) -> dict[str, Any]:
        """Return the findings as the object that ``--json`` writes."""
        content: dict[str, Any] = {"would_run": self.reason is None, "reason": self.reason, "fitting_signatures": self.fitting_signatures}
        if self.unfinished is not None:
            content["unfinished"] = self.unfinished
        if self.job is not None:
            model = self.job.model
            content["model"] = {"location": model.location, "version": model.version, "signature": model.signature.name}
            content["signature"] = signature_rows(self.job)
            content["bigquery_schema"] = bigquery_schema(self.job)
        if self.input is not None:
            names = ("files", "bytes", "splits", "formats", "whole")
            content["input"] = {name: getattr(self.input, name) for name in names}
        if self.sample is not None:
            sample = self.sample
            content["sample"] = {
                "rows": sample.rows, "predicted": sample.predicted, "failed": len(sample.failed), "predictions": sample.lines,
            }  # fmt: skip
            content["rows"] = {"count": sample.rows_in_input, "counted": sample.counted}
            content["model"] |= {"load_seconds": round(sample.load_seconds, 3), "memory_mb": round(sample.model_mb, 1)}
            if sample.speed is not None:
                content["core_seconds_per_1000_rows"] = dataclasses.asdict(sample.speed)
        content["misfits"] = [dataclasses.asdict(misfit) for misfit in self.misfits]
        content["candidate_keys"] = self.keys
        content["estimate"] = None if self.estimate is None else dataclasses.asdict(self.estimate)
        return content


def signature_rows(job: JobSpec) -> list[dict[str, Any]]:
    """Return a row for each input and output: role, name, dtype, shape of a call, and its place in the rows or predictions."""
    signature = job.model.signature
    rows = []
    for role, specs in (("input", signature.inputs), ("output", signature.outputs)):
        for spec in specs:
            place = f"field {spec.name!r}" if role == "input" else f"prediction, {spec.name!r}"
            if role == "input" and len(signature.inputs) == 1:
                place += ", or the bare row"
            if role == "output" and len(signature.outputs) == 1:
                place = "prediction, the bare value"
            rows.append({"role": role, "name": spec.name, "dtype": spec.dtype, "shape": shape_text(spec.shape), "where": place})
    return rows


def bigquery_schema(job: JobSpec) -> list[dict[str, Any]] | None:
    """Return the columns that a BigQuery table of the predictions has or would have; None where an output's rank is unknown."""
    try:
        table = make_table(job.output_signature, job.output, job.key.fields)
    except SpecError:
        return None
    passthrough = tuple(name for name in table.passthrough if name != "*")  # the names of all fields are not known here
    types = column_types(dataclasses.replace(table, passthrough=passthrough), job)
    return [schema_field(name, kind).to_api_repr() for name, kind in types.items()]
