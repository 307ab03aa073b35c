"""Stops a run at its N-th operation on a file or a bucket, and does there what the harness answers.

An audit hook sees files opened, renamed, linked and removed, and requests sent; reads, writes and syncs, which Python does not
audit, are seen by files that report themselves. Runs in the process of the launch, installed before it does anything.
"""

from __future__ import annotations

import builtins
import dataclasses
import errno
import io
import itertools
import mmap
import os
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

CATEGORIES = ("any", "input", "publish")
COUNTS = struct.Struct(f"<{len(CATEGORIES)}Q")
AUDITED = {
    "open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.listdir", "os.scandir", "os.chmod",
    "os.truncate", "os.utime",
}  # fmt: skip
# A full disk refuses what takes room, and goes on with everything else.
TAKES_ROOM = ("open for writing", "write", "os.mkdir", "os.link", "os.symlink")
WRITING = os.O_WRONLY | os.O_RDWR


@dataclasses.dataclass(frozen=True)
class Point:
    """The ``number``-th operation of a category, from 1."""

    category: str
    number: int


class Watch:
    """Counts the operations below ``root`` and, at each of ``points``, waits for the harness's answer."""

    def __init__(self, root: str, control: Connection, points: tuple[Point, ...], counts: str) -> None:
        self.root, self.control, self.points = root, control, points
        self.lock = threading.Lock()
        self.inside = threading.local()
        self.publishing = 0
        self.full_disk = False
        self.counters = {name: itertools.count(1) for name in CATEGORIES}
        with open(counts, "r+b") as file:
            self.counts = mmap.mmap(file.fileno(), COUNTS.size)

    def reach(self, text: str, path: str = "") -> None:
        """Counts one operation; raises, waits or dies there as the harness says."""
        if getattr(self.inside, "now", False):
            return
        self.inside.now = True
        try:
            categories = ["any"]
            if f"{self.root}/in/" in path or "in%2F" in text:
                categories.append("input")
            if self.publishing:
                categories.append("publish")
            for category in categories:
                self._count(category, text)
            if self.full_disk and text.startswith(TAKES_ROOM):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path or None)
        finally:
            self.inside.now = False

    def _count(self, category: str, text: str) -> None:
        number = next(self.counters[category])
        struct.pack_into("<Q", self.counts, 8 * CATEGORIES.index(category), number)
        point = Point(category, number)
        if point not in self.points:
            return
        answer = self.ask({"point": self.points.index(point), "operation": text})
        if answer.get("full_disk") and text.startswith(TAKES_ROOM):
            self.full_disk = True
        elif answer.get("full_disk"):  # it was full already, and this operation takes no room
            self.full_disk = True
            return
        number = errno.ENOSPC if answer.get("full_disk") else answer.get("errno", 0)
        if number:
            raise OSError(number, os.strerror(number))

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Tells the harness, and waits for what it answers."""
        with self.lock:
            self.control.send({"pid": os.getpid(), **message})
            answer: dict[str, Any] = self.control.recv()
            return answer

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in AUDITED:
            text, path = self._describe(event, arguments)
            if text:
                self.reach(text, path)
        elif event == "http.client.send" and isinstance(arguments[1], bytes):
            line = arguments[1][:300].partition(b"\r\n")[0]
            if line.endswith(b"HTTP/1.1"):
                self.reach(line.decode("latin-1"))

    def _describe(self, event: str, arguments: tuple[Any, ...]) -> tuple[str, str]:
        """Gives an operation and its path; empty ones for what is none of the run's files."""
        path = os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes | os.PathLike) else None
        if path is None or not path.startswith("/"):
            # Below a folder's descriptor, as shutil.rmtree works; a working directory has no files of the run in it.
            below = (event == "os.scandir" and path is None) or (event in ("os.remove", "os.rmdir") and arguments[-1] not in (-1, None))
            return (f"{event} in a folder", "") if below else ("", "")
        second = os.fsdecode(arguments[1]) if event in ("os.rename", "os.link") else ""
        if path == self.root:
            return f"{event} of the folder above", path
        if not path.startswith(self.root) and not second.startswith(self.root):
            return "", ""
        if event == "open":
            flags = arguments[2] or 0
            event = "open for writing" if flags & WRITING else "open"
        return f"{event} {path} {second}".strip(), path

    @contextmanager
    def publishes(self) -> Iterator[None]:
        self.publishing += 1
        try:
            yield
        finally:
            self.publishing -= 1


class WatchedFile(io.FileIO):
    """A file that reports each read and write to the watch, and writes half where the disk gets full."""

    watch: Watch

    def write(self, data: Any) -> int:
        try:
            self.watch.reach(f"write {self.name}", str(self.name))
        except OSError as error:
            if error.errno == errno.ENOSPC:
                super().write(memoryview(data).cast("B")[: memoryview(data).nbytes // 2])
            raise
        return super().write(data)

    def readinto(self, buffer: Any) -> int:
        self.watch.reach(f"read {self.name}", str(self.name))
        return super().readinto(buffer)

    def readall(self) -> bytes:
        self.watch.reach(f"read {self.name}", str(self.name))
        return super().readall()

    def read(self, size: int = -1) -> bytes:
        self.watch.reach(f"read {self.name}", str(self.name))
        return super().read(size)


def _opener(watch: Watch, original: Callable[..., Any]) -> Callable[..., Any]:
    def watched(file: Any, mode: str = "r", buffering: int = -1, *arguments: Any, **named: Any) -> Any:
        plain = isinstance(file, str | os.PathLike) and not named.get("opener") and "+" not in mode
        if not plain or "b" not in mode or not os.fspath(file).startswith(watch.root):
            return original(file, mode, buffering, *arguments, **named)
        raw = WatchedFile(os.fspath(file), mode.replace("b", ""))
        raw.watch = watch
        if buffering == 0:
            return raw
        size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
        return io.BufferedReader(raw, size) if "r" in mode else io.BufferedWriter(raw, size)

    return watched


def install(watch: Watch) -> None:
    """Puts the watch where all operations pass; nothing takes it away again but the end of the process."""
    builtins.open = io.open = _opener(watch, builtins.open)
    for name in ("fsync", "fdatasync"):
        setattr(os, name, _before(watch, name, getattr(os, name)))
    sys.addaudithook(watch.hook)


def _before(watch: Watch, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    def watched(*arguments: Any) -> Any:
        watch.reach(name)
        return original(*arguments)

    return watched
