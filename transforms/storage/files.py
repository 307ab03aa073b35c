"""Files and folders by path, local or ``gs://``.

A path that exists names that file or folder, even if it contains ``*``, ``?`` or brackets; only a path that does not exist is a pattern.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fnmatch
import functools
import glob
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import BinaryIO

from transforms.storage import gcs, table_folders
from transforms.storage.paths import is_remote
from transforms.storage.pins import FileChangedError, Pin

GLOB_CHARACTERS = re.compile(r"[*?\[]")
HIDDEN = re.compile(r"/[_.]")


@dataclasses.dataclass(frozen=True)
class FoundFile:
    """A file that a pattern matched.

    Attributes:
      path: the path as matched.
      relative: the path below the pattern's fixed part.
      updated: time of the last change, in seconds since 1970.
      place: the real path, the same for two spellings of one path and for a link and its target.
      pin: size and time of change, or generation, when the file was listed.
      crc32c: checksum of the bytes in hexadecimal, where a bucket lists it.
    """

    path: str
    size_bytes: int
    relative: str
    updated: float = 0.0
    place: str = ""
    pin: Pin | None = None
    crc32c: str = ""

    def __post_init__(self) -> None:
        if not self.place:
            object.__setattr__(self, "place", self.path)


class LeavesFolderError(PermissionError):
    """A link in an input folder points outside that folder."""


def place(path: str) -> str:
    """Return one spelling for the folder ``path``: its real path on a disk, or its bucket and name without ``//`` and ``.``.

    In a bucket, ``a//b`` and ``a/b`` can be two objects; two folders are never meant to differ only by that.
    """
    if not is_remote(path):
        return os.path.realpath(path)
    scheme, _, rest = path.partition("://")
    return f"{scheme}://" + "/".join(segment for segment in rest.split("/") if segment not in ("", "."))


def match(pattern: str) -> Iterator[FoundFile]:
    """Yield the files that ``pattern`` names, each once: one file, all files below a folder, or those that a glob matches.

    Below a folder, names that begin with ``_`` or ``.`` are skipped, as Hadoop's and Beam's readers do. In a glob, ``*``
    and ``?`` match within one folder, ``**`` matches any number of folders, and a leading dot is matched only by a dot.
    A file that is matched both directly and through links has its own name; one matched only through several links has
    the first link's name.

    Raises:
      LeavesFolderError: a link points outside the folder. Those who can put files there must not choose what else of the machine is read.
      TableFolderError: a file that is not named by its own path is part of a Delta, Iceberg or Hudi table.
      OSError: a folder can't be read.
    """
    path = pattern.rstrip("/") if len(pattern) > 1 else pattern
    if is_remote(path):
        yield from _match_remote(path)
    elif os.path.isfile(path):
        yield _local(path, os.path.basename(path), os.path.realpath(path))
    elif os.path.isdir(path):
        yield from _below(path)
    elif GLOB_CHARACTERS.search(path):
        yield from _globbed(path)


def match_once(patterns: Sequence[str]) -> Iterator[FoundFile]:
    """Yield each file that ``patterns`` name once, as its first pattern matches it; the places of all files are held in memory."""
    places: set[str] = set()
    for pattern in patterns:
        for file in match(pattern):
            if file.place not in places:
                places.add(file.place)
                yield file


def _local(path: str, relative: str, place: str) -> FoundFile:
    status = os.stat(path)
    return FoundFile(path, status.st_size, relative, status.st_mtime, place, _pin(status))


def _pin(status: os.stat_result) -> Pin:
    return Pin(status.st_size, changed_ns=status.st_mtime_ns)


class _Folder:
    """A folder in which files are matched, each once; caches the real path of each of its subfolders."""

    def __init__(self, path: str, is_matched: Callable[[str], bool]) -> None:
        """Take the folder and a test: does the pattern match this path below the folder without following a link?"""
        self.path, self.is_matched = path, is_matched
        self.real = functools.cache(os.path.realpath)
        self.tables = table_folders.Tables()
        self.linked: set[str] = set()

    def take(self, path: str) -> Iterator[FoundFile]:
        """Yield the file at ``path``, unless it is also matched under another name."""
        parent, name = os.path.split(path)
        target = os.path.realpath(path) if os.path.islink(path) else os.path.join(self.real(parent or "."), name)
        above = self.real(self.path).rstrip("/") + "/"
        if not target.startswith(above):
            raise LeavesFolderError(f"{path} is a link that leaves the folder, to {target}; name that file, or remove the link")
        self.tables.check(path, os.path.dirname(target))
        relative = os.path.relpath(path, self.path)
        if above + relative != target or _has_detour(path, self.path):  # by a link, or by a path of which there are many
            if target in self.linked or (os.path.isfile(target) and self.is_matched(target[len(above) :])):
                return
            self.linked.add(target)
        yield _local(path, relative, target)

    def check_linked(self, path: str) -> None:
        """Raise LeavesFolderError if ``path`` is a link to a folder whose files are not matched otherwise: such links are not followed."""
        if os.path.islink(path):
            target, above = os.path.realpath(path), self.real(self.path).rstrip("/") + "/"
            if not f"{target}/".startswith(above) or not self.is_matched(target[len(above) :]):
                raise LeavesFolderError(f"{path} is a link to the folder {target}, which is not followed; name that folder in --input too")


def _has_detour(path: str, folder: str) -> bool:
    """Return whether ``path`` has ``..`` or ``.`` below ``folder``: the pattern ``*/../rows.jsonl`` matches one file once per folder."""
    below = path[len(folder) :]
    return "/../" in below or "/./" in below


def _below(path: str) -> Iterator[FoundFile]:
    def fail(error: OSError) -> None:
        raise error  # else os.walk skips the files of an unreadable folder

    folder = _Folder(path, lambda relative: not HIDDEN.search("/" + relative))
    for parent, folders, names in os.walk(path, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith(("_", ".")))
        for name in folders:
            folder.check_linked(os.path.join(parent, name))
        for name in sorted(names):
            if not name.startswith(("_", ".")):
                yield from folder.take(os.path.join(parent, name))


def _globbed(pattern: str) -> Iterator[FoundFile]:
    fixed = _fixed_part(pattern) or "."
    _check_folders(pattern, fixed)
    paths = sorted(glob.iglob(pattern, recursive=True))
    relatives: set[str] = set()

    def is_matched(relative: str) -> bool:
        if not relatives:  # filled only if there are links
            relatives.update(os.path.relpath(path, fixed) for path in paths if not _has_detour(path, fixed))
        return relative in relatives

    folder = _Folder(fixed, is_matched)
    for path in paths:
        if os.path.isfile(path) or (os.path.islink(path) and not os.path.exists(path)):  # a broken link is a lost file
            yield from folder.take(path)


def _check_folders(pattern: str, fixed: str) -> None:
    """Raise OSError for a folder of the pattern that can't be listed: ``glob`` skips it, and its files would be lost."""
    segments = pattern[len(fixed) if pattern.startswith(fixed) else 0 :].strip("/").split("/")
    above = fixed
    for segment in segments:
        below = f"{above.rstrip('/')}/{segment}"
        for folder in glob.iglob(f"{below if segment == '**' else above.rstrip('/')}/", recursive=True):
            os.stat(os.path.join(folder, "."))
            if GLOB_CHARACTERS.search(segment):
                os.scandir(folder).close()
        above = below


