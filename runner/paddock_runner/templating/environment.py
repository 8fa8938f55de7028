"""A model's Jinja chat template, rendered as model authors expect and bounded. Used by `templating.worker` only.

The sandbox refuses attribute tricks; it bounds neither time nor memory, which the worker's process does. Filters, tags
and globals are those that templates in the wild rely on: `tojson` without HTML escapes, `raise_exception`,
`strftime_now`, `break`/`continue`, `{% generation %}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

FORBIDDEN = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
_TEMPLATES_KEPT = 4


class RaisedByTemplateError(Exception):
    """The template itself refused the conversation, in its own words."""


class OutputTooLargeError(Exception):
    """The rendered text exceeds its limit."""


class GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}` marks text for training; here it only renders its body."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: object) -> None:
    raise RaisedByTemplateError(str(message)[:300])


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)  # noqa: DTZ005  (templates want the local date)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment() -> ImmutableSandboxedEnvironment:
    """The sandbox with everything a chat template may call."""
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension, GenerationTag]
    )
    env.filters["tojson"] = _tojson
    env.globals["raise_exception"] = _raise_exception
    env.globals["strftime_now"] = _strftime_now
    return env


@lru_cache(maxsize=_TEMPLATES_KEPT)
def compiled(source: str) -> Template:
    """The compiled template. Raises jinja2.TemplateError for bad syntax and for tags that would load other files."""
    env = environment()
    found = next(env.parse(source).find_all(FORBIDDEN), None)
    if found is not None:
        raise TemplateError(f"line {found.lineno}: a chat template may not use {type(found).__name__.lower()}")
    return env.from_string(source)


def render(source: str, variables: dict[str, Any], limit: int) -> str:
    """The rendered chat, at most `limit` bytes.

    Raises RaisedByTemplateError, OutputTooLargeError, jinja2.TemplateError, and what the template's own code raises.
    """
    return _joined(compiled(source).generate(variables), limit)


def _joined(chunks: Iterable[str], limit: int) -> str:
    kept: list[str] = []
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise OutputTooLargeError
        kept.append(chunk)
    text = "".join(kept)
    if len(text.encode()) > limit:
        raise OutputTooLargeError
    return text
