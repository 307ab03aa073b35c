"""Files and folders by path, local or ``gs://``.

A path that exists is itself, also when it holds ``*``, ``?`` or brackets; only one that does not is a pattern.
"""

from __future__ import annotations

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
    """A file that a pattern matched; ``relative`` is its path below the pattern's fixed part, ``place`` where it really is.

    Two spellings of one path, and a link and its target, have one ``place``. ``pin`` is what it was when it was found, ``crc32c`` of the
    bytes, as a bucket lists it.
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
    """A link in an input folder leads out of it."""


def place(path: str) -> str:
    """Return where the folder ``path`` is, however it is spelled: its real path on a disk, its bucket and name without ``//`` and ``.``.

    In a bucket ``a//b`` and ``a/b`` are two names, as two objects may have them; of folders nobody means to tell two apart by that.
    """
    if not is_remote(path):
        return os.path.realpath(path)
    scheme, _, rest = path.partition("://")
    return f"{scheme}://" + "/".join(segment for segment in rest.split("/") if segment not in ("", "."))


def match(pattern: str) -> Iterator[FoundFile]:
    """Gives the files that ``pattern`` names: a file, the files below a folder, or those a glob matches; each once.

    Inside a folder, names that begin with ``_`` or ``.`` are passed over, as Hadoop and Beam's readers do. In a glob ``*``
    and ``?`` stay in their folder, ``**`` is any number of folders, and only a dot written as such matches a leading dot.
    A file that is matched by itself and through links is found under its own name; one that is matched through several links alone, under
    the first of their names.

    Raises:
      LeavesFolderError: a link among them leaves the folder. Who may put files there must not choose what else of the machine is read.
      TableFolderError: a file among them, not named by itself, is part of a Delta, Iceberg or Hudi table.
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
    """Gives each file that ``patterns`` name once, as the first pattern that names it has it; the places of all are held in memory."""
    places: set[str] = set()
    for pattern in patterns:
        for found in match(pattern):
            if found.place not in places:
                places.add(found.place)
                yield found


def _local(path: str, relative: str, place: str) -> FoundFile:
    status = os.stat(path)
    return FoundFile(path, status.st_size, relative, status.st_mtime, place, _pin(status))


def _pin(status: os.stat_result) -> Pin:
    return Pin(status.st_size, changed_ns=status.st_mtime_ns)


class _Folder:
    """A folder in which files are found, each once; it knows where each of its folders really is."""

    def __init__(self, path: str, is_matched: Callable[[str], bool]) -> None:
        """``is_matched`` tells of a path below the folder, without links in it, whether the file there is found by itself."""
        self.path, self.is_matched = path, is_matched
        self.real = functools.cache(os.path.realpath)
        self.tables = table_folders.Tables()
        self.linked: set[str] = set()

    def take(self, path: str) -> Iterator[FoundFile]:
        """Gives the file at ``path``, or nothing where it is found under another name."""
        parent, name = os.path.split(path)
        target = os.path.realpath(path) if os.path.islink(path) else os.path.join(self.real(parent or "."), name)
        above = self.real(self.path).rstrip("/") + "/"
        if not target.startswith(above):
            raise LeavesFolderError(f"{path} is a link that leaves the folder, to {target}; name that file, or take the link away")
        self.tables.check(path, os.path.dirname(target))
        relative = os.path.relpath(path, self.path)
        if above + relative != target or _has_detour(path, self.path):  # by a link, or by a path of which there are many
            if target in self.linked or (os.path.isfile(target) and self.is_matched(target[len(above) :])):
                return
            self.linked.add(target)
        yield _local(path, relative, target)

    def check_linked(self, path: str) -> None:
        """Raise LeavesFolderError where ``path`` is a link to a folder, which is not followed, whose files are not found by themselves."""
        if os.path.islink(path):
            target, above = os.path.realpath(path), self.real(self.path).rstrip("/") + "/"
            if not f"{target}/".startswith(above) or not self.is_matched(target[len(above) :]):
                raise LeavesFolderError(f"{path} is a link to the folder {target}, which is not followed; name that folder in --input too")


def _has_detour(path: str, folder: str) -> bool:
    """Whether ``path`` goes up or stays below ``folder``, as a pattern may say: ``*/../rows.jsonl`` is one file for each folder."""
    below = path[len(folder) :]
    return "/../" in below or "/./" in below


