"""Turn manifests (camelCase mappings) into frozen dataclasses and back, by their type hints.

Called by `resources.parse` and by everything that writes a part of a spec again. The schema has been checked before
(`schema.problems`), so `build` is for well-formed input and raises TypeError or ValueError otherwise.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


@cache
def wire_name(field_name: str) -> str:
    """snake_case to camelCase: `context_length` becomes `contextLength`."""
    head, *rest = field_name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def name_in_wire(cls: type, field_name: str) -> str:
    """The manifest's spelling of a field; a class with `WIRE_NAMES = "as-is"` keeps its own (Modelfile parameters)."""
    return field_name if getattr(cls, "WIRE_NAMES", "") == "as-is" else wire_name(field_name)


@cache
def hints(cls: Any) -> dict[str, Any]:
    """Resolved type hints of a dataclass, ClassVars left out."""
    resolved = get_type_hints(cls)
    return {item.name: resolved[item.name] for item in fields(cls)}


def build(cls: type[T], value: Mapping[str, Any]) -> T:
    """Make a dataclass from a mapping. Absent and null fields take the dataclass's default. Raises TypeError."""
    given = {}
    for name, hint in hints(typing.cast(Any, cls)).items():
        raw = value.get(name_in_wire(cls, name))
        if raw is not None:
            given[name] = _convert(hint, raw)
    return cls(**given)


def _convert(hint: Any, raw: Any) -> Any:
    hint = _without_none(hint)
    origin, args = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return build(typing.cast(type, hint), raw)
    if origin is tuple:
        return tuple(_convert(args[0], item) for item in raw)
    if origin is not None and issubclass(origin, Mapping):
        return {key: item for key, item in raw.items() if item is not None or args[1] is Any}
    return _number(hint, raw)


def _number(hint: Any, raw: Any) -> Any:
    # manifests may write 1.0 for 1 and 1 for 1.0; where a string may stand too, whole numbers are integers
    if hint is float:
        return float(raw)
    whole = isinstance(raw, float) and raw.is_integer() and hint is not str
    return int(raw) if whole else raw


def _without_none(hint: Any) -> Any:
    if get_origin(hint) not in (Union, types.UnionType):
        return hint
    kept = [arg for arg in get_args(hint) if arg is not type(None)]
    return kept[0] if len(kept) == 1 else object


def to_wire(value: Any) -> Any:
    """A dataclass as a manifest mapping again; None, empty lists and empty maps are left out."""
    if is_dataclass(value) and not isinstance(value, type):
        pairs = {name_in_wire(type(value), item.name): getattr(value, item.name) for item in fields(value)}
        return {name: to_wire(item) for name, item in pairs.items() if not _absent(item)}
    if isinstance(value, tuple | list):
        return [to_wire(item) for item in value]
    return value


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, tuple | list | Mapping) and not value)
