"""Measurements of W1, W2 and W3 → their tables in ``RESULTS.md``: medians, and ratios pair by pair within a round."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from statistics import median

from benchmarks.workloads import WORKLOADS

TITLES = {
    "loop": "hand-written loop, one process, no Beam",
    "documented": "Beam's documented way, one process",
    "loops": "two hand-written loops at once (the limit of two workers)",
    "ours": "ours, one process",
    "unreported": "ours, one process, without statistics and report",
    "compared": "ours, one process, a second model on the same rows (`--compare_model`)",
    "two": "ours, two worker processes, start-up included",
}
# What the steps of the loop and the profile of each way say; the shares are filled in from the run.
LIMITS = {
    "w1": "Every way first turns 23 values a row from text into Python objects and these into columns. The loop and ours do it with a "
    "struct made for the row, 128 KB of a block of 4 MB at a time: what was parsed stays in the processor's cache until it is a column, "
    "which made both of them a third faster than with whole blocks. The documented way makes a dict a row, feeds the model batches of "
    "rows and encodes a dict a line. What ours does beyond the loop is its promises: UTF-8 and line checks, a hash of each key, a "
    "checksum of the output, counts, and Beam's own steps.",
    "w2": "Digits to floats: a vector is about 7.8 KB of text for 784 numbers, and the model's matrix products take a small part beside "
    "reading them. All ways are limited by their JSON parser and by how the parsed floats become an array.",
    "w3": "The model: TensorFlow decodes each JPEG inside the graph's map_fn, one image an iteration, which no way of feeding it can speed "
    "up much. Calls of a few hundred images are faster than calls of thousands.",
}
Target = tuple[str, float, float, bool]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One way measured once; ``case`` is which rows, ``steps`` the loop's seconds by step.

    ``cpu_seconds`` are the processor's, of all processes of the way; ``minor_faults`` the pages it was handed.
    """

    workload: str
    case: str
    way: str
    round: int
    seconds: float
    rows: int
    peak_mb: float
    cpu_seconds: float
    minor_faults: int
    steps: dict[str, float] | None = None

    @property
    def rate(self) -> float:
        return self.rows / self.seconds


class Measurements:
    """All measurements of a run, their medians and their ratios within a round."""

    def __init__(self, all_of_them: Sequence[Measurement]) -> None:
        self._found = {(one.workload, one.case, one.way, one.round): one for one in all_of_them}
        self.rounds = range(1 + max(one.round for one in all_of_them))

    def has(self, workload: str, case: str, way: str = "ours") -> bool:
        return (workload, case, way, 0) in self._found

    def each(self, workload: str, case: str, way: str) -> list[Measurement]:
        return [self._found[workload, case, way, number] for number in self.rounds]

    def middle(self, workload: str, case: str, way: str, value: Callable[[Measurement], float]) -> float:
        return median(value(one) for one in self.each(workload, case, way))

    def ratio(self, workload: str, case: str, way: str, to: str) -> float:
        pairs = zip(self.each(workload, case, way), self.each(workload, case, to), strict=True)
        return median(one.rate / other.rate for one, other in pairs)

    def cpu_ratio(self, workload: str, case: str, way: str, to: str) -> float:
        """Return the ratio of rows for each second of processor, ``way`` to ``to``: nearly the same on a busy machine."""
        pairs = zip(self.each(workload, case, way), self.each(workload, case, to), strict=True)
        return median((one.rows / one.cpu_seconds) / (other.rows / other.cpu_seconds) for one, other in pairs)

    def memory_ratio(self) -> float:
        pairs = zip(self.each("w1", "large", "ours"), self.each("w1", "small", "ours"), strict=True)
        return median(large.peak_mb / small.peak_mb for large, small in pairs)

    def report_cost(self) -> float:
        """Return the share of the throughput that statistics and report take."""
        return 1 - self.ratio("w1", "large", "ours", "unreported")

    def start_up_seconds(self) -> float:
        """Return the seconds of ten rows beyond importing Beam and TensorFlow."""
        pairs = zip(self.each("w1", "start-up", "ours"), self.each("w1", "start-up", "imports"), strict=True)
        return median(job.seconds - imports.seconds for job, imports in pairs)


