"""Objects in Cloud Storage, by their literal path ``gs://bucket/name``.

Beam's own file system takes every path for a pattern, also when it deletes, so that deleting ``rows [1].jsonl`` deletes
``rows 1.jsonl``; it makes a client and a connection at each call, and reads a file that is replaced meanwhile as a mixture
of both. Here Beam lends its credentials and its requests by batch; paths are never patterns.
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
# One request fetches this much. A range's last line lies in the next window, so twice as much would be fetched in vain
# with every range; half as much would double the waits for a first byte.
WINDOW_BYTES = 8 << 20
LISTED = "bucket,name,size,updated,contentEncoding,generation,crc32c"
# The method and URL before a message of the client, and the tuple after one about a download or upload.
AROUND_MESSAGE = re.compile(r"^[A-Z]+ https?://\S+: |: \('Request failed.*$", re.DOTALL)


class StorageError(OSError):
    """The storage does not have, or does not allow, what was asked; the message begins with the path."""

    def __init__(self, path: str, reason: str) -> None:
        # With an errno, unlike the errors that bz2 and gzip raise for damaged data.
        super().__init__(errno.EIO, reason, path)

    def __reduce__(self) -> tuple[type[StorageError], tuple[str, str]]:
        return type(self), (self.filename, self.strerror or "")

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


class ChangedError(StorageError):
    """The object is not the one that was to be replaced, which another program has replaced or deleted; it is left as it is."""


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
        """What a reader compares: the object is this one as long as its generation is."""
        return Pin(self.size_bytes, generation=self.generation)


@functools.cache
def _client() -> GcsIO:
    """One client a process, made at the first call; it is shared by threads, as its credentials and connections can be."""
    return GcsIO(pipeline_options=FileSystems.get_filesystem(SCHEME)._pipeline_options)


def split(path: str) -> tuple[str, str]:
    """Gives bucket and name of ``path``; the name is empty for a bucket.

    Raises:
      StorageError: it is no path of Cloud Storage.
    """
    bucket, _, name = path.removeprefix(SCHEME).partition("/")
    if not path.startswith(SCHEME) or not bucket:
        raise StorageError(path, "expected a local path or gs://bucket/name")
    return bucket, name


@contextmanager
def _naming(path: str, missing: str = "there is no such object", pin: Pin | None = None) -> Iterator[None]:
    """Turns the exceptions of the client, which name a URL at best, into a StorageError about ``path``.

    A generation that is not there, where ``pin`` asks for it, is a FileChangedError.
    """
    try:
        yield
    except NotFound as error:
        if pin is None:
            raise StorageError(path, missing) from error
        found = find(path)
        raise FileChangedError(path, pin, None if found is None else found.pin) from error
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
    """Gives the object at ``path``, or None. One request."""
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
    """Gives the objects whose path begins with ``prefix``, in the order of their names, as pages of a thousand come in.

    ``most`` ends the listing after as many names. Names that end in ``/``, which consoles make to show a folder, are left out. Not
    ``deep``: nor what lies below a further ``/``.
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
    """Gives the names directly inside ``folder``, objects and folders, sorted, without listing what lies deeper."""
    bucket, name = split(folder.rstrip("/") + "/")
    with _naming(folder, _no_bucket(folder)):
        pages = _client().client.list_blobs(
            bucket, prefix=name, delimiter="/", retry=DEFAULT_RETRY, fields="items(bucket,name),prefixes,nextPageToken"
        )
        names = {blob.name for blob in pages} | set(pages.prefixes)
    return sorted({found[len(name) :].rstrip("/") for found in names} - {""})


def read(path: str, pin: Pin | None = None) -> bytes:
    """Gives an object's bytes as they are stored, their checksum verified.

    Raises:
      FileChangedError: the object is not there as ``pin`` says.
    """
    blob = _blob(path) if pin is None else _pinned(path, pin)
    with _naming(path, pin=pin):
        return bytes(blob.download_as_bytes(raw_download=True, retry=DEFAULT_RETRY))


def _pinned(path: str, pin: Pin) -> Blob:
    bucket, name = split(path)
    return _client().client.bucket(bucket).blob(name, generation=pin.generation)


def write(path: str, content: bytes) -> None:
    """Makes an object, in one request: it is there whole or not at all."""
    blob = _blob(path)
    with _naming(path, _no_bucket(path)):
        blob.upload_from_string(content, content_type="application/octet-stream", retry=DEFAULT_RETRY)


