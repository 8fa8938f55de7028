"""Whole replies of the dialects against files: `goldens/NAME.json` holds the request and what must come back.

`PADDOCK_WRITE_GOLDENS=1 pytest tests/api/test_goldens.py` writes the `reply` part again; read the difference before it
is committed. Ids and times are normalised.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.front import FINISHED, ScriptedEngine, Step, answer, events_of, front, lines_of, logprob

from paddock_runner.core.generation import (
    ContextExceededError,
    Delta,
    DrainingError,
    EngineFailedError,
    EngineLoadingError,
    Finished,
    InvalidRequestError,
    QueueFullError,
    Started,
)

GOLDENS = Path(__file__).parent / "goldens"
WRITE = os.environ.get("PADDOCK_WRITE_GOLDENS") == "1"
TOP = ((100, b"Hi", -0.25), (101, b"\xff", float("-inf")))

SCRIPTS: dict[str, list[Step]] = {
    "hello": answer("Hello", " wörld"),
    "length": answer("a", finished=Finished("length", None, 7, 1, 0.001, 0.002, 0.003)),
    "empty": [Started(7, 0, ()), Finished("stop", None, 7, 0, 0, 0.002, 0)],
    "logprobs": [
        Started(7, 0, ()),
        Delta("Hi", (100,), (logprob(100, "Hi", -0.25, TOP),)),
        Delta("", (101,)),
        FINISHED,
    ],
    "late": [Started(7, 0, ()), Delta("Hel", (100,)), EngineFailedError("the engine was lost")],
    "context": [ContextExceededError(5000, 2048)],
    "invalid": [InvalidRequestError("logit_bias", "token 5000 is not in the vocabulary")],
    "busy": [QueueFullError(64, 3.2)],
    "loading": [EngineLoadingError("the engine restarts", 2)],
    "failed": [EngineFailedError("the engine was lost")],
    "draining": [DrainingError()],
    "bug": [RuntimeError("secret detail")],
}


def _normalised(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(key, _normalised(item)) for key, item in value.items()}
    return [_normalised(item) for item in value] if isinstance(value, list) else value


def _plain(key: str, value: Any) -> Any:
    if key == "created_at":
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", value), value
        return "TIME"
    if key == "created":
        return 0
    if key == "total_duration":
        assert isinstance(value, int)
        assert value > 0
        return 1
    if key == "id" and isinstance(value, str):
        return re.sub(r"[0-9a-f]{32}", "ID", value)
    return re.sub(r"^\d{4}-.*Z$", "TIME", value) if key == "expires_at" else value


def _reply(response: httpx.Response) -> dict[str, Any]:
    kind = response.headers.get("content-type", "")
    body: Any = response.text
    if kind.startswith("application/x-ndjson"):
        body = lines_of(response.text)
    elif kind.startswith("text/event-stream"):
        body = events_of(response.text)
    elif kind.startswith("application/json"):
        body = response.json()
    headers = {name: response.headers[name] for name in ("retry-after", "allow") if name in response.headers}
    if "allow" in headers:
        headers["allow"] = ", ".join(sorted(headers["allow"].split(", ")))
    return {"status": response.status_code, "type": kind, "headers": headers, "body": _normalised(body)}


@pytest.mark.parametrize("path", sorted(GOLDENS.glob("*.json")), ids=lambda path: path.stem)
async def test_golden(path: Path) -> None:
    golden = json.loads(path.read_text(encoding="utf-8"))
    async with front(ScriptedEngine(SCRIPTS[golden.get("script", "hello")]), system="Be kind.") as at:
        method, target = golden["request"].split(" ")
        reply = _reply(await at.client.request(method, target, json=golden.get("body")))
    if WRITE:
        text = json.dumps({**golden, "reply": reply}, indent=1, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
    assert reply == golden["reply"]
    assert "secret detail" not in json.dumps(reply)


def test_every_script_has_a_golden() -> None:
    used = {json.loads(path.read_text(encoding="utf-8")).get("script", "hello") for path in GOLDENS.glob("*.json")}
    assert used == set(SCRIPTS)
