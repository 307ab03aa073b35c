"""Runs that can be killed: each in a process of its own, forked from one that has imported everything and has run nothing.

A fork of a process in which TensorFlow has run waits for threads that it does not have.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from transforms.model import crashes
from transforms.specs.limits import DEFAULT_LIMITS, Limits

CONTEXT = multiprocessing.get_context("forkserver")
RUNNER = "apache_beam.runners.portability.fn_api_runner.fn_runner"
OWN = ("main", "graph", "preflight.job", "preflight.tasks", "summary", "engine", "process.stopping")
CONTEXT.set_forkserver_preload(["tensorflow", "apache_beam.runners.direct.direct_runner", RUNNER, *(f"pipeline.{name}" for name in OWN)])


def start(
    out: Path | str, said: Path | None = None, file_bytes: int | None = None, limits: Limits = DEFAULT_LIMITS, **flags: Any
) -> ForkServerProcess:
    """Starts a run; what it says goes to ``said``. ``file_bytes`` is how large a file may get."""
    argv = ["run", f"--output={out}", *(f"--{name}={value}" for name, value in flags.items())]
    child = CONTEXT.Process(target=_run, args=(argv, limits, said, file_bytes))
    child.start()
    return child


def _run(argv: list[str], limits: Limits, said: Path | None, file_bytes: int | None) -> None:
    import quick_beam

    from pipeline.main import console

    handle = os.open(said or os.devnull, os.O_WRONLY | os.O_CREAT)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    if file_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    quick_beam.remember()
    sys.argv = ["nightshift", *argv]
    try:
        console(limits)
    except SystemExit as ended:
        os._exit(ended.code if isinstance(ended.code, int) else 1)


def workers(process: int) -> list[int]:
    """Gives the processes that ``process`` started, and those that they did."""
    below: list[int] = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            below += map(int, path.read_text().split())
        except FileNotFoundError:  # a thread that has ended
            continue
    return below + [each for child in below for each in workers(child)]


def predicting(process: int | None) -> int | None:
    """The process of a run that is in a model call."""
    assert process is not None
    return next((each for each in workers(process) if predicting_in(each)), None)


def predicting_in(process: int) -> bool:
    """Whether ``process`` itself is in a model call."""
    return any(path.read_bytes()[:4] != bytes(4) for path in crashes.folder().glob(f"{process}.*"))


def wait_until(seen: Callable[[], Any], seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := seen()):
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.005)
    return found


def waits_for_a_lock() -> bool:
    """Whether a thread of this process waits for a folder that another one has locked."""
    lines = map(str.split, Path("/proc/locks").read_text().splitlines())
    return any(line[1:3] == ["->", "FLOCK"] and line[5] == str(os.getpid()) for line in lines)