def write(measured: Sequence[Measurement], rounds: int) -> str:
    """Return the part as Markdown."""
    found = Measurements(measured)
    lines = [
        f"Medians of {rounds} round{'s' if rounds > 1 else ''}; in each the ways take turns on the same file, each in a fresh process. "
        "Rows a second are from the job's start to the end of its output, model loading included and Python imports excluded. "
        "A ratio is the median of the rounds' own ratios. CPU s are user and system seconds of the processor, of all processes; "
        "ratios by CPU compare rows for each of them and say what the work costs, whether one core does it or two. "
        "Peak is the process's largest resident memory. After each round the ways' "
        "outputs are compared: as many lines as rows, and a sample of the predictions equal.",
        "",
    ]
    for workload in WORKLOADS.values():
        if found.has(workload.name, "large"):
            lines += _workload(found, workload.name, workload.title)
    lines += _targets(found)
    return "\n".join(lines) + "\n"


def _workload(found: Measurements, name: str, title: str) -> list[str]:
    lines = [
        f"## {name.upper()}: {title}",
        "",
        "| way | rows | rows/s | to the loop | to the documented way | CPU s | to the loop, by CPU | peak MB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for case in ("small", "large"):
        for way in TITLES:
            if found.has(name, case, "loop") and found.has(name, case, way):
                lines.append(_line(found, name, case, way))
    return [*lines, "", f"{LIMITS[name]} {_loop_shares(found, name)}", ""]


def _line(found: Measurements, name: str, case: str, way: str) -> str:
    rows = found.each(name, case, way)[0].rows
    rate = found.middle(name, case, way, lambda one: one.rate)
    to_loop, to_documented = found.ratio(name, case, way, "loop"), found.ratio(name, case, way, "documented")
    cpu, cpu_to_loop = found.middle(name, case, way, lambda one: one.cpu_seconds), found.cpu_ratio(name, case, way, "loop")
    # The peak of several processes is not the sum of theirs.
    peak = "" if way in ("two", "loops") else f"{found.middle(name, case, way, lambda one: one.peak_mb):,.0f}"
    return f"| {TITLES[way]} | {rows:,} | {rate:,.0f} | {to_loop:.2f} | {to_documented:.2f} | {cpu:.1f} | {cpu_to_loop:.2f} | {peak} |"


def _loop_shares(found: Measurements, name: str) -> str:
    loops = found.each(name, "large", "loop")
    total = median(sum((one.steps or {}).values()) for one in loops)
    steps = [(step, median((one.steps or {})[step] for one in loops)) for step in loops[0].steps or {}]
    shares = ", ".join(f"{step} {seconds / total:.0%}" for step, seconds in sorted(steps, key=lambda pair: -pair[1]))
    return f"The loop's time: {shares}."


def _targets(found: Measurements) -> list[str]:
    targets: list[Target] = []
    for name, least in (("w1", 0.8), ("w2", 0.7), ("w3", 0.7)):
        if found.has(name, "large"):
            ratio = found.ratio(name, "large", "ours", "loop")
            targets.append((f"{name.upper()}: ours to the loop, at least", least, ratio, ratio >= least))
    if found.has("w1", "large"):
        documented, memory, start = found.ratio("w1", "large", "ours", "documented"), found.memory_ratio(), found.start_up_seconds()
        targets += [
            ("W1: ours to the documented way, at least", 4, documented, documented >= 4),
            ("W1: peak memory at ten times the rows to that at one, at most", 1.1, memory, memory <= 1.1),
            ("ten rows end to end beyond importing Beam and TensorFlow, seconds, at most", 2, start, start <= 2),
        ]
        cost = found.report_cost()
        targets.append(("W1: throughput that statistics and report take, at most", 0.1, cost, cost <= 0.1))
    lines = ["## Targets", "", "| what | target | measured | |", "|---|--:|--:|---|"]
    lines += [f"| {what} | {target:g} | {value:.2f} | {'met' if met else 'missed'} |" for what, target, value, met in targets]
    return [*lines, "", *_how(found)]


def _how(found: Measurements) -> list[str]:
    if not found.has("w1", "large"):
        return []
    documented, ours = (found.each("w1", "large", way)[0].rows for way in ("documented", "ours"))
    loops = found.ratio("w1", "large", "loops", "loop")
    note = (
        f"Two hand-written loops at once, which share nothing, together reach {loops:.2f} of one: what two workers can reach here. What "
        "two reach is in the part on scaling, where there are rows enough to tell it from their start-up."
    )
    if documented < ours:
        note += f" The documented way was measured on the first {documented:,} of W1's {ours:,} rows, since it takes so long."
    return [note]
