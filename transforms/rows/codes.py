"""Why a row can fail: the closed list of stages and codes (docs/formats.md explains each)."""

from __future__ import annotations

import enum

from transforms.specs.errors import NightshiftError


class Stage(enum.StrEnum):
    """A stage of the flow in which a row can fail."""

    READ = "read"
    KEY = "key"
    CONVERT = "convert"
    PREDICT = "predict"
    WRITE = "write"


class Code(enum.StrEnum):
    """Why a row failed; stable, so that consumers may count and filter by it."""

    NOT_UTF8 = "NOT_UTF8"
    NOT_JSON = "NOT_JSON"
    NOT_CSV = "NOT_CSV"
    NOT_EXAMPLE = "NOT_EXAMPLE"
    NESTED_TOO_DEEP = "NESTED_TOO_DEEP"
    ROW_TOO_LONG = "ROW_TOO_LONG"
    FILE_NOT_FOUND = "FILE_NOT_FOUND"
    FILE_DAMAGED = "FILE_DAMAGED"
    FILE_CHANGED = "FILE_CHANGED"
    COLUMN_TWICE = "COLUMN_TWICE"
    KEY_MISSING = "KEY_MISSING"
    KEY_NULL = "KEY_NULL"
    KEY_NOT_SCALAR = "KEY_NOT_SCALAR"
    NOT_AN_OBJECT = "NOT_AN_OBJECT"
    INPUT_MISSING = "INPUT_MISSING"
    NULL_VALUE = "NULL_VALUE"
    WRONG_TYPE = "WRONG_TYPE"
    WRONG_SHAPE = "WRONG_SHAPE"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    BAD_BASE64 = "BAD_BASE64"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    MODEL_LOAD_FAILED = "MODEL_LOAD_FAILED"
    MODEL_ERROR = "MODEL_ERROR"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    OUTPUT_ROWS_DIFFER = "OUTPUT_ROWS_DIFFER"
    NOT_FINITE = "NOT_FINITE"
    OUTPUT_DOES_NOT_FIT = "OUTPUT_DOES_NOT_FIT"

    @property
    def stage(self) -> Stage:
        """Return the stage of the flow in which a row fails with this code."""
        return EXPLANATIONS[self][0]


EXPLANATIONS: dict[Code, tuple[Stage, str]] = {
    Code.NOT_UTF8: (Stage.READ, "the row is not UTF-8"),
    Code.NOT_JSON: (Stage.READ, "the row is not one JSON value"),
    Code.NOT_CSV: (Stage.READ, "the line is not one row of CSV with as many fields as the header, or a quote is out of place"),
    Code.NOT_EXAMPLE: (Stage.READ, "the record is not a serialized tf.Example, or holds one feature with values of two kinds"),
    Code.NESTED_TOO_DEEP: (Stage.READ, "lists or objects are nested too deep to read"),
    Code.ROW_TOO_LONG: (Stage.READ, "the row is longer than a row may be"),
    Code.FILE_NOT_FOUND: (Stage.READ, "the file that a line of a file list names does not exist or can't be read"),
    Code.FILE_DAMAGED: (Stage.READ, "the file breaks off or can't be decompressed; rows after this place are unknown"),
    Code.FILE_CHANGED: (
        Stage.READ,
        "the file was replaced, changed or deleted after the run had planned to read it; its rows may be lost or mixed",
    ),
    Code.COLUMN_TWICE: (Stage.READ, "the row's file has several columns of one name that the job needs, so which is meant is unknown"),
    Code.KEY_MISSING: (Stage.KEY, "the row has no key field"),
    Code.KEY_NULL: (Stage.KEY, "the key field is null"),
    Code.KEY_NOT_SCALAR: (Stage.KEY, "the key field holds a list or an object"),
    Code.NOT_AN_OBJECT: (Stage.CONVERT, "the model has several inputs and the row is not an object naming them"),
    Code.INPUT_MISSING: (Stage.CONVERT, "the row lacks an input of the signature"),
    Code.NULL_VALUE: (Stage.CONVERT, "an input is null or holds a null"),
    Code.WRONG_TYPE: (Stage.CONVERT, "a value is of another type than the signature's"),
    Code.WRONG_SHAPE: (Stage.CONVERT, "a value has another shape than the signature's, or a ragged one"),
    Code.OUT_OF_RANGE: (Stage.CONVERT, "a number does not fit its dtype"),
    Code.BAD_BASE64: (Stage.CONVERT, '{"b64": ...} holds something that is not base64'),
    Code.MODEL_NOT_FOUND: (Stage.PREDICT, "the model that the row names does not exist, or may not be run"),
    Code.MODEL_LOAD_FAILED: (Stage.PREDICT, "the model of a run of many can't be loaded or can't run here"),
    Code.MODEL_ERROR: (Stage.PREDICT, "the model raised an error for this row alone"),
    Code.OUT_OF_MEMORY: (Stage.PREDICT, "the model ran out of memory on this row alone"),
    Code.OUTPUT_ROWS_DIFFER: (Stage.PREDICT, "an output does not have one row for each instance"),
    Code.NOT_FINITE: (Stage.WRITE, "a prediction is NaN or infinite and --nan=error was given"),
    Code.OUTPUT_DOES_NOT_FIT: (
        Stage.WRITE,
        "a prediction holds a value that its column in --output_format can't hold, or the row's model has other outputs",
    ),
}


# With one of these an unknown number of the file's rows is missing, so nothing may be published.
INCOMPLETE = frozenset((Code.FILE_DAMAGED, Code.FILE_CHANGED))


class RowError(NightshiftError):
    """One row's failure, before it becomes a ``FailedRow``.

    ``field`` is the input of the signature that is wrong, the first of several; None where the row or its key is.
    ``key`` is the row's key as JSON text, where it is known and no batch holds it.
    """

    def __init__(self, code: Code, message: str, field: str | None = None, key: bytes = b"") -> None:
        super().__init__(message)
        self.code, self.message, self.field, self.key = code, message, field, key

    @classmethod
    def of_input(cls, code: Code, name: str, message: str) -> RowError:
        """Make the error of a value of input ``name``; its message begins with that name."""
        return cls(code, f"input {name!r}: {message}", name)

    def with_key(self, key: bytes) -> RowError:
        """Return the same error with ``key``, the row's key as JSON text."""
        return RowError(self.code, self.message, self.field, key)
