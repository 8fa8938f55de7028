"""Whole characters only, and no part of a stop string, however the text is cut into tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock_runner.core.engine_output import Output
from paddock_runner.core.stops import StopMatcher
from paddock_runner.core.text import TextDecoder


@given(st.text(), st.integers(1, 4))
def test_text_cut_anywhere_comes_out_whole(text: str, size: int) -> None:
    decoder = TextDecoder()
    data = text.encode()
    parts = [decoder.feed(data[at : at + size]) for at in range(0, len(data), size)]
    assert "".join(parts) == text
    assert all("\ufffd" not in part for part in parts) or "\ufffd" in text


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        ([b"\xf0\x9f", b"\x98\x80"], ["", "😀"]),
        ([b"a\xe2\x82", b"b"], ["a", "\ufffdb"]),
        ([b"\xff", b"x"], ["\ufffd", "x"]),
    ],
)
def test_halves_wait_and_nonsense_shows(pieces: list[bytes], shown: list[str]) -> None:
    decoder = TextDecoder()
    assert [decoder.feed(piece) for piece in pieces] == shown


alphabet = st.text("ab<>", max_size=30)
stop_lists = st.lists(st.text("ab<>", min_size=1, max_size=4), min_size=1, max_size=3)


@given(alphabet, stop_lists, st.data())
def test_any_cut_gives_the_text_before_the_earliest_stop(text: str, stops: list[str], data: st.DataObject) -> None:
    matcher = StopMatcher(stops)
    shown, found, rest = "", None, text
    while rest and found is None:
        size = data.draw(st.integers(1, len(rest)))
        part, found = matcher.feed(rest[:size])
        shown, rest = shown + part, rest[size:]
    if found is None:
        assert shown + matcher.flush() == text
        assert not any(stop in text for stop in stops)
    else:
        assert text.startswith(shown + found)
        assert not any(stop in shown for stop in stops)


def test_the_longer_of_two_stops_that_begin_together_wins() -> None:
    assert StopMatcher(["ab", "abc"]).feed("xabcd") == ("x", "abc")


def test_held_text_is_released_when_it_turns_out_harmless() -> None:
    matcher = StopMatcher(["</end>"])
    assert matcher.feed("a</en") == ("a", None)
    assert matcher.feed("x") == ("</enx", None)
    assert matcher.flush() == ""


def test_output_tells_tokens_with_the_text_they_complete() -> None:
    output = Output(())
    output.push(1, b"\xf0\x9f", None)
    assert output.take() is None
    output.push(2, b"\x98\x80", None)
    delta = output.take()
    assert delta is not None
    assert (delta.text, delta.tokens) == ("😀", (1, 2))
    output.push(3, b"\xe2", None)
    last = output.take(last=True)
    assert last is not None
    assert (last.text, last.tokens) == ("", (3,))
    output.push_end()
    assert output.count == 4
    assert output.take(last=True) is None


def test_output_releases_held_text_only_without_a_stop() -> None:
    output = Output(("END",))
    output.push(1, b"aEN", None)
    first = output.take()
    assert first is not None
    assert first.text == "a"
    last = output.take(last=True)
    assert last is not None
    assert last.text == "EN"
    stopped = Output(("END",))
    stopped.push(1, b"bEND and more", None)
    told = stopped.take(last=True)
    assert told is not None
    assert (told.text, stopped.stop) == ("b", "END")
