"""Lists of files: each line names a file, or by a pattern several, whose bytes are one instance each (images, say)."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pyarrow as pa

from transforms.elements.batches import InstanceBatch, Rows
from transforms.elements.failed_rows import FailedRow
from transforms.elements.splits import FileRange
from transforms.formats.blocks import read_blocks
from transforms.formats.jsonl.reader import find_lines
from transforms.rows.codes import Code, RowError
from transforms.rows.keys import hash_keys, path_text, readable
from transforms.rows.row_spec import RowSpec
from transforms.storage import files, gcs
from transforms.storage.files import FoundFile
from transforms.storage.pins import FileChangedError

BATCH_FILES = 1024
# Files are read side by side: a bucket takes some 50 ms to answer, however small the file.
READ_AT_ONCE = 8


def why_not(spec: RowSpec, path: str) -> str | None:
    """Return why a job can't take a list of files, or None."""
    if spec.lone_string is None:
        inputs = ", ".join(map(str, spec.signature.inputs))
        return f"{path}: a file of a file-list is one string, and signature {spec.signature.name} takes {inputs}"
    if spec.key_fields:
        way_out = "leave out --key_field, or give the files' bytes as JSON-lines with a key"
        return f"{path}: the key of a file in a file-list is its path: {way_out}"
    return None


@dataclasses.dataclass(frozen=True)
class _Listed:
    """A file that a line at byte ``offset`` names, or why there is none; ``text`` is its path, or the line."""

    offset: int
    text: str
    found: FoundFile | None
    error: RowError | None = None

    @property
    def identity(self) -> bytes:
        """Return what identifies the file: its place, however this line spells it; of one that does not exist, the line."""
        return os.fsencode(self.text if self.found is None else self.found.place)


class Paths(Sequence[bytes]):
    """Paths as JSON strings."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> bytes:  # type: ignore[override]
        return msgspec.json.encode(path_text(self.paths[row]))

    def take(self, index: np.ndarray) -> Rows:
        return Paths([self.paths[row] for row in index])


class FileListReader:
    """Reads lists of files, and the files they name; relative paths begin at the working directory.

    A path is the row's key as it is written, but a file that lists name twice, in one spelling or two, is one key twice.
    """

    def __init__(self, spec: RowSpec) -> None:
        self.spec = spec
        self.refusal = why_not(spec, "the list")

    def read(self, file_range: FileRange) -> Iterator[InstanceBatch]:
        with ThreadPoolExecutor(READ_AT_ONCE) as pool:
            for block in read_blocks(file_range, self.spec.limits):
                starts, stops = find_lines(block.data)
                for listed in _grouped(_listed(block.data, block.offset, starts, stops), self.spec.limits.batch_bytes):
                    yield self._batch(listed, list(pool.map(self._content, listed)), file_range)

    def _batch(self, listed: list[_Listed], contents: list[bytes | RowError], file_range: FileRange) -> InstanceBatch:
        if self.refusal is not None:
            contents = [RowError(Code.INPUT_MISSING, self.refusal) for _ in listed]
        instances = [(file, content) for file, content in zip(listed, contents, strict=True) if isinstance(content, bytes)]
        failures = [(file, error) for file, error in zip(listed, contents, strict=True) if isinstance(error, RowError)]
        count = len(instances)
        values = np.empty(count, object)
        values[:] = [content for _, content in instances]
        rows = Paths([file.text for file, _ in instances])
        return InstanceBatch(
            source=file_range.path,
            relative=file_range.relative,
            columns={tensor.name: self._shaped(values) for tensor in self.spec.signature.inputs},
            offsets=np.array([file.offset for file, _ in instances], np.int64),
            rows=rows,
            keys=pa.array([rows[row] for row in range(count)], pa.binary()).cast(pa.string()),
            passthrough={name: pa.array(["" if name == "*" else "null"] * count, pa.string()) for name in self.spec.passthrough_fields},
            failed=[self._failed(file, error, file_range.path) for file, error in failures],
            bytes=sum(len(file.text) + 1 for file in listed),
            key_hashes=hash_keys(pa.array([file.identity for file, _ in (*instances, *failures)], pa.binary())),
        )

    def _content(self, file: _Listed) -> bytes | RowError:
        return _content(file, self.spec.limits.row_bytes)

    def _failed(self, file: _Listed, error: RowError, source: str) -> FailedRow:
        text = msgspec.json.encode(path_text(file.text))
        return FailedRow.of(error, source, file.offset, text, text)

    def _shaped(self, values: np.ndarray) -> np.ndarray:
        lone = self.spec.lone_string
        shapes = self.spec.signature.row_shapes(lone) if lone is not None else ((),)
        return values if () in shapes or None in shapes else values.reshape(-1, 1)


def _listed(data: bytes, offset: int, starts: np.ndarray, stops: np.ndarray) -> Iterator[_Listed]:
    for start, stop in zip(starts, stops, strict=True):
        place = offset + int(start)
        text = data[start:stop].decode("utf-8", "surrogateescape")
        error: RowError | None = RowError(Code.FILE_NOT_FOUND, f"no file {readable(text)}")
        try:
            for match in files.match(text):
                error = None
                yield _Listed(place, match.path, match)
        except OSError as failure:
            error = _not_found(text, failure)
        if error is not None:
            yield _Listed(place, text, None, error)


def _not_found(path: str, error: OSError) -> RowError:
    """Return the failure of a file that does not exist or may not be read; the error of a storage that does not answer is raised again."""
    refused = isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError)
    if isinstance(error, gcs.StorageError):
        cause = error.__cause__
        refused = cause is None or getattr(cause, "code", None) in (403, 404)
    if not refused and error.errno != errno.ENAMETOOLONG:
        raise error
    return RowError(Code.FILE_NOT_FOUND, f"{readable(path)} can't be read: {error.strerror or error}")


def _grouped(listed: Iterator[_Listed], most_bytes: int) -> Iterator[list[_Listed]]:
    """Yield groups of files that are read together: ``most_bytes`` of them at most, or one larger."""
    group: list[_Listed] = []
    size = 0
    for file in listed:
        file_bytes = 0 if file.found is None else file.found.size_bytes
        if group and (size + file_bytes > most_bytes or len(group) == BATCH_FILES):
            yield group
            group, size = [], 0
        group.append(file)
        size += file_bytes
    if group:
        yield group


def _content(file: _Listed, row_bytes: int) -> bytes | RowError:
    if file.error is not None or file.found is None:
        return file.error or RowError(Code.FILE_NOT_FOUND, f"no file {readable(file.text)}")
    if file.found.size_bytes > row_bytes:
        return RowError(Code.ROW_TOO_LONG, f"the file has {file.found.size_bytes} bytes; at most {row_bytes >> 20} MiB are possible")
    try:
        return files.read_bytes(file.found.path, file.found.pin)
    except FileChangedError as change:
        if change.now is None:  # as if it had been gone when it was looked for
            return RowError(Code.FILE_NOT_FOUND, str(change))
        return RowError(Code.FILE_CHANGED, str(change))
    except OSError as error:
        return _not_found(file.text, error)
