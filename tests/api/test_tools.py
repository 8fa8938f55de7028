"""Tool calls: read out of the output however it is cut, and told by Ollama's chat route and client."""

from __future__ import annotations

import json
from typing import Any

import ollama
import pytest
from tests.support.front import ScriptedEngine, answer, front, lines_of, served

from paddock_runner.core.chat import CHATML
from paddock_runner.core.parsers.tagged import MAX_CALL_CHARACTERS, MAX_CLOSINGS, TaggedCalls, knows_tools

HERMES = "{% if tools %}<tool_call>{{ tools | tojson }}\n{% endif %}" + CHATML
ONE = '<tool_call>\n{"name": "f", "arguments": {"b": "ö", "a": [{}]}}\n</tool_call>'
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CASES: list[tuple[str, str, list[tuple[str, dict[str, Any]]]]] = [
    (f"Hi {ONE} there", "Hi  there", [("f", {"b": "ö", "a": [{}]})]),
    (ONE + "\n" + ONE.replace('"f"', '"g"'), "\n", [("f", {"b": "ö", "a": [{}]}), ("g", {"b": "ö", "a": [{}]})]),
    (ONE.removesuffix("</tool_call>"), "", [("f", {"b": "ö", "a": [{}]})]),
    ('<tool_call>{"name":"f","arguments":{"a":"</tool_call>"}}</tool_call>', "", [("f", {"a": "</tool_call>"})]),
    ('<tool_call>{"name":"f","arguments":"{\\"a\\":1}"}</tool_call>', "", [("f", {"a": 1})]),
    *[(text, text, []) for text in (
        "<tool_call>{not json}</tool_call>!", '<tool_call>{"name": "f", "argu', "<tool_cal", "a < b <t", "",
        '<tool_call>{"name":"f","arguments":{"a":NaN}}</tool_call>', "<tool_call>[1]</tool_call>",
        '<tool_call>{"name":7}</tool_call>',
    )],
]  # fmt: skip


def _read(*pieces: str) -> tuple[str, list[tuple[str, Any]]]:
    parser = TaggedCalls("s")
    parts = [*map(parser.feed, pieces), parser.finish()]
    calls = [call for _, found in parts for call in found]
    assert [call.id for call in calls] == [f"call_s{index}" for index in range(len(calls))]
    return "".join(text for text, _ in parts), [(call.name, call.arguments) for call in calls]


@pytest.mark.parametrize(("output", "text", "calls"), CASES)
def test_calls_are_read_at_every_split(output: str, text: str, calls: list[tuple[str, Any]]) -> None:
    assert _read(*output) == (text, calls)
    for at in range(len(output) + 1):
        assert _read(output[:at], output[at:]) == (text, calls)


def test_no_part_of_a_call_is_shown_and_argument_order_stays() -> None:
    parser = TaggedCalls("s")
    assert [parser.feed(character)[0] for character in ONE] == [""] * len(ONE)
    parser = TaggedCalls("s")
    assert list(parser.feed(ONE)[1][0].arguments) == ["b", "a"]


def test_a_call_that_does_not_end_becomes_text() -> None:
    long = '<tool_call>{"name":"f","arguments":{"a":"' + "x" * MAX_CALL_CHARACTERS
    assert TaggedCalls("s").feed(long) == (long, [])
    many = '<tool_call>{"a":"' + "</tool_call>" * (MAX_CLOSINGS + 1)
    assert TaggedCalls("s").feed(many) == (many, [])


def test_templates_of_other_forms_are_not_taken_for_this_one() -> None:
    assert knows_tools(HERMES)
    assert not knows_tools(CHATML)
    assert not knows_tools(HERMES + "<function=")


@pytest.mark.parametrize("stream", [True, False])
async def test_chat_tells_calls(stream: bool) -> None:
    async with front(ScriptedEngine(answer("Hi", ONE[:20], ONE[20:], "."))) as at:
        at.config.replace(template=HERMES)
        history = [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
            {"role": "tool", "content": "21", "tool_name": "f"},
        ]
        body = {"model": "tiny", "messages": history, "tools": [TOOL], "stream": stream}
        lines = lines_of((await at.client.post("/api/chat", json=body)).text)
        calls = [call for line in lines for call in line["message"].get("tool_calls", [])]
        assert [call["function"] for call in calls] == [{"index": 0, "name": "f", "arguments": {"b": "ö", "a": [{}]}}]
        assert "".join(line["message"]["content"] for line in lines) == "Hi."
        assert lines[-1]["done_reason"] == "stop"
        assert json.dumps([TOOL]) in at.request.prompt[0].text


@pytest.mark.parametrize(
    ("tools", "words"),
    [([TOOL, TOOL], "given twice"), ([TOOL] * 129, "128"), ([{"function": {}}], "name"), (["x"], "tools.0")],
)
async def test_bad_tools_are_refused(tools: list[Any], words: str) -> None:
    async with front() as at:
        at.config.replace(template=HERMES)
        body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "tools": tools}
        reply = await at.client.post("/api/chat", json=body)
        assert reply.status_code == 400
        assert words in reply.json()["error"]


def test_the_official_client_gets_a_call() -> None:
    with served(ScriptedEngine(answer(ONE)), template=HERMES) as (url, _), ollama.Client(host=url) as client:
        reply = client.chat("tiny", [{"role": "user", "content": "hi"}], tools=[TOOL])
        assert reply.message.tool_calls is not None
        assert reply.message.tool_calls[0].function.name == "f"
