"""One folder's part of a change, as its journal lists it: the files that are due, and how a disk and a bucket place them.

A file in place is recognized by size and checksum, never by its name: the files of other runs have the same names.
"""

from __future__ import annotations

import contextlib
import os
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
    """Return the error that the staged file at ``path``, which was to be published to ``folder``, is gone."""
    return LostShardError(
        f"{path} is gone: another run published to {folder} while this one ran, or its staging was removed. "
        "Nothing of this run is published; start it again"
    )


class Placed(msgspec.Struct, frozen=True):
    """A file that is staged at ``path``, to be placed under ``name``."""

    name: str
    path: str
    bytes: int
    crc32c: str


class Part(msgspec.Struct):
    """The change of one folder: the files to place there, and the names to remove."""

    folder: str
    placed: list[Placed]
    removed: list[str]


class Placing(Protocol):
    """The change of one folder: ``look`` first, then the steps in any order, each as often as needed.

    ``due`` holds the files to place by name, ``lost`` those neither staged nor in place, ``stale`` the names to remove that exist.
    """

    part: Part
    due: dict[str, Placed]
    lost: list[Placed]
    stale: list[str]

    def look(self) -> None:
        """List the folder and its staging: set ``due``, ``lost`` and ``stale``."""

    def place(self, names: Iterable[str]) -> None:
        """Place those files of ``names`` that are due.

        Raises:
          LostShardError: a staged file is gone.
          ChangedError: another run changed the file in place.
        """

    def remove(self, names: Iterable[str]) -> None:
        """Remove files by name; those that do not exist are left out."""

    def is_right(self, placed: Placed) -> bool:
        """Return whether the file in place has the size and checksum of ``placed``."""

    def has_marker(self) -> bool:
        """Return whether ``_SUCCESS`` is in the folder; in a bucket, whether it was at the last ``look``."""

    def sync(self) -> None:
        """Synchronize the placed and removed names to the disk, so that the change outlives the machine."""


def placing(part: Part, is_recovery: bool) -> Placing:
    """Make the ``Placing`` of ``part``, for a disk or a bucket.

    In a recovery staged files count only if they are in a staging folder of the output and their checksums are right.
    """
    return _BucketPlacing(part) if paths.is_remote(part.folder) else _DiskPlacing(part, is_recovery)


def _staging_prefixes(folder: str) -> Iterator[str]:
    """Yield the staging folders that may hold files for ``folder``: its own, and those of the folders above it (a run of many's)."""
    above = folder.rstrip("/")
    while "/" in above and not above.endswith("/"):
        yield f"{above}/{STAGING}/"
        above = above.rpartition("/")[0]


def lies_in_staging(path: str, folder: str) -> bool:
    """Return whether ``path`` can be a staged file for ``folder``; symbolic links are resolved first."""
    path, folder = (path, folder.rstrip("/")) if paths.is_remote(folder) else (os.path.realpath(path), os.path.realpath(folder))
    return ".." not in path.split("/") and any(path.startswith(prefix) for prefix in _staging_prefixes(folder))


def checksum(path: str) -> tuple[int, str]:
    """Read a file; return its size in bytes and its CRC32C."""
    crc32c, size = google_crc32c.Checksum(), 0
    with files.open_raw(path) as stream:
        while block := stream.read(BLOCK_BYTES):
            crc32c.update(block)
            size += len(block)
    return size, crc32c.hexdigest().decode()


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
                # Where it is copied first, the next attempt uses the same name for the copy.
                beside = os.path.join(os.path.dirname(destination), f".{os.path.basename(destination)}.nightshift")
                try:
                    files.replace(placed.path, destination, beside)
                except FileNotFoundError:  # the folder is missing, or the source: that raises again
                    os.makedirs(os.path.dirname(destination), exist_ok=True)
                    files.replace(placed.path, destination, beside)
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
        files.sync(self.touched)
        self.touched = set()


# --- in a bucket -----------------------------------------------------------------------------------------------------------


class _BucketPlacing:
    """Copies and deletes objects of the generation that ``look`` saw under the lock, so that it never changes another run's object."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.due: dict[str, Placed] = {}
        self.lost: list[Placed] = []
        self.stale: list[str] = []
        self.objects: dict[str, gcs.Object] = {}

    def look(self) -> None:
        names = {*(placed.name for placed in self.part.placed), *self.part.removed}
        self.objects = list_bucket(self.part.folder, any("/" in name for name in names))
        self.due, self.lost = {}, []
        absent = [placed for placed in self.part.placed if placed.name == SUCCESS or not self.is_right(placed)]
        staged = _sizes_and_checksums({placed.path.rpartition("/")[0] for placed in absent})
        for placed in absent:
            if staged.get(placed.path) == (placed.bytes, placed.crc32c) and lies_in_staging(placed.path, self.part.folder):
                self.due[placed.name] = placed
            elif not self.is_right(placed):
                self.lost.append(placed)
        kept = {placed.name for placed in self.part.placed}
        self.stale = [name for name in self.part.removed if name not in kept and name in self.objects]

    def is_right(self, placed: Placed) -> bool:
        current = self.objects.get(placed.name)
        return current is not None and (current.size_bytes, current.crc32c) == (placed.bytes, placed.crc32c)

    def has_marker(self) -> bool:
        return SUCCESS in self.objects

    def place(self, names: Iterable[str]) -> None:
        due = [self.due[name] for name in names if name in self.due]
        statuses = gcs.copy_over([(file.path, paths.join(self.part.folder, file.name), self._generation(file.name)) for file in due])
        refusals = [(file, status) for file, status in zip(due, statuses, strict=True) if status >= 400]
        if refusals:  # an earlier try, whose answer was lost, may have copied it
            self.objects = list_bucket(self.part.folder, any("/" in file.name for file, _ in refusals))
        for file, status in refusals:
            if not self.is_right(file):
                if status == 404:
                    raise lost(file.path, self.part.folder)
                self._raise_refusal(file.name, status)

    def remove(self, names: Iterable[str]) -> None:
        present = [name for name in names if name in self.objects]
        seen = [(paths.join(self.part.folder, name), self._generation(name)) for name in present]
        for name, status in zip(present, gcs.delete_seen(seen), strict=True):
            if status >= 400 and status != 404:
                self._raise_refusal(name, status)
            del self.objects[name]

    def _generation(self, name: str) -> int:
        return self.objects[name].generation if name in self.objects else 0

    def _raise_refusal(self, name: str, status: int) -> None:
        path = paths.join(self.part.folder, name)
        if status == 412:
            raise gcs.ChangedError(path, "was changed by another run while this one published; it is left as it is")
        raise gcs.StorageError(path, f"can't be changed (HTTP status {status})")

    def sync(self) -> None:
        pass


def list_bucket(folder: str, deep: bool) -> dict[str, gcs.Object]:
    """List the objects of a folder by their names in it, without staged ones; with those of the folders below it if ``deep``."""
    prefix = folder.rstrip("/") + "/"
    named = ((item.path[len(prefix) :], item) for item in gcs.list_prefix(prefix, deep=deep))
    return {name: item for name, item in named if not name.startswith(f"{STAGING}/")}


def _sizes_and_checksums(folders: Collection[str]) -> dict[str, tuple[int, str]]:
    return {item.path: (item.size_bytes, item.crc32c) for folder in folders for item in gcs.list_prefix(folder + "/")}
