"""`format` and `response_format`: what the engine is asked for, and what a client is told of a schema that is none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.support.front import ScriptedEngine, front

from paddock_runner.core.generation import Constraint, InvalidRequestError

SCHEMA = {"type": "object", "properties": {"näme": {"type": "string"}}}
TEXT = json.dumps({**SCHEMA, "additionalProperties": False}, ensure_ascii=False, separators=(",", ":"))
MESSAGES = [{"role": "user", "content": "Hi"}]
NAMED = {"name": "person", "strict": True, "schema": SCHEMA}


@pytest.mark.parametrize(
    ("path", "change", "constraint"),
    [
        ("/api/generate", {"prompt": "Hi", "format": "json"}, Constraint("json", "", field="format")),
        ("/api/generate", {"prompt": "Hi", "format": SCHEMA}, Constraint("json_schema", TEXT, field="format")),
        ("/api/generate", {"prompt": "Hi", "format": ""}, None),
        ("/api/chat", {"messages": MESSAGES, "format": None}, None),
        ("/api/chat", {"messages": MESSAGES, "format": SCHEMA}, Constraint("json_schema", TEXT, field="format")),
        ("/v1/chat/completions", {"messages": MESSAGES, "response_format": {"type": "text"}}, None),
        (
            "/v1/chat/completions",
            {"messages": MESSAGES, "response_format": {"type": "json_object"}},
            Constraint("json", "", field="response_format"),
        ),
        (
            "/v1/chat/completions",
            {"messages": MESSAGES, "response_format": {"type": "json_schema", "json_schema": NAMED}},
            Constraint("json_schema", TEXT, field="response_format"),
        ),
    ],
)
async def test_what_the_engine_is_asked_for(path: str, change: dict[str, Any], constraint: Constraint | None) -> None:
    engine = ScriptedEngine()
    async with front(engine) as at:
        reply = await at.client.post(path, json={"model": "tiny", "stream": False, **change})
    assert reply.status_code == 200, reply.text
    assert engine.requests[0].constraint == constraint


@pytest.mark.parametrize("stream", [True, False])
async def test_a_schema_that_is_none_is_a_bad_request(stream: bool) -> None:
    engine = ScriptedEngine([InvalidRequestError("response_format", "the JSON schema cannot be used: no")])
    asked = {"type": "json_schema", "json_schema": NAMED}
    async with front(engine) as at:
        body = {"model": "tiny", "messages": MESSAGES, "stream": stream, "response_format": asked}
        reply = await at.client.post("/v1/chat/completions", json=body)
    error = reply.json()["error"]
    assert (reply.status_code, error["type"], error["param"]) == (400, "invalid_request_error", "response_format")
    assert "cannot be used" in error["message"]
