"""One folder's change from what stands there to what a run made, whole or not at all.

Where a complete output stands on a local Linux disk, the new folder is built beside it and the two change places in one
system call. Elsewhere (object stores have no folders; a mount point can't be exchanged) files are moved one by one between
the removal of ``_SUCCESS`` and its return: no marker, no complete output.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import fcntl
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from transforms import files
from transforms.own_names import SUCCESS
from transforms.specs import STAGING

AT_FDCWD = -100
RENAME_EXCHANGE = 2  # linux/fs.h


class LostShardError(Exception):
    """A finished shard is not where it was written."""


class NameTwiceError(Exception):
    """Two files of one change would have one name: one of them would be lost."""


@dataclasses.dataclass
class FolderChange:
    """What becomes of a folder: staged files placed by name, small files written (in this order), names removed."""

    folder: str
    placed: dict[str, str] = dataclasses.field(default_factory=dict)
    written: dict[str, bytes] = dataclasses.field(default_factory=dict)
    removed: set[str] = dataclasses.field(default_factory=set)

    def add(self, placed: Mapping[str, str], written: Mapping[str, bytes]) -> None:
        """Add files to the change.

        Raises:
          NameTwiceError: the change holds a file of one of these names already.
        """
        self._check_names([*self.placed, *self.written, *placed, *written])
        self.placed |= placed
        self.written |= written

    def check(self) -> None:
        """Raise NameTwiceError where two files of the change would have one name."""
        self._check_names([*self.placed, *self.written])

    def _check_names(self, names: Sequence[str]) -> None:
        counts = Counter(map(os.path.normpath, names))
        twice = sorted(name for name, count in counts.items() if count > 1)
        if twice:
            raise NameTwiceError(
                f"{self.folder} would get several files named {', '.join(twice[:3])}, of which only one would stay; nothing is published. "
                "Rename the inputs that are mirrored to such a name"
            )


@contextlib.contextmanager
def alone(folder: str) -> Iterator[None]:
    """Holds up other runs of this machine that publish to the local ``folder``, or beside it, until this one has.

    The folder above is locked, since the folder itself may change places. Where there are no such locks, as on some network disks and
    in buckets, nothing is held up: then a run whose shards another took away still finds them gone.
    """
    handle = None
    if not files.is_remote(folder):
        above = os.path.dirname(os.path.realpath(folder))
        with contextlib.suppress(OSError):
            os.makedirs(above, exist_ok=True)
            handle = os.open(above, os.O_RDONLY)
            fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def commit(change: FolderChange) -> None:
    """Makes ``change``; done again after being broken off anywhere, it ends the same.

    Raises:
      NameTwiceError: two of its files have one name; nothing is changed.
      LostShardError: a staged file is neither in staging nor in place.
    """
    change.check()
    if files.is_remote(change.folder) or not _exchange(change):
        _in_place(change)


def _in_place(change: FolderChange) -> None:
    staged = files.existing(change.placed.values())
    # What an attempt before has moved is in place; of another run's output, which may have the same names, nothing is ours.
    is_anothers = len(staged) < len(change.placed) and _is_anothers(change)
    moves = []
    for name, path in change.placed.items():
        destination = files.join(change.folder, name)
        if path in staged:
            moves.append((path, destination))
        elif is_anothers or not files.exists(destination):
            raise _lost(path, change.folder)
    files.delete([files.join(change.folder, SUCCESS)])
    files.rename(moves)
    files.delete([files.join(change.folder, name) for name in sorted(change.removed - {*change.placed, *change.written})])
    for name, content in change.written.items():
        files.write_bytes(files.join(change.folder, name), content)


def _is_anothers(change: FolderChange) -> bool:
    """Whether a complete output stands there that is not the one of ``change``: an attempt that was broken off had taken _SUCCESS away."""
    if not files.exists(files.join(change.folder, SUCCESS)):
        return False
    paths = {files.join(change.folder, name): content for name, content in change.written.items() if content}
    return any(not files.exists(path) or files.read_bytes(path) != content for path, content in paths.items())


def _lost(path: str, folder: str) -> LostShardError:
    return LostShardError(
        f"{path} is gone: another run published to {folder} while this one ran, or its staging was removed. "
        "Nothing of this run is published; start it again"
    )


# --- a folder in exchange for another --------------------------------------------------------------------------------------


def _exchange(change: FolderChange) -> bool:
    """Builds the new folder beside the old one and exchanges them; False where that can't be done."""
    if not os.path.exists(os.path.join(change.folder, SUCCESS)):
        return False  # without a complete output there is none to keep whole
    folder = os.path.realpath(change.folder)
    beside = os.path.join(os.path.dirname(folder), f".{os.path.basename(folder)}.nightshift")
    exchange = _renameat2()
    if exchange is None or os.path.ismount(folder):
        return False
    try:
        shutil.rmtree(beside, ignore_errors=True)  # of a run that was killed between the exchange and its end
        os.mkdir(beside)
        if not _build(change, folder, beside):
            shutil.rmtree(beside, ignore_errors=True)
            return False
        shutil.copymode(folder, beside)
        if exchange(AT_FDCWD, os.fsencode(beside), AT_FDCWD, os.fsencode(folder), RENAME_EXCHANGE) != 0:
            shutil.rmtree(beside, ignore_errors=True)
            return False
    except OSError:
        shutil.rmtree(beside, ignore_errors=True)
        return False
    shutil.rmtree(beside, ignore_errors=True)
    return True


def _renameat2() -> ctypes._CFuncPtr | None:  # type: ignore[name-defined]
    try:
        return ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return None


def _build(change: FolderChange, folder: str, beside: str) -> bool:
    """Links into ``beside`` all that the folder will hold; False when it holds what can't be linked."""
    gone = {*change.placed, *change.written, *change.removed}
    for parent, folders, names in os.walk(folder):
        below = os.path.relpath(parent, folder)
        if below == ".":
            folders[:] = [name for name in folders if name != STAGING]
        if any(os.path.islink(os.path.join(parent, name)) for name in (*folders, *names)):
            return False
        for name in names:
            relative = os.path.normpath(os.path.join(below, name))
            if relative not in gone and relative != SUCCESS:
                _link(os.path.join(parent, name), os.path.join(beside, relative))
    for name, path in change.placed.items():
        if not os.path.exists(path):
            raise _lost(path, change.folder)
        _link(path, os.path.join(beside, name))
    for name, content in change.written.items():
        with open(os.path.join(beside, name), "wb") as file:
            file.write(content)
    return True


def _link(source: str, destination: str) -> None:
    os.makedirs(os.path.dirname(destination), exist_ok=True)
    os.link(source, destination)
