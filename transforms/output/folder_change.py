"""The change of output folders from what stands there to what a run made, whole or not at all.

Where a complete output, or none at all, is in a folder of a local Linux disk, the new folder is built beside it and the two change
places in one system call. Elsewhere (object stores have no folders; a mount point can't be exchanged; the failed rows may go to a
folder of their own) files are placed one by one between the removal of ``_SUCCESS`` and its return: no marker, no complete output.
What is being placed is in a journal (``journal.py``), so that the next run finishes what a kill broke off.
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import google_crc32c

from transforms.elements.shards import Shard
from transforms.output import journal, verify
from transforms.output.journal import JOURNAL, Journal, Locks
from transforms.output.locks import LOCK
from transforms.output.placing import LostShardError, Part, Placed, lost, sync_files
from transforms.specs.errors import UnpublishableError
from transforms.specs.job import STAGING
from transforms.specs.own_names import MANIFEST, STATE, SUCCESS
from transforms.storage import files, paths

AT_FDCWD = -100
RENAME_EXCHANGE = 2  # linux/fs.h
# Of more files one call of the whole disk costs less than one a file: 8 ms for the five files of a task, against 1 (ext4, SSD).
SYNCED_ONE_BY_ONE = 64
PASSED_OVER = (STAGING, LOCK, JOURNAL, f"{JOURNAL}.new", SUCCESS)


class NameTwiceError(UnpublishableError):
    """Two files of one change would have one name: one of them would be lost."""


@dataclasses.dataclass
class FolderChange:
    """What becomes of a folder: staged files placed by name, small files written, names removed. ``staging`` is the launch's, in it."""

    folder: str
    staging: str
    placed: dict[str, Shard] = dataclasses.field(default_factory=dict)
    written: dict[str, bytes] = dataclasses.field(default_factory=dict)
    removed: set[str] = dataclasses.field(default_factory=set)

    def add(self, placed: Mapping[str, Shard], written: Mapping[str, bytes]) -> None:
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


@dataclasses.dataclass
class Change:
    """One commit: what becomes of the folder that gets the manifest and, as the second, of a folder of failed rows elsewhere.

    ``aside`` is where a new folder is built, on the same disk; None where nothing may be exchanged.
    """

    run_id: str
    launch: str
    task: int
    folders: list[FolderChange]
    aside: str | None = None


def commit(change: Change, locks: Locks) -> None:
    """Make ``change``; done again after being broken off anywhere, it ends the same.

    Raises:
      NameTwiceError: two of its files have one name; nothing is changed.
      LostShardError: a staged file is neither in staging nor in place; nothing is changed.
      MismatchError: the folder does not agree with the manifest; there is no ``_SUCCESS``.
    """
    prepared = prepare(change, locks)
    sync(prepared.unsynced())
    prepared.complete()
    sync(prepared.parents)


def prepare(change: Change, locks: Locks) -> Prepared:
    """Do all of ``change`` that nobody sees; ``complete`` makes it seen when what is ``unsynced`` is on the disk."""
    for each in change.folders:
        each.check()
    return Prepared(change, locks, _Exchange.build(change, locks))


@dataclasses.dataclass
class Prepared:
    """A change of which only the end is missing."""

    change: Change
    locks: Locks
    exchange: _Exchange | None
    # Folders to be on the disk after the end, so that it outlives the machine: for tasks beside each other that is one folder.
    parents: list[str] = dataclasses.field(default_factory=list)

    def unsynced(self) -> list[str]:
        """Return files and folders of the disk that have to be on it before the end."""
        return self.exchange.unsynced if self.exchange is not None else []

    def complete(self) -> None:
        """Make the change seen."""
        if self.exchange is None or not self.exchange.complete():
            _in_place(self.change, self.locks)
        elif os.access(parent := os.path.dirname(self.exchange.folder), os.R_OK):
            self.parents = [parent]


def sync(paths: Sequence[str]) -> None:
    """Make the system write files and folders of its disks to them."""
    if len(paths) <= SYNCED_ONE_BY_ONE:
        sync_files(paths)
        return
    for path in {os.stat(path).st_dev: path for path in paths}.values():
        handle = os.open(path, os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).syncfs(handle) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
        finally:
            os.close(handle)


# --- file by file ----------------------------------------------------------------------------------------------------------


def _in_place(change: Change, locks: Locks) -> None:
    locks.check()
    parts = [_part(each) for each in change.folders]
    made = Journal(change.run_id, change.launch, change.task, parts)
    journal.write(made)
    try:
        journal.carry_out(made, locks.check)
    except LostShardError:  # nothing is changed, and nothing can be
        journal.remove_all(made)
        raise
    locks.check()
    journal.remove_all(made)


