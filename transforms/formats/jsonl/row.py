"""One row → the values of the signature's inputs and the texts of its other fields."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import struct
import types
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from transforms.convert import from_json
from transforms.convert.json_texts import MUST_ESCAPE, is_utf8
from transforms.convert.json_values import B64, TooLarge, normalize
from transforms.formats.jsonl.packing import Gatherer, Packing, line_slices
from transforms.rows.codes import Code, RowError
from transforms.rows.keys import take_key
from transforms.rows.row_spec import RowSpec
from transforms.specs.signature import TensorSpec

PACKED_ROWS = 32
# Below this the number of a row's values is not looked at.
LONG_ROW_BYTES = 8 << 20
ESCAPED = re.compile(MUST_ESCAPE)
STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"')


@dataclasses.dataclass
class Row:
    """A row read: one value an input, and the JSON texts of key and passthrough fields."""

    values: dict[str, Any]
    tokens: dict[str, bytes]


class RowReader:
    """Reads rows by ``spec``: many at once with a typed parse, or one with a message for what is wrong."""

    def __init__(self, spec: RowSpec) -> None:
        self.spec = spec
        inputs = spec.signature.inputs
        named = tuple(name for name in spec.passthrough_fields if name != "*")
        self.token_fields = tuple(dict.fromkeys((*spec.key_fields, *spec.passthrough_fields)))
        self._shared = tuple(s for s in inputs if s.name in (*spec.key_fields, *named))
        self._types = {s.name: from_json.json_type(spec.signature, s) for s in inputs}
        self._packing = Packing(spec.signature, [s for s in inputs if s not in self._shared])
        self._struct, self._attributes = self._make_struct()
        reshaped = bool(spec.include_fields or spec.exclude_fields) and spec.lone_string is not None
        self.struct_decoder = None if reshaped or self._struct is None else msgspec.json.Decoder(self._struct)
        bare = len(inputs) == 1 and not self.token_fields
        self.bare_decoder = msgspec.json.Decoder(self._types[inputs[0].name]) if bare else None
        self._shared_decoders = {s.name: msgspec.json.Decoder(types.GenericAlias(list, (self._types[s.name],))) for s in self._shared}
        self._fields_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])

    def _make_struct(self) -> tuple[type[msgspec.Struct] | None, dict[str, str]]:
        """Make a struct with a field an input (typed) and one a token field (raw); a field that is both is raw.

        Its first fields are those that go into one packed record a row. None where a name would be escaped in JSON, which a
        struct's field can't be: then each row is looked at.
        """
        typed = [s.name for s in self.spec.signature.inputs if s not in self._shared]
        first = [s.name for s in self._packing.scalars]
        attributes: dict[str, str] = {}
        fields: list[Any] = []
        for name in (*first, *(name for name in typed if name not in first)):
            attributes[name] = f"f{len(fields)}"
            fields.append((attributes[name], self._types[name], msgspec.field(name=name)))
        for name in self.token_fields:
            if name != "*":
                attributes[name] = f"f{len(fields)}"
                fields.append((attributes[name], msgspec.Raw, msgspec.field(name=name, default=msgspec.Raw(b""))))
        if any(ESCAPED.search(name) for name in attributes):
            return None, attributes
        return msgspec.defstruct("TypedRow", fields, gc=False), attributes

    def parse_typed(self, data: bytes, count: int) -> tuple[dict[str, Sequence[Any] | np.ndarray], dict[str, Sequence[bytes]]] | None:
        """Parse ``count`` lines that are all objects, all lists or all strings: values by input, texts by field.

        None where a row needs a look of its own.
        """
        decoder = self.struct_decoder if data[:1] == b"{" else self.bare_decoder
        if decoder is None or not is_utf8(data):
            return None
        try:
            try:
                return self._gather(decoder, data, count, self._packing if count >= PACKED_ROWS else None)
            except (OverflowError, struct.error):  # some number does not fit: its row is found when the columns are made
                return self._gather(decoder, data, count, None)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, RowError):
            return None

    def _gather(
        self, decoder: msgspec.json.Decoder[Any], data: bytes, count: int, packing: Packing | None
    ) -> tuple[dict[str, Sequence[Any] | np.ndarray], dict[str, Sequence[bytes]]] | None:
        """Parse ``data`` slice by slice.

        Raises:
          msgspec.DecodeError, RowError: some value does not fit its input.
          OverflowError, struct.error: some number does not fit its record.
        """
        names = [spec.name for spec in self.spec.signature.inputs if spec not in self._shared]
        bare = decoder is self.bare_decoder
        attributes = {name: None if bare else self._attributes[name] for name in names}
        token_attributes = {name: self._attributes[name] for name in self.token_fields if name != "*"}
        gatherer = Gatherer(attributes, token_attributes, packing)
        all_fields: list[bytes] = []
        for lines in line_slices(data):
            gatherer.add(decoder.decode_lines(lines))
            if "*" in self.token_fields:
                all_fields += [self._all_fields(fields) for fields in self._fields_decoder.decode_lines(lines)]
        if gatherer.count != count:
            return None
        values, tokens = gatherer.values(), gatherer.tokens
        if "*" in self.token_fields:
            tokens["*"] = all_fields
        for spec in self._shared:
            if not all(tokens[spec.name]):
                raise _missing([spec.name], {})
            values[spec.name] = self._shared_decoders[spec.name].decode(b"[" + b",".join(tokens[spec.name]) + b"]")
        return {spec.name: self._normalized(values[spec.name], spec) for spec in self.spec.signature.inputs}, tokens

    def _normalized(self, values: Sequence[Any] | np.ndarray, spec: TensorSpec) -> Sequence[Any] | np.ndarray:
        """Return values that the parse could not type, since the signature leaves their shape open, checked one by one.

        Raises:
          RowError: one of them does not fit.
        """
        if self._types[spec.name] is not Any:
            return values
        return [normalize(value, self.spec.signature, spec) for value in values]

    def _all_fields(self, fields: dict[str, msgspec.Raw]) -> bytes:
        """Return the fields of a row as JSON text ``"a": 1, "b": 2``, without the key's and those the output has itself."""
        left_out = self.spec.left_out
        return b", ".join(msgspec.json.encode(name) + b": " + bytes(value) for name, value in fields.items() if name not in left_out)

    def read(self, text: bytes) -> Row:
        """Read one row as in a block, so that its neighbours make no difference to it; where that fails, field by field.

        Raises:
          RowError: what is wrong with it, with the row's key, where it has one.
        """
        if len(text) > LONG_ROW_BYTES:
            check_values(text, self.spec.limits.row_values)
        line = text.strip(b" \t\r")
        typed = self.parse_typed(line, 1) if line[:1] in (b"{", b"[", b'"') else None
        if typed is None:
            return self._read_closely(text)
        values, tokens = typed
        return Row({name: column[0] for name, column in values.items()}, {name: column[0] for name, column in tokens.items()})

    def _read_closely(self, text: bytes) -> Row:
        value, error = _parse_json(text)
        is_object = error is None and isinstance(value, dict)
        tokens: dict[str, bytes] = {}
        if is_object and self.token_fields:
            fields = self._fields_decoder.decode(text)
            tokens = {name: bytes(fields[name]) for name in self.token_fields if name in fields}
            if "*" in self.token_fields:
                tokens["*"] = self._all_fields(fields)
        raw = error is not None and self.spec.lone_string is not None and not self.spec.key_fields
        if error is not None and not raw:
            raise error
        key = take_key([tokens.get(name, b"") for name in self.spec.key_fields], self.spec.key_fields)
        try:
            try:
                return Row(self._values(text, None if raw else value, raw), tokens)
            except RecursionError:
                raise _too_deep() from None
        except RowError as failure:
            raise failure.with_key(key) from None

    def _values(self, text: bytes, value: Any, raw: bool) -> dict[str, Any]:
        inputs = self.spec.signature.inputs
        if raw:
            return self._raw(text)
        if not inputs:  # read for its fields alone
            return {}
        if isinstance(value, dict) and (len(inputs) > 1 or inputs[0].name in value):
            missing = [spec.name for spec in inputs if spec.name not in value]
            if missing:
                raise _missing(missing, value)
            return {spec.name: normalize(value[spec.name], self.spec.signature, spec) for spec in inputs}
        if len(inputs) > 1:
            kind = "null" if value is None else type(value).__name__
            names = ", ".join(spec.name for spec in inputs)
            raise RowError(Code.NOT_AN_OBJECT, f"expected an object with the inputs {names}, found {kind}")
        (spec,) = inputs
        if self.spec.lone_string is not None and not _is_string_value(value):
            return self._raw(text, value)
        if isinstance(value, dict) and not (spec.dtype == "string" and value.keys() == {"b64"}):
            raise _missing([spec.name], value)
        return {spec.name: normalize(value, self.spec.signature, spec)}

    def _raw(self, text: bytes, value: Any = None) -> dict[str, Any]:
        """Return the whole line as the one string input; an object without the fields that the flags leave out."""
        spec = self.spec.lone_string
        assert spec is not None
        if isinstance(value, dict) and (self.spec.include_fields or self.spec.exclude_fields):
            fields = self._fields_decoder.decode(text)
            names = self.spec.include_fields or [name for name in fields if name not in self.spec.exclude_fields]
            text = b"{" + b",".join(msgspec.json.encode(name) + b":" + bytes(fields[name]) for name in names if name in fields) + b"}"
        shape = self.spec.signature.row_shapes(spec)[0]
        return {spec.name: [B64(text)] if shape == (1,) else B64(text)}


