"""Check of one row's JSON value against one input of the signature."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from transforms.rows.codes import Code, RowError
from transforms.specs.messages import cut
from transforms.specs.signature import Shape, Signature, TensorSpec, shape_text


class B64(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """``{"b64": "..."}``: bytes in JSON, as TensorFlow Serving's REST API writes them."""

    b64: bytes


@dataclasses.dataclass(frozen=True)
class TooLarge:
    """A number in JSON beyond a double, or an integer of thousands of digits: no dtype holds it."""

    text: str


def integer_bounds(dtype: str) -> tuple[int, int] | None:
    """Return the least and the greatest value of an integer dtype; None for any other."""
    if "int" not in dtype:
        return None
    bits = int(dtype.removeprefix("u").removeprefix("int"))
    return (0, 2**bits - 1) if dtype.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def innermost(value: Any) -> Iterator[Any]:
    """Yield the innermost values of nested lists, in order; ``value`` itself where it is no list."""
    if isinstance(value, list):
        for item in value:
            yield from innermost(item)
    else:
        yield value


def normalize(value: Any, signature: Signature, spec: TensorSpec) -> Any:
    """Return ``value`` (plain JSON) as the typed parse of ``from_json.json_type`` returns it.

    Raises:
      RowError: NULL_VALUE, WRONG_TYPE, WRONG_SHAPE, OUT_OF_RANGE or BAD_BASE64, naming input, expected and found.
    """
    shapes = signature.row_shapes(spec)
    check = _scalar_check(spec)
    depth, is_empty = _depth(value)
    if spec.dtype.startswith("complex"):
        depth -= 1
    fitting = [shape for shape in shapes if shape is None or len(shape) == depth or (is_empty and len(shape) > depth)]
    if not fitting and depth == 0 and is_ones(shapes[0]):
        value, fitting = wrap(value, len(shapes[0] or ())), [shapes[0]]
    if not fitting:
        _check_scalars(value, check)
        raise _wrong_shape(spec, shapes, value)
    checked = _check_scalars(value, check)
    if not any(shape is None or has_shape(checked, json_shape(shape, spec.dtype)) for shape in fitting):
        raise _wrong_shape(spec, shapes, value)
    return checked


def json_shape(shape: tuple[int | None, ...], dtype: str) -> tuple[int | None, ...]:
    """Return the shape of a value in JSON, where a complex number is a list of two."""
    return (*shape, 2) if dtype.startswith("complex") else shape


def _depth(value: Any) -> tuple[int, bool]:
    """Return how deep lists are nested, and whether the innermost is empty, so that it fits any greater depth."""
    depth = 0
    while isinstance(value, list):
        depth += 1
        if not value:
            return depth, True
        value = value[0]
    return depth, False


def has_shape(value: Any, shape: tuple[int | None, ...]) -> bool:
    """Return whether the nested lists of ``value`` have ``shape``; a dimension None is any length."""
    if not shape:
        return not isinstance(value, list)
    if not isinstance(value, list) or shape[0] not in (None, len(value)):
        return False
    return all(has_shape(item, shape[1:]) for item in value)


def _check_scalars(value: Any, check: Callable[[Any], Any]) -> Any:
    if isinstance(value, list):
        return [_check_scalars(item, check) for item in value]
    return check(value)


def _describe(value: Any) -> str:
    """Describe a value for a message: its kind, and its text of at most 40 characters."""
    if value is None:
        return "null"
    if isinstance(value, TooLarge):
        return f"a number ({_short(value.text)})"
    kinds = {bool: "a boolean", int: "an integer", float: "a float", str: "a string", dict: "an object", list: "a list"}
    text = msgspec.json.encode(value).decode("utf-8", "replace")
    return f"{kinds.get(type(value), 'a value')} ({_short(text)})"


def _short(text: str) -> str:
    return text if len(text) <= 40 else cut(text, 38)


def _wrong_shape(spec: TensorSpec, shapes: tuple[Shape, ...], value: Any) -> RowError:
    def show(shape: Shape) -> str:
        return "one value" if shape == () else shape_text(shape)

    try:
        found = show(regular_shape(value, spec.name))
    except RowError:
        found = "a ragged list"
    expected = " or ".join(show(shape) for shape in shapes)
    return RowError.of_input(Code.WRONG_SHAPE, spec.name, f"expected {spec.dtype} of shape {expected}, found {found}")


def _scalar_check(spec: TensorSpec) -> Callable[[Any], Any]:
    """Return the function that checks one innermost value of ``spec`` and returns it, or raises a RowError."""
    bounds = integer_bounds(spec.dtype)

    def refuse(value: Any) -> RowError:
        if value is None:
            return RowError.of_input(Code.NULL_VALUE, spec.name, f"expected {spec.dtype}, found null")
        return RowError.of_input(Code.WRONG_TYPE, spec.name, f"expected {spec.dtype}, found {_describe(value)}")

    def check_string(value: Any) -> Any:
        if isinstance(value, str):
            return value
        if isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str):
            try:
                return msgspec.convert(value, B64)
            except msgspec.ValidationError:
                raise RowError.of_input(Code.BAD_BASE64, spec.name, f"expected base64 in b64, found {_describe(value['b64'])}") from None
        raise refuse(value)

    def check_bool(value: Any) -> Any:
        if isinstance(value, bool):
            return value
        raise refuse(value)

    def check_integer(value: Any) -> Any:
        if isinstance(value, TooLarge):
            raise out_of_range(spec, value.text)
        if not isinstance(value, int) or isinstance(value, bool):
            raise refuse(value)
        assert bounds is not None
        if not bounds[0] <= value <= bounds[1]:
            raise out_of_range(spec, value)
        return value

    def check_float(value: Any) -> Any:
        if isinstance(value, TooLarge):
            raise out_of_range(spec, value.text)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise refuse(value)
        try:
            return float(value)
        except OverflowError:
            raise out_of_range(spec, value) from None

    if spec.dtype == "string":
        return check_string
    if spec.dtype == "bool":
        return check_bool
    return check_integer if bounds is not None else check_float


def is_ones(shape: Shape) -> bool:
    """Return whether a row of ``shape`` is one value in lists of one: then the value may come without its lists."""
    return bool(shape) and all(dim == 1 for dim in shape or ())


def wrap(value: Any, depth: int) -> Any:
    """Wrap a scalar in ``depth`` lists, for an input of shape [batch, 1]; a list stays as it is."""
    if isinstance(value, list):
        return value
    for _ in range(depth):
        value = [value]
    return value


def regular_shape(value: Any, name: str) -> tuple[int, ...]:
    """Return the shape of nested lists, the value of input ``name``.

    Raises:
      RowError: WRONG_SHAPE, lists of one list differ in length or depth.
    """
    if not isinstance(value, list):
        return ()
    inner = {regular_shape(item, name) for item in value}
    if len(inner) > 1:
        raise RowError.of_input(Code.WRONG_SHAPE, name, "lists of different lengths or depths stand in one list")
    return (len(value), *(inner.pop() if inner else ()))


def out_of_range(spec: TensorSpec, value: Any) -> RowError:
    """Make the error of a number that does not fit the dtype of input ``spec``."""
    return RowError.of_input(Code.OUT_OF_RANGE, spec.name, f"{_short(str(value))} does not fit {spec.dtype}")
