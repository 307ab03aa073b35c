"""The manifest's entries on drift from an earlier run and on disagreement of a second model."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
from msgspec import UNSET

from transforms.accounts.accounts import Accounts
from transforms.compare.baseline import read_baseline
from transforms.compare.drift import WARNED_DRIFT, Drift, compare
from transforms.specs.job import JobSpec
from transforms.specs.manifest import ComparisonEntry, DriftEntry, DriftLine, Manifest, SecondModelEntry
from transforms.specs.models import ModelSpec
from transforms.statistics.guard import COMPARISON, DRIFT, Failures, guarded
from transforms.statistics.statistics import Statistics

LISTED_DRIFTS = 50


def with_drift(job: JobSpec, accounts: Accounts) -> Accounts:
    """Return the accounts with the drift from the job's baseline, if it has one, and with the failures of statistics and drift."""
    failures = dict(accounts.statistics.failures) if accounts.statistics is not None else {}
    drifts: list[Drift] = []
    if job.compare.baseline is not None:
        with guarded(DRIFT, failures):
            drifts = compare(read_baseline(job.compare.baseline), accounts.statistics or Statistics())
    return dataclasses.replace(accounts, drifts=tuple(drifts), failures=failures)


def describe(manifest: Manifest, job: JobSpec, accounts: Accounts, failures: Failures) -> None:
    """Add the entries ``drift``, ``comparison`` and ``second_model`` to the manifest of a run with a baseline or a second model.

    An entry that can't be made is left out, and ``failures`` says why.
    """
    if job.compare.baseline is not None:
        with guarded(DRIFT, failures):
            manifest.drift = _drift(job, job.compare.baseline, accounts)
    if job.compare.model is not None and job.compare.share is None:
        with guarded(COMPARISON, failures):
            manifest.comparison = _comparison(job, job.compare.model, accounts)
    if job.compare.share is not None and job.compare.model is not None:
        manifest.second_model = SecondModelEntry(job.compare.model.location, job.compare.model.version, job.compare.share)


def _drift(job: JobSpec, baseline: str, accounts: Accounts) -> DriftEntry:
    return DriftEntry(
        baseline=baseline,
        warned_above=WARNED_DRIFT if job.compare.max_drift is None else job.compare.max_drift,
        features=[_line(drift) for drift in accounts.drifts[:LISTED_DRIFTS]],
        count=len(accounts.drifts),
    )


def _comparison(job: JobSpec, second: ModelSpec, accounts: Accounts) -> ComparisonEntry:
    comparison = (accounts.statistics or Statistics()).comparison
    shards = [shard for shard in accounts.shards if shard.kind == "comparison"]
    return ComparisonEntry(
        model=second.location,
        version=second.version,
        rows=comparison.rows,
        only_first_predicted=comparison.first_only,
        agreement=round(1 - comparison.disagreement, 6),
        tolerance=job.compare.tolerance,
        outputs={name: output.describe() for name, output in sorted(comparison.outputs.items())},
        changed_most=[_row(line) for _, line in comparison.changed],
        lines=sum(shard.rows for shard in shards) if shards else UNSET,
        files=len(shards) if shards else UNSET,
    )


def _line(drift: Drift) -> DriftLine:
    return DriftLine(
        data=drift.data,
        feature=drift.feature,
        drift=round(drift.value, 6),
        measure=drift.measure,
        missing_change=round(drift.missing_change, 6) if drift.missing_change else UNSET,
        new_values=list(drift.new_values) or UNSET,
        note=drift.note or UNSET,
    )


def _row(line: str) -> Any:
    try:
        return msgspec.json.decode(line)
    except msgspec.DecodeError:  # cut to CHANGED_CHARACTERS
        return line
