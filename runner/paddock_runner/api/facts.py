"""What the front knows about the model it serves: sizes, details, its manifest's layers. Built by `commands.serve`.

Parameters of a manifest were written by strangers: an option that is not usable is left out and logged, never fatal.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from paddock_runner.core.chat import Message
from paddock_runner.core.options import OptionError, Options, parse_options

log = logging.getLogger(__name__)

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """`digest` is the manifest's (`sha256:…`), `size` bytes of all layers, `template` the manifest's template layer.

    `stored_show` gives the store's own answer to `/api/show`; it reads files, so it waits until somebody asks.
    """

    digest: str
    size: int
    modified_at: str
    family: str
    parameter_size: str
    quantization: str
    context_train: int | None
    embedding_length: int | None
    capabilities: tuple[str, ...]
    stored_show: Callable[[], Mapping[str, Any]]
    chat_template: str | None = None
    template: str | None = None
    system: str | None = None
    options: Options = field(default_factory=dict)
    preset: tuple[Message, ...] = ()


def usable_options(parameters: Mapping[str, Any]) -> Options:
    """The manifest's parameters, without those of a wrong type or out of range."""
    usable: Options = {}
    for name, value in parameters.items():
        try:
            usable.update(parse_options({name: value}))
        except OptionError as error:
            log.warning("parameter of the manifest ignored: %s", error)
    return usable


def usable_messages(messages: tuple[Mapping[str, str], ...]) -> tuple[Message, ...]:
    """The manifest's messages, without those of a role that no chat has."""
    return tuple(Message(item["role"], item["content"]) for item in messages if item["role"] in ROLES)
