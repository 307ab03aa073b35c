"""The gate: results are published only if the accounts add up and no limit is exceeded."""

from __future__ import annotations

from transforms.accounts.accounts import Accounts, count_codes
from transforms.compare.drift import NO_MEASURE, UNMEASURED
from transforms.formats.catalog import FORMATS
from transforms.rows.codes import Code
from transforms.specs.job import JobSpec
from transforms.statistics.agreement import Comparison
from transforms.statistics.guard import COMPARISON, DRIFT, STATISTICS


def check_gate(job: JobSpec, accounts: Accounts) -> str | None:
    """Return the reason why the gate refuses the results, or None if they may be published."""
    read, predicted, failed = accounts.read, accounts.rows("results"), accounts.rows("errors")
    # A damaged or changed file has a failed row of its own that was never read.
    if read != predicted + failed:
        return f"{read} rows were read, but {predicted} predicted + {failed} failed = {predicted + failed}: rows were lost or doubled"
    if reason := _incomplete(accounts):
        return reason
    if accounts.duplicated and job.key.duplicates == "fail":
        first = ", ".join(f"{place.key} ({place.source} at byte {place.offset})" for place in accounts.places[:4])
        such = f", such as {first}" if first else " (which ones is unknown: the input changed before it could be read again)"
        return f"{accounts.duplicated} keys occur more than once{such}; correct them or give --duplicate_keys=allow"
    collision = _mirrored_twice(job, accounts) if job.output.layout == "mirror" else None
    if collision:
        return f"--output_layout=mirror would write {collision[0]} for several input files: {', '.join(collision[1][:3])}"
    ratio = failed / read if read else 0.0
    if ratio > job.max_error_ratio:
        most = count_codes([shard for shard in accounts.shards if shard.kind == "errors"])[0]
        example = f"; most with {most.code}, such as: {most.message}"
        return f"{failed} of {read} rows failed ({ratio:.2%}), more than --max_error_ratio={job.max_error_ratio} allows{example}"
    return _without_figure(job, accounts) or _too_different(job, accounts)


def _without_figure(job: JobSpec, accounts: Accounts) -> str | None:
    """Return why ``--max_drift`` or ``--max_disagreement`` can't be checked because the figure that it limits is unknown, or None."""
    spec, failures = job.compare, accounts.failures
    if spec.max_drift is not None:
        why = failures.get(STATISTICS) or failures.get(DRIFT)
        if why is None and all(drift.measure == NO_MEASURE and drift.has_enough_rows for drift in accounts.drifts):
            why = "no input or output of the two runs can be compared"
        if why is None:
            why = next((f"{drift.data} {drift.feature!r}: {drift.note}" for drift in accounts.drifts if drift.note == UNMEASURED), None)
        if why is not None:
            return f"--max_drift={spec.max_drift} was given, and the drift from {spec.baseline} can't be measured: {why}"
    if spec.max_disagreement is not None:
        comparison = accounts.statistics.comparison if accounts.statistics is not None else Comparison()
        compared, predicted = comparison.rows + comparison.first_only, accounts.rows("results")
        why = failures.get(COMPARISON) or failures.get(STATISTICS)
        if why is not None or compared != predicted:
            reason = why or f"{compared} of {predicted} predictions were compared"
            return f"--max_disagreement={spec.max_disagreement} was given, and the disagreement is not known: {reason}"
    return None


def _incomplete(accounts: Accounts) -> str | None:
    """Return which files could not be read whole as they were planned, and what to do, or None."""
    if changed := accounts.incomplete(Code.FILE_CHANGED):
        messages = sorted({file.message for file in changed})  # a split's message is that of the file's other splits
        return (
            f"the input changed while the run read it, so that rows may be lost, doubled or mixed: {'; '.join(messages[:3])}. "
            f"Run again when nothing writes to it any more, or give copies"
        )
    if damaged := accounts.incomplete(Code.FILE_DAMAGED):
        paths = sorted({file.path for file in damaged})
        return f"{len(paths)} input files are damaged, so rows are lost: {', '.join(paths[:3])}"
    return None


def _too_different(job: JobSpec, accounts: Accounts) -> str | None:
    """Return why drift or disagreement exceeds its limit, or None."""
    spec = job.compare
    drifts = [drift for drift in accounts.drifts if drift.has_enough_rows and spec.max_drift is not None and drift.value > spec.max_drift]
    if drifts:
        named = ", ".join(f"{drift.data} {drift.feature!r} by {drift.value:.3f} ({drift.note or drift.measure})" for drift in drifts[:3])
        return f"{len(drifts)} features drifted from {spec.baseline} by more than --max_drift={spec.max_drift}: {named}"
    comparison = accounts.statistics.comparison if accounts.statistics is not None else None
    if comparison is not None and spec.max_disagreement is not None and comparison.disagreement > spec.max_disagreement:
        return (
            f"the models disagree on {comparison.disagreement:.2%} of the rows, more than --max_disagreement={spec.max_disagreement} "
            f"allows; prediction.comparison-* has both predictions of each row, which agree within --compare_tolerance={spec.tolerance}"
        )
    return None


def _mirrored_twice(job: JobSpec, accounts: Accounts) -> tuple[str, list[str]] | None:
    """Return an output's name that several input files would have, and these files, or None."""
    sources: dict[str, set[str]] = {}
    mirrored_name = FORMATS[job.output.format].mirrored_name
    for shard in accounts.shards:
        if shard.kind == "results":
            sources.setdefault(mirrored_name(shard.relative), set()).add(shard.source)
    return next(((name, sorted(paths)) for name, paths in sources.items() if len(paths) > 1), None)
