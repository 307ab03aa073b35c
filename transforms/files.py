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
from collections.abc import Collection, Iterator, Sequence
from typing import BinaryIO

from transforms import gcs

GLOB_CHARACTERS = re.compile(r"[*?\[]")
HIDDEN = re.compile(r"/[_.]")


@dataclasses.dataclass(frozen=True)
class FoundFile:
    """A file that a pattern matched; ``relative`` is its path below the pattern's fixed part."""

    path: str
    size_bytes: int
    relative: str
    updated: float = 0.0


def is_remote(path: str) -> bool:
    return "://" in path


def join(folder: str, *names: str) -> str:
    """Joins path segments with single slashes."""
    return "/".join([folder.rstrip("/") or "/" * folder.startswith("/"), *names])


def match(pattern: str) -> Iterator[FoundFile]:
    """Gives the files that ``pattern`` names: a file, the files below a folder, or those a glob matches.

    Inside a folder, names that begin with ``_`` or ``.`` are passed over, as Hadoop and Beam's readers do. In a glob ``*``
    and ``?`` stay in their folder, ``**`` is any number of folders, and only a dot written as such matches a leading dot.

    Raises:
      OSError: a link among them leaves the folder. Who may put files there must not choose what else of the machine is read.
    """
    path = pattern.rstrip("/") if len(pattern) > 1 else pattern
    if is_remote(path):
        yield from _match_remote(path)
    elif os.path.isfile(path):
        yield _local(path, os.path.basename(path))
    elif os.path.isdir(path):
        yield from _below(path)
    elif GLOB_CHARACTERS.search(path):
        folder = _Folder(_fixed_part(path) or ".")
        for found in sorted(glob.iglob(path, recursive=True)):
            if os.path.isfile(found):
                yield folder.take(found)


def _local(path: str, relative: str) -> FoundFile:
    return FoundFile(path, os.path.getsize(path), relative, os.path.getmtime(path))


class _Folder:
    """A folder in which files are found; it knows where each of its folders really is."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.real = functools.cache(os.path.realpath)

    def take(self, path: str) -> FoundFile:
        parent, name = os.path.split(path)
        target = os.path.realpath(path) if os.path.islink(path) else os.path.join(self.real(parent or "."), name)
        if not target.startswith(self.real(self.path).rstrip("/") + "/"):
            raise OSError(f"{path} is a link that leaves the folder, to {target}; name that file, or take the link away")
        return _local(path, os.path.relpath(path, self.path))


def _below(path: str) -> Iterator[FoundFile]:
    folder = _Folder(path)
    for parent, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith(("_", ".")))
        for name in sorted(names):
            if not name.startswith(("_", ".")):
                yield folder.take(os.path.join(parent, name))


def _fixed_part(pattern: str) -> str:
    return os.path.dirname(GLOB_CHARACTERS.split(pattern, maxsplit=1)[0])


def _remote(found: gcs.Object, folder: str) -> FoundFile:
    return FoundFile(found.path, found.size_bytes, found.path[len(folder) :].lstrip("/"), found.updated)


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
    for found in gcs.list_prefix(path + "/"):
        below = True
        if not HIDDEN.search(found.path[len(path) :]):
            yield _readable(found, path)
    if below or not GLOB_CHARACTERS.search(path):
        return
    fixed = _fixed_part(path)
    segments = _pattern_segments(path)
    for found in gcs.list_prefix(GLOB_CHARACTERS.split(path, maxsplit=1)[0]):
        if _matches(segments, found.path.split("/")):
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
    return [
        _local(path, path[len(folder) + 1 :])
        for parent, _, names in os.walk(folder)
        for path in (os.path.join(parent, name) for name in sorted(names))
    ]


def list_children(folder: str) -> list[str]:
    """Gives the names directly inside ``folder``, files and folders, sorted."""
    if is_remote(folder):
        return gcs.list_names(folder)
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def exists(path: str) -> bool:
    """Whether ``path`` is a file."""
    return gcs.find(path) is not None if is_remote(path) else os.path.isfile(path)


def existing(paths: Collection[str]) -> set[str]:
    """Gives those of ``paths`` that are files; those of buckets by listing their folders."""
    folders = {path.rsplit("/", 1)[0] for path in paths if is_remote(path)}
    listed = {found.path for folder in folders for found in list_folder(folder)}
    return {path for path in paths if (path in listed if is_remote(path) else exists(path))}


def read_bytes(path: str) -> bytes:
    if is_remote(path):
        return gcs.read(path)
    with open(path, "rb") as stream:
        return stream.read()


def open_raw(path: str) -> BinaryIO:
    """Opens ``path`` for reading its bytes as they are, compressed or not."""
    return gcs.open_reader(path) if is_remote(path) else open(path, "rb")


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
