"""A model's files on this worker's disk: the original folder if it is local, else a copy that the worker's processes share.

Copies are in the temporary folder of this user. They are removed when they were not used for a week, or when all of them use too much
of the disk, but never while a process holds them. A missing copy is made again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import google_crc32c

from transforms.runtime import processes, temporary_folders
from transforms.specs.errors import ModelError
from transforms.storage import files, paths
from transforms.storage.gcs import StorageError

# TensorFlow treats a path with these as a pattern when it restores variables.
GLOB_CHARACTERS = frozenset("[]*?\\")
KEPT_SECONDS = 7 * 86400.0
# Of the disk, for all copies: 7 GB of the 30 that a Dataflow worker has. A model that needs more is kept alone.
DISK_SHARE = 0.25
# Measuring all copies costs a few microseconds a file: it is done after this share of their limit was copied.
MEASURED_AFTER = 0.1
COPY = re.compile(r"[0-9a-f]{32}")
WINDOW_BYTES = 8 << 20

_lock = threading.Lock()
copied_bytes: dict[str, int] = {}  # since all copies were measured, by folder


def is_copied(folder: str) -> bool:
    """Return whether the model in ``folder`` is used from a copy."""
    return paths.is_remote(folder) or bool(GLOB_CHARACTERS & set(folder))


def copy_to_worker(folder: str) -> str:
    """Return a local folder with the SavedModel of ``folder`` that TensorFlow can load.

    A local folder with a plain name is returned itself. Another is copied once a worker, whatever the number of processes:
    each makes a copy under a name of its own, and the first one to finish stays.

    Raises:
      OSError: the files can't be copied.
      ModelError: a file's name leads out of the folder.
    """
    if not is_copied(folder):
        return folder
    originals = files.list_folder(folder)
    state = hashlib.sha256(repr([(f.path, f.size_bytes, f.updated) for f in originals]).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    cache = temporary_folders.own_folder("models")
    target = cache / state
    if target.is_dir():
        return str(target)
    make_room(cache, sum(file.size_bytes for file in originals))
    partial = Path(tempfile.mkdtemp(prefix=f"{processes.this_process()}-", dir=cache))
    try:
        for file in originals:
            copy_file(file, os.path.join(partial, *file.relative.split("/")))
        os.replace(partial, target)
    except (OSError, ModelError):
        shutil.rmtree(partial, ignore_errors=True)
        if not target.is_dir():
            raise
    return str(target)


@contextlib.contextmanager
def held(folder: str, copy: str | None = None) -> Iterator[str]:
    """Yield a local folder with the model of ``folder``, which no process removes meanwhile; ``copy`` is a copy made earlier."""
    while True:
        local = copy if copy and os.path.isdir(copy) else copy_to_worker(folder)
        copy = None
        if local == folder:
            yield local
            return
        with _locked(local, fcntl.LOCK_SH) as is_locked:
            if is_locked:
                os.utime(local)
                yield local
                return


@contextlib.contextmanager
def _locked(folder: str | Path, kind: int) -> Iterator[bool]:
    """Lock a copy and yield True; yield False if it is gone or another process holds it."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(handle, kind)
        yield os.path.samestat(os.fstat(handle), os.stat(folder))
    except (BlockingIOError, FileNotFoundError):
        yield False
    finally:
        os.close(handle)


def make_room(cache: Path, wanted_bytes: int, most_bytes: int | None = None) -> None:
    """Remove copies that were not used for ``KEPT_SECONDS``, then the least recently used while all of them exceed ``most_bytes``."""
    most_bytes = most_bytes or int(shutil.disk_usage(cache).total * DISK_SHARE)
    with _lock:
        copied = copied_bytes.get(str(cache))
        if copied is not None and copied + wanted_bytes < most_bytes * MEASURED_AFTER:
            copied_bytes[str(cache)] = copied + wanted_bytes
            return
        copied_bytes[str(cache)] = wanted_bytes
    temporary_folders.sweep("models")  # unfinished copies of processes that have ended
    copies = sorted((used, path, size) for path in cache.iterdir() if COPY.fullmatch(path.name) for used, size in _measure(path))
    total = wanted_bytes + sum(size for _, _, size in copies)
    for used, path, size in copies:
        if (total > most_bytes or time.time() - used > KEPT_SECONDS) and remove(path):
            total -= size


def remove(path: str | Path) -> bool:
    """Remove a copy of a model unless a process holds it; return whether it was removed."""
    path = Path(path)
    with _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB) as is_locked:
        if not is_locked:
            return False
        gone = path.with_name(f"{processes.this_process()}-{path.name}")
        with contextlib.suppress(OSError):
            path.rename(gone)  # so that no process sees half of it
            temporary_folders.remove(gone)
            return True
    return False


def _measure(path: Path) -> list[tuple[float, int]]:
    """Return one pair of the time of last use and the size in bytes; an empty list if the copy is gone."""
    try:
        return [(path.stat().st_mtime, sum(file.size_bytes for file in files.list_folder(str(path))))]
    except OSError:
        return []


def copy_file(original: files.FoundFile, destination: str) -> None:
    if ".." in original.relative.split("/"):  # a bucket's names may be anything
        raise ModelError(f"{original.path} has '..' in its name, and would be copied out of the model's folder")
    os.makedirs(os.path.dirname(destination), exist_ok=True)
    size, checksum = 0, google_crc32c.Checksum()
    try:
        with files.open_raw(original.path) as source, open(destination, "wb") as copy:
            while window := source.read(WINDOW_BYTES):
                copy.write(window)
                size += len(window)
                checksum.update(window)
    except StorageError:
        raise
    except OSError as error:
        where = os.path.dirname(destination)
        raise OSError(
            f"{original.path} can't be copied to {where}: {error.strerror}; make room there, or name another place with TMPDIR"
        ) from error
    if size != original.size_bytes:
        raise OSError(f"{original.path}: copied {size} of {original.size_bytes} bytes")
    if original.crc32c and checksum.digest().hex() != original.crc32c:
        raise OSError(f"{original.path}: its bytes are not those that were listed; it was replaced, or damaged on the way")
