"""Options and keep-alive: types, ranges, precedence, Go's durations."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock_runner.core.durations import FOREVER, MAX_SECONDS, nanoseconds, parse_duration, parse_keep_alive
from paddock_runner.core.generation import Sampling
from paddock_runner.core.options import (
    INT64,
    RULES,
    OptionError,
    integer,
    merge,
    parse_options,
    parse_stop,
    stops,
    to_sampling,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10m", 600),
        ("1h30m", 5400),
        ("300ms", 0.3),
        ("1.5s", 1.5),
        ("-5m", -300),
        ("0", 0),
        ("2h0m0.5s", 7200.5),
        ("+1s", 1),
        ("1us", 1e-6),
        ("1µs", 1e-6),
        (".5s", 0.5),
    ],
)
def test_go_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("10", "missing unit"),
        ("", "invalid duration"),
        ("1x", "invalid"),
        ("m", "invalid"),
        ("1h 2m", "invalid"),
        ("1h" * 100, "invalid"),
        ("-", "invalid"),
        ("1..5s", "invalid"),
    ],
)
def test_bad_durations_are_told_in_gos_words(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_duration(text)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (0, 0),
        (-1, FOREVER),
        ("-1s", FOREVER),
        (30, 30),
        (0.5, 0.5),
        ("5m", 300),
        (1e300, MAX_SECONDS),
        (math.nan, FOREVER),
    ],
)
def test_keep_alive(value: object, seconds: float | None) -> None:
    assert parse_keep_alive(value) == seconds


@pytest.mark.parametrize(("value", "kind"), [(True, "bool"), ([], "[]"), ({}, "map")])
def test_keep_alive_of_another_type(value: object, kind: str) -> None:
    with pytest.raises(ValueError, match=r"Unsupported type: '") as caught:
        parse_keep_alive(value)
    assert kind in str(caught.value)


@given(st.floats(min_value=-10, max_value=1e6))
def test_nanoseconds_are_whole_and_not_negative(seconds: float) -> None:
    assert nanoseconds(seconds) >= 0
    assert isinstance(nanoseconds(seconds), int)


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.kind != "boolean"])
@pytest.mark.parametrize("value", ["5", True, [], {}, math.nan, math.inf, 10**30])
def test_numbers_are_strict(name: str, value: Any) -> None:
    with pytest.raises(OptionError) as caught:
        parse_options({name: value})
    assert caught.value.field == name
    assert name in str(caught.value)


@pytest.mark.parametrize(
    "name", [name for name, rule in RULES.items() if rule.kind != "boolean" and abs(rule.high) < INT64]
)
def test_ranges_are_closed(name: str) -> None:
    rule = RULES[name]
    assert parse_options({name: rule.low})[name] == rule.low
    assert parse_options({name: rule.high})[name] == rule.high
    for beyond in (rule.low - 1, rule.high + 1):
        with pytest.raises(OptionError, match="must be between"):
            parse_options({name: beyond})


def test_texts_of_type_errors_are_ollamas() -> None:
    for name, value, words in [
        ("temperature", "hot", 'option "temperature" must be of type float32'),
        ("num_ctx", "big", 'option "num_ctx" must be of type integer'),
        ("use_mmap", 1, 'option "use_mmap" must be of type boolean'),
        ("stop", "x y", None),
        ("stop", [1], 'option "stop" must be of an array of strings'),
    ]:
        if words is None:
            assert parse_options({name: value}) == {"stop": ("x y",)}
            continue
        with pytest.raises(OptionError) as caught:
            parse_options({name: value})
        assert str(caught.value) == words


def test_unknown_and_null_options_are_ignored_and_integers_truncated() -> None:
    assert parse_options({"tfs_z": 1, "numa": True, "seed": None, "top_k": 39.9}) == {"top_k": 39}


@pytest.mark.parametrize("value", [["a"] * 17, [""], ["a" * 257], ["é" * 129], {"a": 1}, None])
def test_stop_is_bounded(value: object) -> None:
    with pytest.raises(OptionError):
        parse_stop(value)


def test_earlier_layers_win() -> None:
    merged = merge({"temperature": 0.1}, {"temperature": 0.5, "top_k": 5}, {"top_k": 9, "stop": ("x",)})
    assert merged == {"temperature": 0.1, "top_k": 5, "stop": ("x",)}
    assert stops(merged) == ("x",)
    assert integer(merged, "num_predict", -1) == -1


def test_every_sampling_option_reaches_the_sampler() -> None:
    options = parse_options({"temperature": 0.25, "top_k": 7, "top_p": 0.5, "min_p": 0.125, "typical_p": 0.75,
                             "repeat_last_n": 9, "repeat_penalty": 1.5, "presence_penalty": 0.5,
                             "frequency_penalty": -0.5,
                             "mirostat": 2, "dry_multiplier": 0.5, "xtc_probability": 0.5, "dynatemp_range": 1,
                             "top_n_sigma": 2, "seed": 2**40 + 3})  # fmt: skip
    sampling = to_sampling(options, ((5, -1.0),))
    assert sampling.seed == 3
    assert sampling.logit_bias == ((5, -1.0),)
    for name, value in options.items():
        if name != "seed":
            assert getattr(sampling, name) == value
    assert to_sampling({}) == Sampling()
    assert to_sampling({"seed": -1}).seed is None
