"""Adds up the logs of chaos: ``python -m chaos.summary LOG…`` prints what docs/reliability.md shows."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

OPERATION = re.compile(r" at (?=os\.|open|read|write|fsync|fdatasync|GET|POST|PUT|DELETE|PATCH|HEAD).*$")
SHARE = re.compile(r"^(storage \w+) \d+%$")


def read_log(paths: Iterable[Path]) -> dict[tuple[int, int], dict[str, Any]]:
    """Gives the last line of each scenario by seed and number."""
    lines = [json.loads(line) for path in paths if path.exists() for line in path.read_text().splitlines()]
    return {(line["seed"], line["number"]): line for line in lines}


def fault_of(text: str) -> str:
    """Gives the kind of a fault from the log's line of it."""
    return SHARE.sub(r"\1", OPERATION.sub("", text))


def summarize(lines: list[dict[str, Any]]) -> str:
    """Gives a table in Markdown."""
    attempts = [attempt for line in lines for attempt in line["attempts"]]
    faults = Counter(fault_of(text) for attempt in attempts for text in attempt["happened"] if not text.startswith("the twin stops"))
    faults += Counter(attempt["damaged"].partition(":")[0] for attempt in attempts if "damaged" in attempt)
    jobs = [line["job"].split(", ") for line in lines]
    formats = Counter(word for job in jobs for word in job if " to " in word)
    read, written = (Counter[str]() for _ in range(2))
    for word, count in formats.items():
        source, _, target = word.partition(" to ")
        read[source.partition(".")[0]] += count
        read["packed"] += count * ("." in source)
        written[target] += count
    problems = Counter(problem["kind"] for line in lines for problem in line["problems"])
    rows = [
        ("scenarios", f"{len(lines)}: {_counted(Counter(job[0] for job in jobs))}"),
        ("seeds", ", ".join(f"{seed} ({count})" for seed, count in sorted(Counter(line["seed"] for line in lines).items()))),
        ("launches", str(sum(line["launches"] for line in lines))),
        ("jobs", _counted(Counter(word for job in jobs for word in job[1:] if " to " not in word))),
        ("read", _counted(read)),
        ("written", _counted(written)),
        (f"faults ({sum(faults.values())})", _counted(faults)),
        ("attempts ended with", _counted(Counter(f"status {status}" for attempt in attempts for status in attempt["statuses"].values()))),
        ("found wrong", _counted(problems) or "0"),
    ]
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {text} |\n" for name, text in rows)


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counter.most_common())


if __name__ == "__main__":
    print(summarize([*read_log(map(Path, sys.argv[1:])).values()]))
