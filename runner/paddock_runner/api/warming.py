"""The Model's own beginning, read once when nobody asks for anything. Called by `api.runner` through `commands.serve`.

What every chat with the Model begins with (its system text and messages, as the template renders them) is text of the
Model's author and no tenant's, so all tenants may go on from it; `core.prefix_host` keeps it.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from contextlib import aclosing

from paddock_runner.api.prompting import chat_prompt
from paddock_runner.api.runner import Runner
from paddock_runner.core.chat import Message
from paddock_runner.core.generation import (
    PUBLIC_TENANT,
    GenerationError,
    GenerationRequest,
    Sampling,
    Segment,
)

log = logging.getLogger(__name__)

# A token is hardly ever shorter than one character, and fewer than 64 tokens are not kept.
_LEAST_CHARACTERS = 64


async def warm(runner: Runner) -> None:
    """Have the engine read the beginning, if there is one and it can be kept. A failure costs the warmth only."""
    if runner.config.record.mode != "generate" or runner.config.record.prefix_bytes == 0:
        return
    try:
        request = await _beginning(runner)
        # Between this look and the engine's own bookkeeping nothing is awaited: an unloaded model stays unloaded.
        if request is not None and runner.engine.state == "ready":
            async with aclosing(runner.engine.generate(request)) as events:  # type: ignore[type-var]
                async for _ in events:
                    pass
    except GenerationError as error:
        log.info("the model's own beginning was not read ahead: %s", error)


async def _beginning(runner: Runner) -> GenerationRequest | None:
    one, other = [await chat_prompt(runner, [Message("user", text)]) for text in ("a", "b")]
    segments = common_beginning(one.segments, other.segments)
    if sum(len(segment.text) for segment in segments) < _LEAST_CHARACTERS:
        return None
    return GenerationRequest(
        "warm-up", segments, 1, Sampling(temperature=0.0), add_bos=one.add_bos, tenant=PUBLIC_TENANT, priority=-1
    )


def common_beginning(one: Sequence[Segment], other: Sequence[Segment]) -> tuple[Segment, ...]:
    """The segments of text with which both begin; where they part, what their texts have in common."""
    common: list[Segment] = []
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(mine.text, theirs.text, strict=False))
            text = "".join(character for character, _ in alike)
            return (*common, Segment(text, mine.special)) if text and mine.special == theirs.special else tuple(common)
        common.append(mine)
    return tuple(common)
