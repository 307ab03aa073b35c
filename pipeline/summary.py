"""The terminal output of a run: progress of a local run, and a short summary of the manifest."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import UNSET
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from pipeline.preflight.job import InputFound
from pipeline.process.terminal import one_line, say
from transforms.runtime.metrics import read_progress
from transforms.specs.manifest import DriftLine, InputEntry, Manifest, listed
from transforms.specs.messages import text_lines
from transforms.specs.own_names import ERRORS
from transforms.specs.run import RunSpec
from transforms.specs.table_name import is_table
from transforms.statistics.guard import SUMMARY, Failures, guarded, warnings

LOG = logging.getLogger("nightshift")
NAMED = 5  # features that drifted
LINE_EVERY_SECONDS = 15.0


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        seconds = task.elapsed or 0.0
        return Text(f"{task.fields['rows'] / seconds if seconds else 0:,.0f} rows/s")


@contextmanager
def show_progress(folder: str | None, input_found: InputFound) -> Iterator[None]:
    """Show rows, rows/s, failed rows, elapsed time and the share of input bytes while the ``with`` block runs.

    On a terminal that is a bar; elsewhere a line every ``LINE_EVERY_SECONDS``. Without ``folder``, nothing is shown.
    """
    if folder is None:
        yield
        return
    stop = threading.Event()
    show = _bar if sys.stderr.isatty() else _lines
    thread = threading.Thread(target=show, args=(folder, input_found, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _bar(folder: str, input_found: InputFound, stop: threading.Event) -> None:
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TextColumn("{task.fields[rows]:,} rows"),
        _Rate(), TextColumn("{task.fields[failed]:,} failed"), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("starting", total=input_found.bytes if input_found.whole else None, rows=0, failed=0)
        while True:
            ended = stop.wait(0.2)
            rows, _, failed, size = read_progress(folder)
            what = "predicting" if rows else "starting"
            progress.update(task, completed=size, rows=rows, failed=failed, description=what)
            if ended:
                return


def _lines(folder: str, input_found: InputFound, stop: threading.Event) -> None:
    started = time.monotonic()
    while not stop.wait(LINE_EVERY_SECONDS):
        rows, _, failed, size = read_progress(folder)
        seconds = time.monotonic() - started
        share = f", {size / input_found.bytes:.0%} of the input" if input_found.whole and input_found.bytes else ""
        LOG.info("%s rows, %s rows/s, %s failed, %.0f s%s", f"{rows:,}", f"{rows / seconds:,.0f}", f"{failed:,}", seconds, share)


def print_summary(manifest: Manifest, run: RunSpec) -> None:
    """Print the outcome of the run from its manifest."""
    failures: Failures = {}
    lines = [f"{manifest.status}: run {manifest.run_id}"]
    with guarded(SUMMARY, failures):
        lines = _run_lines(manifest, run) if manifest.tasks is not UNSET else job_lines(manifest, run)
    lines += [f"  warning: {line}" for line in (*listed(manifest.warnings), *warnings(failures))]
    say("\n".join(map(one_line, lines)))


def _run_lines(manifest: Manifest, run: RunSpec) -> list[str]:
    counts, tasks = manifest.counts, manifest.tasks
    assert counts is not UNSET
    assert tasks is not UNSET
    lines = [
        _first_line(manifest),
        f"  tasks      {tasks.count:>12,}   {tasks.done:,} done, {tasks.failed:,} failed",
        f"  read       {counts.read:>12,}",
        f"  predicted  {counts.predicted:>12,}",
        f"  failed     {counts.failed:>12,}",
    ]
    folder = run.folder.rstrip("/")
    if not manifest.is_done:
        lines += [f"  {manifest.reason}", f"  run the failed tasks again: --retry_failed={folder}/manifest.json"]
    lines.append(f"  a line a task in {folder}/tasks-*.jsonl")
    return [*lines, f"  report in {folder}/report.html"] if run.has_report else lines


def _first_line(manifest: Manifest) -> str:
    return f"{'done' if manifest.is_done else 'FAILED'}: run {manifest.run_id}, {manifest.seconds} s"


def job_lines(manifest: Manifest, run: RunSpec) -> list[str]:
    output, errors = run.output.folder, run.output.errors
    counts, source, keys = manifest.counts, manifest.input, manifest.keys
    assert counts is not UNSET
    assert source is not UNSET
    assert keys is not UNSET
    lines = [
        _first_line(manifest),
        f"  read       {counts.read:>12,}   from {_source(source)}",
        f"  predicted  {counts.predicted:>12,}",
        f"  failed     {counts.failed:>12,}",
    ]
    if manifest.resumed is not UNSET:
        lines[1] += f"; {manifest.resumed.rows_taken_up:,} by an earlier launch of the run"
    for row in listed(manifest.errors):
        lines.append(f"    {row.count:>10,} {row.code} at {row.stage}, such as: {row.message}")
    if keys.duplicated:
        lines.append(f"  keys that occur more than once: {keys.duplicated:,}; manifest.json lists them")
    if counts.failed:
        place = f"{errors.rstrip('/')}/{ERRORS}-*" if manifest.errors_table is UNSET else manifest.errors_table
        lines.append(f"  failed rows in {place}")
    if manifest.is_done:
        lines.append(f"  predictions in {output.rstrip('/') + '/' if manifest.table is UNSET else manifest.table}")
    else:
        lines.append(f"  nothing was published: {manifest.reason}")
        if manifest.kept_results is not UNSET:
            lines.append(f"  the results of run {manifest.kept_results.run_id} are left as they were, without _SUCCESS")
    lines += _differences(manifest, output)
    if run.has_report:
        lines.append(f"  report in {output.rstrip('/')}/report.html")
    return lines


def _differences(manifest: Manifest, output: str) -> list[str]:
    """Return the summary's lines on the drift from an earlier run, and on a second model."""
    lines = []
    drift, comparison = manifest.drift, manifest.comparison
    if drift is not UNSET:
        drifted = [one for one in drift.features if one.drift > drift.warned_above and not _note(one).startswith("too few")]
        lines.append(f"  drift from {drift.baseline}: {len(drifted)} of {drift.count} features above {drift.warned_above}")
        lines += [f"    {one.drift:>10.3f} {one.data} {one.feature!r}, {_note(one) or one.measure}" for one in drifted[:NAMED]]
    if comparison is not UNSET:
        rows = comparison.rows + comparison.only_first_predicted
        lines.append(f"  agreement with {comparison.model}: {comparison.agreement:.2%} of {rows:,} rows")
        if comparison.lines:
            lines.append(f"  both predictions of each in {output.rstrip('/')}/prediction.comparison-*")
    return lines


