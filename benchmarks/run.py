"""W1, W2 and W3: build the workloads, measure the ways in turn and write their part of ``benchmarks/RESULTS.md``.

Flags: ``--workloads=w1,w2,w3``, ``--rounds=3``, ``--quick`` (a tenth of the rows, one round). The machine should have nothing else to do.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.report import Measurement
from benchmarks.results import parse_flags, write_part
from benchmarks.workloads import DATA, WORKLOADS

LARGE = {"w1": 1_000_000, "w2": 100_000, "w3": 20_000}
# The documented way takes W1 so slowly that a part of the rows has to do.
DOCUMENTED_ROWS = {"w1": 200_000}
TEN_ROWS = 10
QUICK = 10


class BenchmarkError(Exception):
    """A way failed, or the ways do not agree."""


@dataclasses.dataclass(frozen=True)
class Case:
    """Ways that are measured in turn on one workload; ``rows`` a way."""

    workload: str
    label: str
    rows: dict[str, int]


def cases(names: Sequence[str], divisor: int) -> list[Case]:
    """Return what is measured: each workload, and for W1 also a tenth of it, ten rows and two workers."""
    found = []
    for name in names:
        rows = LARGE[name] // divisor
        documented = min(rows, DOCUMENTED_ROWS.get(name, rows))
        ways = {"loop": rows, "documented": documented, "ours": rows}
        if name == "w1":
            ways |= {"unreported": rows, "compared": rows, "loops": 2 * rows}
        if name == "w1":
            found.append(Case("w1", "ten", {"ours": TEN_ROWS}))
            found.append(Case("w1", "small", dict.fromkeys(("loop", "documented", "ours"), rows // 10)))
            ways["two"] = rows
        found.append(Case(name, "large", ways))
    return found


def _child(*arguments: str, name: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a fresh process. This one stays small: a child's peak memory begins with its parent's."""
    ended = subprocess.run([sys.executable, *arguments], env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}, capture_output=True, text=True)
    if ended.returncode:
        raise BenchmarkError(f"{name} ended with status {ended.returncode}:\n{ended.stdout[-2000:]}\n{ended.stderr[-2000:]}")
    return ended


def build(planned: Sequence[Case]) -> None:
    wanted = {(case.workload, rows // 2 if way == "loops" else rows) for case in planned for way, rows in case.rows.items()}
    for name, rows in sorted(wanted):
        if not (WORKLOADS[name].rows_file(rows).exists() and WORKLOADS[name].model.exists()):
            print(f"building {name}, {rows:,} rows", flush=True)
            _child("-m", "benchmarks.workloads", name, str(rows), name=f"building {name}")


def measure(case: Case, round_number: int) -> list[Measurement]:
    """Measure each way of ``case`` once, and compare what they wrote."""
    folder = DATA / "out"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    measured = []
    for way, rows in case.rows.items():
        found = _two_at_once(case, rows // 2, folder) if way == "loops" else _measure(way, case, rows, folder / way)
        measured.append(Measurement(case.workload, case.label, way, round_number, **found))
        print(f"  {case.workload} {way:<10} {rows:>9,} rows  {found['seconds']:7.2f} s  {rows / found['seconds']:9,.0f} rows/s", flush=True)
    outputs = [f"{folder / way}={rows}" for way, rows in case.rows.items() if way != "loops"]
    _child("-m", "benchmarks.verify", *outputs, name=f"comparing the outputs of {case.workload}")
    shutil.rmtree(folder)
    return measured


def _measure(way: str, case: Case, rows: int, output: Path) -> dict[str, Any]:
    _child("-m", "benchmarks.measure", way, case.workload, str(rows), str(output), name=f"{way} on {case.workload}")
    return json.loads(output.with_suffix(".json").read_text())


def _two_at_once(case: Case, rows: int, folder: Path) -> dict[str, Any]:
    """Measure two loops at once, each on all rows; the slower one's time counts for both."""
    with ThreadPoolExecutor(2) as both:
        started = [both.submit(_measure, "loop", case, rows, folder / f"loops-{number}") for number in range(2)]
        one, other = (each.result() for each in started)
    added = {name: one[name] + other[name] for name in ("cpu_seconds", "minor_faults", "peak_mb")}
    return added | {"rows": 2 * rows, "seconds": max(one["seconds"], other["seconds"]), "steps": None}


def measure_start_up(round_number: int) -> list[Measurement]:
    """Measure ten rows end to end, process and imports included, and the two large imports alone."""
    output = DATA / "out"
    workload = WORKLOADS["w1"]
    job = ["-m", "pipeline.main", f"--model={workload.model}", f"--input={workload.rows_file(TEN_ROWS)}", f"--output={output}"]
    ways = {"imports": ["-c", "import apache_beam, tensorflow"], "ours": [*job, "--key_field=id"]}
    measured = []
    for way, arguments in ways.items():
        started = time.perf_counter()
        _child(*arguments, name=way)
        seconds = time.perf_counter() - started
        measured.append(Measurement("w1", "start-up", way, round_number, seconds, TEN_ROWS, 0.0, 0.0, 0))
        print(f"  start-up {way:<10} {seconds:7.2f} s", flush=True)
    shutil.rmtree(output, ignore_errors=True)
    return measured


def run(names: Sequence[str], rounds: int, quick: bool) -> str:
    """Measure everything ``rounds`` times, A B C A B C …; return the report."""
    planned = cases(names, QUICK if quick else 1)
    build(planned)
    measured: list[Measurement] = []
    for round_number in range(rounds):
        print(f"round {round_number + 1} of {rounds}", flush=True)
        for case in planned:
            measured += measure(case, round_number)
        if "w1" in names:
            measured += measure_start_up(round_number)
    (DATA / "measurements.json").write_text(json.dumps([dataclasses.asdict(one) for one in measured], indent=1))
    return report.write(measured, rounds)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="w1, w2, w3, separated by commas (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default: 3; quick: 1)")
    flags, whole = parse_flags(parser, {"rounds": 1}, argv)
    names = flags.workloads.split(",")
    unknown = sorted(set(names) - set(WORKLOADS))
    if unknown:
        parser.error(f"--workloads={flags.workloads}: no workload {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    started = time.monotonic()
    try:
        text = run(names, flags.rounds, flags.quick)
    except BenchmarkError as error:
        print(f"benchmark failed: {error}", file=sys.stderr)
        return 1
    file = write_part("rows", text, whole)
    print(f"\n{text}\n{file} is written, after {(time.monotonic() - started) / 60:.0f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