def _part(change: FolderChange) -> Part:
    """Stage the small files of one folder's change, and list it."""
    placed = [Placed(name, _absolute(shard.path), shard.bytes, shard.crc32c) for name, shard in change.placed.items()]
    for name, content in change.written.items():
        path = _absolute(paths.join(change.staging, f"small-{uuid.uuid4().hex}"))
        with files.create(path) as stream:
            stream.write(content)
        placed.append(Placed(name, path, len(content), crc32c(content)))
    return Part(_absolute(change.folder), placed, sorted(change.removed - {one.name for one in placed}))


def _absolute(path: str) -> str:
    return path if paths.is_remote(path) else os.path.abspath(path)


def crc32c(content: bytes) -> str:
    """Return the checksum that a manifest lists for a file of ``content``."""
    return google_crc32c.Checksum(content).hexdigest().decode()


# --- a folder in exchange for another --------------------------------------------------------------------------------------


class _Exchange:
    """A new folder that is built, and may change places with the old one."""

    def __init__(self, folder: str, beside: str) -> None:
        self.folder, self.beside = folder, beside
        self.unsynced: list[str] = []

    @classmethod
    def build(cls, change: Change, locks: Locks) -> _Exchange | None:
        """Build the new folder; None where nothing can be exchanged."""
        (first, *others) = change.folders
        if change.aside is None:
            return None
        shutil.rmtree(change.aside, ignore_errors=True)  # of a run that was killed between the exchange and its end
        folder = os.path.realpath(first.folder)
        if others or os.path.ismount(folder) or _renameat2() is None or not _is_whole_or_empty(folder):
            return None
        built = cls(folder, change.aside)
        try:
            os.makedirs(built.beside)
            if not built._fill(first):
                built._drop()
                return None
            shutil.copymode(folder, built.beside)
            locks.follow(first.folder, built.beside)
        except OSError:
            built._drop()
            return None
        except BaseException:
            built._drop()
            raise
        return built

    def _fill(self, change: FolderChange) -> bool:
        """Link into the new folder all that it will hold, and compare; False when the old one holds what can't be linked."""
        gone = {*change.placed, *change.written, *change.removed, *PASSED_OVER}
        self.unsynced = [self.beside]
        for relative in _files_below(self.folder, gone):
            if relative is None:
                return False
            self._link(os.path.join(self.folder, relative), relative)
        for name, shard in change.placed.items():
            if not os.path.exists(shard.path):
                raise lost(shard.path, change.folder)
            self._link(shard.path, name)
            self.unsynced.append(shard.path)
        for name, content in change.written.items():
            path = os.path.join(self.beside, name)
            with open(path, "wb") as file:
                file.write(content)
            self.unsynced.append(path)
        if MANIFEST in change.written:
            verify.check(verify.decode(change.written[MANIFEST]), self.beside, None)
        return True

    def _link(self, source: str, name: str) -> None:
        destination = os.path.join(self.beside, name)
        try:
            os.link(source, destination)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(destination))
            self.unsynced.append(os.path.dirname(destination))
            os.link(source, destination)

    def complete(self) -> bool:
        exchange = _renameat2()
        assert exchange is not None
        if exchange(AT_FDCWD, os.fsencode(self.beside), AT_FDCWD, os.fsencode(self.folder), RENAME_EXCHANGE) != 0:
            self._drop()
            return False
        self._drop()
        return True

    def _drop(self) -> None:
        shutil.rmtree(self.beside, ignore_errors=True)


def _is_whole_or_empty(folder: str) -> bool:
    """Return whether a complete output is in ``folder``, or nothing but what runs have in hand: else there is none to keep whole."""
    return os.path.exists(os.path.join(folder, SUCCESS)) or {*os.listdir(folder)} <= {STAGING, STATE}


def _files_below(folder: str, gone: set[str]) -> Iterator[str | None]:
    """Yield the files below ``folder`` by their names in it, but for those ``gone``; None for what can't be linked."""
    for parent, folders, names in os.walk(folder):
        below = os.path.relpath(parent, folder)
        if below == ".":
            folders[:] = [name for name in folders if name != STAGING]
        if any(os.path.islink(os.path.join(parent, name)) for name in (*folders, *names)):
            yield None
        for name in names:
            relative = os.path.normpath(os.path.join(below, name))
            if relative not in gone:
                yield relative


def _renameat2() -> ctypes._CFuncPtr | None:  # type: ignore[name-defined]
    try:
        return ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return None


def entries(small: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """Return the entries of small files in a manifest."""
    return [{"name": name, "bytes": len(content), "crc32c": crc32c(content)} for name, content in small.items()]