def _note(line: DriftLine) -> str:
    return "" if line.note is UNSET else line.note


def _source(source: InputEntry) -> str:
    if source.query is not UNSET:
        return "the query"
    return source.patterns[0] if is_table(source.patterns[0]) else f"{source.files} files"


# Engines' messages on missing workers, each with advice: the reason is in a log that the launch can't read.
ADVICE = {
    "No client connected within timeout": "a worker did not start, and the log of the worker pool at --environment_config says why. Often "
    "the 'python' on the pool's PATH lacks this program, or two TaskManagers share one pool: each needs its own",
    "failed to connect to all addresses": "nothing answers at --job_endpoint, or at an address that its job server gave: is it up, and to "
    "be reached from here?",
}


def cause(failure: BaseException | None, noted: str | None = None) -> str:
    """Return the useful line of an engine's error: our own message, without the engine's stack.

    ``noted`` is the message of a worker that could not start; the engine may report something else.
    """
    text = str(failure or "").strip()
    lines = text_lines(text)
    own = [line for line in lines if line.startswith("transforms.") or "Error: " in line]
    line = own[-1] if own else (lines[-1] if lines else "no reason was given")
    line = line.split(" [while running", 1)[0]
    if line.startswith("transforms."):
        return line.split("Error: ", 1)[-1]
    advised = (f"{words}: {advice}" for words, advice in ADVICE.items() if words in text)
    return noted or next(advised, line)
