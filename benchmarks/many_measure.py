"""W4 measured: ``python -m benchmarks.many_measure FOLDER MODELS [ARCHITECTURES [LARGE_ROWS]]`` builds it, runs ours and the plain loop.

Ours is a process of its own, from its start to its end, imports included; the plain loop (``tf.saved_model.load``, one call and one
file a model) is timed over ``LOOP_MODELS`` models, without imports, since all would take too long.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.many import build

LOOP_MODELS = 60


def ours(task_map: Path, output: Path) -> dict[str, float]:
    """Runs the job; gives wall and CPU seconds of the whole process, and its peak memory in MB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "pipeline.main", f"--model_map={task_map}", f"--output={output}", "--key_field=id"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = json.loads((output / "manifest.json").read_text())
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "job_seconds": report["seconds"],
        "peak_mb": after.ru_maxrss / 1024,
    }


def plain_loop(task_map: Path, output: Path) -> float:
    """Gives the seconds a model of a loop that loads each model, calls it once and writes one file."""
    import tensorflow as tf

    tasks = [json.loads(line) for line in task_map.read_text().splitlines()][1 : LOOP_MODELS + 1]
    output.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    for number, task in enumerate(tasks):
        rows = [json.loads(line) for line in Path(task["input"]).read_text().splitlines()]
        function = tf.saved_model.load(task["model"]).signatures["serving_default"]
        found = next(iter(function(x=tf.constant(np.array([row["x"] for row in rows], np.float32))).values())).numpy()
        lines = (json.dumps({"key": row["id"], "prediction": value.tolist()}) + "\n" for row, value in zip(rows, found, strict=True))
        (output / f"{number}.jsonl").write_text("".join(lines))
    return (time.perf_counter() - started) / len(tasks)


def main(folder: Path, models: int, architectures: int = 1, large_rows: int = 0) -> None:
    task_map = build(folder, models, architectures, large_rows)
    print(json.dumps({"models": models, "architectures": architectures, "large_rows": large_rows} | ours(task_map, folder / "out")))
    print(json.dumps({"loop_seconds_a_model": plain_loop(task_map, folder / "loop")}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
