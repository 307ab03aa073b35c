"""The change of output folders from an earlier run's files to this run's, whole or not at all.

Where a folder of a local Linux disk holds a complete output or none, the new folder is built beside it and exchanged for it in one
system call. Elsewhere (object stores have no folders; a mount point can't be exchanged; the failed rows may go to another folder)
files are placed one by one between the removal of ``_SUCCESS`` and its return: without the marker the output is not complete. A
journal (``journal.py``) lists the files to place, so that the next run finishes what a killed one began.
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import google_crc32c

from transforms.elements.shards import Shard
from transforms.output import journal, verify
from transforms.output.journal import JOURNAL, Journal, Locks
from transforms.output.locks import LOCK
from transforms.output.placing import LostShardError, Part, Placed, lost
from transforms.specs.errors import UnpublishableError
from transforms.specs.job import STAGING
from transforms.specs.manifest import FileEntry
from transforms.specs.own_names import MANIFEST, STATE, SUCCESS
from transforms.storage import files, paths

AT_FDCWD = -100
RENAME_EXCHANGE = 2  # linux/fs.h
# Above this number one call for the whole disk costs less than one for each file: it takes 8 ms, the five files of a task 1 (ext4, SSD).
SYNCED_ONE_BY_ONE = 64
UNLINKED = (STAGING, LOCK, JOURNAL, f"{JOURNAL}.new", SUCCESS)


class NameTwiceError(UnpublishableError):
    """Two files of a change have one name, so that one of them would be lost."""


@dataclasses.dataclass
class FolderChange:
    """The change of one folder: staged files to place and small files to write, by their names there, and names to remove.

    ``staging`` is the launch's folder for unfinished files inside ``folder``.
    """

    folder: str
    staging: str
    placed: dict[str, Shard] = dataclasses.field(default_factory=dict)
    written: dict[str, bytes] = dataclasses.field(default_factory=dict)
    removed: set[str] = dataclasses.field(default_factory=set)

    def add(self, placed: Mapping[str, Shard], written: Mapping[str, bytes]) -> None:
        """Add files to place and to write.

        Raises:
          NameTwiceError: the change has a file of one of these names already.
        """
        self._check_names([*self.placed, *self.written, *placed, *written])
        self.placed |= placed
        self.written |= written

    def check(self) -> None:
        """Check the names of the change's files.

        Raises:
          NameTwiceError: two of them are the same.
        """
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
    """The changes that are made together: of the folder that gets the manifest, then of a separate folder of failed rows, if any.

    ``aside`` is the path, on the same disk, where a new folder is built; None where the folder must not be exchanged.
    """

    run_id: str
    launch: str
    task: int
    folders: list[FolderChange]
    aside: str | None = None


def commit(change: Change, locks: Locks) -> None:
    """Make ``change``; a second call, after a first that was stopped anywhere, leaves the same files.

    Raises:
      NameTwiceError: two files have one name; nothing is changed.
      LostShardError: a staged file is neither in staging nor in place; nothing is changed.
      MismatchError: the folder differs from the manifest; there is no ``_SUCCESS``.
    """
    prepared = prepare(change, locks)
    sync(prepared.unsynced())
    prepared.complete()
    sync(prepared.parents)


def prepare(change: Change, locks: Locks) -> Prepared:
    """Prepare ``change`` without making it visible; once what is ``unsynced`` is on the disk, ``complete`` makes it visible.

    Raises:
      NameTwiceError: two files have one name.
    """
    for folder_change in change.folders:
        folder_change.check()
    return Prepared(change, locks, _Exchange.build(change, locks))


@dataclasses.dataclass
class Prepared:
    """A prepared change, which ``complete`` makes visible."""

    change: Change
    locks: Locks
    exchange: _Exchange | None
    # Folders to synchronize after the end, so that it outlives the machine: one folder for all tasks that write beside each other.
    parents: list[str] = dataclasses.field(default_factory=list)

    def unsynced(self) -> list[str]:
        """List the files and folders that have to be synchronized to the disk before ``complete``."""
        return self.exchange.unsynced if self.exchange is not None else []

    def complete(self) -> None:
        """Make the change visible: by the exchange, or file by file."""
        if self.exchange is None or not self.exchange.complete():
            _in_place(self.change, self.locks)
        elif os.access(parent := os.path.dirname(self.exchange.folder), os.R_OK):
            self.parents = [parent]


def sync(paths: Sequence[str]) -> None:
    """Write files and folders to their disks: one by one, or, above ``SYNCED_ONE_BY_ONE``, with one call for each disk."""
    if len(paths) <= SYNCED_ONE_BY_ONE:
        files.sync(paths)
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
    parts = [_part(folder_change) for folder_change in change.folders]
    plan = Journal(change.run_id, change.launch, change.task, parts)
    journal.write(plan)
    try:
        journal.carry_out(plan, locks.check)
    except LostShardError:  # nothing is changed, and nothing can be
        journal.remove_all(plan)
        raise
    locks.check()
    journal.remove_all(plan)


def _part(change: FolderChange) -> Part:
    """Stage the small files of one folder's change; return the part of the journal that lists the change."""
    placed = [Placed(name, _absolute(shard.path), shard.bytes, shard.crc32c) for name, shard in change.placed.items()]
    for name, content in change.written.items():
        path = _absolute(paths.join(change.staging, f"small-{uuid.uuid4().hex}"))
        with files.create(path) as stream:
            stream.write(content)
        placed.append(Placed(name, path, len(content), crc32c(content)))
    return Part(_absolute(change.folder), placed, sorted(change.removed - {file.name for file in placed}))


