"""Locks of output folders: only the run that holds a folder's lock changes its files.

On a disk the folder itself is locked, and the system releases the lock when the holder dies. In a bucket the lock is an object that
only one process can create; its holder rewrites it every few seconds, and another run takes over an object that was not rewritten for
a minute. A holder that was cut off meanwhile does no harm: each of its changes names the generation of the object that it saw, and its
staged files are gone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import threading
import time
import uuid
from typing import Protocol

import msgspec

from transforms.runtime.processes import owner, this_process
from transforms.specs.errors import NightshiftError
from transforms.specs.own_names import STATE
from transforms.storage import gcs, paths

LOG = logging.getLogger("nightshift")
LOCK = f"{STATE}/lock"
BEAT_SECONDS = 10.0
POLL_SECONDS = 2.0
# Six beats: a holder that is cut off for less keeps its lock.
STALE_SECONDS = 60.0
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)


class LostLockError(NightshiftError):
    """Another run may have taken the lock over, since this one could not rewrite it for a minute."""


class FolderLock(Protocol):
    """A held lock of one folder."""

    def check(self) -> None:
        """Check that the lock is still held.

        Raises:
          LostLockError: another run may hold it by now.
        """

    def follow(self, folder: str) -> None:
        """Lock a new folder too, which will be exchanged for the locked one."""

    def release(self) -> None:
        """Release the lock."""


def acquire(folder: str, wait: bool = True) -> FolderLock | None:
    """Lock ``folder``, which is created where it does not exist; None where another run holds the lock and ``wait`` is False."""
    return _BucketLock.acquire(folder, wait) if paths.is_remote(folder) else _DiskLock.acquire(folder, wait)


# --- on a disk -------------------------------------------------------------------------------------------------------------


class _DiskLock:
    def __init__(self, handles: list[int], file: str | None = None) -> None:
        self.handles, self.file = handles, file

    @staticmethod
    def acquire(folder: str, wait: bool) -> _DiskLock | None:
        while True:
            os.makedirs(folder, exist_ok=True)
            try:
                handle = _lock(folder, os.O_RDONLY, wait)
            except FileNotFoundError:
                continue
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                return _DiskLock.of_file(folder, wait)
            if _is_at(folder, handle):
                return _DiskLock([handle])
            os.close(handle)  # the folder was exchanged for another while this waited for its lock

    @staticmethod
    def of_file(folder: str, wait: bool) -> _DiskLock | None:
        """Lock a file in the folder, where the file system can't lock folders (NFS)."""
        path = os.path.join(folder, LOCK)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        while True:
            try:
                handle = _lock(path, os.O_RDWR | os.O_CREAT, wait)
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                LOG.warning("the file system of %s has no locks: let no two runs publish there at once", folder)
                return _DiskLock([])
            if _is_at(path, handle):
                return _DiskLock([handle], path)
            os.close(handle)

    def follow(self, folder: str) -> None:
        handle = os.open(folder, os.O_RDONLY)
        self.handles.append(handle)
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def check(self) -> None:
        pass

    def release(self) -> None:
        if self.file is not None:
            with contextlib.suppress(OSError):
                os.remove(self.file)
        while self.handles:
            os.close(self.handles.pop())


def _lock(path: str, flags: int, wait: bool) -> int:
    handle = os.open(path, flags, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BaseException:
        os.close(handle)
        raise
    return handle


def _is_at(path: str, handle: int) -> bool:
    """Return whether the file or folder behind ``handle`` is the one at ``path``."""
    try:
        at_path, locked = os.stat(path), os.fstat(handle)
    except FileNotFoundError:
        return False
    return (at_path.st_dev, at_path.st_ino) == (locked.st_dev, locked.st_ino)


# --- in a bucket -----------------------------------------------------------------------------------------------------------


class Holder(msgspec.Struct):
    """The content of a bucket's lock: who holds it. ``process`` is its label (``transforms.runtime.processes``), ``time`` in seconds."""

    token: str
    process: str
    time: float


def _is_dead(holder: Holder) -> bool:
    """Return whether the holder is known to have ended; of a process on another machine nothing is known here."""
    process = owner(holder.process)
    return process is not None and process.has_ended is True


class _BucketLock:
    """An object that a thread rewrites every ``BEAT_SECONDS``; ``check`` raises when that has failed for too long."""

    def __init__(self, path: str, holder: Holder, generation: int) -> None:
        self.path, self.holder, self.generation = path, holder, generation
        self.written = time.monotonic()
        self.is_lost = False
        self.ended = threading.Event()
        self.beat = threading.Thread(target=self._beat, name="lock", daemon=True)
        self.beat.start()

    @staticmethod
    def acquire(folder: str, wait: bool) -> _BucketLock | None:
        path = paths.join(folder, LOCK)
        holder = Holder(uuid.uuid4().hex, str(this_process()), time.time())
        seen, since, is_logged = -1, 0.0, False
        while True:
            current = gcs.read_seen(path) if seen >= 0 or not wait else None
            generation = 0
            if current is not None:
                generation = current[1]
                other = _decode(current[0])
                if other is None or other.token != holder.token:
                    if generation != seen:
                        seen, since = generation, time.monotonic()
                    stale = time.monotonic() - since >= STALE_SECONDS
                    if not stale and not (other is not None and _is_dead(other)):
                        if not wait:
                            return None
                        if not is_logged:
                            LOG.info("another run publishes to %s; waiting for its end", folder)
                            is_logged = True
                        time.sleep(POLL_SECONDS)
                        continue
            try:
                return _BucketLock(path, holder, gcs.write_over(path, msgspec.json.encode(holder), generation))
            except gcs.ChangedError:
                seen = max(seen, 0)

    def _beat(self) -> None:
        while not self.ended.wait(BEAT_SECONDS):
            try:
                self.holder.time = time.time()
                self.generation = gcs.write_over(self.path, msgspec.json.encode(self.holder), self.generation)
                self.written = time.monotonic()
            except gcs.ChangedError:
                if not self._is_mine():
                    self.is_lost = True
                    return
            except OSError as error:  # the storage fails for a while; ``check`` knows how long
                LOG.debug("the lock %s can't be written: %s", self.path, error)

    def _is_mine(self) -> bool:
        """Return whether this process wrote the object, by a request whose answer was lost; note its generation if so."""
        try:
            current = gcs.read_seen(self.path)
        except OSError:
            return True
        holder = _decode(current[0]) if current is not None else None
        if current is None or holder is None or holder.token != self.holder.token:
            return False
        self.generation, self.written = current[1], time.monotonic()
        return True

    def follow(self, folder: str) -> None:
        raise NotImplementedError("folders of buckets don't change places")

    def check(self) -> None:
        if self.is_lost or time.monotonic() - self.written > STALE_SECONDS - BEAT_SECONDS:
            raise LostLockError(f"{self.path} was not written for {time.monotonic() - self.written:.0f} s, and may be another run's by now")

    def release(self) -> None:
        self.ended.set()
        self.beat.join()
        with contextlib.suppress(OSError):  # then a run that waits for it takes it over
            gcs.delete_seen([(self.path, self.generation)])


def _decode(content: bytes) -> Holder | None:
    try:
        return msgspec.json.decode(content, type=Holder)
    except msgspec.DecodeError:
        return None
