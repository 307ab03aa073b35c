"""What a run says of its distance to an earlier one, and of a second model's to the first."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

from transforms.accounts.accounts import Accounts
from transforms.compare.baseline import read_baseline
from transforms.compare.drift import WARNED_DRIFT, Drift, compare
from transforms.specs.job import JobSpec
from transforms.specs.models import ModelSpec
from transforms.statistics.guard import COMPARISON, DRIFT, Failures, guarded
from transforms.statistics.statistics import Statistics

LISTED_DRIFTS = 50


def with_drift(job: JobSpec, accounts: Accounts) -> Accounts:
    """Gives the accounts with the drift from the job's baseline, where it has one, and with what of the statistics failed until now."""
    failures = dict(accounts.statistics.failures) if accounts.statistics is not None else {}
    found: list[Drift] = []
    if job.compare.baseline is not None:
        with guarded(DRIFT, failures):
            found = compare(read_baseline(job.compare.baseline), accounts.statistics or Statistics())
    return dataclasses.replace(accounts, drifts=tuple(found), failures=failures)


def describe(job: JobSpec, accounts: Accounts, failures: Failures) -> dict[str, Any]:
    """Gives the manifest's entries on drift and comparison, where the run has a baseline or a second model, as far as they can be made."""
    said: dict[str, Any] = {}
    if job.compare.baseline is not None:
        with guarded(DRIFT, failures):
            said["drift"] = _drift(job, accounts)
    if job.compare.model is not None and job.compare.share is None:
        with guarded(COMPARISON, failures):
            said["comparison"] = _comparison(job, job.compare.model, accounts)
    if job.compare.share is not None and job.compare.model is not None:
        said["second_model"] = {
            "model": job.compare.model.location,
            "version": job.compare.model.version,
            "share": job.compare.share,
        }
    return said


def _drift(job: JobSpec, accounts: Accounts) -> dict[str, Any]:
    return {
        "baseline": job.compare.baseline,
        "warned_above": WARNED_DRIFT if job.compare.max_drift is None else job.compare.max_drift,
        "features": [_line(drift) for drift in accounts.drifts[:LISTED_DRIFTS]],
        "count": len(accounts.drifts),
    }


def _comparison(job: JobSpec, second: ModelSpec, accounts: Accounts) -> dict[str, Any]:
    found = (accounts.statistics or Statistics()).comparison
    compared = [shard for shard in accounts.shards if shard.kind == "comparison"]
    lines = {"lines": sum(shard.rows for shard in compared), "files": len(compared)} if compared else {}
    return {
        "model": second.location,
        "version": second.version,
        "rows": found.rows,
        "only_first_predicted": found.first_only,
        "agreement": round(1 - found.disagreement, 6),
        "tolerance": job.compare.tolerance,
        "outputs": {name: output.describe() for name, output in sorted(found.outputs.items())},
        "changed_most": [_row(line) for _, line in found.changed],
        **lines,
    }


def _line(drift: Drift) -> dict[str, Any]:
    line: dict[str, Any] = {"data": drift.data, "feature": drift.feature, "drift": round(drift.value, 6), "measure": drift.measure}
    if drift.missing_change:
        line["missing_change"] = round(drift.missing_change, 6)
    if drift.new_values:
        line["new_values"] = list(drift.new_values)
    if drift.note:
        line["note"] = drift.note
    return line


def _row(line: str) -> Any:
    try:
        return msgspec.json.decode(line)
    except msgspec.DecodeError:  # cut off: the row was too long to travel
        return line