def _below(path: str) -> Iterator[FoundFile]:
    def fail(error: OSError) -> None:
        raise error  # else the files of a folder that may not be read are passed over

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
        if not relatives:  # made only where there are links
            relatives.update(os.path.relpath(path, fixed) for path in paths if not _has_detour(path, fixed))
        return relative in relatives

    folder = _Folder(fixed, is_matched)
    for path in paths:
        if os.path.isfile(path) or (os.path.islink(path) and not os.path.exists(path)):  # a link to nothing is a file that is lost
            yield from folder.take(path)


def _check_folders(pattern: str, fixed: str) -> None:
    """Raise the OSError of a folder in which files are to be found, and can't be: ``glob`` passes over it, and its files would be lost."""
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


def _remote(found: gcs.Object, folder: str) -> FoundFile:
    relative = found.path[len(folder) :].lstrip("/")
    return FoundFile(found.path, found.size_bytes, relative, found.updated, pin=found.pin, crc32c=found.crc32c)


def _readable(found: gcs.Object, folder: str) -> FoundFile:
    """Gives an object that is to be read, refusing one that is compressed without saying so in its name.

    Cloud Storage unpacks such an object on the way, and then neither its size nor ranges of it can be had
    (https://cloud.google.com/storage/docs/transcoding).
    """
    if found.encoding == "gzip" and not found.path.lower().endswith(".gz"):
        raise gcs.StorageError(found.path, "is stored with Content-Encoding: gzip; rename it to end in .gz, or upload it uncompressed")
    return _remote(found, folder)


def _match_remote(path: str) -> Iterator[FoundFile]:
    """Lists once what can match, page by page: a folder of a million objects is not held in memory."""
    itself = gcs.find(path)
    if itself is not None:
        yield _readable(itself, os.path.dirname(path))
        return
    below = False
    tables = table_folders.ListedTables()
    for found in gcs.list_prefix(path + "/"):
        below = True
        tables.see(found.path)
        if not HIDDEN.search(found.path[len(path) :]):
            tables.take(found.path)
            yield _readable(found, path)
    if below or not GLOB_CHARACTERS.search(path):
        return
    fixed = _fixed_part(path)
    segments = _pattern_segments(path)
    for found in gcs.list_prefix(GLOB_CHARACTERS.split(path, maxsplit=1)[0]):
        tables.see(found.path)
        if _matches(segments, found.path.split("/")):
            tables.take(found.path)
            yield _readable(found, fixed)


def _pattern_segments(pattern: str) -> list[str]:
    """Cuts a pattern at its slashes; ``**.jsonl``, which Cloud Storage's tools know, is ``**/*.jsonl``."""
    segments: list[str] = []
    for segment in pattern.split("/"):
        if segment.startswith("**") and segment != "**":
            segments += ["**", segment[1:]]
        else:
            segments.append(segment)
    return segments


def _matches(segments: Sequence[str], names: Sequence[str]) -> bool:
    """Matches a path's names as ``glob.glob(recursive=True)`` would."""
    if not segments or not names:
        return not names and all(segment == "**" for segment in segments)
    hidden = names[0].startswith(".") and not segments[0].startswith(".")
    if segments[0] == "**":
        return _matches(segments[1:], names) or (not hidden and _matches(segments, names[1:]))
    return not hidden and fnmatch.fnmatchcase(names[0], segments[0]) and _matches(segments[1:], names[1:])


def list_folder(folder: str) -> list[FoundFile]:
    """Gives every file below ``folder``, hidden ones too; an empty list when there is none."""
    folder = folder.rstrip("/")
    if is_remote(folder):
        return [_remote(found, folder) for found in gcs.list_prefix(folder + "/")]
    real = functools.cache(os.path.realpath)
    return [
        _local(path, path[len(folder) + 1 :], os.path.realpath(path) if os.path.islink(path) else os.path.join(real(parent), name))
        for parent, _, names in os.walk(folder)
        for name in sorted(names)
        for path in (os.path.join(parent, name),)
    ]


def list_children(folder: str) -> list[str]:
    """Gives the names directly inside ``folder``, files and folders, sorted."""
    if is_remote(folder):
        return gcs.list_names(folder)
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def is_link(path: str) -> bool:
    """Return whether ``path`` is a symbolic link of a disk."""
    return not is_remote(path) and os.path.islink(path)


