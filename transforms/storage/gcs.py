"""Objects in Cloud Storage, by their literal path ``gs://bucket/name``.

Beam's own file system treats every path as a pattern, even when it deletes: deleting ``rows [1].jsonl`` deletes
``rows 1.jsonl``. It makes a client and a connection at each call, and reads a file that is replaced meanwhile as a mixture
of both. This module uses Beam's credentials and batch requests only; its paths are never patterns.
"""

from __future__ import annotations

import base64
import datetime
import errno
import functools
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

import requests
from apache_beam.io.filesystems import FileSystems
from apache_beam.io.gcp.gcsio import MAX_BATCH_OPERATION_SIZE, GcsIO
from google.api_core.exceptions import (
    GoogleAPICallError,
    GoogleAPIError,
    NotFound,
    PreconditionFailed,
    RequestRangeNotSatisfiable,
    from_http_response,
)
from google.auth.exceptions import GoogleAuthError
from google.cloud.storage import Blob  # type: ignore[import-untyped]
from google.cloud.storage.retry import DEFAULT_RETRY  # type: ignore[import-untyped]

from transforms.storage.pins import FileChangedError, Pin

SCHEME = "gs://"
# Bytes of one request. A range's last line lies in the next window, so windows twice as large would fetch twice as many unused
# bytes with every range; half as large would double the waits for a first byte.
WINDOW_BYTES = 8 << 20
LISTED = "bucket,name,size,updated,contentEncoding,generation,crc32c"
# What the client puts around its messages: method and URL before, for a download or upload a tuple after.
AROUND_MESSAGE = re.compile(r"^[A-Z]+ https?://\S+: |: \('Request failed.*$", re.DOTALL)


class StorageError(OSError):
    """Cloud Storage lacks the object or refuses the request; the message begins with the path."""

    def __init__(self, path: str, reason: str) -> None:
        # An errno tells it from the OSErrors that bz2 and gzip raise for damaged data.
        super().__init__(errno.EIO, reason, path)

    def __reduce__(self) -> tuple[type[StorageError], tuple[str, str]]:
        return type(self), (self.filename, self.strerror or "")

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


class ChangedError(StorageError):
    """Another program replaced or deleted the object that was to be replaced; the object is left untouched."""


class Object(NamedTuple):
    """An object as a listing shows it; ``updated`` in seconds since 1970, ``encoding`` its Content-Encoding, ``crc32c`` in hexadecimal."""

    path: str
    size_bytes: int
    updated: float
    encoding: str | None
    generation: int = 0
    crc32c: str = ""

    @property
    def pin(self) -> Pin:
        """Return what a reader compares: size and generation."""
        return Pin(self.size_bytes, generation=self.generation)


@functools.cache
def _client() -> GcsIO:
    """Return this process's client, made at the first call; threads can share it, its credentials and its connections."""
    return GcsIO(pipeline_options=FileSystems.get_filesystem(SCHEME)._pipeline_options)


def split(path: str) -> tuple[str, str]:
    """Return bucket and name of ``path``; the name is empty for a bucket.

    Raises:
      StorageError: ``path`` does not begin with ``gs://bucket``.
    """
    bucket, _, name = path.removeprefix(SCHEME).partition("/")
    if not path.startswith(SCHEME) or not bucket:
        raise StorageError(path, "expected a local path or gs://bucket/name")
    return bucket, name


@contextmanager
def _naming(path: str, missing: str = "there is no such object", pin: Pin | None = None) -> Iterator[None]:
    """Turn the client's exceptions, which name a URL at best, into a StorageError that names ``path``.

    With a ``pin``, a missing generation becomes a FileChangedError.
    """
    try:
        yield
    except NotFound as error:
        if pin is None:
            raise StorageError(path, missing) from error
        successor = find(path)
        raise FileChangedError(path, pin, None if successor is None else successor.pin) from error
    except (GoogleAPIError, GoogleAuthError, requests.RequestException) as error:
        raise StorageError(path, _reason(error)) from error


def _no_bucket(path: str) -> str:
    return f"there is no bucket {SCHEME}{split(path)[0]}"


def _reason(error: Exception) -> str:
    if not isinstance(error, GoogleAPICallError):
        return str(error) or type(error).__name__
    return f"{AROUND_MESSAGE.sub('', error.message).strip()} (HTTP status {error.code:d})"


def _blob(path: str) -> Blob:
    bucket, name = split(path)
    if not name:
        raise StorageError(path, "names a bucket, not an object in it")
    return _client().client.bucket(bucket).blob(name)


def find(path: str) -> Object | None:
    """Return the object at ``path``, or None. One request."""
    if not split(path)[1]:
        return None
    blob = _blob(path)
    with _naming(path):
        try:
            blob.reload(retry=DEFAULT_RETRY)
        except NotFound:
            return None
    return _object(blob)


