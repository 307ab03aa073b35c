"""Files and folders by path, local or ``gs://``, through Beam's FileSystems.

Beam takes every path for a pattern, so that a file called ``rows [1].jsonl`` can't be found; here a path that exists
is itself, and only one that does not is a pattern.
"""

from __future__ import annotations

import dataclasses
import glob
import os
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

GLOB_CHARACTERS = re.compile(r"[*?\[]")


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

    Inside a folder, names that begin with ``_`` or ``.`` are passed over, as Hadoop and Beam's readers do.
    """
    path = pattern.rstrip("/") if len(pattern) > 1 else pattern
    if is_remote(path):
        yield from _match_remote(path)
        return
    if os.path.isfile(path):
        yield FoundFile(path, os.path.getsize(path), os.path.basename(path), os.path.getmtime(path))
    elif os.path.isdir(path):
        yield from _below(path)
    elif GLOB_CHARACTERS.search(path):
        fixed = _fixed_part(path)
        for found in sorted(glob.iglob(path, recursive=True)):
            if os.path.isfile(found):
                yield FoundFile(found, os.path.getsize(found), os.path.relpath(found, fixed or "."), os.path.getmtime(found))


def _below(folder: str) -> Iterator[FoundFile]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(("_", ".")))
        for name in sorted(names):
            if name.startswith(("_", ".")):
                continue
            path = os.path.join(parent, name)
            yield FoundFile(path, os.path.getsize(path), os.path.relpath(path, folder), os.path.getmtime(path))


def _fixed_part(pattern: str) -> str:
    return os.path.dirname(GLOB_CHARACTERS.split(pattern, maxsplit=1)[0])


def _match_remote(path: str) -> Iterator[FoundFile]:
    literal = list(_remote(glob.escape(path)))
    if literal:
        yield from (FoundFile(f.path, f.size_in_bytes, os.path.basename(f.path), _updated(f)) for f in literal)
        return
    below = False
    for found in sorted(_remote(glob.escape(path) + "/**"), key=lambda f: f.path):
        below = True
        relative = found.path[len(path) + 1 :]
        if relative and not relative.endswith("/") and not re.search(r"(^|/)[_.]", relative):
            yield FoundFile(found.path, found.size_in_bytes, relative, _updated(found))
    if not below and GLOB_CHARACTERS.search(path):
        fixed = _fixed_part(path)
        for found in sorted(_remote(path), key=lambda f: f.path):
            if not found.path.endswith("/"):
                yield FoundFile(found.path, found.size_in_bytes, found.path[len(fixed) :].lstrip("/"), _updated(found))


def _remote(pattern: str) -> list[Any]:
    return FileSystems.match([pattern])[0].metadata_list


def _updated(metadata: object) -> float:
    return float(getattr(metadata, "last_updated_in_seconds", 0) or 0)


def list_folder(folder: str) -> list[FoundFile]:
    """Gives every file below ``folder``, hidden ones too; an empty list when there is none."""
    folder = folder.rstrip("/")
    if is_remote(folder):
        found = _remote(glob.escape(folder) + "/**")
        return [FoundFile(f.path, f.size_in_bytes, f.path[len(folder) + 1 :], _updated(f)) for f in found if not f.path.endswith("/")]
    return [
        FoundFile(path, os.path.getsize(path), os.path.relpath(path, folder), os.path.getmtime(path))
        for parent, _, names in os.walk(folder)
        for path in (os.path.join(parent, name) for name in sorted(names))
    ]


def list_children(folder: str) -> list[str]:
    """Gives the names directly inside ``folder``, files and folders, sorted."""
    if is_remote(folder):
        return sorted({found.relative.split("/", 1)[0] for found in list_folder(folder)})
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def exists(path: str) -> bool:
    """Whether ``path`` is a file."""
    return FileSystems.exists(path) if is_remote(path) else os.path.isfile(path)


def read_bytes(path: str) -> bytes:
    with open_raw(path) as stream:
        return stream.read()


def open_raw(path: str) -> BinaryIO:
    """Opens ``path`` for reading its bytes as they are, compressed or not."""
    if not is_remote(path):
        return open(path, "rb")
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def create(path: str) -> BinaryIO:
    """Opens ``path`` for writing, making its folder where the file system has folders."""
    if not is_remote(path):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    return FileSystems.create(path, mime_type="application/octet-stream", compression_type=CompressionTypes.UNCOMPRESSED)


def write_bytes(path: str, content: bytes) -> None:
    """Writes a small file so that it is there whole or not at all."""
    if is_remote(path):  # an object appears when its upload is finished
        with create(path) as stream:
            stream.write(content)
        return
    temporary = f"{path}.{os.getpid()}.tmp"
    with create(temporary) as stream:
        stream.write(content)
    os.replace(temporary, path)


def rename(pairs: list[tuple[str, str]]) -> None:
    """Renames files over what stands at their destination."""
    for source, destination in pairs:
        if not is_remote(destination):
            os.makedirs(os.path.dirname(destination) or ".", exist_ok=True)
    for start in range(0, len(pairs), 100):
        some = pairs[start : start + 100]
        FileSystems.rename([source for source, _ in some], [destination for _, destination in some])


def delete(paths: list[str]) -> None:
    """Deletes files; one that is gone already is no error."""
    for start in range(0, len(paths), 100):
        try:
            FileSystems.delete(paths[start : start + 100])
        except BeamIOError:
            left = [path for path in paths[start : start + 100] if exists(path)]
            if left:
                raise


def delete_folder(folder: str) -> None:
    """Deletes everything below ``folder`` and the folder."""
    if is_remote(folder):
        delete([found.path for found in list_folder(folder)])
    elif os.path.isdir(folder):
        import shutil

        shutil.rmtree(folder, ignore_errors=True)