def _fixed_part(pattern: str) -> str:
    return os.path.dirname(GLOB_CHARACTERS.split(pattern, maxsplit=1)[0])


def _remote(listed: gcs.Object, folder: str) -> FoundFile:
    relative = listed.path[len(folder) :].lstrip("/")
    return FoundFile(listed.path, listed.size_bytes, relative, listed.updated, pin=listed.pin, crc32c=listed.crc32c)


def _readable(listed: gcs.Object, folder: str) -> FoundFile:
    """Return an object as an input file.

    Cloud Storage decompresses an object with ``Content-Encoding: gzip`` while sending it, so neither its size nor its ranges can be
    used (https://cloud.google.com/storage/docs/transcoding).

    Raises:
      StorageError: it has that encoding and a name that does not end in ``.gz``.
    """
    if listed.encoding == "gzip" and not listed.path.lower().endswith(".gz"):
        raise gcs.StorageError(listed.path, "is stored with Content-Encoding: gzip; rename it to end in .gz, or upload it uncompressed")
    return _remote(listed, folder)


def _match_remote(path: str) -> Iterator[FoundFile]:
    """Yield the objects that ``path`` matches, listed once and page by page: a folder of a million objects is never all in memory."""
    itself = gcs.find(path)
    if itself is not None:
        yield _readable(itself, os.path.dirname(path))
        return
    below = False
    tables = table_folders.ListedTables()
    for listed in gcs.list_prefix(path + "/"):
        below = True
        tables.see(listed.path)
        if not HIDDEN.search(listed.path[len(path) :]):
            tables.take(listed.path)
            yield _readable(listed, path)
    if below or not GLOB_CHARACTERS.search(path):
        return
    fixed = _fixed_part(path)
    segments = _pattern_segments(path)
    for listed in gcs.list_prefix(GLOB_CHARACTERS.split(path, maxsplit=1)[0]):
        tables.see(listed.path)
        if _matches(segments, listed.path.split("/")):
            tables.take(listed.path)
            yield _readable(listed, fixed)