def _object(blob: Blob) -> Object:
    updated: datetime.datetime | None = blob.updated
    path = f"{SCHEME}{blob.bucket.name}/{blob.name}"
    seconds = updated.timestamp() if updated else 0.0
    return Object(path, blob.size or 0, seconds, blob.content_encoding, blob.generation or 0, base64.b64decode(blob.crc32c or "").hex())


def list_prefix(prefix: str, most: int | None = None, deep: bool = True) -> Iterator[Object]:
    """Yield the objects whose path begins with ``prefix``, in order of their names, in pages of a thousand.

    ``most`` limits the number of names listed. Names that end in ``/``, which consoles make to show a folder, are left out; with
    ``deep=False`` also names with a further ``/`` after the prefix.
    """
    bucket, name = split(prefix)
    with _naming(prefix, _no_bucket(prefix)):
        pages = _client().client.list_blobs(
            bucket,
            prefix=name,
            delimiter=None if deep else "/",
            max_results=most,
            retry=DEFAULT_RETRY,
            fields=f"items({LISTED}),prefixes,nextPageToken",
        )
        for blob in pages:
            if not blob.name.endswith("/"):
                yield _object(blob)


def list_names(folder: str) -> list[str]:
    """Return the names directly inside ``folder``, objects and folders, sorted, without listing what lies deeper."""
    bucket, name = split(folder.rstrip("/") + "/")
    with _naming(folder, _no_bucket(folder)):
        pages = _client().client.list_blobs(
            bucket, prefix=name, delimiter="/", retry=DEFAULT_RETRY, fields="items(bucket,name),prefixes,nextPageToken"
        )
        names = {blob.name for blob in pages} | set(pages.prefixes)
    return sorted({path[len(name) :].rstrip("/") for path in names} - {""})


def read(path: str, pin: Pin | None = None) -> bytes:
    """Return an object's bytes as stored, their checksum verified.

    Raises:
      FileChangedError: the generation of ``pin`` is gone.
    """
    blob = _blob(path) if pin is None else _pinned(path, pin)
    with _naming(path, pin=pin):
        return bytes(blob.download_as_bytes(raw_download=True, retry=DEFAULT_RETRY))


def _pinned(path: str, pin: Pin) -> Blob:
    bucket, name = split(path)
    return _client().client.bucket(bucket).blob(name, generation=pin.generation)


def write(path: str, content: bytes) -> None:
    """Write an object in one request: it is whole or absent."""
    blob = _blob(path)
    with _naming(path, _no_bucket(path)):
        blob.upload_from_string(content, content_type="application/octet-stream", retry=DEFAULT_RETRY)


def open_reader(path: str, pin: Pin | None = None) -> BinaryIO:
    """Open an object for reading its bytes as stored, from any position: the generation of ``pin``, else the current one.

    Raises:
      FileChangedError: the generation of ``pin`` is gone; for an object that is not empty, reading raises this instead.
    """
    blob = _blob(path) if pin is None else _pinned(path, pin)
    if pin is None or not pin.size_bytes:  # reading an empty object sends no request that could fail
        with _naming(path, pin=pin):
            blob.reload(retry=DEFAULT_RETRY)
    content_pin = pin or Pin(blob.size or 0, generation=blob.generation)
    return io.BufferedReader(_Reader(path, content_pin, is_planned=pin is not None), 1 << 20)


def open_writer(path: str) -> BinaryIO:
    """Open an object for writing; it appears when the stream is closed."""
    _blob(path)
    writer: BinaryIO = _client().open(path, "wb", mime_type="application/octet-stream")
    return writer


class _Reader(io.RawIOBase):
    """A stream of one generation of an object, fetched in windows; if it is replaced meanwhile, reading fails and never mixes two."""

    def __init__(self, path: str, pin: Pin, is_planned: bool) -> None:
        self.path, self.size = path, pin.size_bytes
        self.blob = _pinned(path, pin)
        self.planned = pin if is_planned else None
        self.position = self.start = 0
        self.window = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = max(0, offset + (0, self.position, self.size)[whence])
        return self.position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self.position >= self.size:
            return 0
        if not self.start <= self.position < self.start + len(self.window):
            self._fetch()
        begin = self.position - self.start
        data = memoryview(self.window)[begin : begin + len(buffer)]
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)

    def _fetch(self) -> None:
        stop = min(self.size, self.position + WINDOW_BYTES)
        with _naming(self.path, "was replaced or deleted while it was read", self.planned):
            try:
                # Cloud Storage has a checksum of the whole object only.
                data = self.blob.download_as_bytes(
                    start=self.position,
                    end=stop - 1,
                    raw_download=True,
                    checksum=None,
                    retry=DEFAULT_RETRY,
                )
            except RequestRangeNotSatisfiable:
                data = b""
        if len(data) != stop - self.position:
            raise StorageError(self.path, f"{len(data)} bytes were received for bytes {self.position} to {stop}")
        self.start, self.window = self.position, data


