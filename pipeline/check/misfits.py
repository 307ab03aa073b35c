"""Misfits of the sampled rows and the model, field by field, with the smallest change that fixes each."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from transforms.convert.json_values import normalize
from transforms.elements.batches import InstanceBatch
from transforms.elements.failed_rows import FailedRow, row_as_json
from transforms.formats.catalog import Format
from transforms.rows.codes import Code, RowError
from transforms.specs.signature import Signature, TensorSpec, shape_text
from transforms.storage import files

IMAGE = re.compile(r"\.(jpe?g|png|gif|bmp|webp|tiff?)$", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Misfit:
    """One way in which a field does not fit the model, in ``rows`` of the sampled rows, and the change that fixes it."""

    field: str
    code: str
    expected: str
    found: str
    rows: int
    example: str
    fix: str


@dataclasses.dataclass
class _Group:
    rows: int
    value: Any
    message: str
    row: dict[str, Any]


def find_misfits(failed: Sequence[FailedRow], signature: Signature, format: Format, key_fields: tuple[str, ...]) -> list[Misfit]:
    """List the misfits of a sample's failed rows, the most frequent first.

    A row that lacks one input may hold another of the wrong type: where rows are objects, every field is checked.
    """
    groups: dict[tuple[str, str], _Group] = {}
    for row in failed:
        instance = _decode(row.instance)
        for field, code, message, value in _reasons(row, instance, signature, format):
            group = groups.setdefault((field, code), _Group(0, value, message, instance if isinstance(instance, dict) else {}))
            group.rows += 1
    ordered = sorted(groups.items(), key=lambda item: -item[1].rows)
    return [_misfit(field, code, group, signature, key_fields) for (field, code), group in ordered]


def _decode(text: bytes) -> Any:
    """Decode JSON text; return None where it is none."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None


def _reasons(row: FailedRow, instance: Any, signature: Signature, format: Format) -> Iterable[tuple[str, str, str, Any]]:
    """Yield field, code, message and value of each misfit of one row, whose decoded JSON is ``instance``."""
    field = row.field or ""
    is_object = isinstance(instance, dict)
    if row.stage == "convert" and is_object and format.types_rows and not _is_raw(instance):
        has_misfit = False
        for spec in signature.inputs:
            try:
                if spec.name not in instance:
                    raise RowError(Code.INPUT_MISSING, f"input {spec.name!r} is missing", spec.name)
                normalize(instance[spec.name], signature, spec)
            except RowError as error:
                has_misfit = True
                yield spec.name, str(error.code), error.message, instance.get(spec.name)
            except RecursionError:
                continue
        if has_misfit:
            return
    value = instance.get(field) if is_object and field else instance
    if row.stage == "predict" and is_object:
        field, value = _path_in(instance, signature) or (field, value)
    yield field, str(row.code), row.message, value


def _is_raw(instance: dict[str, Any]) -> bool:
    return instance.keys() == {"b64"}


def _path_in(instance: dict[str, Any], signature: Signature) -> tuple[str, Any] | None:
    """Return name and value of the first string input that holds the path of a file, or None."""
    for spec in signature.inputs:
        value = instance.get(spec.name)
        if spec.dtype == "string" and isinstance(value, str) and _is_path(value):
            return spec.name, value
    return None


def _is_path(value: str) -> bool:
    return len(value) < 1024 and "\n" not in value and (IMAGE.search(value) is not None or (("/" in value) and files.exists(value)))


def _misfit(field: str, code: str, group: _Group, signature: Signature, key_fields: tuple[str, ...]) -> Misfit:
    spec = next((tensor for tensor in signature.inputs if tensor.name == field), None)
    expected = _expected(spec, signature) if spec else ("a key" if code.startswith("KEY") else "a row the model takes")
    return Misfit(
        field=field or (", ".join(key_fields) if code.startswith("KEY") else "(the row)"),
        code=code,
        expected=expected,
        found=kind_of(group.value) if spec and code != "INPUT_MISSING" else ("no such field" if spec else code),
        rows=group.rows,
        example=group.message,
        fix=_fix(spec, code, group, signature),
    )


def _expected(spec: TensorSpec, signature: Signature) -> str:
    texts = ["any shape" if shape is None else shape_text(shape) if shape else "one value" for shape in signature.row_shapes(spec)]
    return f"{spec.dtype}, {' or '.join(texts)}"


def kind_of(value: Any) -> str:
    """Return the kind of a JSON value in a word or two, such as "a float"; of a list with its length."""
    if value is None:
        return "null"
    if isinstance(value, list):
        return f"a list of {len(value)}" + (f" ({kind_of(value[0])} first)" if value else "")
    kinds = {bool: "a boolean", int: "an integer", float: "a float", str: "a string", dict: "an object"}
    return kinds.get(type(value), "a value")