def _pattern_segments(pattern: str) -> list[str]:
    """Split a pattern at its slashes; ``**.jsonl``, which Cloud Storage's tools accept, becomes ``**/*.jsonl``."""
    segments: list[str] = []
    for segment in pattern.split("/"):
        if segment.startswith("**") and segment != "**":
            segments += ["**", segment[1:]]
        else:
            segments.append(segment)
    return segments


def _matches(segments: Sequence[str], names: Sequence[str]) -> bool:
    """Return whether the pattern's segments match a path's names, by the rules of ``glob.glob(recursive=True)``."""
    if not segments or not names:
        return not names and all(segment == "**" for segment in segments)
    hidden = names[0].startswith(".") and not segments[0].startswith(".")
    if segments[0] == "**":
        return _matches(segments[1:], names) or (not hidden and _matches(segments, names[1:]))
    return not hidden and fnmatch.fnmatchcase(names[0], segments[0]) and _matches(segments[1:], names[1:])


def list_folder(folder: str) -> list[FoundFile]:
    """Return every file below ``folder``, hidden ones included; an empty list if the folder is missing or empty."""
    folder = folder.rstrip("/")
    if is_remote(folder):
        return [_remote(listed, folder) for listed in gcs.list_prefix(folder + "/")]
    real = functools.cache(os.path.realpath)
    return [
        _local(path, path[len(folder) + 1 :], os.path.realpath(path) if os.path.islink(path) else os.path.join(real(parent), name))
        for parent, _, names in os.walk(folder)
        for name in sorted(names)
        for path in (os.path.join(parent, name),)
    ]


def list_children(folder: str) -> list[str]:
    """Return the names directly inside ``folder``, files and folders, sorted."""
    if is_remote(folder):
        return gcs.list_names(folder)
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def is_link(path: str) -> bool:
    """Return whether ``path`` is a symbolic link on a disk."""
    return not is_remote(path) and os.path.islink(path)


def exists(path: str) -> bool:
    """Return whether ``path`` is a file."""
    return gcs.find(path) is not None if is_remote(path) else os.path.isfile(path)


def existing(paths: Collection[str]) -> set[str]:
    """Return those of ``paths`` that are files; a bucket's folders are listed instead of asking for each object."""
    folders = {path.rsplit("/", 1)[0] for path in paths if is_remote(path)}
    listed = {file.path for folder in folders for file in list_folder(folder)}
    return {path for path in paths if (path in listed if is_remote(path) else exists(path))}


def read_bytes(path: str, pin: Pin | None = None) -> bytes:
    """Return the bytes of ``path`` as they are, compressed or not.

    Raises:
      FileChangedError: the file differs from ``pin``, before or after reading.
    """
    if is_remote(path):
        return gcs.read(path, pin)
    with open_raw(path, pin) as stream:
        content = stream.read()
        check_unchanged(path, pin, stream)
        return content