def rename(pairs: list[tuple[str, str]]) -> None:
    """Rename objects, each a source and a destination that is replaced; two requests for a hundred objects.

    Raises:
      StorageError: an object can't be copied or deleted.
    """
    for start in range(0, len(pairs), MAX_BATCH_OPERATION_SIZE):
        batch = pairs[start : start + MAX_BATCH_OPERATION_SIZE]
        for path in {path for pair in batch for path in pair}:
            _blob(path)
        with _naming(batch[0][1]):
            statuses = _client().copy_batch(batch)
        failure = next(((source, destination, status) for source, destination, status in statuses if status), None)
        if failure:
            raise StorageError(failure[1], f"{failure[0]} can't be copied there (HTTP status {failure[2]})")
        delete([source for source, _ in batch])


def delete(paths: list[str]) -> None:
    """Delete objects; a missing one is no error. One request for a hundred objects.

    Raises:
      StorageError: an object can't be deleted.
    """
    for start in range(0, len(paths), MAX_BATCH_OPERATION_SIZE):
        batch = paths[start : start + MAX_BATCH_OPERATION_SIZE]
        for path in batch:
            _blob(path)
        with _naming(batch[0]):
            statuses = _client().delete_batch(batch)
        failure = next(((path, status) for path, status in statuses if status), None)
        if failure:
            raise StorageError(failure[0], f"can't be deleted (HTTP status {failure[1]})")


# --- changes on condition that the object is the one that was read ---------------------------------------------------------


def write_over(path: str, content: bytes, generation: int) -> int:
    """Replace the object of ``generation`` (0: make one where there is none), in one request; return the new generation.

    Raises:
      ChangedError: the object is another one, or missing. Also raised when the answer to the request's first try was lost: the caller
        has to check whether its own content is there.
    """
    blob = _blob(path)
    with _naming(path, _no_bucket(path)):
        try:
            kind = "application/octet-stream"
            blob.upload_from_string(content, content_type=kind, if_generation_match=generation, retry=DEFAULT_RETRY)
        except PreconditionFailed as error:
            raise ChangedError(path, "was changed by another program meanwhile") from error
    return int(blob.generation)


def read_seen(path: str) -> tuple[bytes, int] | None:
    """Return an object's bytes and their generation, or None if there is no object."""
    blob = _blob(path)
    with _naming(path):
        try:
            blob.reload(retry=DEFAULT_RETRY)
            pinned = blob.bucket.blob(blob.name, generation=blob.generation)
            return bytes(pinned.download_as_bytes(raw_download=True, retry=DEFAULT_RETRY)), int(blob.generation)
        except NotFound:
            return None


def copy_over(copies: Sequence[tuple[str, str, int]]) -> list[int]:
    """Copy objects, each a source, a destination and the generation to replace there (0: none); return the HTTP statuses.

    One request for a hundred objects. 412: the destination is another object; 404: the source is gone.
    """

    def ask(copy: tuple[str, str, int]) -> None:
        source, destination = _blob(copy[0]), _blob(copy[1])
        source.bucket.copy_blob(source, destination.bucket, destination.name, if_generation_match=copy[2])

    return _ask_by_batch(copies, ask)


def delete_seen(objects: Sequence[tuple[str, int]]) -> list[int]:
    """Delete objects, each a path and a generation; return the HTTP statuses, 412 where the object is of another generation."""

    def ask(one: tuple[str, int]) -> None:
        _blob(one[0]).delete(if_generation_match=one[1])

    return _ask_by_batch(objects, ask)


def _ask_by_batch(requests: Sequence[Any], ask: Callable[[Any], None]) -> list[int]:
    """Send ``requests``, a hundred at once, and those with a temporary failure again, as the client does; return their HTTP statuses."""
    statuses = [0] * len(requests)

    def send(due: list[int]) -> None:
        batch = _client().client.batch(raise_exception=False)
        with batch:
            for number in due:
                ask(requests[number])
        failure = None
        answers = list(zip(list(due), batch._responses, strict=True))
        due.clear()
        for number, answer in answers:
            statuses[number] = answer.status_code
            if answer.status_code >= 400 and DEFAULT_RETRY._predicate(error := from_http_response(answer)):
                failure = error
                due.append(number)
        if failure is not None:
            raise failure

    for start in range(0, len(requests), MAX_BATCH_OPERATION_SIZE):
        with _naming(requests[start][0]):
            DEFAULT_RETRY(send)(list(range(start, min(start + MAX_BATCH_OPERATION_SIZE, len(requests)))))
    return statuses
