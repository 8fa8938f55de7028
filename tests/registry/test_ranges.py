"""Ranges and conditions: a table of headers and the bytes that they mean."""

from __future__ import annotations

import pytest

from paddock_runner.registry.ranges import UnsatisfiableError, is_current, wanted


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("bytes=0-9", range(10)),
        ("bytes=0-", range(100)),
        ("bytes=10-10", range(10, 11)),
        ("bytes=90-1000", range(90, 100)),
        ("bytes=-10", range(90, 100)),
        ("bytes=-1000", range(100)),
        ("", None),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=9-1", None),
        ("bytes=0-1,5-6", None),
        ("items=0-1", None),
        ("bytes=a-b", None),
        ("bytes=0-1 ", None),
        ("bytes=" + "9" * 19 + "-", None),
    ],
)
def test_ranges_of_a_hundred_bytes(value: str, found: range | None) -> None:
    assert wanted({"range": value}, 100, '"t"') == found


@pytest.mark.parametrize("value", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=" + "9" * 18 + "-"])
def test_ranges_behind_the_end(value: str) -> None:
    with pytest.raises(UnsatisfiableError):
        wanted({"range": value}, 100, '"t"')


def test_an_empty_blob_has_no_ranges() -> None:
    for value in ("bytes=0-", "bytes=-1"):
        with pytest.raises(UnsatisfiableError):
            wanted({"range": value}, 0, '"t"')


def test_conditions() -> None:
    assert wanted({"range": "bytes=0-1", "if-range": '"t"'}, 100, '"t"') == range(2)
    assert wanted({"range": "bytes=0-1", "if-range": '"other"'}, 100, '"t"') is None
    assert is_current({"if-none-match": '"a", W/"t"'}, '"t"')
    assert is_current({"if-none-match": "*"}, '"t"')
    assert not is_current({"if-none-match": '"a"'}, '"t"')
    assert not is_current({}, '"t"')
