"""One folder's part of a change, as its journal lists it: what is due, and how it is done on a disk and in a bucket.

A file that stands at its name is known by its size and checksum, never by the name: another run's files have the same names.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from typing import Protocol

import google_crc32c
import msgspec

from transforms.output.published_names import leaves_folder
from transforms.specs.errors import UnpublishableError
from transforms.specs.job import STAGING
from transforms.specs.own_names import SUCCESS
from transforms.storage import files, gcs, paths

BLOCK_BYTES = 1 << 20


class LostShardError(UnpublishableError):
    """A finished shard is not where it was written."""


def lost(path: str, folder: str) -> LostShardError:
    """Return the error about a staged file that is gone."""
    return LostShardError(
        f"{path} is gone: another run published to {folder} while this one ran, or its staging was removed. "
        "Nothing of this run is published; start it again"
    )


class Placed(msgspec.Struct, frozen=True):
    """A file to be placed under ``name``; it is staged at ``path``."""

    name: str
    path: str
    bytes: int
    crc32c: str


class Part(msgspec.Struct):
    """What becomes of one folder."""

    folder: str
    placed: list[Placed]
    removed: list[str]


class Placing(Protocol):
    """The work on one folder: ``look`` first, then the steps in any order, each as often as wanted."""

    part: Part
    due: dict[str, Placed]
    lost: list[Placed]
    stale: list[str]

    def look(self) -> None:
        """Finds what is ``due``, what of it is ``lost`` (neither staged nor in place), and which of the removed names are there."""

    def place(self, names: Iterable[str]) -> None:
        """Places those of ``names`` that are due."""

    def remove(self, names: Iterable[str]) -> None:
        """Removes files."""

    def is_right(self, placed: Placed) -> bool:
        """Whether the very file is in place."""

    def has_marker(self) -> bool:
        """Whether ``_SUCCESS`` was there at the last look."""

    def sync(self) -> None:
        """Makes sure that what was done outlives the machine."""


def placing(part: Part, is_recovery: bool) -> Placing:
    """Gives the work on ``part``. In a recovery staged files are read, and only believed inside of a staging folder of the output's own."""
    return _BucketPlacing(part) if paths.is_remote(part.folder) else _DiskPlacing(part, is_recovery)


def _staging_prefixes(folder: str) -> Iterator[str]:
    """Gives the staging folders that may hold files for ``folder``: its own, and those of the folders it lies in (a run of many's)."""
    above = folder.rstrip("/")
    while "/" in above and not above.endswith("/"):
        yield f"{above}/{STAGING}/"
        above = above.rpartition("/")[0]


def lies_in_staging(path: str, folder: str) -> bool:
    """Whether ``path`` can be a staged file for ``folder``; a link that leads elsewhere is none."""
    path, folder = (path, folder.rstrip("/")) if paths.is_remote(folder) else (os.path.realpath(path), os.path.realpath(folder))
    return ".." not in path.split("/") and any(path.startswith(prefix) for prefix in _staging_prefixes(folder))


def checksum(path: str) -> tuple[int, str]:
    """Gives size and crc32c of a file, having read it."""
    found, size = google_crc32c.Checksum(), 0
    with files.open_raw(path) as stream:
        while block := stream.read(BLOCK_BYTES):
            found.update(block)
            size += len(block)
    return size, found.hexdigest().decode()


# --- on a disk -------------------------------------------------------------------------------------------------------------


class _DiskPlacing:
    def __init__(self, part: Part, is_recovery: bool) -> None:
        self.part, self.is_recovery = part, is_recovery
        self.due: dict[str, Placed] = {}
        self.lost: list[Placed] = []
        self.stale: list[str] = []
        self.touched: set[str] = set()

    def look(self) -> None:
        self.due, self.lost, self.stale = {}, [], []
        for placed in self.part.placed:
            if self._is_staged(placed):
                self.due[placed.name] = placed
            elif not self.is_right(placed):
                self.lost.append(placed)
        kept = {placed.name for placed in self.part.placed}
        self.stale = [name for name in self.part.removed if name not in kept and os.path.lexists(self._at(name))]

    def _is_staged(self, placed: Placed) -> bool:
        if not os.path.isfile(placed.path):
            return False
        if not self.is_recovery:
            return os.path.getsize(placed.path) == placed.bytes
        return lies_in_staging(placed.path, self.part.folder) and checksum(placed.path) == (placed.bytes, placed.crc32c)

    def _at(self, name: str) -> str:
        return paths.join(self.part.folder, name)

    def is_right(self, placed: Placed) -> bool:
        path = self._at(placed.name)
        if not os.path.isfile(path) or os.path.getsize(path) != placed.bytes:
            return False
        return checksum(path) == (placed.bytes, placed.crc32c)

    def has_marker(self) -> bool:
        return os.path.exists(self._at(SUCCESS))

    def place(self, names: Iterable[str]) -> None:
        for name in names:
            placed = self.due.get(name)
            if placed is not None:
                destination = self._at(name)
                try:
                    _replace(placed.path, destination)
                except FileNotFoundError:  # the folder, or the source: then again
                    os.makedirs(os.path.dirname(destination), exist_ok=True)
                    _replace(placed.path, destination)
                self.touched.add(os.path.dirname(destination))

    def remove(self, names: Iterable[str]) -> None:
        inside = os.path.realpath(self.part.folder)
        for name in names:
            path = self._at(name)
            if leaves_folder(name) or not f"{os.path.realpath(os.path.dirname(path))}/".startswith(f"{inside}/"):
                continue
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
                self.touched.add(os.path.dirname(path))

    def sync(self) -> None:
        sync_files(self.touched)
        self.touched = set()