def _absolute(path: str) -> str:
    return path if paths.is_remote(path) else os.path.abspath(path)


def crc32c(content: bytes) -> str:
    """Return the CRC32C of ``content`` as a manifest lists it."""
    return google_crc32c.Checksum(content).hexdigest().decode()


# --- a folder exchanged for another ----------------------------------------------------------------------------------------


class _Exchange:
    """A new folder, built at ``beside``, to be exchanged for the old one at ``folder``."""

    def __init__(self, folder: str, beside: str) -> None:
        self.folder, self.beside = folder, beside
        self.unsynced: list[str] = []

    @classmethod
    def build(cls, change: Change, locks: Locks) -> _Exchange | None:
        """Build the new folder of ``change``; return None where it can't be exchanged for the old one."""
        (first, *others) = change.folders
        if change.aside is None:
            return None
        shutil.rmtree(change.aside, ignore_errors=True)  # left by a run that was killed between the exchange and its end
        folder = os.path.realpath(first.folder)
        if others or os.path.ismount(folder) or load_renameat2() is None or not _is_whole_or_empty(folder):
            return None
        exchange = cls(folder, change.aside)
        try:
            os.makedirs(exchange.beside)
            if not exchange._fill(first):
                exchange._drop()
                return None
            shutil.copymode(folder, exchange.beside)
            locks.follow(first.folder, exchange.beside)
        except OSError:
            exchange._drop()
            return None
        except BaseException:
            exchange._drop()
            raise
        return exchange

    def _fill(self, change: FolderChange) -> bool:
        """Link all files into the new folder and compare it with its manifest; return False where the old one has links of its own.

        Raises:
          LostShardError: a staged file is gone.
          MismatchError: the new folder differs from the manifest.
        """
        dropped = {*change.placed, *change.written, *change.removed, *UNLINKED}
        self.unsynced = [self.beside]
        for relative in _files_below(self.folder, dropped):
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
        """Exchange the folders and delete the old one; return False, with the new one deleted, where the system refuses."""
        exchange = load_renameat2()
        assert exchange is not None
        if exchange(AT_FDCWD, os.fsencode(self.beside), AT_FDCWD, os.fsencode(self.folder), RENAME_EXCHANGE) != 0:
            self._drop()
            return False
        self._drop()
        return True

    def _drop(self) -> None:
        shutil.rmtree(self.beside, ignore_errors=True)


def _is_whole_or_empty(folder: str) -> bool:
    """Return whether ``folder`` holds a complete output, or nothing but unfinished files and state of runs."""
    return os.path.exists(os.path.join(folder, SUCCESS)) or {*os.listdir(folder)} <= {STAGING, STATE}


def _files_below(folder: str, dropped: set[str]) -> Iterator[str | None]:
    """Yield the relative paths of the files below ``folder``, without staged and ``dropped`` ones; None for each folder with symlinks."""
    for parent, folders, names in os.walk(folder):
        below = os.path.relpath(parent, folder)
        if below == ".":
            folders[:] = [name for name in folders if name != STAGING]
        if any(os.path.islink(os.path.join(parent, name)) for name in (*folders, *names)):
            yield None
        for name in names:
            relative = os.path.normpath(os.path.join(below, name))
            if relative not in dropped:
                yield relative


def load_renameat2() -> ctypes._CFuncPtr | None:  # type: ignore[name-defined]
    try:
        return ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return None


def entries(small: Mapping[str, bytes]) -> list[FileEntry]:
    """Return the manifest's entries of small files, given by name."""
    return [FileEntry(name=name, bytes=len(content), crc32c=crc32c(content)) for name, content in small.items()]