def _is_string_value(value: Any) -> bool:
    """Return whether a bare value is a string, bytes or a list of them, rather than a line of text that happens to be JSON."""
    if isinstance(value, list):
        return bool(value) and all(_is_string_value(item) for item in value)
    return isinstance(value, str) or (isinstance(value, dict) and value.keys() == {"b64"})


def check_values(text: bytes, most: int) -> None:
    """Raise a RowError about a row that is lists of more than ``most`` values; commas inside strings are none between values."""
    if text.count(b",") > most and (count := STRING.sub(b"", text).count(b",")) > most:
        raise RowError(Code.ROW_TOO_LONG, f"the row has more than {count:,} values; at most {most:,} are possible")


def _missing(names: list[str], value: dict[str, Any]) -> RowError:
    """Make the error of a row ``value`` that lacks the inputs ``names``."""
    plural = "s" if len(names) > 1 else ""
    fields = ", ".join(repr(name) for name in list(value)[:10]) or "no field"
    message = f"the row lacks the input{plural} {', '.join(repr(name) for name in names)}; it has {fields}"
    return RowError(Code.INPUT_MISSING, message, names[0])


def _parse_json(text: bytes) -> tuple[Any, RowError | None]:
    try:
        text.decode("utf-8")
        try:
            return msgspec.json.decode(text), None
        except msgspec.ValidationError:  # of an untyped parse: a number beyond a double, or of thousands of digits
            msgspec.json.decode(text, type=msgspec.Raw)
            return json.loads(text, parse_float=_parse_float, parse_int=_parse_integer), None
    except UnicodeDecodeError as error:
        return None, RowError(Code.NOT_UTF8, f"the row is not UTF-8: {error.reason} at byte {error.start}")
    except RecursionError:
        return None, _too_deep()
    except msgspec.DecodeError as error:
        return None, RowError(Code.NOT_JSON, f"expected one JSON value a line: {error}")


def _parse_float(text: str) -> float | TooLarge:
    value = float(text)
    return TooLarge(text) if math.isinf(value) else value


def _parse_integer(text: str) -> int | TooLarge:
    return int(text) if len(text) < 400 else TooLarge(text)


def _too_deep() -> RowError:
    return RowError(Code.NESTED_TOO_DEEP, "the row's lists or objects are nested too deep")
