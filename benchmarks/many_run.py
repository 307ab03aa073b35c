"""W4, many models: ``python -m benchmarks.many_run [--models=3000] [--rounds=3]`` measures in turn and writes its part of RESULTS.md.

Ours is timed as a whole process, which says when its imports are done: what lies beyond is what its models cost. Growth is that of
the cost beyond a run of ten models, which has the same graph. The other ways are timed without their imports.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.results import parse_flags, write_part
from benchmarks.workloads import DATA

FEW = 10
SOME = 500
LOOP_MODELS = 100
ARCHITECTURES = 20
LARGE_ROWS = 200_000
WHOLE_PROCESS = ("ours", "mixed")
TITLES = {
    "ours": "ours",
    "mixed": f"ours, {ARCHITECTURES} architectures, one input of {LARGE_ROWS:,} rows",
    "loop": "hand-written loop, `tf.saved_model.load`",
    "shared": "hand-written loop, one Session a graph (the limit)",
    "keyed": "Beam's KeyedModelHandler",
}


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One way on so many models: wall and processor's seconds; for whole processes also those of their imports, and the peak memory."""

    way: str
    models: int
    seconds: float
    cpu_seconds: float
    import_seconds: float = 0.0
    import_cpu_seconds: float = 0.0
    peak_mb: float = 0.0

    @property
    def cost_seconds(self) -> float:
        return self.seconds - self.import_seconds

    @property
    def cost_cpu_seconds(self) -> float:
        return self.cpu_seconds - self.import_cpu_seconds


def _child(way: str, models: int, arguments: Sequence[str]) -> Measurement:
    """Measure one fresh process; where it times itself, take its own figures."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    started, spent = time.perf_counter(), _spent(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen([sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    printed, complaints = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{way} ended with status {process.returncode}:\n{printed[-2000:]}\n{complaints[-2000:]}")
    seconds, spent = time.perf_counter() - started, _spent(resource.RUSAGE_CHILDREN) - spent
    lines = printed.splitlines()
    if way in WHOLE_PROCESS:
        imported, ended = json.loads(lines[0]), json.loads(lines[-1])
        measured = Measurement(way, models, seconds, spent, imported["at"] - started, imported["cpu_seconds"], ended["peak_mb"])
    else:
        measured = Measurement(way, models, **json.loads(lines[-1]))
    print(
        f"  {way:<8} {models:>6,} models {measured.seconds:7.2f} s, {measured.cpu_seconds:7.2f} s of processor, "
        f"{measured.cost_cpu_seconds:6.2f} s beyond the imports",
        flush=True,
    )
    return measured


def _build(folder: Path, *sizes: int) -> Path:
    """Build models and inputs that do not exist, in a process of its own: a child's peak memory begins with its parent's."""
    if not (folder / "tasks.jsonl").exists():
        print(f"building {folder.name}", flush=True)
        subprocess.run([sys.executable, "-m", "benchmarks.many_models", str(folder), *map(str, sizes)], check=True, capture_output=True)
    return folder / "tasks.jsonl"


# What a run of many imports before its first task, and nothing else: the other ways' clocks start when theirs are imported too.
IMPORTS = """
from transforms.model.import_tensorflow import import_tensorflow
import_tensorflow()
import tensorflow as tf
_ = tf.compat.v1.Session, tf.compat.v1.saved_model.load
import pipeline.preflight.tasks
from benchmarks.measure import job_of
job_of([])
from benchmarks.many_run import print_usage
print_usage()
"""


def print_usage() -> None:
    """Print what this process has used so far; its first line is of its imports."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"at": time.perf_counter(), "cpu_seconds": _spent(resource.RUSAGE_SELF), "peak_mb": peak}))


