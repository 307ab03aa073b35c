"""Runs that can be killed: each in a process of its own, forked from one that has imported everything and has run nothing.

A fork of a process in which TensorFlow has run waits for threads that it does not have.
"""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tensorflow", "pipeline.main", "pipeline.graph", "pipeline.preflight"])


def start(out: Path | str, split_bytes: int | None = None, said: Path | None = None, **flags: Any) -> ForkServerProcess:
    """Starts a run; what it says goes to ``said``. ``split_bytes`` is how large its splits are."""
    argv = ["run", f"--output={out}", *(f"--{name}={value}" for name, value in flags.items())]
    child = CONTEXT.Process(target=_run, args=(argv, split_bytes, said), daemon=True)
    child.start()
    return child


def _run(argv: list[str], split_bytes: int | None, said: Path | None) -> None:
    from pipeline.main import main
    from transforms.read import splits

    handle = os.open(said or os.devnull, os.O_WRONLY | os.O_CREAT)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    if split_bytes:
        splits.SPLIT_BYTES = split_bytes
    os._exit(main(argv))
