"""The words of a Go template: text and, between `{{` and `}}`, tokens with their lines. Called by `parser`. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_TEMPLATE = 1024 * 1024
_SPACE = " \t\r\n"
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_CODE = r"x[0-9a-fA-F]{2}|[0-3][0-7]{2}|u(?![dD][89a-fA-F])[0-9a-fA-F]{4}|U000[0-9a-fA-F]{5}"
_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+(?![ \t\r\n]|-\}\})|[ \t\r\n]+(?=[ \t\r\n]-\}\}))
    |(?P<string>"(?:\\(?:[abfnrtv\\"]|"""
    + _CODE
    + r""")|[^"\\\n])*"|`[^`]*`)
    |(?P<char>'(?:\\(?:[abfnrtv\\']|"""
    + _CODE
    + r""")|[^'\\\n])')
    |(?P<number>[+-]?(?:0[xX][0-9a-fA-F_]+|(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9_]+)?)i?(?!\w))
    |(?P<field>\.[^\W\d]\w*(?=[ \t\r\n.,|:)(]|\}\}|\Z))
    |(?P<variable>\$\w*(?=[ \t\r\n.,|:)(]|\}\}|\Z))
    |(?P<word>[^\W\d]\w*(?=[ \t\r\n.,|:)(]|\}\}|\Z))
    |(?P<punctuation>:=|=|\||\(|\)|,|\.)""",
    re.VERBOSE,
)


class TemplateSyntaxError(ValueError):
    """The template cannot be parsed. `line` counts from 1; the message names it and what was expected."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}")
        self.line = line


@dataclass(frozen=True, slots=True)
class Token:
    """`kind`: text, open, close, or the name of a group of the token pattern. `line` counts from 1."""

    kind: str
    text: str
    line: int


def tokens(source: str) -> Iterator[Token]:
    """The template's tokens, trim markers applied. Raises TemplateSyntaxError; at most 1 MiB is read."""
    if len(source) > MAX_TEMPLATE:
        raise TemplateSyntaxError(1, f"the template has {len(source)} characters, the limit is {MAX_TEMPLATE}")
    at, line, trim = 0, 1, False
    while at < len(source):
        start = source.find("{{", at)
        text = source[at : start if start >= 0 else len(source)]
        kept = text.lstrip(_SPACE) if trim else text
        left = start >= 0 and source[start + 2 : start + 3] == "-" and source[start + 3 : start + 4] in tuple(_SPACE)
        kept = kept.rstrip(_SPACE) if left else kept
        if kept:
            yield Token("text", kept, line)
        if start < 0:
            return
        line += text.count("\n")
        found = _action(source, start + (3 if left else 2), line)
        yield from found.tokens
        line += source.count("\n", start, found.end)
        at, trim = found.end, found.trim


@dataclass(frozen=True, slots=True)
class _Action:
    tokens: list[Token]
    end: int
    trim: bool


def _action(source: str, at: int, line: int) -> _Action:
    comment = _comment(source, at, line)
    if comment is not None:
        return comment
    found = [Token("open", "{{", line)]
    while True:
        closed = _closing(source, at)
        if closed is not None:
            return _Action([*found, Token("close", "}}", line)], *closed)
        match = _TOKEN.match(source, at)
        if match is None:
            raise TemplateSyntaxError(line, _unexpected(source, at))
        if match.lastgroup is not None:
            found.append(Token(match.lastgroup, match.group(), line))
        line += match.group().count("\n")
        at = match.end()


def _comment(source: str, at: int, line: int) -> _Action | None:
    if source[at - 1] == "-":
        at += 1  # the space of the trim marker; Go allows no other before a comment
    if not source.startswith("/*", at):
        return None
    match = _COMMENT.match(source, at)
    closed = _closing(source, match.end()) if match else None
    if closed is None:
        raise TemplateSyntaxError(line, "a comment must end with */ and then }} or  -}}")
    return _Action([], *closed)


def _closing(source: str, at: int) -> tuple[int, bool] | None:
    if source.startswith("}}", at):
        return at + 2, False
    if source[at : at + 1] in tuple(_SPACE) and source.startswith("-}}", at + 1):
        return at + 4, True
    return None


def _unexpected(source: str, at: int) -> str:
    if at >= len(source):
        return "the action is not closed, expected }}"
    return f"unexpected {source[at : at + 10]!r} in an action, expected a value, a field, a word or }}}}"