def exists(path: str) -> bool:
    """Whether ``path`` is a file."""
    return gcs.find(path) is not None if is_remote(path) else os.path.isfile(path)


def existing(paths: Collection[str]) -> set[str]:
    """Gives those of ``paths`` that are files; those of buckets by listing their folders."""
    folders = {path.rsplit("/", 1)[0] for path in paths if is_remote(path)}
    listed = {found.path for folder in folders for found in list_folder(folder)}
    return {path for path in paths if (path in listed if is_remote(path) else exists(path))}


def read_bytes(path: str, pin: Pin | None = None) -> bytes:
    """Gives the bytes of ``path`` as they are, compressed or not.

    Raises:
      FileChangedError: it is not what ``pin`` says, or was not when its last byte came.
    """
    if is_remote(path):
        return gcs.read(path, pin)
    with open_raw(path, pin) as stream:
        content = stream.read()
        check_unchanged(path, pin, stream)
        return content


def open_raw(path: str, pin: Pin | None = None) -> BinaryIO:
    """Opens ``path`` for reading its bytes as they are, compressed or not.

    Raises:
      FileChangedError: it is not what ``pin`` says. An object of a bucket is found to be another when it is read, at the latest.
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
    """Checks that ``stream`` and what now lies at ``path`` are still what ``pin`` says; for use when ``stream`` has been read.

    A generation of an object never changes, and nothing else was read.

    Raises:
      FileChangedError: written to meanwhile, or another file has taken its place.
    """
    if pin is None or is_remote(path):
        return
    try:
        there = _pin(os.stat(path))
    except FileNotFoundError:
        raise FileChangedError(path, pin, None) from None
    for now in (_pin(os.fstat(stream.fileno())), there):
        if now != pin:
            raise FileChangedError(path, pin, now)


def create(path: str) -> BinaryIO:
    """Opens ``path`` for writing, making its folder where the file system has folders."""
    if is_remote(path):
        return gcs.open_writer(path)
    try:
        return open(path, "wb")
    except FileNotFoundError:  # rarely: looking first would cost every file of every task
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        return open(path, "wb")


def write_bytes(path: str, content: bytes) -> None:
    """Writes a small file so that it is there whole or not at all."""
    if is_remote(path):
        gcs.write(path, content)
        return
    if not content:  # there or not there: nothing of it can be half written
        create(path).close()
        return
    temporary = f"{path}.{os.getpid()}.tmp"
    with create(temporary) as stream:
        stream.write(content)
    os.replace(temporary, path)


def rename(pairs: list[tuple[str, str]]) -> None:
    """Renames files over what stands at their destination."""
    gcs.rename([pair for pair in pairs if is_remote(pair[1])])
    for source, destination in pairs:
        if not is_remote(destination):
            try:
                _replace(source, destination)
            except FileNotFoundError:  # the folder, or the source: then again
                os.makedirs(os.path.dirname(destination) or ".", exist_ok=True)
                _replace(source, destination)


def _replace(source: str, destination: str) -> None:
    try:
        os.replace(source, destination)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = f"{destination}.{os.getpid()}.tmp"  # another disk is mounted there: copied, then whole at once all the same
        shutil.copyfile(source, beside)
        os.replace(beside, destination)
        os.remove(source)


def delete(paths: list[str]) -> None:
    """Deletes files; one that is gone already is no error."""
    gcs.delete([path for path in paths if is_remote(path)])
    for path in paths:
        if not is_remote(path):
            try:
                os.remove(path)
            except FileNotFoundError:
                pass


def delete_folder(folder: str) -> None:
    """Deletes everything below ``folder`` and the folder."""
    if is_remote(folder):
        gcs.delete([found.path for found in gcs.list_prefix(folder.rstrip("/") + "/")])
    elif os.path.isdir(folder):
        shutil.rmtree(folder, ignore_errors=True)


def delete_empty(folder: str, above: str) -> None:
    """Takes away ``folder`` and those it lies in, below ``above``, as far as they are empty; buckets have no folders."""
    path = folder.rstrip("/")
    while not is_remote(path) and len(path) > len(above.rstrip("/")):
        try:
            os.rmdir(path)
        except FileNotFoundError:
            pass
        except OSError:
            return
        path = os.path.dirname(path)
