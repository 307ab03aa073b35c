"""One measurement in a process of its own: ``python -m benchmarks.measure WAY WORKLOAD ROWS OUTPUT``.

The clock starts when everything is imported. What was measured goes to ``OUTPUT.json``.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.workloads import WORKLOADS, Workload

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
WAYS = ("loop", "documented", "ours", "unreported", "compared", "two")
EVERYTHING = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


def _prepare(way: str, workload: Workload, rows: int, output: Path) -> Callable[[], dict[str, float] | None]:
    """Import what ``way`` needs, its lazy imports too, and return the job."""
    import tensorflow as tf

    _ = tf.compat.v1.Session, tf.compat.v1.saved_model.load, tf.saved_model.load
    source = workload.rows_file(rows)
    if way == "loop":
        from benchmarks import loop

        return lambda: loop.run(workload.name, workload.model, source, output)

    if way == "documented":
        import apache_beam.runners.direct.direct_runner
        import apache_beam.runners.portability.fn_api_runner.fn_runner  # noqa: F401

        from benchmarks import documented

        return lambda: documented.run(workload.model, source, output)

    arguments = ["run", f"--model={workload.model}", f"--input={source}", "--key_field=id", f"--output={output}"]
    if way == "unreported":
        arguments.append("--report=false")
    if way == "compared":
        arguments.append(f"--compare_model={workload.model}")
    if way == "two":
        arguments += ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
    return job_of(arguments)


def job_of(arguments: Sequence[str]) -> Callable[[], None]:
    """Import what a job of JSON-lines needs, its lazy imports too, and return the job with these arguments."""
    import apache_beam.runners.direct.direct_runner
    import apache_beam.runners.portability.fn_api_runner.fn_runner  # noqa: F401

    import pipeline.graph
    import pipeline.main
    import pipeline.preflight.job
    import pipeline.summary
    import transforms.formats.jsonl.reader
    import transforms.formats.jsonl.writer  # noqa: F401

    def job() -> None:
        status = pipeline.main.main(list(arguments))
        if status:
            raise SystemExit(f"the job ended with status {status}")

    return job


def _cpu_seconds() -> float:
    """Return user and system seconds of this process and of those it has waited for."""
    usages = [resource.getrusage(who) for who in EVERYTHING]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _minor_faults() -> int:
    """Return the pages that the kernel handed out: memory that is given back and asked for again costs them again."""
    return sum(resource.getrusage(who).ru_minflt for who in EVERYTHING)


def measure(job: Callable[[], dict[str, float] | None], rows: int, output: Path) -> None:
    """Run a job of ``rows`` rows and write what it took beside its output."""
    started, cpu_started, faults_started = time.perf_counter(), _cpu_seconds(), _minor_faults()
    steps = job()
    seconds = time.perf_counter() - started
    peak = max(resource.getrusage(who).ru_maxrss for who in EVERYTHING)
    measured = {
        "seconds": seconds,
        "cpu_seconds": _cpu_seconds() - cpu_started,
        "minor_faults": _minor_faults() - faults_started,
        "rows": rows,
        "peak_mb": peak / 1024,
        "steps": steps,
    }
    output.with_suffix(".json").write_text(json.dumps(measured))


if __name__ == "__main__":
    measure(_prepare(sys.argv[1], WORKLOADS[sys.argv[2]], int(sys.argv[3]), Path(sys.argv[4])), int(sys.argv[3]), Path(sys.argv[4]))
