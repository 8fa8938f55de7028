"""Typed access to the fields of a configuration file. Called by the parsers of the gateway's and the runner's files.

Every problem names the field by its path (`models[0].backends[1]`), says what is allowed and what kind of value was
found. Values themselves are not quoted, for they may be secrets.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

MAX_ENTRIES = 10_000
MAX_TEXT = 1024

_REQUIRED = object()

T = TypeVar("T")


class ConfigProblem(ValueError):  # noqa: N818
    """The configuration is not acceptable; the message names the field, what is allowed and what was found."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class Fields:
    """Typed access to one JSON object that remembers what was asked for, so that the rest can be refused."""

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            raise ConfigProblem(path or "(top)", f"must be an object, not {kind_of(value)}")
        self._value: dict[str, Any] = value
        self._path = path
        self._asked: set[str] = set()

    def path(self, name: str) -> str:
        """The field's path from the top of the file."""
        return f"{self._path}.{name}" if self._path else name

    def get(self, name: str, default: object = _REQUIRED) -> Any:
        """The value as it is. Raises `ConfigProblem` when it is missing and has no default (so do all below)."""
        self._asked.add(name)
        value = self._value.get(name, default)
        if value is _REQUIRED:
            raise ConfigProblem(self.path(name), "is required")
        return value

    def text(self, name: str, default: object = _REQUIRED) -> str:
        """A bounded text."""
        return text_of(self.get(name, default), self.path(name))

    def matching(self, name: str, pattern: re.Pattern[str], allowed: str) -> str:
        """A text that matches the pattern from end to end; `allowed` says in words what does."""
        value = self.text(name)
        if not pattern.fullmatch(value):
            raise ConfigProblem(self.path(name), f"must be {allowed}")
        return value

    def integer(self, name: str, default: object = _REQUIRED) -> int:
        """An integer of at least 0; true and false are none."""
        value = self.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
            raise ConfigProblem(self.path(name), f"must be an integer from 0 to 2^53, not {kind_of(value)}")
        return value

    def number(self, name: str, default: object = _REQUIRED) -> float:
        """A number of at least 0."""
        value = self.get(name, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or value < 0:
            raise ConfigProblem(self.path(name), f"must be a number of at least 0, not {kind_of(value)}")
        return float(value)

    def boolean(self, name: str) -> bool:
        """True or false."""
        value = self.get(name)
        if not isinstance(value, bool):
            raise ConfigProblem(self.path(name), f"must be true or false, not {kind_of(value)}")
        return value

    def choice(self, name: str, allowed: tuple[T, ...]) -> T:
        """One of the allowed values."""
        return one_of(self.get(name), allowed, self.path(name))

    def child(self, name: str) -> Fields:
        """The fields of an object; a missing one and null are empty."""
        return Fields({} if (value := self.get(name, None)) is None else value, self.path(name))

    def each(self, name: str, read: Callable[[object, str], T]) -> list[T]:
        """Every entry of a bounded list, read by `read(value, path)`; a missing list is empty."""
        value = self.get(name, [])
        if not isinstance(value, list) or len(value) > MAX_ENTRIES:
            raise ConfigProblem(self.path(name), f"must be a list of at most {MAX_ENTRIES} entries")
        return [read(item, f"{self.path(name)}[{index}]") for index, item in enumerate(value)]

    def done(self) -> None:
        """Refuse every field that nobody asked for."""
        if unknown := sorted(self._value.keys() - self._asked):
            raise ConfigProblem(self.path(unknown[0]), "is not a field of this version; remove it")


def text_of(value: object, path: str) -> str:
    """The value if it is a bounded text. Raises `ConfigProblem`."""
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        found = "a longer one" if isinstance(value, str) else kind_of(value)
        raise ConfigProblem(path, f"must be a text of at most {MAX_TEXT} characters, not {found}")
    return value


def one_of(value: Any, allowed: tuple[T, ...], path: str) -> T:
    """The value if it is allowed. Raises `ConfigProblem`."""
    if value not in allowed:
        raise ConfigProblem(path, f"must be one of {', '.join(map(str, allowed))}")
    return allowed[allowed.index(value)]


def kind_of(value: object) -> str:
    """What kind of JSON value this is, in words."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
