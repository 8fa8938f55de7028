"""Strict JSON and public names: tables on pure functions."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock_runner.core import public_names
from paddock_runner.core.strict_json import JSONProblem, loads

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(VALUES, st.booleans())
def test_what_is_json_is_read_as_the_standard_library_reads_it(value: object, escape: bool) -> None:
    assert loads(json.dumps(value, ensure_ascii=escape).encode()) == value


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "missing request body"),
        (b" \n", "missing request body"),
        (b"{", "invalid JSON at line 1, column 2"),
        (b"{} {}", "invalid JSON at line 1, column 4: Extra data"),
        (b"{'a': 1}", "invalid JSON"),
        (b"{} // comment", "invalid JSON"),
        (b'{"a": 1,}', "invalid JSON"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1e999}', "too large for a double"),
        (b'{"a": -1e999}', "too large for a double"),
        (b'{"a": ' + b"9" * 21 + b"}", "more than 20 digits"),
        (b'{"a": -' + b"9" * 5000 + b"}", "more than 20 digits"),
        (b'{"a": 1, "a": 2}', 'duplicate key "a"'),
        (b'{"x": [{"b": 1, "c": 2, "b": 3}]}', 'duplicate key "b"'),
        (b'{"' + b"k" * 500 + b'": 1, "' + b"k" * 500 + b'": 1}', f'duplicate key "{"k" * 64}"'),
        (b'"\\ud800"', "lone surrogate"),
        (b'"\\udc00"', "lone surrogate"),
        (b'"\\udc00\\ud800"', "lone surrogate"),
        (b'"\\ud83d\\n\\ude00"', "lone surrogate"),
        (b'"\\ud83d \\ude00"', "lone surrogate"),
        (b'"\\ud83d\\ud83d\\ude00"', "lone surrogate"),
        (b'{"\\ud800": 1}', "lone surrogate"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ('{"a": "ä"}'.encode("latin-1"), "not UTF-8 (byte 7)"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        ('{"a": 1}'.encode("utf-16-le"), "invalid JSON"),
        (b'"a\nb"', "invalid JSON"),
        (b"[" * 65 + b"]" * 65, "nested deeper than 64"),
        (b"[" * 200_000, "nested deeper than 64"),
        (b'{"a":' * 200_000, "nested deeper than 64"),
    ],
)
def test_a_bad_body_is_refused_in_words(body: bytes, message: str) -> None:
    with pytest.raises(JSONProblem) as caught:
        loads(body)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b'"\\\\ud800"', "\\ud800"),
        (b'"\\\\\\ud83d\\ude00"', "\\\U0001f600"),
        (b'"\\u0000"', "\0"),
        (b'"' + b"[" * 500 + b'"', "[" * 500),
        (b'"\\"' + b"[" * 500 + b'"', '"' + "[" * 500),
        (b"[" * 64 + b"]" * 64, None),
        (b"[" + b"[]," * 500 + b"[]]", [[]] * 501),
        (b"18446744073709551615", 2**64 - 1),
    ],
)
def test_an_odd_body_is_read(body: bytes, value: object) -> None:
    assert value is None or loads(body) == value
    loads(body)


@pytest.mark.parametrize(
    "body", [b'"' + b"\\" * 4_000_000, b'"\\u' * 1_000_000, b'"[' * 2_000_000, b"[]" * 2_000_000, b'"a' * 2_000_000]
)
def test_hostile_bodies_are_refused_in_linear_time(body: bytes) -> None:
    start = time.process_time()
    with pytest.raises(JSONProblem):
        loads(body)
    assert time.process_time() - start < 2.0


@pytest.mark.parametrize(
    ("first", "second", "equal"),
    [
        ("x", "x:latest", True),
        ("X", "x:LATEST", True),
        ("x", "x:1b", False),
        ("a/b", "a/b:latest", True),
        ("host:5000/a/b", "host:5000/a/b:latest", True),
        ("host:5000/a/b", "host:5001/a/b", False),
        ("x", "library/x", False),
    ],
)
def test_when_two_names_mean_the_same(first: str, second: str, equal: bool) -> None:
    assert public_names.same(first, second) is equal
    assert public_names.same(second, first) is equal


def test_a_list_shows_names_with_a_tag() -> None:
    assert public_names.tagged("Llama3.2") == "Llama3.2:latest"
    assert public_names.tagged("host:5000/a") == "host:5000/a:latest"
    assert public_names.tagged("x:1b") == "x:1b"
