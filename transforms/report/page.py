"""report.html and statistics.json: what a run did and saw, for a person and for machines."""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import importlib.metadata
import math
import platform
import re
from collections.abc import Sequence
from typing import Any

import jinja2
import msgspec
from markupsafe import Markup
from msgspec import UNSET
from tensorflow_metadata.proto.v0 import statistics_pb2

from transforms.accounts.accounts import Accounts
from transforms.report import charts
from transforms.runtime import temporary_folders
from transforms.specs.job import JobSpec
from transforms.specs.manifest import Manifest, TaskLine, listed
from transforms.specs.messages import cut
from transforms.specs.own_names import REPORT, STATISTICS
from transforms.specs.run import TasksRun
from transforms.statistics import tf_metadata
from transforms.statistics.effort import STEPS, Effort
from transforms.statistics.guard import EFFORT, Failures, guarded, warn
from transforms.statistics.guard import REPORT as REPORTING
from transforms.statistics.guard import STATISTICS as GATHERING
from transforms.statistics.statistics import Statistics

# 3,000 models take less than 2 MB; of more, those that failed and then the slowest are shown.
MOST_MODELS = 3000
MOST_FEATURES = 150
MOST_FILES = 50
TEXT_CHARACTERS = 300
PACKAGES = ("apache-beam", "tensorflow", "numpy", "pyarrow")
STEP_NAMES = {"read": "read and convert", "predict": "predict", "write": "write"}


@dataclasses.dataclass(frozen=True)
class Feature:
    """One input or output as the report shows it; ``top`` are its most frequent values, each with rows and share."""

    name: str
    kind: str
    facts: list[tuple[str, str]]
    chart: Markup
    top: list[tuple[str, int, float]]


def report_files(job: JobSpec, manifest: Manifest, accounts: Accounts, model_lines: dict[str, bytes]) -> dict[str, bytes]:
    """Return report.html and statistics.json of a job, by name; an empty dict with ``--report=false``.

    A part that can't be made is left out and named in the manifest's ``warnings``. ``model_lines`` are files of a line a model.
    """
    if not job.report:
        return {}
    files: dict[str, bytes] = {}
    failures: Failures = {}
    statistics = accounts.statistics or Statistics()
    described = statistics_pb2.DatasetFeatureStatisticsList()
    with guarded(GATHERING, failures):
        described = tf_metadata.describe(statistics, failures)
        files[STATISTICS] = tf_metadata.encode(described)
    with guarded(REPORTING, failures):
        parts = _parts(manifest, statistics, described, failures)
        warn(manifest, failures)
        parts["models"] = [_model_row(msgspec.json.decode(line)) for content in model_lines.values() for line in content.splitlines()]
        files[REPORT] = _page(manifest, ("model", "version", "predicted", "failed"), **parts)
    warn(manifest, failures)
    return files


def _parts(
    manifest: Manifest, statistics: Statistics, described: statistics_pb2.DatasetFeatureStatisticsList, failures: Failures
) -> dict[str, Any]:
    """Return the parts of a job's page that can be made, as values for the template."""
    parts: dict[str, Any] = {"sections": [], "left_out": sorted(statistics.left_out)}
    with guarded(REPORTING, failures):
        parts["errors"] = _errors(manifest, statistics)
    with guarded(EFFORT, failures):
        parts["effort"] = _effort(statistics.effort)
    titles = {tf_metadata.PREDICTIONS: "Predictions", tf_metadata.INPUTS: "Inputs"}
    for data in sorted(described.datasets, key=lambda data: list(titles).index(data.name)):
        parts["sections"].append((titles[data.name], _features(data, failures), len(data.features)))
    return parts


def run_report(run: TasksRun, manifest: Manifest, tasks: Sequence[TaskLine]) -> dict[str, bytes]:
    """Return report.html of a run of many tasks, by name; an empty dict with ``--report=false``. ``tasks`` has a line a task."""
    if not run.has_report:
        return {}
    files: dict[str, bytes] = {}
    failures: Failures = {}
    with guarded(REPORTING, failures):
        shown = sorted(tasks, key=lambda line: (line.is_done, -line.seconds))[:MOST_MODELS]
        files[REPORT] = _page(
            manifest=manifest,
            models=[_task_row(line) for line in sorted(shown, key=lambda line: line.number)],
            columns=("model", "version", "status", "read", "predicted", "failed", "seconds", "reason"),
        )
    warn(manifest, failures)
    return files