def open_reader(path: str, pin: Pin | None = None) -> BinaryIO:
    """Opens an object for reading its bytes as they are stored, from any position: the generation of ``pin``, else the one there now.

    Raises:
      FileChangedError: ``pin`` was given and its generation is gone; of an object with bytes that shows when they are read.
    """
    blob = _blob(path) if pin is None else _pinned(path, pin)
    if pin is None or not pin.size_bytes:  # of no bytes there will be no request that could fail
        with _naming(path, pin=pin):
            blob.reload(retry=DEFAULT_RETRY)
    there = pin or Pin(blob.size or 0, generation=blob.generation)
    return io.BufferedReader(_Reader(path, there, is_planned=pin is not None), 1 << 20)


def open_writer(path: str) -> BinaryIO:
    """Opens an object for writing; it appears when the stream is closed."""
    _blob(path)
    writer: BinaryIO = _client().open(path, "wb", mime_type="application/octet-stream")
    return writer


class _Reader(io.RawIOBase):
    """Reads one generation of an object in windows; one that was replaced meanwhile is an error, never a mixture."""

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
        there = self.position - self.start
        data = memoryview(self.window)[there : there + len(buffer)]
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)

    def _fetch(self) -> None:
        stop = min(self.size, self.position + WINDOW_BYTES)
        with _naming(self.path, "was replaced or deleted while it was read", self.planned):
            try:
                # A checksum is known of the whole object only.
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
            raise StorageError(self.path, f"{len(data)} bytes came for bytes {self.position} to {stop}")
        self.start, self.window = self.position, data


def rename(pairs: list[tuple[str, str]]) -> None:
    """Renames objects over what stands at their destination; two requests a hundred objects."""
    for start in range(0, len(pairs), MAX_BATCH_OPERATION_SIZE):
        some = pairs[start : start + MAX_BATCH_OPERATION_SIZE]
        for path in {path for pair in some for path in pair}:
            _blob(path)
        with _naming(some[0][1]):
            copied = _client().copy_batch(some)
        failed = next(((source, destination, status) for source, destination, status in copied if status), None)
        if failed:
            raise StorageError(failed[1], f"{failed[0]} can't be copied there (HTTP status {failed[2]})")
        delete([source for source, _ in some])


def delete(paths: list[str]) -> None:
    """Deletes objects; one that is gone already is no error. One request a hundred objects."""
    for start in range(0, len(paths), MAX_BATCH_OPERATION_SIZE):
        some = paths[start : start + MAX_BATCH_OPERATION_SIZE]
        for path in some:
            _blob(path)
        with _naming(some[0]):
            statuses = _client().delete_batch(some)
        failed = next(((path, status) for path, status in statuses if status), None)
        if failed:
            raise StorageError(failed[0], f"can't be deleted (HTTP status {failed[1]})")


# --- changes that hold only over the object that was seen ------------------------------------------------------------------


def write_over(path: str, content: bytes, generation: int) -> int:
    """Makes an object in place of that of ``generation`` (0: where there is none), in one request; gives the new generation.

    Raises:
      ChangedError: another one is there, or none. Also where the answer to a first try of the request was lost: look who made it.
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
    """Gives an object's bytes and their generation; None where there is none."""
    blob = _blob(path)
    with _naming(path):
        try:
            blob.reload(retry=DEFAULT_RETRY)
            pinned = blob.bucket.blob(blob.name, generation=blob.generation)
            return bytes(pinned.download_as_bytes(raw_download=True, retry=DEFAULT_RETRY)), int(blob.generation)
        except NotFound:
            return None


def copy_over(copies: Sequence[tuple[str, str, int]]) -> list[int]:
    """Copies objects, each a source, a destination and the generation to be replaced there (0: none); gives the HTTP statuses.

    A hundred a request. 412: another object is at the destination; 404: the source is gone.
    """

    def ask(copy: tuple[str, str, int]) -> None:
        source, destination = _blob(copy[0]), _blob(copy[1])
        source.bucket.copy_blob(source, destination.bucket, destination.name, if_generation_match=copy[2])

    return _ask_by_batch(copies, ask)


def delete_seen(objects: Sequence[tuple[str, int]]) -> list[int]:
    """Deletes objects, each a path and the generation that is to go; gives the HTTP statuses, 412 where another one is there."""

    def ask(one: tuple[str, int]) -> None:
        _blob(one[0]).delete(if_generation_match=one[1])

    return _ask_by_batch(objects, ask)


def _ask_by_batch(requests: Sequence[Any], ask: Callable[[Any], None]) -> list[int]:
    """Sends ``requests``, a hundred at once; those that fail for a while are sent again, as the client's own are. Gives the statuses."""
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