def open_raw(path: str, pin: Pin | None = None) -> BinaryIO:
    """Open ``path`` for reading its bytes as they are, compressed or not.

    Raises:
      FileChangedError: the file differs from ``pin``. For an object of a bucket this may be raised by the first read instead.
    """
    if is_remote(path):
        return gcs.open_reader(path, pin)
    try:
        stream = open(path, "rb")  # noqa: SIM115  # the caller closes it
    except FileNotFoundError:
        if pin is None:
            raise
        raise FileChangedError(path, pin, None) from None
    if pin is not None and (now := _pin(os.fstat(stream.fileno()))) != pin:
        stream.close()
        raise FileChangedError(path, pin, now)
    return stream


def check_unchanged(path: str, pin: Pin | None, stream: BinaryIO) -> None:
    """Check, after ``stream`` has been read, that it and the file now at ``path`` still match ``pin``.

    Objects of a bucket need no check: a generation never changes, and only that generation was read.

    Raises:
      FileChangedError: the file was written to or replaced meanwhile.
    """
    if pin is None or is_remote(path):
        return
    try:
        path_pin = _pin(os.stat(path))
    except FileNotFoundError:
        raise FileChangedError(path, pin, None) from None
    for now in (_pin(os.fstat(stream.fileno())), path_pin):
        if now != pin:
            raise FileChangedError(path, pin, now)


def create(path: str) -> BinaryIO:
    """Open ``path`` for writing; make its folder if it is missing."""
    if is_remote(path):
        return gcs.open_writer(path)
    try:
        return open(path, "wb")
    except FileNotFoundError:  # rare: checking first would cost a call for every file of every task
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        return open(path, "wb")


def write_bytes(path: str, content: bytes) -> None:
    """Write a small file atomically: after a crash it is whole or absent."""
    if is_remote(path):
        gcs.write(path, content)
        return
    if not content:  # an empty file can't be half written
        create(path).close()
        return
    temporary = f"{path}.{os.getpid()}.tmp"
    with create(temporary) as stream:
        stream.write(content)
    os.replace(temporary, path)


def rename(pairs: list[tuple[str, str]]) -> None:
    """Rename files, each a source and a destination that is replaced."""
    gcs.rename([pair for pair in pairs if is_remote(pair[1])])
    for source, destination in pairs:
        if not is_remote(destination):
            try:
                replace(source, destination, f"{destination}.{os.getpid()}.tmp")
            except FileNotFoundError:  # of the folder, or of the source: then the second call raises it again
                os.makedirs(os.path.dirname(destination) or ".", exist_ok=True)
                replace(source, destination, f"{destination}.{os.getpid()}.tmp")


def replace(source: str, destination: str, beside: str) -> None:
    """Rename a local file; where another disk is mounted at ``destination``, copy it to ``beside``, on that disk, and rename that."""
    try:
        os.replace(source, destination)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        try:
            shutil.copyfile(source, beside)
            sync([beside])
            os.replace(beside, destination)
        except OSError:
            with contextlib.suppress(OSError):
                os.remove(beside)
            raise
        os.remove(source)


def sync(paths: Collection[str]) -> None:
    """Write files, or the entries of folders, to their disk, one call each."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def delete(paths: list[str]) -> None:
    """Delete files; a missing one is no error."""
    gcs.delete([path for path in paths if is_remote(path)])
    for path in paths:
        if not is_remote(path):
            try:
                os.remove(path)
            except FileNotFoundError:
                pass


def delete_folder(folder: str) -> None:
    """Delete ``folder`` and everything below it."""
    if is_remote(folder):
        gcs.delete([listed.path for listed in gcs.list_prefix(folder.rstrip("/") + "/")])
    elif os.path.isdir(folder):
        shutil.rmtree(folder, ignore_errors=True)


def delete_empty(folder: str, above: str) -> None:
    """Remove ``folder`` and its parents below ``above`` while they are empty; do nothing in a bucket, which has no folders."""
    path = folder.rstrip("/")
    while not is_remote(path) and len(path) > len(above.rstrip("/")):
        try:
            os.rmdir(path)
        except FileNotFoundError:
            pass
        except OSError:
            return
        path = os.path.dirname(path)