def _spent(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def _ours(way: str, folder: Path, tasks: Path, models: int) -> Measurement:
    few = folder / f"tasks-{models}.jsonl"
    few.write_text("".join(f"{line}\n" for line in tasks.read_text().splitlines()[:models]))
    output = _new_folder()
    arguments = ["run", f"--model_map={few}", f"--output={output}", "--key_field=id"]
    code = f"{IMPORTS}from pipeline.main import main\nassert main({arguments!r}) == 0\nprint_usage()"
    measured = _child(way, models, ["-c", code])
    report = json.loads((output / "manifest.json").read_text())
    if report["tasks"]["done"] != models or not (output / "_SUCCESS").exists():
        raise RuntimeError(f"{way}: {report['tasks']['done']} of {models} tasks are done")
    return measured


def _new_folder() -> Path:
    """Return a folder for one way's output, which stays until all are measured.

    For five minutes after an inode is deleted, ext4 looks at it again each time that it searches one for a new file: ways that
    follow on a deletion of thousands of files took up to twice the time, all of it the kernel's.
    """
    return DATA / "w4-out" / uuid.uuid4().hex


def measure(models: int) -> list[Measurement]:
    """Measure each way once."""
    folder, mixed = DATA / f"w4-{models}", DATA / f"w4-{models}-mixed"
    tasks, mixed_tasks = _build(folder, models), _build(mixed, models, ARCHITECTURES, LARGE_ROWS)
    found = [_ours("ours", folder, tasks, count) for count in (FEW, min(SOME, models // 2), models)]
    found.append(_ours("mixed", mixed, mixed_tasks, models))
    for way, count in (("loop", LOOP_MODELS), ("shared", min(SOME, models)), ("keyed", LOOP_MODELS)):
        found.append(_child(way, count, ["-m", "benchmarks.many_ways", way, str(tasks), str(count), str(_new_folder())]))
    return found


class Rounds:
    """All measurements, and their medians."""

    def __init__(self, rounds: Sequence[Sequence[Measurement]], models: int) -> None:
        self.rounds, self.models, self.some = rounds, models, min(SOME, models // 2)

    def middle(self, way: str, count: int, value: str) -> float:
        return median(getattr(one, value) for found in self.rounds for one in found if (one.way, one.models) == (way, count))

    def growth(self) -> float:
        """Return the ratio of all models' cost to ``some`` models', both beyond the few's, divided by the ratio of their numbers."""
        few, some, all_of_them = (self.middle("ours", count, "cost_cpu_seconds") for count in (FEW, self.some, self.models))
        return (all_of_them - few) / (some - few) * (self.some - FEW) / (self.models - FEW)


def report(found: Rounds) -> str:
    """Return W4's part of RESULTS.md."""
    count = len(found.rounds)
    lines = [
        "## W4: many models, 20 rows each",
        "",
        f"Medians of {count} round{'s' if count > 1 else ''}. Ours are whole processes, imports included; the others are timed "
        "without theirs. A model's cost is ours beyond its own imports, those that Beam and TensorFlow put off to the first job too. "
        "Exports of five runs of one program (mixed: of each of 20), each "
        "model with variables of its own.",
        "",
        "| way | models | seconds | CPU s | of which imports | ms a model | CPU ms a model | peak MB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
        *(_line(found, one.way, one.models) for one in found.rounds[0]),
        "",
        "| what | target | measured | |",
        "|---|--:|--:|---|",
        *_targets(found),
    ]
    return "\n".join(lines) + "\n"


def _line(found: Rounds, way: str, models: int) -> str:
    seconds, cpu, imports, *costs, peak = (
        found.middle(way, models, value)
        for value in ("seconds", "cpu_seconds", "import_cpu_seconds", "cost_seconds", "cost_cpu_seconds", "peak_mb")
    )
    of_whole = [f"{value:,.{digits}f}" if value else "" for value, digits in ((imports, 1), (peak, 0))]
    by_model = [f"{1000 * cost / models:.1f}" if models > FEW else "" for cost in costs]
    return f"| {TITLES[way]} | {models:,} | {seconds:.1f} | {cpu:.1f} | {' | '.join((of_whole[0], *by_model, of_whole[1]))} |"


def _targets(found: Rounds) -> list[str]:
    models, some = found.models, found.some
    loop = found.middle("loop", LOOP_MODELS, "cpu_seconds") / LOOP_MODELS
    growth = found.growth()
    flat = found.middle("ours", models, "peak_mb") / found.middle("ours", some, "peak_mb")
    whole, each = found.middle("ours", models, "seconds"), 1000 * found.middle("ours", models, "cost_seconds") / models
    times = loop / found.middle("ours", models, "cost_cpu_seconds") * models
    targets = [
        (f"{models:,} models from start to `_SUCCESS`, seconds, at most", "60", whole, whole <= 60),
        ("ms a model beyond the imports, at most", "8", each, each <= 8),
        ("the plain loop's CPU to ours, a model, at least", "10", times, times >= 10),
        (f"CPU of {models:,} models to {some}, to what the numbers say", "0.9–1.1", growth, 0.9 <= growth <= 1.1),
        (f"peak memory at {models:,} to that at {some}, at most", "1.1", flat, flat <= 1.1),
    ]
    return [f"| {what} | {target} | {value:.2f} | {'met' if met else 'missed'} |" for what, target, value, met in targets]


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many_run", description=__doc__)
    parser.add_argument("--models", type=int, default=3000, help="how many models (default: 3000)")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default: 3)")
    flags, whole = parse_flags(parser, {"models": 1000, "rounds": 1}, argv)
    rounds = []
    for number in range(flags.rounds):
        print(f"W4, round {number + 1} of {flags.rounds}", flush=True)
        rounds.append(measure(flags.models))
    shutil.rmtree(DATA / "w4-out")
    text = report(Rounds(rounds, flags.models))
    print(text)
    print(f"{write_part('w4', text, whole)} is written")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
