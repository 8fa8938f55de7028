"""Values in messages: as Go prints them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from paddock_operator.core.problems import Problem, path_text
from paddock_operator.core.shown import float_text, quoted, shown, type_name


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (1.5, "1.5"), (-0.5, "-0.5"), (0.0001, "0.0001"), (0.00001, "1e-05"), (123456.5, "123456.5"),
        (1e6, "1e+06"), (4194304.0, "4.194304e+06"), (-1e30, "-1e+30"), (1e300, "1e+300"),
        (0.1 + 0.2, "0.30000000000000004"),
        (math.inf, "+Inf"), (-math.inf, "-Inf"), (math.nan, "NaN"),
    ],
)  # fmt: skip
def test_floats(value: float, text: str) -> None:
    assert float_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [("", '""'), ("é ü🦙", '"é ü🦙"'), ('a"\\', r'"a\"\\"'), ("\n\t\x00\x7f", r'"\n\t\x00\x7f"'),
     ("\u00a0\u200b", r'"\u00a0\u200b"'),
     ("\U000e0001", r'"\U000e0001"')],
)  # fmt: skip
def test_strings(value: str, text: str) -> None:
    assert quoted(value) == text


def test_other_values_and_types() -> None:
    values: list[tuple[Any, str, str]] = [
        (True, "true", "boolean"),
        (3, "3", "integer"),
        (None, "null", "null"),
        ({"b": "<&>", "a": [1]}, '{"a":[1],"b":"\\u003c\\u0026\\u003e"}', "object"),
        ([], "[]", "array"),
        ("x", '"x"', "string"),
        (1.5, "1.5", "number"),
    ]
    assert [(value, shown(value), type_name(value)) for value, _, _ in values] == values


def test_a_problem_is_one_bounded_line() -> None:
    assert path_text(["spec", "models", 0, "name"]) == "spec.models[0].name"
    assert str(Problem("a", "b")) == "a: b"
    assert len(str(Problem("a", "x" * 10_000, "fix"))) < 4200
