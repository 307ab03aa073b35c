"""Processes by what tells one from another that has its number later: number, time of start and machine."""

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
# States of a process that runs no more and waits for its parent to ask how it ended: proc(5), /proc/PID/stat.
ENDED = frozenset("ZXx")


@dataclasses.dataclass(frozen=True)
class Process:
    """A process; ``started`` in ticks since the boot of its ``machine``, by which a container with numbers of its own counts too."""

    pid: int
    started: int
    machine: str

    def __str__(self) -> str:
        return f"{self.pid}.{self.started}.{self.machine}"

    @property
    def has_ended(self) -> bool | None:
        """Whether it runs no more, a zombie included; None for one of another machine, of which nothing is known here."""
        if self.machine != _machine():
            return None
        if not Path("/proc/self/stat").exists():  # no Linux
            return not _takes_signals(self.pid)
        found = _look(self.pid)
        return found is None or found[0] in ENDED or found[1] != self.started


def this_process() -> Process:
    """Return the calling process; a fork is another one."""
    return _process(os.getpid())


def owner(name: str) -> Process | None:
    """Return the process whose label the file name ``name`` begins with; None where it begins otherwise."""
    match = LABEL.match(name)
    return match and Process(int(match["pid"]), int(match["started"]), match["machine"])


@functools.cache
def _process(pid: int) -> Process:
    found = _look(pid)
    return Process(pid, found[1] if found else 0, _machine())


def _look(pid: int) -> tuple[str, int] | None:
    """Return a process's state and time of start; None where there is no such process."""
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
    """Return 8 digits for this boot of this machine and, in a container, for its own numbering of processes."""
    told = [socket.gethostname()]
    with contextlib.suppress(OSError):
        told.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        told.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256(repr(told).encode()).hexdigest()[:8]
