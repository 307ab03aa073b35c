"""The temporary folder of this user: one place for all that a run keeps outside of its output, which nobody else can write to.

In ``/tmp`` any user may make a folder under the name that a program is known to use, and put there what the program then trusts.
So the folder has the user's number in its name and is the user's alone (0700); one that is not is left, and a fresh one taken.
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
# What a process of another machine, or of another container, left in a folder that is shared with it: nobody here can say whether
# it still runs.
KEPT_SECONDS = 7 * 86400.0

# A worker sweeps where it loads and copies models, too; a run that loads none would leave what a killed one began.
SWEPT = ("runs", "loading", "models")

_fresh: dict[str, Path] = {}


def own_folder(name: str) -> Path:
    """Return the folder ``name`` of this user, made where it is missing; its owner and mode were looked at.

    The same for all processes of a user on a machine, as long as they have the same TMPDIR.

    Raises:
      OSError: the temporary folder can't be written to.
    """
    folder = _root() / name
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def make_folder(name: str) -> Path:
    """Make an empty folder in ``own_folder(name)`` that is this process's; ``sweep`` removes it once the process has ended."""
    return Path(tempfile.mkdtemp(prefix=f"{processes.this_process()}-", dir=own_folder(name)))


@contextlib.contextmanager
def folder_of_run() -> Iterator[Path]:
    """Make a folder for the files of one run, and remove it at the end; what ended processes left of runs and models goes first."""
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
    """Let libraries make their temporary files in ``folder``, which has an owner, and not beside it."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def sweep(name: str, kept_seconds: float = 0.0) -> None:
    """Remove from ``own_folder(name)`` what processes made that have ended, however they ended, once it is older than ``kept_seconds``.

    Names that are no process's are left alone.
    """
    for path in own_folder(name).iterdir():
        process = processes.owner(path.name)
        if process is None:
            continue
        with contextlib.suppress(FileNotFoundError):  # another launch sweeps too
            ended = process.has_ended
            if ended is not False and time.time() - path.lstat().st_mtime > (kept_seconds if ended else KEPT_SECONDS):
                remove(path)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all that it holds; what can't be removed stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _root() -> Path:
    place, name = Path(tempfile.gettempdir()), f"nightshift-{os.getuid()}"
    own = place / name
    with contextlib.suppress(FileExistsError):
        own.mkdir(mode=0o700)
    if is_own(own):
        return own
    taken = next(filter(is_own, sorted(place.glob(f"{name}-*"))), None) or _fresh.get(str(own))
    if taken is None or not taken.is_dir():
        taken = _fresh[str(own)] = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=place))
        LOG.warning("%s is not a folder of this user alone (mode 0700); %s is used in its place", own, taken)
    return taken


def is_own(path: Path) -> bool:
    """Return whether ``path`` is a folder, not a link to one, that belongs to this user and is closed to all others."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
