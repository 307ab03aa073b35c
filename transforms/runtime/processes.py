"""Processes by number, time of start and machine, which together tell a process from a later one with the same number."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
import re
import socket
from pathlib import Path

LABEL = re.compile(r"(?P<pid>\d{1,10})\.(?P<started>\d{1,20})\.(?P<machine>[0-9a-f]{8})(?:-|$)")
# States of a process that has ended and waits for its parent to read its status: proc(5), /proc/PID/stat.
ENDED = frozenset("ZXx")


@dataclasses.dataclass(frozen=True)
class Process:
    """A process; ``started`` is in ticks since the boot of its ``machine``, which is also a container with process numbers of its own."""

    pid: int
    started: int
    machine: str

    def __str__(self) -> str:
        return f"{self.pid}.{self.started}.{self.machine}"

    @property
    def has_ended(self) -> bool | None:
        """Return whether the process has ended, as a zombie has; None for a process of another machine, which can't be looked up here."""
        if self.machine != _machine():
            return None
        if not Path("/proc/self/stat").exists():  # no Linux
            return not _takes_signals(self.pid)
        status = _look(self.pid)
        return status is None or status[0] in ENDED or status[1] != self.started


def this_process() -> Process:
    """Return the calling process; a forked child is another process."""
    return _process(os.getpid())


def owner(name: str) -> Process | None:
    """Return the process whose label begins the file name ``name``, or None if it begins with no label."""
    match = LABEL.match(name)
    return match and Process(int(match["pid"]), int(match["started"]), match["machine"])


@functools.cache
def _process(pid: int) -> Process:
    status = _look(pid)
    return Process(pid, status[1] if status else 0, _machine())


def _look(pid: int) -> tuple[str, int] | None:
    """Return a process's state and time of start in ticks, or None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the second field, a program's name, may hold spaces and brackets
    return fields[0], int(fields[19])


def _takes_signals(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@functools.cache
def _machine() -> str:
    """Return 8 hexadecimal digits of this machine, its boot and, in a container, the namespace of process numbers."""
    features = [socket.gethostname()]
    with contextlib.suppress(OSError):
        features.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        features.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256(repr(features).encode()).hexdigest()[:8]
