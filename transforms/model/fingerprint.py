"""The fingerprint of a model's files, one text: computed when the model is checked, and compared when it is loaded.

It has three parts: the graph by the SHA-256 of its protobuf; the variables by the sizes of their files and by their index, which holds a
checksum of each variable's values that TensorFlow compares when it reads them; the assets by their names, sizes and checksums. So a copy
on a disk or in a bucket has the same fingerprint, and no weights are read for it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence

import google_crc32c

from transforms.storage.files import FoundFile, read_bytes
from transforms.storage.paths import is_remote

PROTOBUFS = ("saved_model.pb", "saved_model.pbtxt")
PARTS = ("graph", "variables", "assets")
# A file's path, inode, size and time of change.
FileState = tuple[str, int, int, int]
INDEX = "variables/variables.index"
DATA = re.compile(r"variables/variables\.data-\d{5}-of-\d{5}")


def fingerprint(content: bytes, files: Sequence[FoundFile]) -> str:
    """Return the fingerprint of the model whose protobuf is ``content`` and whose folder holds ``files``."""
    return "-".join((of_graph(content), of_variables(files), of_assets(files)))


def of_graph(content: bytes) -> str:
    """Return the fingerprint of the graph in the protobuf ``content``."""
    return hashlib.sha256(content).hexdigest()[:32]


def of_variables(files: Iterable[FoundFile]) -> str:
    """Return the fingerprint of the variables among a model's ``files``."""
    return _digest((file, file.relative == INDEX) for file in files if file.relative == INDEX or DATA.fullmatch(file.relative))


def of_assets(files: Iterable[FoundFile]) -> str:
    """Return the fingerprint of the assets among a model's ``files``."""
    return _digest((file, True) for file in files if file.relative.startswith("assets/"))


def _digest(files: Iterable[tuple[FoundFile, bool]]) -> str:
    """Return a hash of files by name and size; by checksum, too, for those with the flag."""
    facts = sorted((file.relative, file.size_bytes, _checksum(file) if is_read else "") for file, is_read in files)
    return hashlib.sha256(repr(facts).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _checksum(file: FoundFile) -> str:
    """Return the CRC32C of a file in hexadecimal, as a bucket lists it or from the bytes on a disk."""
    if file.crc32c or is_remote(file.path):
        return file.crc32c
    return f"{google_crc32c.value(read_bytes(file.path)):08x}"


def local_files(folder: str, name: str) -> dict[FileState, FoundFile]:
    """Return the files below the subfolder ``name`` of the local model ``folder``, each under its state."""
    local: dict[FileState, FoundFile] = {}
    try:
        with os.scandir(f"{folder}/{name}") as entries:
            for entry in entries:
                below = f"{name}/{entry.name}"
                if entry.is_dir():
                    local |= local_files(folder, below)
                else:
                    state = _state(entry.path, entry.stat())
                    local[state] = FoundFile(entry.path, state[2], below)
    except (FileNotFoundError, NotADirectoryError):
        pass
    return local


def is_as_it_was(states: Iterable[FileState]) -> bool:
    """Return whether the files still have ``states``."""
    try:
        return all(_state(state[0], os.stat(state[0])) == state for state in states)
    except OSError:
        return False


def _state(path: str, status: os.stat_result) -> FileState:
    return path, status.st_ino, status.st_size, status.st_mtime_ns
