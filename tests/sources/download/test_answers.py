"""Every answer to a request for bytes means these bytes, or is refused with a reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from paddock_runner.sources.download.answers import (
    Body,
    RangesUselessError,
    check_magic,
    judge,
    strong_etag,
)
from paddock_runner.sources.download.pace import Bucket, DownloadLimits, Patience, Ramp
from paddock_runner.sources.errors import NetworkError
from paddock_runner.store.errors import NotGGUFError


@pytest.mark.parametrize(
    ("status", "headers", "start", "ranged", "body"),
    [
        (200, {"Content-Length": "100"}, 0, False, Body(0, 100, 100)),
        (200, {"Content-Length": "100"}, 0, True, Body(0, 100, 100)),
        (200, {}, 0, False, Body(0, 1 << 50, None)),
        (200, {"Content-Length": "-1"}, 0, False, Body(0, 1 << 50, None)),
        (206, {"Content-Range": "bytes 10-49/100"}, 10, True, Body(10, 50, 100)),
        (206, {"Content-Range": "bytes 10-19/100"}, 10, True, Body(10, 20, 100)),
    ],
)
def test_answers_that_may_be_used(status: int, headers: dict[str, str], start: int, ranged: bool, body: Body) -> None:
    assert judge(status, headers, start, 50, ranged) == body


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        (206, ""),
        (206, "bytes 9-49/100"),
        (206, "bytes 11-49/100"),
        (206, "bytes 10-50/100"),
        (206, "bytes 10-9/100"),
        (206, "bytes 10-49/40"),
        (206, "bytes 10-49/*"),
        (206, "bytes 10-49/100, bytes 60-70/100"),
        (206, "bytes 10-99999999999999999999/100"),
        (206, "items 10-49/100"),
        (416, "bytes */30"),
        (416, ""),
    ],
)
def test_ranges_that_are_not_what_was_asked_for(status: int, shown: str) -> None:
    with pytest.raises(RangesUselessError) as caught:
        judge(status, {"Content-Range": shown}, 10, 50, True)
    assert not caught.value.ignored
    assert caught.value.retryable


def test_a_whole_file_for_a_range() -> None:
    with pytest.raises(RangesUselessError) as caught:
        judge(200, {"Content-Length": "100"}, 10, 50, True)
    assert caught.value.ignored
    with pytest.raises(RangesUselessError):
        judge(206, {"Content-Range": "bytes 0-49/100"}, 0, 50, False)


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "gzip, gzip, gzip"])
def test_encodings_are_refused(encoding: str) -> None:
    with pytest.raises(NetworkError, match="Content-Encoding") as caught:
        judge(200, {"Content-Encoding": encoding}, 0, 50, False)
    assert not caught.value.retryable


def test_only_strong_etags_count() -> None:
    assert [strong_etag({"ETag": tag}) for tag in ('"a1"', 'W/"a1"', "a1", '"' + "x" * 300 + '"', '"a"b"')] == [
        '"a1"',
        "",
        "",
        "",
        "",
    ]
    assert strong_etag({}) == ""


def test_a_page_is_no_model() -> None:
    with pytest.raises(NotGGUFError, match="text/html"):
        check_magic("model", b"<html>", {"Content-Type": "text/html"})
    check_magic("model", b"GGUF\3", {})
    check_magic("template", b"<html>", {})


LIMITS = DownloadLimits(attempts=3, pause_seconds=1.0, longest_pause_seconds=3.0)


def test_pauses_grow_to_a_limit_and_new_bytes_forgive() -> None:
    patience = Patience(LIMITS)
    assert [patience.failed(1.0), patience.failed(0.0)] == [1.0, 1.0]
    patience.progress()
    assert [patience.failed(1.0) for _ in range(4)] == [1.0, 1.0, 2.0, None]
    long = Patience(replace(LIMITS, attempts=9))
    assert [long.failed(1.0) for _ in range(4)] == [1, 2, 3, 3]
    assert [long.failed(1.0, 40.0), long.failed(1.0, 1e9)] == [40, 300]


def test_connections_follow_the_link() -> None:
    def targets(most: int, *rates: float) -> list[int]:
        ramp = Ramp(most)
        found = []
        for rate in rates:
            ramp.observe(rate)
            found.append(ramp.target)
        return found

    assert targets(8, 10, 20, 40, 80) == [2, 4, 8, 8]
    assert targets(8, 10, 20, 21) == [2, 4, 2]
    assert targets(8, 10, 10, 10) == [2, 1, 1]
    assert targets(3, 10, 20) == [2, 3]
    assert targets(1, 10, 20) == [1, 1]
    assert targets(4, 0, 0, 10) == [1, 1, 2]
    assert targets(4, 10, 10, *[10] * 30) == [2, *[1] * 30, 2]
    ramp = Ramp(8)
    for rate in (10, 20, 40):
        ramp.observe(rate)
    ramp.refused()
    assert ramp.target == 7
    ramp.observe(1000)
    assert ramp.target == 7


def test_the_bandwidth_limit_is_kept_over_all_connections() -> None:
    bucket = Bucket(100)
    assert [bucket.delay(50, 10.0), bucket.delay(50, 10.0), bucket.delay(50, 20.0)] == [0.5, 1.0, 0.5]
    assert Bucket(0).delay(1 << 40, 0.0) == 0