def _task_row(line: TaskLine) -> list[str | int | float]:
    counts = line.counts
    figures = [counts.read, counts.predicted, counts.failed, round(line.seconds, 3)]
    return [_cut(line.model), line.version or "", line.status, *figures, _cut(line.reason or "")]


def _model_row(line: dict[str, Any]) -> list[Any]:
    return [_cut(line["location"]), line["version"] or "", line["predicted"], line["failed"]]


def _cut(text: str) -> str:
    return cut(text, TEXT_CHARACTERS)


# --- parts of the page -----------------------------------------------------------------------------------------------------


def _errors(manifest: Manifest, statistics: Statistics) -> list[dict[str, Any]]:
    rows = listed(manifest.errors)
    failed = sum(row.count for row in rows)
    return [
        msgspec.to_builtins(row) | {"share": row.count / failed, "examples": statistics.examples.get((row.stage, row.code), [])}
        for row in rows
    ]


def _drifts(manifest: Manifest) -> list[dict[str, Any]]:
    if manifest.drift is UNSET:
        return []
    limit = manifest.drift.warned_above
    return [msgspec.to_builtins(line) | {"is_high": line.drift > limit} for line in manifest.drift.features]


def _effort(effort: Effort) -> dict[str, Any]:
    whole = sum(effort.seconds[step] for step in STEPS) or 1.0
    rates = effort.rows_a_second()
    calls = sorted(effort.calls.items())
    return {
        "steps": [(STEP_NAMES[step], effort.seconds[step], effort.seconds[step] / whole) for step in STEPS],
        "processes": len(effort.workers),
        "throughput": charts.area(
            rates,
            f"rows a second over time, up to {charts.short(max((rate for _, rate in rates), default=0))}",
            "0 s",
            f"{charts.short(rates[-1][0] + effort.width)} s" if rates else "",
        ),
        "most_rows_a_second": max((rate for _, rate in rates), default=0.0),
        "calls": charts.bars(
            [(f"up to {rows:,} rows: {count:,} calls", count) for rows, count in calls],
            "model calls by their number of rows",
            f"≤ {calls[0][0]:,} rows" if calls else "",
            f"≤ {calls[-1][0]:,} rows" if len(calls) > 1 else "",
        ),
        "call_count": sum(effort.calls.values()),
        "loads": effort.loads,
        "load_seconds": effort.load_seconds,
        "longest_load_seconds": effort.longest_load_seconds,
    }


def _features(data: statistics_pb2.DatasetFeatureStatistics, failures: Failures) -> list[Feature]:
    """Return the first ``MOST_FEATURES`` features, without those that can't be shown."""
    features = []
    for one in data.features[:MOST_FEATURES]:
        with guarded(REPORTING, failures):
            features.append(describe_feature(one))
    return features


def describe_feature(feature: statistics_pb2.FeatureNameStatistics) -> Feature:
    name = _cut(feature.path.step[0])
    sampled = any(custom.name == tf_metadata.SAMPLED for custom in feature.custom_stats)
    note = "≈ " if sampled else ""
    if feature.HasField("num_stats"):
        kind = "whole numbers" if feature.type == statistics_pb2.FeatureNameStatistics.INT else "numbers"
        return Feature(name, kind, _number_facts(feature, note), _histogram(feature.num_stats), _classes(feature))
    texts = feature.string_stats
    facts = [("different", f"≈ {texts.unique:,}"), ("mean bytes", note + charts.short(texts.avg_length)), *_common(texts.common_stats)]
    if texts.invalid_utf8_count:
        facts.append(("not UTF-8", f"{note}{texts.invalid_utf8_count:,}"))
    rows = texts.common_stats.tot_num_values or 1
    top = [(_cut(one.value), round(one.frequency), one.frequency / rows) for one in texts.top_values[:10]]
    return Feature(name, "text", facts, Markup(), top)


