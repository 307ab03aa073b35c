"""A row that ended in the errors, as JSON text."""

from __future__ import annotations

import dataclasses

import msgspec

from transforms.rows.codes import Code, RowError, Stage
from transforms.rows.keys import readable


@dataclasses.dataclass(frozen=True)
class FailedRow:
    """A row that ended in the errors.

    ``instance`` and ``key`` are JSON text; the key is empty where it is not known. ``field`` is the input of the signature whose value
    is wrong, if it is one: ``check`` and the statistics use it, the published line does not hold it.
    """

    key: bytes
    source: str
    offset: int
    code: Code
    message: str
    instance: bytes
    field: str | None = None

    @classmethod
    def of(cls, error: RowError, source: str, offset: int, row: bytes, key: bytes = b"") -> FailedRow:
        """Make the failed row of ``row``, as it was read at ``offset`` of file ``source``; without ``key``, the error's key is its key."""
        return cls(key or error.key, source, offset, error.code, error.message, row_as_json(row), error.field)

    @property
    def stage(self) -> Stage:
        """Return the stage of the flow in which the row failed."""
        return self.code.stage

    def to_json(self) -> bytes:
        """Write the row as one line of ``prediction.errors``, without its line end."""
        fields = (readable(self.source), self.offset, str(self.stage), str(self.code), self.message)
        source, offset, stage, code, message = (msgspec.json.encode(value) for value in fields)
        return b'{"key": %b, "source": %b, "offset": %b, "stage": %b, "code": %b, "message": %b, "instance": %b}' % (
            self.key or b"null",
            source,
            offset,
            stage,
            code,
            message,
            self.instance,
        )


def is_json(row: bytes) -> bool:
    """Return whether a row is one JSON value in UTF-8."""
    try:
        row.decode("utf-8")
        msgspec.json.decode(row, type=msgspec.Raw)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return False
    return True


def on_one_line(text: bytes) -> bytes:
    """Replace carriage returns in JSON text by spaces: both are white space there, but many readers end a line at the former."""
    return text.replace(b"\r", b" ") if b"\r" in text else text


def row_as_json(row: bytes) -> bytes:
    """Return a row as JSON text: itself where it is JSON, else ``{"b64": ...}``."""
    return on_one_line(row) if is_json(row) else msgspec.json.encode({"b64": row})
