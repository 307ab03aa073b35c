"""The temporary folder of this user: one place, closed to other users, for all that a run keeps outside its output.

In ``/tmp`` any user may make a folder under a name that a program is known to use, with contents that the program then trusts.
So the folder has the user's number in its name and belongs to the user alone (0700); if it does not, a new folder is made instead.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from transforms.runtime import processes

LOG = logging.getLogger("nightshift")
# Age at which files are removed whose process is of another machine or container that shares the folder: whether it still runs is not
# known here.
KEPT_SECONDS = 7 * 86400.0

# Folders that every run sweeps. A worker sweeps those of models when it loads one, but a run may load none after a killed one did.
SWEPT = ("runs", "loading", "models")

_fresh: dict[str, Path] = {}


def own_folder(name: str) -> Path:
    """Return the folder ``name`` of this user, made if missing, in a parent whose owner and mode are checked.

    All processes of one user with the same TMPDIR get the same folder.

    Raises:
      OSError: the temporary folder can't be written to.
    """
    folder = _root() / name
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def make_folder(name: str) -> Path:
    """Make an empty folder of this process in ``own_folder(name)``; ``sweep`` removes it after the process has ended."""
    return Path(tempfile.mkdtemp(prefix=f"{processes.this_process()}-", dir=own_folder(name)))


@contextlib.contextmanager
def folder_of_run() -> Iterator[Path]:
    """Make a folder for the files of one run, and remove it at the end; first remove what ended processes left of runs and models."""
    for name in SWEPT:
        with contextlib.suppress(OSError):
            sweep(name)
    folder = make_folder("runs")
    try:
        yield folder
    finally:
        remove(folder)


@contextlib.contextmanager
def beside(folder: Path) -> Iterator[None]:
    """Make libraries put their temporary files into ``folder``, which ``sweep`` removes, instead of TMPDIR."""
    default, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = default


def sweep(name: str, kept_seconds: float = 0.0) -> None:
    """Remove from ``own_folder(name)`` the entries of processes that have ended, once they are older than ``kept_seconds``.

    Entries whose names begin with no process's label stay.
    """
    for path in own_folder(name).iterdir():
        process = processes.owner(path.name)
        if process is None:
            continue
        with contextlib.suppress(FileNotFoundError):  # another launch may sweep at the same time
            ended = process.has_ended
            if ended is not False and time.time() - path.lstat().st_mtime > (kept_seconds if ended else KEPT_SECONDS):
                remove(path)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with its contents; what can't be removed stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _root() -> Path:
    parent, name = Path(tempfile.gettempdir()), f"nightshift-{os.getuid()}"
    own = parent / name
    with contextlib.suppress(FileExistsError):
        own.mkdir(mode=0o700)
    if is_own(own):
        return own
    substitute = next(filter(is_own, sorted(parent.glob(f"{name}-*"))), None) or _fresh.get(str(own))
    if substitute is None or not substitute.is_dir():
        substitute = _fresh[str(own)] = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))
        LOG.warning("%s is not a folder of this user alone (mode 0700); %s is used instead", own, substitute)
    return substitute


def is_own(path: Path) -> bool:
    """Return whether ``path`` is a folder, not a link to one, that belongs to this user and is closed to all others."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
