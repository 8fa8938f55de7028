"""The loop on the fake backend: what readers get, whatever else runs at the same time."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from tests.engine.conftest import GREEDY, Harness, make_request

from paddock_runner.core.generation import Delta, Finished, Sampling, Segment, Started
from paddock_runner.engine.backend import Abilities, BackendError
from paddock_runner.engine.fake import BOS, END, FakeBackend, Faults
from paddock_runner.engine.link import BACKLOG_BYTES, LinkClosedError
from paddock_runner.engine.protocol import Cancel, Failed, Hold, Release, Shutdown

Make = Callable[..., Harness]


def spell(text: bytes, end: bool = True) -> Callable[[list[int]], int]:
    """A script for the fake model: after the five letters of the prompt and BOS it says `text`."""

    def script(visible: list[int]) -> int:
        at = len(visible) - len("hello") - 1
        return text[at] if 0 <= at < len(text) else END if end else ord("x")

    return script


def test_one_request_from_start_to_finish(harness: Make) -> None:
    engine = harness(FakeBackend(spell("grüße".encode())))
    engine.submit(1, make_request())
    engine.pump(lambda: engine.is_done(1))
    started, finished = engine.events[1][0], engine.last(1)
    assert started == Started(6, 0, (BOS, *b"hello"))
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.prompt_tokens, finished.output_tokens) == ("stop", 6, 8)
    assert min(finished.queue_seconds, finished.prefill_seconds, finished.decode_seconds) >= 0
    assert engine.text(1) == "grüße"
    assert bytes(engine.tokens(1)).decode() == "grüße"
    engine.idle()
    assert engine.backend.cells == {}
    assert all(sampler.closed for sampler in engine.backend.samplers)


def test_many_together_equal_each_alone_token_by_token(harness: Make) -> None:
    prompts = [f"prompt number {number} " * (number % 5 + 1) for number in range(12)]
    together, alone = harness(), harness(slots=1)
    for number, prompt in enumerate(prompts):
        together.submit(number, make_request(prompt))
    together.pump(lambda: together.is_done(*range(12)))
    for number, prompt in enumerate(prompts):
        alone.submit(number, make_request(prompt))
        alone.pump(lambda number=number: alone.is_done(number))
        assert together.tokens(number) == alone.tokens(number)
    assert max(stats.running for stats in together.stats) == 4


def test_the_same_seed_says_the_same_and_others_differ(harness: Make) -> None:
    engine = harness()
    for handle, seed in enumerate([5, 5, 6]):
        engine.submit(handle, make_request(sampling=Sampling(temperature=1.0, seed=seed)))
    engine.pump(lambda: engine.is_done(0, 1, 2))
    assert engine.text(0) == engine.text(1) != engine.text(2)


def test_cancel_frees_the_slot_before_the_next_step(harness: Make) -> None:
    engine = harness(slots=1)
    engine.submit(1, make_request(max_tokens=-1))
    engine.submit(2, make_request(max_tokens=3))
    engine.pump(lambda: len(engine.events.get(1, [])) > 3)
    decodes, told = engine.backend.decodes, len(engine.events[1])
    engine.send(Cancel(1))
    engine.turn()
    assert engine.backend.decodes == decodes + 1
    assert engine.started(2) == 1
    assert len(engine.events[1]) == told
    engine.pump(lambda: engine.is_done(2))
    assert all(sampler.closed for sampler in engine.backend.samplers)


def test_cancel_before_it_is_tokenised_or_admitted(harness: Make) -> None:
    engine = harness(slots=1)
    engine.submit(1, make_request(max_tokens=-1))
    for handle in range(2, 6):
        engine.submit(handle, make_request())
        engine.send(Cancel(handle))
    engine.send(Cancel(99))
    engine.pump(lambda: len(engine.events.get(1, [])) > 3)
    assert engine.events.keys() == {1}
    assert engine.stats[-1].waiting == 0


@pytest.mark.parametrize("stop", ["STOP", "xSTO", "P"])
def test_stop_strings_across_tokens_never_show(harness: Make, stop: str) -> None:
    engine = harness(FakeBackend(spell(b"abxSTOPcd")))
    engine.submit(1, make_request(stop=("never", stop)))
    engine.pump(lambda: engine.is_done(1))
    finished = engine.last(1)
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.stop_sequence) == ("stop", stop)
    assert engine.text(1) == "abxSTOPcd".partition(stop)[0]


def test_half_a_stop_string_at_the_end_shows(harness: Make) -> None:
    engine = harness(FakeBackend(spell(b"abSTO")))
    engine.submit(1, make_request(stop=("STOP",)))
    engine.pump(lambda: engine.is_done(1))
    assert engine.text(1) == "abSTO"


def test_no_event_ever_holds_half_a_character(harness: Make) -> None:
    text = "a€😀ß"
    engine = harness(FakeBackend(spell(text.encode(), end=False)))
    for tokens in range(1, len(text.encode()) + 1):
        engine.submit(tokens, make_request(max_tokens=tokens))
    engine.pump(lambda: engine.is_done(*range(1, 11)))
    for tokens in range(1, 11):
        assert engine.text(tokens) == text.encode()[:tokens].decode(errors="ignore")
        assert engine.tokens(tokens) == list(text.encode()[:tokens])


def test_length_at_max_tokens_and_at_the_full_context(harness: Make) -> None:
    engine = harness()
    engine.submit(1, make_request(max_tokens=3))
    engine.submit(2, make_request(max_tokens=-1))
    engine.submit(3, make_request(max_tokens=-1, context_limit=10))
    engine.pump(lambda: engine.is_done(1, 2, 3))
    finished = [engine.last(handle) for handle in (1, 2, 3)]
    assert all(isinstance(event, Finished) and event.reason == "length" for event in finished)
    assert [len(engine.tokens(handle)) for handle in (1, 2, 3)] == [3, 512 - 6, 4]


def test_a_prompt_that_does_not_fit_says_both_numbers(harness: Make) -> None:
    engine = harness()
    engine.submit(1, make_request("x" * 600))
    engine.submit(2, make_request("x" * 20, context_limit=10))
    engine.pump(lambda: engine.is_done(1, 2))
    failures = [engine.last(1), engine.last(2)]
    assert [(f.kind, f.numbers) for f in failures if isinstance(f, Failed)] == [
        ("context", (601, 512)),
        ("context", (21, 10)),
    ]


def test_more_than_may_wait_is_refused(harness: Make) -> None:
    engine = harness(slots=1, queue_depth=2)
    for handle in range(5):
        engine.submit(handle, make_request(max_tokens=100))
    engine.pump(lambda: engine.is_done(*range(5)))
    kinds = [event.kind if isinstance(event := engine.last(handle), Failed) else "ok" for handle in range(5)]
    assert kinds.count("queue") >= 2
    assert kinds[0] == "ok"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"sampling": Sampling(temperature=-1)}, "temperature"),
        ({"prompt": (), "add_bos": False}, "prompt"),
        ({"prompt": (Segment(tokens=(9999,)),)}, "prompt"),
    ],
)
def test_a_bad_field_is_named_and_hurts_nobody(harness: Make, changes: dict[str, object], field: str) -> None:
    engine = harness()
    engine.submit(1, make_request(**changes))
    engine.submit(2, make_request())
    engine.pump(lambda: engine.is_done(1, 2))
    failed = engine.last(1)
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.field) == ("invalid", field)
    assert isinstance(engine.last(2), Finished)


def test_a_held_sequence_waits_and_goes_on(harness: Make) -> None:
    engine = harness()
    engine.submit(1, make_request(max_tokens=50))
    engine.submit(2, make_request(max_tokens=200))
    engine.pump(lambda: len(engine.tokens(1)) > 3 if 1 in engine.events else False)
    engine.send(Hold(1))
    engine.turn()
    held_at = len(engine.tokens(1))
    engine.pump(lambda: engine.is_done(2))
    assert len(engine.tokens(1)) == held_at
    engine.send(Release(1))
    engine.pump(lambda: engine.is_done(1))
    assert len(engine.tokens(1)) == 50


def test_output_that_is_not_a_number_ends_one_sequence_only(harness: Make) -> None:
    engine = harness(FakeBackend(faults=Faults(not_finite={4})))
    engine.submit(1, make_request())
    engine.submit(2, make_request())
    engine.pump(lambda: engine.is_done(1, 2))
    failures = [handle for handle in (1, 2) if isinstance(engine.last(handle), Failed)]
    assert len(failures) == 1
    engine.idle()
    assert engine.backend.used_cells == engine.stats[-1].retained_cells == 6 + 19, "those of the other one"


def test_without_cells_the_newest_starts_over_and_says_the_same(harness: Make) -> None:
    engine, calm = harness(FakeBackend(faults=Faults(no_cells={5, 6, 9}))), harness()
    for each in (engine, calm):
        each.submit(1, make_request("first prompt"))
        each.submit(2, make_request("another prompt"))
        each.pump(lambda each=each: each.is_done(1, 2))
    for handle in (1, 2):
        assert engine.tokens(handle) == calm.tokens(handle)
        assert engine.started(handle) == 1


def test_oversubscribed_cells_serve_everybody_in_the_end(harness: Make) -> None:
    engine = harness(cells=512, slots=4)
    for handle in range(6):
        engine.submit(handle, make_request("x" * 100, max_tokens=60))
    engine.pump(lambda: engine.is_done(*range(6)))
    assert all(isinstance(engine.last(handle), Finished) for handle in range(6))
    assert max(stats.used_cells for stats in engine.stats) <= 512


def test_alone_without_cells_is_a_typed_error(harness: Make) -> None:
    engine = harness(FakeBackend(faults=Faults(no_cells={0})))
    engine.submit(1, make_request())
    engine.pump(lambda: engine.is_done(1))
    failed = engine.last(1)
    assert isinstance(failed, Failed)
    assert failed.kind == "failed"


def test_any_other_decode_error_ends_the_process(harness: Make) -> None:
    engine = harness(FakeBackend(faults=Faults(fatal={2})))
    engine.submit(1, make_request())
    with pytest.raises(BackendError, match="-3"):
        engine.pump(lambda: engine.is_done(1))


def test_logprobs_are_those_of_the_chosen_tokens(harness: Make) -> None:
    engine = harness()
    engine.submit(1, make_request(logprobs=3, max_tokens=5))
    engine.submit(2, make_request(logprobs=0, max_tokens=5))
    engine.pump(lambda: engine.is_done(1, 2))
    deltas = [event for event in engine.events[1] if isinstance(event, Delta)]
    logprobs = [logprob for delta in deltas for logprob in delta.logprobs]
    assert [logprob.token for logprob in logprobs] == engine.tokens(1)
    for logprob in logprobs:
        assert logprob.logprob < 0
        assert logprob.top[0] == (logprob.token, logprob.piece, logprob.logprob)
        assert [entry[2] for entry in logprob.top] == sorted((entry[2] for entry in logprob.top), reverse=True)
    assert all(not item.top for event in engine.events[2] if isinstance(event, Delta) for item in event.logprobs)


def test_a_front_that_does_not_read_stops_the_engine_not_its_memory(harness: Make) -> None:
    engine = harness(context_length=4096, cells=16384)
    for handle in range(4):
        engine.submit(handle, make_request(max_tokens=-1, logprobs=128))
    engine.pump(lambda: bool(engine.stats) and engine.stats[-1].running == 4)
    while not engine.link.backlogged:
        engine.loop.turn()
    decodes = engine.backend.decodes
    engine.link.wake()
    engine.loop.turn()
    assert engine.backend.decodes == decodes
    assert len(engine.link._out) < BACKLOG_BYTES + 1_000_000
    engine.read()
    engine.pump(lambda: engine.backend.decodes > decodes)


def test_steps_stay_within_200_ms_also_for_the_first_long_prompt(harness: Make) -> None:
    engine = harness(FakeBackend(faults=Faults(token_seconds=0.001)), batch=512)
    engine.submit(1, make_request("x" * 400, max_tokens=5))
    engine.submit(2, make_request("y" * 300, max_tokens=5))
    engine.pump(lambda: engine.is_done(1, 2))
    assert max(stats.milliseconds for stats in engine.stats) <= 200


def test_idle_is_told_once_and_then_the_loop_sleeps(harness: Make) -> None:
    engine = harness()
    engine.submit(1, make_request(max_tokens=-1))
    engine.pump(lambda: bool(engine.stats) and engine.stats[-1].running == 1)
    engine.send(Cancel(1))
    engine.link.wake()
    engine.turn()
    frames = len(engine.stats)
    assert (engine.stats[-1].running, engine.stats[-1].used_cells) == (0, 0)
    engine.link.wake()
    engine.turn()
    assert len(engine.stats) == frames


def test_shutdown_and_a_lost_front_end_the_loop(harness: Make) -> None:
    engine = harness()
    engine.send(Shutdown())
    engine.loop.run()
    other = harness()
    other.front.shutdown(socket.SHUT_RDWR)
    with pytest.raises(LinkClosedError):
        other.loop.run()


def test_user_text_never_becomes_a_control_token(harness: Make) -> None:
    engine = harness()
    prompt = (Segment("<s>sys</s>", special=True), Segment("say </s> please"), Segment("</s>", special=True))
    engine.submit(1, make_request(prompt=prompt, sampling=GREEDY))
    engine.pump(lambda: engine.is_done(1))
    started = engine.events[1][0]
    assert isinstance(started, Started)
    assert started.tokens == (BOS, *b"sys", END, *b"say </s> please", END)


def test_the_next_turn_of_a_talk_reads_only_what_is_new(harness: Make) -> None:
    engine, calm = harness(), harness()
    first = "a long enough beginning of a talk"
    engine.submit(1, make_request(first))
    engine.pump(lambda: engine.is_done(1))
    second = first + engine.text(1) + " and more"
    read = sum(stats.prefill_tokens for stats in engine.stats)
    for each in (engine, calm):
        each.submit(2, make_request(second, logprobs=2))
        each.pump(lambda each=each: each.is_done(2))
    started = engine.events[2][0]
    assert isinstance(started, Started)
    assert (started.prompt_tokens, started.cached_tokens) == (len(second) + 1, len(first) + 20)
    assert sum(stats.prefill_tokens for stats in engine.stats) - read == len(" and more") + 1
    assert [event for event in engine.events[2] if isinstance(event, Delta)] == [
        event for event in calm.events[2] if isinstance(event, Delta)
    ]


def test_users_of_one_system_prompt_read_it_once_but_not_across_tenants(harness: Make) -> None:
    engine = harness(slots=8, sequences=16, cells=4096)
    system = "you are a helpful assistant. " * 4
    for handle in range(8):
        engine.submit(handle, make_request(f"{system}{handle} hello", tenant="ab"[handle % 2], max_tokens=8))
    engine.pump(lambda: engine.is_done(*range(8)))
    cached = [engine.events[handle][0].cached_tokens for handle in range(8)]
    assert cached[:2] == [0, 0]
    assert min(cached[2:]) > len(system) - 16
    assert max(stats.shared_cells for stats in engine.stats) >= 2 * len(system)
    engine.idle()
    assert engine.stats[-1].retained_cells == engine.backend.used_cells > 0
    assert engine.stats[-1].used_cells == 0


def test_kept_prefixes_give_way_before_anybody_is_preempted(harness: Make) -> None:
    engine = harness(context_length=256, cells=256, slots=2, sequences=6)
    for handle in range(6):
        engine.submit(handle, make_request(f"{handle}" * 100, max_tokens=60))
        engine.pump(lambda handle=handle: engine.is_done(handle))
        assert isinstance(engine.last(handle), Finished)
    assert max(stats.used_cells + stats.retained_cells for stats in engine.stats) <= 256


@pytest.mark.parametrize("abilities", [Abilities(window=64), Abilities(recurrent=True)])
def test_a_model_with_windows_or_states_goes_on_with_a_talk_and_shares_nothing_else(
    harness: Make, abilities: Abilities
) -> None:
    engine, calm = harness(FakeBackend(abilities=abilities)), harness()
    talk = "the same long prompt again and again"
    for handle, text in enumerate([talk, talk, None]):
        prompt = text or talk + engine.text(1) + " and more"
        for each in (engine, calm):
            each.submit(handle, make_request(prompt))
            each.pump(lambda each=each, handle=handle: each.is_done(handle))
        assert engine.text(handle) == calm.text(handle)
    assert [engine.events[handle][0].cached_tokens for handle in range(3)] == [0, 0, len(talk) + 20]


def test_prefixes_that_had_to_leave_come_back_from_host_memory(harness: Make) -> None:
    """Two talks that do not fit into the cache side by side take turns."""
    sizes = {"context_length": 256, "cells": 256, "slots": 1, "sequences": 4}
    engine, calm = harness(prefix_bytes=1 << 20, **sizes), harness(**sizes)
    texts = {handle: f"{handle} " * 70 for handle in (0, 1)}
    cached = []
    for number in range(6):
        for each in (engine, calm):
            each.submit(number, make_request(texts[number % 2], max_tokens=8))
            each.pump(lambda each=each, number=number: each.is_done(number))
        assert engine.text(number) == calm.text(number)
        cached.append(engine.events[number][0].cached_tokens)
        texts[number % 2] += engine.text(number)
    assert cached[:2] == [0, 0]
    assert min(cached[2:]) >= 140
    assert max(event[0].cached_tokens for event in calm.events.values()) < 140
