"""How the time grows with the rows and with the workers: W1 of 0.1, 1 and 10 million rows, by one process and by two.

``python -m benchmarks.scaling [--millions=0.1,1,10]`` writes its part of ``RESULTS.md``. 10 million rows are 4.2 GB of text.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from typing import Any

from benchmarks.results import parse_flags, write_part
from benchmarks.workloads import DATA, WORKLOADS

START_UP_ROWS = 10
WAYS = {"ours": "one process", "two": "two processes"}


def measure(way: str, rows: int) -> dict[str, Any]:
    """Run one way in a process of its own; return what ``benchmarks.measure`` wrote."""
    output = DATA / f"scaling-{way}"
    shutil.rmtree(output, ignore_errors=True)
    subprocess.run(
        [sys.executable, "-m", "benchmarks.measure", way, "w1", str(rows), str(output)],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    shutil.rmtree(output)
    found: dict[str, Any] = json.loads(output.with_suffix(".json").read_text())
    print(f"  {way:5} {rows:>11,} rows {found['seconds']:8.1f} s {found['peak_mb']:8,.0f} MB", flush=True)
    return found


def tell(found: dict[tuple[str, int], dict[str, Any]], counts: list[int]) -> str:
    """Return the part's text."""
    started = {way: found[way, START_UP_ROWS]["seconds"] for way in WAYS}
    lines = [
        "## Scaling: W1 by rows and workers",
        "",
        "One run each, one after the other. The start-up is the time for ten rows, in which worker processes start, import and load the "
        "model; it does not grow with the rows. The other columns are what is beyond it.",
        "",
        "| rows | processes | seconds | beyond the start-up | µs a row beyond it | peak MB a process |",
        "|--:|---|--:|--:|--:|--:|",
    ]
    for count in counts:
        for way, name in WAYS.items():
            one = found[way, count]
            beyond = one["seconds"] - started[way]
            cells = (f"{count:,}", name, f"{one['seconds']:.1f}", f"{beyond:.1f}", f"{1e6 * beyond / count:.2f}", f"{one['peak_mb']:,.0f}")
            lines.append(f"| {' | '.join(cells)} |")
    large, small = counts[-1], counts[-2]

    def further(way: str) -> float:
        """Return the microseconds of each row beyond the first ``small``: all workers are up by then."""
        return float(1e6 * (found[way, large]["seconds"] - found[way, small]["seconds"]) / (large - small))

    slower = further("ours") / (1e6 * (found["ours", small]["seconds"] - started["ours"]) / small)
    memory = found["ours", large]["peak_mb"] / found["ours", small]["peak_mb"]
    two = further("ours") / further("two")
    lines += [
        "",
        f"Each row beyond the first {small:,} takes {further('ours'):.2f} µs in one process and {further('two'):.2f} µs in two, which are "
        f"up by then: two do {two:.2f} times the work of one, which reads ahead in a thread of its own. A further row of one process "
        f"takes {slower:.2f} of what an earlier one did, and {large // small} times the rows {memory:.2f} of the memory: all of it for the "
        "hashes of the keys, 8 bytes a row, of which Beam's in-process runner keeps several copies. What does not scale: the start-up "
        f"({started['ours']:.1f} s in one process beside its imports, {started['two']:.1f} s in two, which import for themselves, the "
        "second when it has its first rows), and the publish step, which is one: it renames files or starts a load, and looks at no row.",
        "",
        "| what | target | measured | |",
        "|---|--:|--:|---|",
        f"| two processes to one, once they are up, at least | 1.6 | {two:.2f} | {'met' if two >= 1.6 else 'missed'} |",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", default="0.1,1,10")
    flags, whole = parse_flags(parser, {"millions": "0.01,0.1"})
    counts = [round(float(millions) * 1_000_000) for millions in flags.millions.split(",")]
    found = {}
    for rows in (START_UP_ROWS, *counts):
        print(f"building w1, {rows:,} rows", flush=True)
        WORKLOADS["w1"].build(rows)
        for way in WAYS:
            found[way, rows] = measure(way, rows)
    print(f"{write_part('scaling', tell(found, counts), whole)} is written")


if __name__ == "__main__":
    main()
