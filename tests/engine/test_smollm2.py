"""Meaning: a real model answers sensibly, alone and among others. Real floating point, so equality up to near-ties."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.engine.conftest import GREEDY, make_record

from paddock_runner.core.generation import (
    PUBLIC_TENANT,
    Delta,
    Finished,
    GenerationRequest,
    Sampling,
    Segment,
    Started,
    TokenLogprob,
)
from paddock_runner.engine.client import EngineClient

pytestmark = pytest.mark.model

# Sums in another order and other kernels for other batch shapes move a log-probability this much on quantised
# weights. A choice between two tokens that near is no error.
NEAR_TIE = 0.3


@pytest.fixture
async def engine(smollm2: Path) -> AsyncIterator[EngineClient]:
    record = make_record(context_length=1024, cells=8192, slots=8, sequences=8, batch=256, threads=0)
    client = EngineClient(smollm2, record)
    await client.load()
    yield client
    await client.close()


def chat(text: str, **changes: object) -> GenerationRequest:
    prompt = (
        Segment("<|im_start|>user\n", special=True),
        Segment(text),
        Segment("<|im_end|>\n<|im_start|>assistant\n", special=True),
    )
    return GenerationRequest(**{"request_id": "r", "prompt": prompt, "sampling": GREEDY, "max_tokens": 60, **changes})


async def answer(engine: EngineClient, request: GenerationRequest) -> tuple[str, list[TokenLogprob], Finished]:
    deltas: list[Delta] = []
    async for event in engine.generate(request):
        if isinstance(event, Delta):
            deltas.append(event)
        elif isinstance(event, Finished):
            finished = event
    logprobs = [logprob for delta in deltas for logprob in delta.logprobs]
    return "".join(delta.text for delta in deltas), logprobs, finished


async def test_it_knows_the_capital_of_france(engine: EngineClient) -> None:
    text, _, finished = await answer(engine, chat("What is the capital of France?"))
    assert "Paris" in text
    assert "<|im_end|>" not in text
    assert finished.reason == "stop"


async def test_it_stops_where_told(engine: EngineClient) -> None:
    text, _, finished = await answer(engine, chat("What is the capital of France?", stop=("Paris",)))
    assert text == "The capital of France is "
    assert (finished.reason, finished.stop_sequence) == ("stop", "Paris")


async def test_eight_streams_say_what_one_says_up_to_near_ties(engine: EngineClient) -> None:
    request = chat("Write a story about a fox.", logprobs=2, max_tokens=48)
    _, alone, _ = await answer(engine, request)
    together = await asyncio.gather(*[answer(engine, request) for _ in range(8)])
    for _, logprobs, finished in together:
        assert finished.output_tokens == 48
        assert_equal_up_to_a_near_tie(alone, logprobs)


def assert_equal_up_to_a_near_tie(expected: list[TokenLogprob], got: list[TokenLogprob]) -> None:
    for one, other in zip(expected, got, strict=True):
        if one.token != other.token:
            gap = one.top[0][2] - one.top[1][2]
            assert other.token == one.top[1][0]
            assert gap < NEAR_TIE
            return
        assert one.logprob == pytest.approx(other.logprob, abs=NEAR_TIE)


async def test_seeds_repeat_alone(engine: EngineClient) -> None:
    request = chat("Write a poem.", sampling=Sampling(temperature=1.0, seed=42), max_tokens=20)
    first, _, _ = await answer(engine, request)
    second, _, _ = await answer(engine, request)
    assert first == second


async def test_a_full_context_ends_with_length(engine: EngineClient) -> None:
    _, _, finished = await answer(engine, chat("Count up from one.", context_limit=48, max_tokens=-1))
    assert finished.reason == "length"
    assert finished.prompt_tokens + finished.output_tokens == 48


async def test_a_long_prompt_is_prefilled_in_short_steps(engine: EngineClient) -> None:
    request = chat("the quick brown fox " * 200, max_tokens=2)
    _, _, finished = await answer(engine, request)
    assert finished.prompt_tokens > 800
    assert finished.prefill_seconds > 0


async def test_a_second_turn_reads_only_the_new_part_and_says_the_same(smollm2: Path) -> None:
    """The same talk with its beginning in the cache and without."""
    first = chat("What is the capital of France?", max_tokens=20)
    record = make_record(context_length=1024, cells=4096, slots=2, sequences=8, batch=256, threads=0)
    fresh = EngineClient(smollm2, record)
    warm = EngineClient(smollm2, record)
    try:
        text, _, _ = await answer(warm, first)
        again = Segment(
            f"{text}<|im_end|>\n<|im_start|>user\nAnd of Spain?<|im_end|>\n<|im_start|>assistant\n", special=True
        )
        second = chat("", prompt=(*first.prompt, again), logprobs=2, max_tokens=24)
        _, expected, _ = await answer(fresh, second)
        assert (await started(warm, second)).cached_tokens > 20
        _, got, finished = await answer(warm, second)
        assert finished.reason == "stop"
        assert_equal_up_to_a_near_tie(expected, got)
    finally:
        await warm.close()
        await fresh.close()


async def test_a_public_beginning_serves_every_tenant_and_nothing_else_is_shared(smollm2: Path) -> None:
    record = make_record(
        context_length=1024, cells=2048, slots=2, sequences=8, batch=256, threads=0, prefix_bytes=1 << 28
    )
    head = Segment("<|im_start|>system\n" + "You know ships, and sailors. " * 20 + "<|im_end|>\n", special=True)
    tail = "<|im_start|>user\nWhat is the capital of France? Say one word.<|im_end|>\n<|im_start|>assistant\n"
    asked = {
        tenant: chat("", prompt=(head, Segment(tail, special=True)), logprobs=2, max_tokens=12, tenant=tenant)
        for tenant in ("a", "b")
    }
    fresh, warm = EngineClient(smollm2, record), EngineClient(smollm2, record)
    try:
        _, expected, _ = await answer(fresh, asked["a"])
        beginning = chat("", prompt=(head,), max_tokens=1, tenant=PUBLIC_TENANT, priority=-1)
        public = (await answer(warm, beginning))[2].prompt_tokens
        for tenant in ("a", "b"):
            assert (await started(warm, asked[tenant])).cached_tokens == public > 100
            _, got, _ = await answer(warm, asked[tenant])
            assert_equal_up_to_a_near_tie(expected, got)
    finally:
        await warm.close()
        await fresh.close()


async def started(engine: EngineClient, request: GenerationRequest) -> Started:
    async for event in engine.generate(request):
        if isinstance(event, Started):
            return event
    raise AssertionError("it never began")
