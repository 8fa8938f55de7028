"""Constrained outputs: what is compiled and what is refused, the loop on a backend of hashes, alone and in company."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.engine.conftest import Harness, make_record, make_request

from paddock_runner.core.generation import Constraint, Finished, InvalidRequestError, Sampling
from paddock_runner.engine.fake import END, SIZE, FakeBackend
from paddock_runner.engine.grammar import Table

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def table() -> Table:
    return Table(FakeBackend(), SIZE)


def schema(value: object) -> Constraint:
    return Constraint("json_schema", json.dumps(value))


def say(table: Table, constraint: Constraint, text: str) -> str:
    """What of `text` may be said, and then `!` if it may end there, `.` if it must."""
    guide, said = table.guide(constraint), ""
    for byte in text.encode():
        allowed = guide.allowed()
        if allowed is not None and not allowed[byte]:
            break
        guide.accept(byte)
        said += chr(byte)
    allowed = guide.allowed()
    return said + ("." if guide.done else "!" if allowed is None or allowed[END] else "")


@pytest.mark.parametrize(
    ("constraint", "text", "said"),
    [
        (Constraint("json", ""), '{"a": [1, null]}', '{"a": [1, null]}.'),
        (Constraint("json", ""), "[1]", ""),
        (Constraint("json", ""), "{" + " " * 50, "{ "),
        (schema(PERSON), '{"name": "Bo", "age": 7}', '{"name": "Bo", "age": 7}.'),
        (schema(PERSON), '{"age": 7}', '{"'),
        (Constraint("regex", "[0-9]{2,3}"), "1234", "123."),
        (Constraint("regex", "[0-9]{2,3}"), "12x", "12!"),
        (Constraint("lark", 'start: "yes" | "no"'), "nope", "no."),
        (Constraint("gbnf", 'root ::= "a" [0-9]+'), "a12b", "a12!"),
        (Constraint("regex", "ok", after_text="</think>"), "hm</think>ok", "hm</think>ok."),
        (Constraint("regex", "ok", after_text="</think>"), "hm</think>no", "hm</think>"),
        (Constraint("regex", "ok", after_token=ord("!"), required=False), "hm", "hm!"),
        (Constraint("regex", "ok", after_token=ord("!")), "hm", "hm"),
    ],
)
def test_what_may_be_said(table: Table, constraint: Constraint, text: str, said: str) -> None:
    assert say(table, constraint, text) == said


@pytest.mark.parametrize(
    ("constraint", "words"),
    [
        (schema({"type": "objekt"}), "format: the JSON schema cannot be used: Invalid type: objekt"),
        (schema({"not": {"type": "string"}}), r'Unimplemented keys: \["not"\]'),
        (schema({"not": {"type": "string"}, "x-guidance": {"lenient": True}}), "Unimplemented keys"),
        (schema({"$ref": "#"}), "cannot be used"),
        (schema({"$ref": "#/missing"}), "does not exist"),
        (schema({"type": "string", "pattern": "(?=x)"}), "look-around"),
        (Constraint("json_schema", "[]"), "cannot be used"),
        (Constraint("json_schema", "{"), "cannot be used"),
        (Constraint("regex", "(", field="guided_regex"), "guided_regex: the regex grammar cannot be used"),
        (Constraint("lark", "start: missing"), "cannot be used"),
        (Constraint("gbnf", "root ::= ("), "cannot be used"),
    ],
)
def test_grammars_that_are_none(table: Table, constraint: Constraint, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words) as caught:
        table.guide(constraint)
    assert caught.value.field == constraint.field
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def nested(depth: int) -> dict[str, object]:
    found: dict[str, object] = {"type": "string"}
    for _ in range(depth):
        found = {"type": "object", "properties": {"a": found}, "required": ["a"]}
    return found


@pytest.mark.parametrize(
    "constraint",
    [
        schema(nested(200)),
        schema({"enum": [f"{number:0100}" for number in range(600)]}),
        schema({"type": "string", "pattern": "((((a{1,99}){1,99}){1,99}){1,99}){1,99}"}),
        schema({"type": "array", "items": {"anyOf": [{"const": number} for number in range(2000)]}}),
        schema({"$ref": "#"}),
        schema({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/a"}}}),
        Constraint("regex", "(a|aa)*" * 2000),
        Constraint("lark", 'start: x x x x\nx: y*\ny: z*\nz: "a"*'),
    ],
)
def test_bombs_are_bounded(table: Table, constraint: Constraint) -> None:
    """Refused or not: compiling and the first masks take no time that anybody would notice."""
    began = time.monotonic()
    try:
        guide = table.guide(constraint)
        for _ in range(3):
            allowed = guide.allowed()
            assert allowed is not None
            token = next(token for token in range(SIZE) if allowed[token] and token != END)
            guide.accept(token)
    except (InvalidRequestError, StopIteration):
        pass
    except Exception as error:
        assert type(error).__name__ == "GrammarError", error  # noqa: PT017
    assert time.monotonic() - began < 2


CONSTRAINTS = [
    schema(PERSON),
    None,
    Constraint("regex", "[a-f]{4}-[0-9]{4}"),
    Constraint("json", ""),
    Constraint("lark", 'start: ("yes" | "no") ("," ("yes" | "no"))*'),
    Constraint("regex", "[0-9]{5}", after_text="e", required=False),
]
SAMPLED = Sampling(temperature=1.0, seed=3)


def outputs(made: Harness, *constraints: Constraint | None, sampling: Sampling) -> list[tuple[str, str]]:
    """Text and why it ended, of requests that are there together."""
    for handle, constraint in enumerate(constraints):
        changes = {"max_tokens": 120, "constraint": constraint, "sampling": sampling}
        made.submit(handle, make_request("hello", **changes))
    made.pump(lambda: made.is_done(*range(len(constraints))))
    lasts = [made.last(handle) for handle in range(len(constraints))]
    return [
        (made.text(handle), last.reason if isinstance(last, Finished) else str(last))
        for handle, last in enumerate(lasts)
    ]


@pytest.mark.parametrize("sampling", [Sampling(temperature=0.0), SAMPLED])
def test_the_same_alone_and_in_company(harness: Callable[..., Harness], sampling: Sampling) -> None:
    alone = [outputs(harness(), constraint, sampling=sampling)[0] for constraint in CONSTRAINTS]
    # One slot more than requests, and cells for half of them: some are preempted and go on as they would have.
    for changes in ({}, {"cells": 300, "context_length": 200}):
        assert outputs(harness(**changes), *CONSTRAINTS, sampling=sampling) == alone


def test_outputs_are_what_was_asked_for(harness: Callable[..., Harness]) -> None:
    person, free, code, anything, words, _ = outputs(harness(), *CONSTRAINTS, sampling=SAMPLED)
    if person[1] == "stop":
        jsonschema.validate(json.loads(person[0]), PERSON)
    assert re.fullmatch("[a-f]{4}-[0-9]{4}", code[0])
    assert code[1] == "stop"
    assert re.match("(yes|no)", words[0])
    assert anything[0].startswith("{")
    assert free[0] != person[0]


def test_an_output_that_is_cut_says_so(harness: Callable[..., Harness]) -> None:
    made = harness()
    made.submit(0, make_request("x", max_tokens=3, constraint=Constraint("regex", "[a-z]{8}")))
    made.pump(lambda: made.is_done(0))
    last = made.last(0)
    assert isinstance(last, Finished)
    assert (last.reason, len(made.text(0))) == ("length", 3)


def test_a_bad_grammar_is_told_and_disturbs_nobody(harness: Callable[..., Harness]) -> None:
    made = harness()
    made.submit(0, make_request("x", constraint=Constraint("json_schema", '{"type": "objekt"}')))
    made.submit(1, make_request("x", constraint=Constraint("regex", "y" * (64 * 1024 + 1))))
    made.submit(2, make_request("x"))
    made.pump(lambda: made.is_done(0, 1, 2))
    assert "Invalid type: objekt" in str(made.last(0))
    assert "at most 65536 are allowed" in str(made.last(1))
    assert isinstance(made.last(2), Finished)


def test_logprobs_are_those_of_the_model(harness: Callable[..., Harness]) -> None:
    """What is forbidden is not what is improbable."""
    made, constraint = harness(), Constraint("regex", "[0-9]{4}")
    made.submit(0, make_request("x", logprobs=3, constraint=constraint))
    made.pump(lambda: made.is_done(0))
    told = [item for event in made.events[0] for item in getattr(event, "logprobs", ())]
    assert len(told) == 4
    assert any(item.token not in [token for token, _, _ in item.top] for item in told)


VALUES = st.recursive(
    st.sampled_from([{"type": "integer", "minimum": -9, "maximum": 9}, {"type": "boolean"}, {"enum": ["red", "blue"]}]),
    lambda inner: (
        st.builds(
            lambda parts: {
                "type": "object",
                "properties": dict(zip("abc", parts, strict=False)),
                "required": list("abc"[: len(parts)]),
                "additionalProperties": False,
            },
            st.lists(inner, min_size=1, max_size=3),
        )
        | st.builds(lambda item: {"type": "array", "items": item, "minItems": 1, "maxItems": 3}, inner)
    ),
    max_leaves=5,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=VALUES, seed=st.integers(0, 1000))
def test_every_complete_output_is_valid(value: dict[str, object], seed: int) -> None:
    made = Harness(FakeBackend(), make_record())
    try:
        sampling = Sampling(temperature=2.0, seed=seed)
        made.submit(0, make_request("x", max_tokens=400, constraint=schema(value), sampling=sampling))
        made.pump(lambda: made.is_done(0))
        last = made.last(0)
        assert isinstance(last, Finished)
        if last.reason == "stop":
            jsonschema.validate(json.loads(made.text(0)), value)
    finally:
        made.close()
