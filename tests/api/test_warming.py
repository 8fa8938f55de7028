"""The Model's own beginning is read when nobody asks, for all tenants, and gives way to whoever comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.front import Front, answer, config_json, front
from tests.support.waiting import until

from paddock_runner.api.warming import common_beginning, warm
from paddock_runner.core.generation import PUBLIC_TENANT, Segment

SYSTEM = "You answer questions about sailing ships of the nineteenth century, and about nothing else."
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


@asynccontextmanager
async def warmable(system: str | None = SYSTEM, prefix_bytes: int = 1 << 20) -> AsyncIterator[Front]:
    async with front(system=system) as at:
        at.config.replace(engine={**config_json()["engine"], "prefixBytes": prefix_bytes})
        at.runner.warm = warm
        yield at


async def test_an_idle_model_reads_its_beginning_once_for_each_load() -> None:
    async with warmable() as at:
        at.runner.on_state("ready")
        await until(lambda: len(at.engine.requests) == 1 and not at.engine.open_requests)
        asked = at.engine.requests[0]
        assert (asked.tenant, asked.max_tokens) == (PUBLIC_TENANT, 1)
        await at.client.post("/api/chat", json={**BODY, "stream": False})
        told = "".join(segment.text for segment in at.engine.requests[1].prompt)
        assert SYSTEM in asked.prompt[0].text
        assert told.startswith(asked.prompt[0].text)
        assert len(at.engine.requests) == 2


async def test_a_request_cancels_it_and_it_comes_back_afterwards() -> None:
    forever = asyncio.Event()
    async with warmable() as at:
        at.engine.script = [forever.wait]
        at.runner.on_state("ready")
        await until(lambda: len(at.engine.requests) == 1)
        at.engine.script = answer("yes")
        assert (await at.client.post("/api/chat", json={**BODY, "stream": False})).status_code == 200
        assert at.engine.cancelled == 1
        await until(lambda: len(at.engine.requests) == 3 and not at.engine.open_requests)
        assert [one.tenant for one in at.engine.requests] == [PUBLIC_TENANT, "", PUBLIC_TENANT]


async def test_nothing_is_read_without_a_beginning_or_when_the_model_is_unloaded_at_once() -> None:
    for system, keep_alive, prefix_bytes in ((None, -1, 1), (SYSTEM, 0, 1), (SYSTEM, -1, 0)):
        async with warmable(system, prefix_bytes) as at:
            at.runner.set_keep_alive(keep_alive)
            if keep_alive:
                await warm(at.runner)
            else:
                at.runner.on_state("ready")
                assert at.runner._warming is None
            assert at.engine.requests == []


def test_two_prompts_begin_alike_up_to_where_they_part() -> None:
    head, user, tail = Segment("<s>", special=True), Segment("abc"), Segment("</s>", special=True)
    assert common_beginning((head, user, tail), (head, Segment("abd"), tail)) == (head, Segment("ab"))
    assert common_beginning((head, user), (head, Segment("abc", special=True))) == (head,)
    assert common_beginning((head,), (head, user)) == (head,)
