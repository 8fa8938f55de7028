"""Dataclasses to msgpack and back, strictly: every field's type is checked, nothing is coerced, nothing is ignored.

Used by `engine.protocol` only. A dataclass travels as `[tag, field, field, …]`; the tag is its index in the codec's
list of classes, so both ends must be of the same version (the `hello` frame says so).
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgpack  # type: ignore[import-untyped]

Decoder = Callable[[object], Any]


class DecodeError(ValueError):
    """The bytes are not a message of this protocol version. Says where and what was expected, never the value."""


class Codec:
    """Encodes and decodes instances of `classes`: dataclasses of scalars, tuples, unions and each other."""

    def __init__(self, classes: Sequence[type]) -> None:
        self._tags = {cls: tag for tag, cls in enumerate(classes)}
        self._getters = {cls: _getter(cls) for cls in classes}
        self._decoders: dict[type, Decoder] = {}
        for cls in classes:
            self._decoders[cls] = self._dataclass_decoder(cls)
        self._by_tag = [self._decoders[cls] for cls in classes]

    def pack(self, message: object) -> bytes:
        """Raises UnicodeEncodeError for text with lone surrogates, OverflowError for integers beyond 64 bits."""
        packed: bytes = msgpack.packb(message, default=self._fields, use_bin_type=True)
        return packed

    def unpack(self, data: bytes) -> Any:
        """Raises DecodeError for anything but one well-formed message."""
        try:
            value = msgpack.unpackb(data, raw=False, use_list=False, strict_map_key=True)
        except (ValueError, msgpack.UnpackException, RecursionError) as error:
            raise DecodeError(f"not a msgpack message: {type(error).__name__}") from error
        return self._tagged(value, self._by_tag)

    def _fields(self, message: object) -> tuple[object, ...]:
        cls = type(message)
        if cls not in self._tags:
            raise TypeError(f"{cls.__name__} is not part of the protocol")
        return (self._tags[cls], *self._getters[cls](message))

    def _tagged(self, value: object, decoders: Sequence[Decoder | None]) -> Any:
        if not isinstance(value, tuple) or not value or type(value[0]) is not int or not 0 <= value[0] < len(decoders):
            raise DecodeError("expected a tagged message")
        decode = decoders[value[0]]
        if decode is None:
            raise DecodeError(f"unexpected message tag {value[0]}")
        return decode(value)

    def _dataclass_decoder(self, cls: type) -> Decoder:
        hints = get_type_hints(cls)
        names = [field.name for field in dataclasses.fields(cls)]
        decoders = [self._decoder(hints[name], f"{cls.__name__}.{name}") for name in names]
        tag, length = self._tags[cls], len(names) + 1

        def decode(value: object) -> Any:
            if not isinstance(value, tuple) or len(value) != length or value[0] != tag:
                raise DecodeError(f"expected {cls.__name__} with {length - 1} fields")
            return cls(*[field(item) for field, item in zip(decoders, value[1:], strict=True)])

        return decode

    def _decoder(self, hint: Any, where: str) -> Decoder:
        origin = get_origin(hint)
        if origin is tuple:
            return self._tuple_decoder(get_args(hint), where)
        if origin in (Union, types.UnionType):
            return self._union_decoder(get_args(hint), where)
        if origin is Literal:
            return _literal_decoder(get_args(hint), where)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            return self._deferred(hint)
        return _scalar_decoder(hint, where)

    def _deferred(self, cls: type) -> Decoder:
        def decode(value: object) -> Any:
            return self._decoders[cls](value)

        return decode

    def _tuple_decoder(self, args: tuple[Any, ...], where: str) -> Decoder:
        if args[-1] is Ellipsis:
            return _repeated_decoder(args[0], self._decoder(args[0], where), where)
        decoders = [self._decoder(arg, where) for arg in args]

        def decode(value: object) -> Any:
            if not isinstance(value, tuple) or len(value) != len(decoders):
                raise DecodeError(f"{where}: expected {len(decoders)} items")
            return tuple([item(part) for item, part in zip(decoders, value, strict=True)])

        return decode

    def _union_decoder(self, args: tuple[Any, ...], where: str) -> Decoder:
        if types.NoneType in args:
            (other,) = [arg for arg in args if arg is not types.NoneType]
            inner = self._decoder(other, where)
            return lambda value: None if value is None else inner(value)
        choices: list[Decoder | None] = [None] * len(self._tags)
        for arg in args:
            choices[self._tags[arg]] = self._decoder(arg, where)
        return lambda value: self._tagged(value, choices)


def _getter(cls: type) -> Callable[[object], tuple[object, ...]]:
    names = [field.name for field in dataclasses.fields(cls)]
    if not names:
        return lambda message: ()
    get = attrgetter(*names)
    return get if len(names) > 1 else lambda message: (get(message),)


def _scalar_decoder(hint: Any, where: str) -> Decoder:
    if hint is float:
        return _float_decoder(where)

    def decode(value: object) -> Any:
        if type(value) is not hint:
            raise DecodeError(f"{where}: expected {hint.__name__}")
        return value

    return decode


def _float_decoder(where: str) -> Decoder:
    def decode(value: object) -> float:
        if type(value) is not float and type(value) is not int:
            raise DecodeError(f"{where}: expected a number")
        return float(value)

    return decode


def _literal_decoder(choices: tuple[Any, ...], where: str) -> Decoder:
    def decode(value: object) -> Any:
        if value not in choices:
            raise DecodeError(f"{where}: expected one of {choices}")
        return value

    return decode


def _repeated_decoder(hint: Any, item: Decoder, where: str) -> Decoder:
    def decode(value: object) -> Any:
        if not isinstance(value, tuple):
            raise DecodeError(f"{where}: expected a list")
        return tuple([item(part) for part in value])

    def decode_integers(value: object) -> Any:
        # Token ids come by the thousand: one set of types instead of a call for each.
        if not isinstance(value, tuple) or not set(map(type, value)) <= {int}:
            raise DecodeError(f"{where}: expected a list of integers")
        return value

    return decode_integers if hint is int else decode
