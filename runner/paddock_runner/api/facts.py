"""What the front knows about the model it serves: sizes, details, the layers of its manifest. Built by `commands.serve`.

Parameters of a manifest were written by strangers: an option that is not usable is left out and logged, never fatal.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from paddock_runner.core.chat import Message
from paddock_runner.core.options import OptionError, Options, parse_options

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """`digest` is the manifest's (`sha256:…`), `size` bytes of all layers, `template` the manifest's template layer."""

    digest: str
    size: int
    modified_at: str
    family: str
    parameter_size: str
    quantization: str
    context_train: int | None
    embedding_length: int | None
    capabilities: tuple[str, ...]
    chat_template: str | None = None
    template: str | None = None
    system: str | None = None
    options: Options = field(default_factory=dict)
    preset: tuple[Message, ...] = ()
    license: str = ""
    modelfile: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tensors: tuple[Mapping[str, Any], ...] = ()


def usable_options(parameters: Mapping[str, Any]) -> Options:
    """The manifest's parameters, without those of a wrong type or out of range."""
    usable: Options = {}
    for name, value in parameters.items():
        try:
            usable.update(parse_options({name: value}))
        except OptionError as error:
            log.warning("parameter of the manifest ignored: %s", error)
    return usable