def _replace(source: str, destination: str) -> None:
    try:
        os.replace(source, destination)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # Another disk is mounted there: copied, then whole at once all the same. A name that the next attempt has too.
        beside = os.path.join(os.path.dirname(destination), f".{os.path.basename(destination)}.nightshift")
        try:
            shutil.copyfile(source, beside)
            sync_files([beside])
            os.replace(beside, destination)
        except OSError:
            with contextlib.suppress(OSError):
                os.remove(beside)
            raise
        os.remove(source)


def sync_files(paths: Collection[str]) -> None:
    """Makes the system write files or folders of a disk to it, with all that they hold."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


# --- in a bucket -----------------------------------------------------------------------------------------------------------


class _BucketPlacing:
    """Copies and deletions name the generation that was seen by ``look``, under the lock: of another's object nothing is done."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.due: dict[str, Placed] = {}
        self.lost: list[Placed] = []
        self.stale: list[str] = []
        self.there: dict[str, gcs.Object] = {}

    def look(self) -> None:
        names = {*(placed.name for placed in self.part.placed), *self.part.removed}
        self.there = list_bucket(self.part.folder, any("/" in name for name in names))
        self.due, self.lost = {}, []
        wanted = [placed for placed in self.part.placed if placed.name == SUCCESS or not self.is_right(placed)]
        staged = _listed({placed.path.rpartition("/")[0] for placed in wanted})
        for placed in wanted:
            if staged.get(placed.path) == (placed.bytes, placed.crc32c) and lies_in_staging(placed.path, self.part.folder):
                self.due[placed.name] = placed
            elif not self.is_right(placed):
                self.lost.append(placed)
        kept = {placed.name for placed in self.part.placed}
        self.stale = [name for name in self.part.removed if name not in kept and name in self.there]

    def is_right(self, placed: Placed) -> bool:
        found = self.there.get(placed.name)
        return found is not None and (found.size_bytes, found.crc32c) == (placed.bytes, placed.crc32c)

    def has_marker(self) -> bool:
        return SUCCESS in self.there

    def place(self, names: Iterable[str]) -> None:
        wanted = [self.due[name] for name in names if name in self.due]
        statuses = gcs.copy_over([(one.path, paths.join(self.part.folder, one.name), self._generation(one.name)) for one in wanted])
        refused = [(one, status) for one, status in zip(wanted, statuses, strict=True) if status >= 400]
        if refused:  # a try whose answer was lost may have done it
            self.there = list_bucket(self.part.folder, any("/" in one.name for one, _ in refused))
        for one, status in refused:
            if not self.is_right(one):
                if status == 404:
                    raise lost(one.path, self.part.folder)
                self._refuse(one.name, status)

    def remove(self, names: Iterable[str]) -> None:
        wanted = [name for name in names if name in self.there]
        objects = [(paths.join(self.part.folder, name), self._generation(name)) for name in wanted]
        for name, status in zip(wanted, gcs.delete_seen(objects), strict=True):
            if status >= 400 and status != 404:
                self._refuse(name, status)
            del self.there[name]

    def _generation(self, name: str) -> int:
        return self.there[name].generation if name in self.there else 0

    def _refuse(self, name: str, status: int) -> None:
        path = paths.join(self.part.folder, name)
        if status == 412:
            raise gcs.ChangedError(path, "was changed by another run while this one published; it is left as it is")
        raise gcs.StorageError(path, f"can't be changed (HTTP status {status})")

    def sync(self) -> None:
        pass


def list_bucket(folder: str, deep: bool) -> dict[str, gcs.Object]:
    """Gives the objects of a folder by their names in it; those deeper down too, if ``deep``, but for staged ones."""
    prefix = folder.rstrip("/") + "/"
    found = ((one.path[len(prefix) :], one) for one in gcs.list_prefix(prefix, deep=deep))
    return {name: one for name, one in found if not name.startswith(f"{STAGING}/")}


def _listed(folders: Collection[str]) -> dict[str, tuple[int, str]]:
    return {one.path: (one.size_bytes, one.crc32c) for folder in folders for one in gcs.list_prefix(folder + "/")}
