"""``nightshift serve`` asked by one client: the first call, which loads the model, and those after it, of 20 rows each.

``python -m benchmarks.serve [--calls=20]`` writes its part of ``benchmarks/RESULTS.md``.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

import httpx

from benchmarks.results import parse_flags, write_part
from benchmarks.workloads import WORKLOADS

ROWS = 20
TARGET_SECONDS = 1.0
START_SECONDS = 120


def start(folder: Path, model: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start the service and wait until it answers; return its process and address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = (f"--allow_model={model.parent}", f"--allow_input={folder}", f"--allow_output={folder}", f"--port={port}", "--allow_get=true")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "pipeline.main", "serve", *flags], stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    for _ in range(START_SECONDS * 10):
        if process.poll() is not None:
            raise RuntimeError(f"the service ended: {(folder / 'log').read_text()}")
        try:
            if httpx.get(f"{address}/health", trust_env=False).status_code == 200:
                return process, address
        except httpx.ConnectError:
            time.sleep(0.1)
    process.terminate()
    raise RuntimeError("the service does not come up")


def ask(client: httpx.Client, folder: Path, model: Path, number: int) -> float:
    """Return the seconds of one call, on rows of its own."""
    source = folder / f"in-{number}.jsonl"
    lines = WORKLOADS["w1"].make_lines(number * ROWS, (number + 1) * ROWS)
    source.write_text("".join(lines.to_pylist()))
    began = time.perf_counter()
    answer = client.get("/", params={"model": str(model), "input": str(source), "output": str(folder / f"out-{number}"), "key_field": "id"})
    seconds = time.perf_counter() - began
    if answer.status_code != 200 or answer.json()["counts"]["predicted"] != ROWS:
        raise RuntimeError(f"{answer.status_code}: {answer.text}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20, help="how many calls after the first (default: 20)")
    flags, whole = parse_flags(parser, {"calls": 3})
    calls = flags.calls
    WORKLOADS["w1"].build(ROWS)
    model = WORKLOADS["w1"].model
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        process, address = start(folder, model)
        try:
            with httpx.Client(base_url=address, timeout=120, trust_env=False) as client:
                first, *others = (ask(client, folder, model, number) for number in range(calls + 1))
        finally:
            process.terminate()
            process.wait()
    slowest = quantiles(others, n=20)[-1]
    lines = [
        "## The service: 20 rows of W1 a call",
        "",
        "| call | seconds |",
        "|---|--:|",
        f"| the first, which loads the model | {first:.2f} |",
        f"| the {calls} after it, median | {median(others):.3f} |",
        f"| … of which 95 % take at most | {slowest:.3f} |",
        "",
        "| what | target | measured | |",
        "|---|--:|--:|---|",
        f"| a second call with the same model, seconds, at most | {TARGET_SECONDS:g} | {others[0]:.2f} | "
        f"{'met' if others[0] <= TARGET_SECONDS else 'missed'} |",
    ]
    print(json.dumps({"first": first, "others": others}))
    file = write_part("serve", "\n".join(lines), whole)
    print(f"{file} is written")


if __name__ == "__main__":
    main()
