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
    """Base of frozen dataclasses that thousands of elements share: a process has one object for each value that it receives.

    A value is packed once, and sent as those bytes: to receive it again costs one comparison of bytes.
    """

    @functools.cached_property
    def packed(self) -> bytes:
        """Return the value's bytes, which ``unpack`` reads."""
        kind: Any = type(self)
        return packer(kind).pack(self)

    def __reduce__(self) -> tuple[Callable[[Any, bytes], Any], tuple[type, bytes]]:
        return unpack, (type(self), self.packed)


@functools.lru_cache(KEPT)
def unpack(kind: Any, packed: bytes) -> Any:
    """Return the interned value of ``kind`` whose bytes are ``packed``: the same object while it is in the cache."""
    return packer(kind).unpack(packed)


class _Form(NamedTuple):
    """How values of one type are packed: the type that msgspec reads instead, and the functions to it and back (None: no conversion)."""

    type: Any
    pack: Callable[[Any], Any] | None = None
    unpack: Callable[[Any], Any] | None = None


def _form(kind: Any) -> _Form:
    """Return the form of a field of type ``kind``: interned values are bytes, and dataclasses that hold them are tuples of their fields."""
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
    pack, unpack = form.pack, form.unpack
    if pack is None or unpack is None:
        return _Form(kind)
    return _Form(
        form.type | None,
        lambda value: None if value is None else pack(value),
        lambda message: None if message is None else unpack(message),
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
        return tuple([getattr(value, name) if convert is None else convert(getattr(value, name)) for name, convert in packers])

    def unpack(message: tuple[Any, ...]) -> Any:
        return kind(*[value if convert is None else convert(value) for value, convert in zip(message, unpackers, strict=True)])

    return _Form(types.GenericAlias(tuple, tuple(form.type for form in forms)), pack, unpack)


class Packer:
    """Packs the values of one class, a dataclass or a struct of msgspec's.

    MessagePack can't hold text that is not UTF-8, such as a file's name, nor integers beyond 64 bits: a value with either is written
    as JSON. JSON begins with a bracket or brace, which no map, array or bytes of MessagePack do.
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
        """Read a value from the bytes that ``pack`` returned.

        Raises:
          msgspec.DecodeError: the bytes are something else.
        """
        message = self._convert(packed) if packed[:1] in (b"{", b"[") else self.decoder.decode(packed)
        return message if self.form.unpack is None else self.form.unpack(message)

    def _convert(self, packed: bytes) -> Any:
        return msgspec.convert(json.loads(packed), self.form.type)


@functools.cache
def packer(kind: Any) -> Packer:
    """Return the packer of ``kind``, one in a process."""
    return Packer(kind)