def _common(common: statistics_pb2.CommonStatistics) -> list[tuple[str, str]]:
    facts = [("rows", f"{common.num_non_missing:,}")]
    if common.tot_num_values != common.num_non_missing:
        facts.append(("values a row", charts.short(common.avg_num_values)))
    if common.num_missing:
        whole = common.num_missing + common.num_non_missing
        facts.append(("missing", f"{common.num_missing:,} ({common.num_missing / whole:.1%})"))
    return facts


def _number_facts(feature: statistics_pb2.FeatureNameStatistics, note: str) -> list[tuple[str, str]]:
    numbers = feature.num_stats
    facts = [
        ("mean", charts.short(numbers.mean)),
        ("deviation", charts.short(numbers.std_dev)),
        ("lowest", charts.short(numbers.min)),
        ("median", note + charts.short(numbers.median)),
        ("highest", charts.short(numbers.max)),
        *_common(numbers.common_stats),
    ]
    if numbers.num_zeros:
        facts.append(("zeros", f"{numbers.num_zeros:,}"))
    undefined = numbers.histograms[0]
    for name, count in (("NaN", undefined.num_nan), ("infinite", undefined.num_undefined)):
        if count:
            facts.append((name, f"{count:,}"))
    return facts


def _histogram(numbers: statistics_pb2.NumericStatistics) -> Markup:
    buckets = numbers.histograms[0].buckets
    if not buckets:
        return Markup()
    bars = [
        (f"{charts.short(one.low_value)} to {charts.short(one.high_value)}: {one.sample_count:,.0f}", one.sample_count) for one in buckets
    ]
    low, high = charts.short(numbers.min), charts.short(numbers.max)
    return charts.bars(bars, f"histogram from {low} to {high}, median {charts.short(numbers.median)}", low, high)


def _classes(feature: statistics_pb2.FeatureNameStatistics) -> list[tuple[str, int, float]]:
    values = feature.num_stats.common_stats.tot_num_values or 1
    for custom in feature.custom_stats:
        if custom.name == "top_values" and len(custom.rank_histogram.buckets) <= tf_metadata.TOP_VALUES:
            return [(one.label, round(one.sample_count), one.sample_count / values) for one in custom.rank_histogram.buckets[:10]]
    return []


# --- the page --------------------------------------------------------------------------------------------------------------


def _compiled() -> jinja2.BytecodeCache | None:
    """Return a cache of the compiled template among this user's temporary files: compiling takes 0.1 s, a tenth of a small run."""
    try:
        return jinja2.FileSystemBytecodeCache(str(temporary_folders.own_folder("templates")))
    except OSError:  # the temporary folder can't be written to
        return None


@functools.cache
def load_template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("transforms.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        bytecode_cache=_compiled(),
    )
    environment.filters["short"] = charts.short
    environment.filters["seconds"] = lambda seconds: f"{seconds:,.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
    environment.filters["size"] = _size
    environment.filters["line"] = lambda row: msgspec.json.encode(row).decode()
    return environment.get_template("report.html.j2")


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1024
    raise AssertionError


def _page(manifest: Manifest, columns: Sequence[str], models: Sequence[Sequence[Any]], **parts: Any) -> bytes:
    defaults: dict[str, Any] = {"errors": [], "effort": None, "sections": [], "left_out": []}
    files = [*listed(manifest.results), *listed(manifest.failed_rows)]
    seconds, counts, tasks = manifest.seconds, manifest.counts, manifest.tasks
    page = load_template().render(
        **(defaults | parts),
        manifest=msgspec.to_builtins(manifest),  # without the fields that it lacks
        drifts=_drifts(manifest),
        columns=columns,
        models=models[:MOST_MODELS],
        model_count=len(models) if tasks is UNSET else tasks.count,
        files=files[:MOST_FILES],
        file_count=len(files),
        versions=versions(),
        rate=counts.read / seconds if counts is not UNSET and seconds is not UNSET and seconds else math.nan,
    )
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    sources = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts)
    return page.replace("SCRIPT-SOURCES", sources or "'none'", 1).encode()


@functools.cache
def versions() -> list[tuple[str, str]]:
    """Return names and versions of this program, Python and its main libraries on the worker that publishes."""
    own = [("nightshift", _version("nightshift")), ("Python", platform.python_version())]
    return [*own, *((name, _version(name)) for name in PACKAGES)]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
