"""What ``nightshift check`` found, for people and machines."""

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
    """All that ``check`` found; ``reason`` None: nothing that was looked at would make the job fail."""

    reason: str | None = None
    job: JobSpec | None = None
    input: InputPlan | None = None
    sample: Sample | None = None
    misfits: tuple[Misfit, ...] = ()
    fitting_signatures: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    estimate: Estimate | None = None
    unfinished: str | None = None  # what a run that was cut off while it published left in the output

    def as_json(self) -> dict[str, Any]:
        """Gives the findings for machines."""
        found: dict[str, Any] = {"would_run": self.reason is None, "reason": self.reason, "fitting_signatures": self.fitting_signatures}
        if self.unfinished is not None:
            found["unfinished"] = self.unfinished
        if self.job is not None:
            model = self.job.model
            found["model"] = {"location": model.location, "version": model.version, "signature": model.signature.name}
            found["signature"] = signature_rows(self.job)
            found["bigquery_schema"] = bigquery_schema(self.job)
        if self.input is not None:
            kept = ("files", "bytes", "splits", "formats", "whole")
            found["input"] = {name: getattr(self.input, name) for name in kept}
        if self.sample is not None:
            sample = self.sample
            found["sample"] = {
                "rows": sample.rows, "predicted": sample.predicted, "failed": len(sample.failed), "predictions": sample.lines,
            }  # fmt: skip
            found["rows"] = {"count": sample.rows_in_input, "counted": sample.counted}
            found["model"] |= {"load_seconds": round(sample.load_seconds, 3), "memory_mb": round(sample.model_mb, 1)}
            if sample.speed is not None:
                found["core_seconds_per_1000_rows"] = dataclasses.asdict(sample.speed)
        found["misfits"] = [dataclasses.asdict(misfit) for misfit in self.misfits]
        found["candidate_keys"] = self.keys
        found["estimate"] = None if self.estimate is None else dataclasses.asdict(self.estimate)
        return found


def signature_rows(job: JobSpec) -> list[dict[str, Any]]:
    """Gives the signature as a table: role, name, dtype, shape of a call, and where it comes from or goes to."""
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
    """Gives the columns that a table of the predictions has or would have; None where an output has no known rank."""
    try:
        table = make_table(job.output_signature, job.output, job.key.fields)
    except SpecError:
        return None
    named = tuple(name for name in table.passthrough if name != "*")  # all fields of a row are no columns
    types = column_types(dataclasses.replace(table, passthrough=named), job.output, job.key.fields)
    return [schema_field(name, kind).to_api_repr() for name, kind in types.items()]
