"""Requests, sampling parameters and records: each wrong field is named with its limit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from paddock_runner.core.engine_record import EngineRecord, EngineRecordError
from paddock_runner.core.engine_request import check_request
from paddock_runner.core.engine_sampling import history_length, is_plain_greedy, normal_sampling
from paddock_runner.core.generation import GenerationRequest, InvalidRequestError, Sampling, Segment

CONFIG: dict[str, object] = {
    "mode": "generate",
    "contextLength": 4096,
    "slots": 4,
    "cells": 16384,
    "sequences": 4,
    "batch": 512,
    "prefixBytes": 0,
    "typeK": "f16",
    "typeV": "q8_0",
    "flashAttention": "auto",
    "mmap": True,
    "mlock": False,
    "gpuLayers": 0,
    "threads": 0,
}


def test_a_record_reads_the_configuration() -> None:
    record = EngineRecord.from_config(CONFIG)
    assert record == EngineRecord("generate", 4096, 4, 16384, 4, 512, 0, "f16", "q8_0", "auto", True, False, 0, 0)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"mode": "chat"}, "mode"),
        ({"prefixBytes": -1}, "prefixBytes"),
        ({"slots": 0}, "slots"),
        ({"slots": True}, "slots"),
        ({"slots": "4"}, "slots"),
        ({"sequences": 3}, "sequences"),
        ({"cells": 4095}, "cells"),
        ({"batch": 3}, "batch"),
        ({"typeK": "q2"}, "typeK"),
        ({"flashAttention": True}, "flashAttention"),
        ({"mmap": 1}, "mmap"),
        ({"gpuLayers": -2}, "gpuLayers"),
        ({"contextLength": 1 << 30}, "contextLength"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_wrong_record_names_the_field(change: dict[str, object], field: str) -> None:
    with pytest.raises(EngineRecordError, match=rf"engine\.{field}") as caught:
        EngineRecord.from_config({**CONFIG, **change})
    assert caught.value.field == field


@pytest.mark.parametrize("field", CONFIG)
def test_every_field_of_a_record_is_required(field: str) -> None:
    with pytest.raises(EngineRecordError, match=field):
        EngineRecord.from_config({name: value for name, value in CONFIG.items() if name != field})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 1.5),
        ("repeat_penalty", 0.0),
        ("repeat_last_n", -2),
        ("mirostat", 3),
        ("top_k", 2**31),
        ("frequency_penalty", float("inf")),
        ("logit_bias", ((300, 1.0),)),
        ("logit_bias", ((1, float("nan")),)),
        ("logit_bias", tuple((1, 1.0) for _ in range(2000))),
    ],
)
def test_wrong_sampling_names_the_field(name: str, value: object) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        normal_sampling(replace(Sampling(), **{name: value}), vocab_size=258, context=100, seed=1)
    assert caught.value.field == name


def test_windows_and_seed_become_normal() -> None:
    sampling = Sampling(repeat_last_n=-1, dry_penalty_last_n=1_000_000, seed=-1)
    normal = normal_sampling(sampling, vocab_size=258, context=100, seed=7)
    assert (normal.repeat_last_n, normal.dry_penalty_last_n, normal.seed) == (100, 100, 0xFFFFFFFF)
    assert normal_sampling(Sampling(), vocab_size=258, context=100, seed=7).seed == 7


@pytest.mark.parametrize(
    ("sampling", "history", "greedy"),
    [
        (Sampling(temperature=0), 0, True),
        (Sampling(), 0, False),
        (Sampling(temperature=0, repeat_penalty=1.1), 64, False),
        (Sampling(temperature=0, dry_multiplier=0.5, dry_penalty_last_n=99), 99, False),
        (Sampling(temperature=0, presence_penalty=0.5, repeat_last_n=0), 0, True),
        (Sampling(temperature=0, logit_bias=((1, 5.0),)), 0, False),
        (Sampling(temperature=0, mirostat=2), 0, False),
        (Sampling(mirostat=1, repeat_penalty=1.1), 0, False),
    ],
)
def test_what_a_sampler_needs(sampling: Sampling, history: int, greedy: bool) -> None:
    assert history_length(sampling) == history
    assert is_plain_greedy(sampling) == greedy


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"context_limit": -1}, "context_limit"),
        ({"logprobs": 129}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"stop": ("",)}, "stop"),
        ({"stop": ("x" * 1025,)}, "stop"),
        ({"stop": tuple("x" for _ in range(65))}, "stop"),
        ({"prompt": (Segment(tokens=(1, 258)),)}, "prompt"),
    ],
)
def test_a_wrong_request_names_the_field(change: dict[str, object], field: str) -> None:
    request = GenerationRequest("r", (Segment("hi"),))
    check_request(request, 258)
    with pytest.raises(InvalidRequestError) as caught:
        check_request(replace(request, **change), 258)
    assert caught.value.field == field