def _fix(spec: TensorSpec | None, code: str, group: _Group, signature: Signature) -> str:
    """Return the smallest change of flags or data that makes the field fit."""
    if spec is None:
        return _row_fix(code, group, signature)
    name, value = spec.name, group.value
    if code == "INPUT_MISSING":
        return _missing_fix(name, group.row, signature)
    if code == "NULL_VALUE":
        return f"give {name!r} a value in every row, or leave those rows to the errors with --max_error_ratio"
    if code in ("MODEL_ERROR", "BAD_BASE64") and isinstance(value, str) and _is_path(value):
        return f'{name!r} holds the path of a file ({value}), and the model wants its bytes: write {{"b64": …}} of the file\'s content' + (
            ", or give the paths one a line with --input_format=file-list, without --key_field" if len(signature.inputs) == 1 else ""
        )
    if code == "WRONG_TYPE":
        return _type_fix(spec, value)
    if code == "WRONG_SHAPE":
        return f"give {name!r} as {_expected(spec, signature)} in each row; found {kind_of(value)}"
    if code == "OUT_OF_RANGE":
        return f"{name!r} is {spec.dtype} in the model: correct the numbers, or export the signature with a wider dtype"
    return f"look at the rows: {group.message}"


def _type_fix(spec: TensorSpec, value: Any) -> str:
    name = spec.name
    while isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, str) and spec.dtype != "string":
        number = _number(value)
        if number is not None:
            literal = int(number) if float(number).is_integer() and "int" in spec.dtype else number
            return f'write {name!r} as a number, {literal} and not "{value}" (jq -c \'.["{name}"] |= tonumber\')'
        problem = f'{name!r} holds text that is no number ("{value[:40]}")'
        return f"{problem}: write numbers, or leave those rows to the errors with --max_error_ratio"
    if isinstance(value, float) and "int" in spec.dtype:
        if value.is_integer():
            return f"write {name!r} as an integer, {int(value)} and not {value} (jq -c '.[\"{name}\"] |= floor')"
        return f"{name!r} is {spec.dtype} in the model: round its values in the data if that is meant"
    if isinstance(value, int | float) and spec.dtype == "string":
        return f'write {name!r} as a string, "{value}" and not {value} (jq -c \'.["{name}"] |= tostring\')'
    return f"write {name!r} as {spec.dtype}; found {kind_of(value)}"


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _missing_fix(name: str, row: dict[str, Any], signature: Signature) -> str:
    """Return the renaming of the field with the nearest name, or of the only field where there is one input; else to add the field."""
    inputs = {spec.name for spec in signature.inputs}
    others = [field for field in row if field not in inputs]
    folded = {field.casefold().replace("-", "_"): field for field in others}
    matches = difflib.get_close_matches(name.casefold(), list(folded), 1, 0.6)
    other = folded[matches[0]] if matches else others[0] if len(others) == 1 and len(inputs) == 1 else None
    if other is not None:
        return f'rename {other!r} to {name!r} in the data (jq -c \'.["{name}"] = .["{other}"] | del(.["{other}"])\')'
    return f"add {name!r} to each row; the rows have {', '.join(map(repr, list(row)[:10])) or 'no field'}"


def _row_fix(code: str, group: _Group, signature: Signature) -> str:
    """Return the change that fixes a misfit of no single input."""
    if code == "INPUT_MISSING" and group.row:
        return _missing_fix(signature.inputs[0].name, group.row, signature)
    if code == "NOT_JSON":
        return "the rows are not JSON-lines: name their format with --input_format, or correct them"
    if code.startswith("KEY"):
        return "name a field that every row has with --key_field, or leave it out; candidates are listed below"
    if code == "NOT_AN_OBJECT":
        names = ", ".join(f'"{spec.name}": …' for spec in signature.inputs)
        return f"write each row as an object: {{{names}}}"
    return f"look at the rows: {group.message}"


def candidate_keys(batches: Sequence[InstanceBatch], failed: Sequence[FailedRow]) -> list[str]:
    """List the fields whose value is a string or a whole number, and another one in every sampled row."""
    texts = [row_as_json(batch.rows[row]) for batch in batches for row in range(len(batch))] + [row.instance for row in failed]
    rows = [row for row in map(_decode, texts) if isinstance(row, dict)]
    if len(rows) < 2:
        return []
    return [
        name for name in rows[0] if all(type(row.get(name)) in (str, int) for row in rows) and len({row[name] for row in rows}) == len(rows)
    ]
