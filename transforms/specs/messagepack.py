"""Elements as bytes and back: MessagePack, checked against the types of their fields."""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

KEPT = 1000
_ENCODER = msgspec.msgpack.Encoder()


class Interned:
    """Base of frozen dataclasses that thousands of elements hold alike: a process has one object for each value that it is sent.

    It travels as the bytes that it was packed to once: then a comparison of bytes is all that it takes to receive it again.
    """

    @functools.cached_property
    def packed(self) -> bytes:
        """The value's bytes, which ``unpack`` reads."""
        kind: Any = type(self)
        return packer(kind).pack(self)

    def __reduce__(self) -> tuple[Callable[[Any, bytes], Any], tuple[type, bytes]]:
        return unpack, (type(self), self.packed)


@functools.lru_cache(KEPT)
def unpack(kind: Any, packed: bytes) -> Any:
    """Return the interned value of ``kind`` whose bytes are ``packed``: the same object as long as it is kept."""
    return packer(kind).unpack(packed)


class _Form(NamedTuple):
    """How values of one type are packed: the type that msgspec reads in their place, and the ways there and back (None: themselves)."""

    type: Any
    pack: Callable[[Any], Any] | None = None
    unpack: Callable[[Any], Any] | None = None


def _form(kind: Any) -> _Form:
    """Return the form of a field of type ``kind``: interned values are bytes, and dataclasses that hold some are tuples of their fields."""
    if _is_interned(kind):
        return _Form(bytes, lambda value: value.packed, functools.partial(unpack, kind))
    if isinstance(kind, types.UnionType):
        return _union_form(kind)
    return _dataclass_form(kind) if dataclasses.is_dataclass(kind) else _Form(kind)


def _is_interned(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Interned)


def _union_form(kind: types.UnionType) -> _Form:
    inner, *others = [one for one in kind.__args__ if one is not types.NoneType]
    form = _Form(kind) if others else _form(inner)
    there, back = form.pack, form.unpack
    if there is None or back is None:
        return _Form(kind)
    return _Form(
        form.type | None,
        lambda value: None if value is None else there(value),
        lambda message: None if message is None else back(message),
    )


def _dataclass_form(kind: Any) -> _Form:
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    forms = [_form(hints[name]) for name in names]
    if all(form.pack is None for form in forms):
        return _Form(kind)
    packers = [(name, form.pack) for name, form in zip(names, forms, strict=True)]
    unpackers = [form.unpack for form in forms]

    def pack(value: Any) -> tuple[Any, ...]:
        return tuple([getattr(value, name) if there is None else there(getattr(value, name)) for name, there in packers])

    def back(message: tuple[Any, ...]) -> Any:
        return kind(*[value if there is None else there(value) for value, there in zip(message, unpackers, strict=True)])

    return _Form(types.GenericAlias(tuple, tuple(form.type for form in forms)), pack, back)


class Packer:
    """Packs the values of one class, a dataclass or a struct of msgspec's.

    MessagePack has no place for text that is not UTF-8, which a file's name may be, nor for integers beyond 64 bits: a value that holds
    some is written as JSON, which begins with a bracket or brace, as no map, array or bytes of MessagePack do.
    """

    def __init__(self, kind: type) -> None:
        self.form = _dataclass_form(kind) if dataclasses.is_dataclass(kind) else _Form(kind)
        self.decoder = msgspec.msgpack.Decoder(self.form.type)

    def pack(self, value: Any) -> bytes:
        """Return ``value`` as bytes, the same for equal values."""
        message = value if self.form.pack is None else self.form.pack(value)
        try:
            return _ENCODER.encode(message)
        except (UnicodeEncodeError, OverflowError):
            return json.dumps(msgspec.to_builtins(message)).encode()

    def unpack(self, packed: bytes) -> Any:
        """Read what ``pack`` returned.

        Raises:
          msgspec.DecodeError: it is something else.
        """
        message = self._convert(packed) if packed[:1] in (b"{", b"[") else self.decoder.decode(packed)
        return message if self.form.unpack is None else self.form.unpack(message)

    def _convert(self, packed: bytes) -> Any:
        return msgspec.convert(json.loads(packed), self.form.type)


@functools.cache
def packer(kind: Any) -> Packer:
    """Return the packer of ``kind``; a process has one."""
    return Packer(kind)
