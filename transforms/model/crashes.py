"""Notes that outlive a process and tell which rows it was predicting when it died, so that a run can report why it ended.

A model can end its process: an op crashes, or the kernel kills it when memory runs out. No exception names the rows that caused
it, and an engine that restarts the worker would give it the same rows again without end.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from transforms.elements.batches import JobInstances
from transforms.rows.keys import readable
from transforms.runtime import processes, temporary_folders
from transforms.specs.errors import ModelError
from transforms.specs.models import ModelSpec

NOTE_BYTES = 16 << 10
_LENGTH = struct.Struct("<I")
# After the same rows have ended this many processes of a machine in one launch of a run, they fail instead.
CRASHES = 2
KEPT_SECONDS = 7 * 86400.0


class Crash(msgspec.Struct, frozen=True):
    """The batch that a process was predicting; ``first`` and ``last`` are the offsets of its first and last row in ``source``."""

    launch: str
    run_id: str
    model: str
    source: str
    first: int
    last: int
    rows: int

    def __str__(self) -> str:
        which = f"row {self.first}" if self.rows == 1 else f"rows from {self.first} to {self.last}"
        return f"{self.model} on {self.rows:,} rows of {self.source}, {which} (bytes into a text file, else row numbers)"


def folder() -> Path:
    """Return the folder of this user's notes."""
    return temporary_folders.own_folder("predicting")


class Notes:
    """The notes of this process, one a thread, and those that ended processes left."""

    def __init__(self) -> None:
        self._own = threading.local()
        self._crashed: dict[Crash, int] = {}
        self._looked_for = ""

    @contextlib.contextmanager
    def predicting(self, spec: ModelSpec, batch: JobInstances) -> Iterator[None]:
        """Keep the note of ``batch`` while it is predicted.

        Raises:
          ModelError: the batch has ended ``CRASHES`` processes already.
        """
        if not len(batch):
            yield
            return
        job, source, offsets = batch.job, batch.instances.source, batch.instances.offsets
        crash = Crash(job.launch, job.run_id, readable(spec.location), readable(source), int(offsets[0]), int(offsets[-1]), len(batch))
        if self._looked_for != job.launch:
            self._look(job.launch)
        if self._crashed.get(crash, 0) >= CRASHES:
            raise ModelError(
                f"{CRASHES} processes died, killed or crashed, while they ran {crash}; correct the model, or leave those rows out"
            )
        note = self._open()
        if note is None:
            yield
            return
        text = msgspec.json.encode(crash)[: NOTE_BYTES - _LENGTH.size]
        note[_LENGTH.size : _LENGTH.size + len(text)] = text
        note[: _LENGTH.size] = _LENGTH.pack(len(text))
        try:
            yield
        finally:
            note[: _LENGTH.size] = _LENGTH.pack(0)

    def _look(self, launch: str) -> None:
        crashed: dict[Crash, int] = {}
        with contextlib.suppress(OSError):
            temporary_folders.sweep("predicting", KEPT_SECONDS)
        for _, crash in find_crashes():
            if crash.launch == launch:
                crashed[crash] = crashed.get(crash, 0) + 1
        self._crashed, self._looked_for = crashed, launch

    def _open(self) -> mmap.mmap | None:
        if getattr(self._own, "process", None) == os.getpid():
            return self._own.note
        self._own.process, self._own.note = os.getpid(), None
        try:
            with open(folder() / f"{processes.this_process()}-{threading.get_ident()}-{time.time_ns()}", "w+b") as stream:
                stream.truncate(NOTE_BYTES)
                self._own.note = mmap.mmap(stream.fileno(), NOTE_BYTES)
        except OSError:  # a full or missing temporary folder must not stop a run
            pass
        return self._own.note


def find_crashes(process: int | None = None) -> Iterator[tuple[Path, Crash]]:
    """Yield the notes of processes, or of ``process``, that died while predicting; remove those of processes that ended normally.

    Unreadable files and other names are skipped: reporting why a run ended must not end it.
    """
    try:
        notes = sorted(folder().iterdir())
    except OSError:
        return
    for path in notes:
        owner = processes.owner(path.name)
        if owner is None or process not in (None, owner.pid) or not owner.has_ended:
            continue
        try:
            content = path.read_bytes()
            (length,) = _LENGTH.unpack_from(content)
            if length:  # 0: the process ended between two batches
                yield path, msgspec.json.decode(content[_LENGTH.size : _LENGTH.size + length], type=Crash)
            else:
                path.unlink(missing_ok=True)
        except (OSError, struct.error, msgspec.DecodeError):  # another process may have removed it
            continue
