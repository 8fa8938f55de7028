"""What a runner does besides answering: keep-alive, load and unload, credentials, readiness, metrics, hot reload."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.front import Front, ScriptedEngine, answer, config_json, front

from paddock_runner.api import ollama_models
from paddock_runner.api.facts import usable_messages, usable_options
from paddock_runner.api.settings import parse_settings
from paddock_runner.configfile import ConfigFile
from paddock_runner.core.chat import Message
from paddock_runner.core.engine_facts import StepStats
from paddock_runner.core.generation import EngineFailedError

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "stream": False}
CREDENTIAL = "backend-credential"
SUM = hashlib.sha256(CREDENTIAL.encode()).hexdigest()


async def test_keep_alive_counts_for_its_request_only() -> None:
    async with front(keepAliveSeconds=30) as at:
        for value, seconds in [("10m", 600), (None, 30), (-1, -1), ("-1s", -1), (0, 0), (1.5, 1.5)]:
            await at.client.post("/api/chat", json={**CHAT, "keep_alive": value})
            assert at.engine.keep_alives[-1] == seconds
        await at.client.post("/v1/chat/completions", json=CHAT)
        assert at.engine.keep_alives[-1] == 30


async def test_a_time_of_zero_does_not_unload_the_model_under_its_own_request() -> None:
    seen: list[list[float]] = []

    async def look() -> None:
        seen.append(list(at.engine.keep_alives))

    async with front(ScriptedEngine([look, *answer("x")])) as at:
        await at.client.post("/api/chat", json={**CHAT, "keep_alive": 0})
        assert seen == [[]], "the time is set once the request holds the engine"
        assert at.engine.keep_alives == [0]


@pytest.mark.parametrize(("path", "empty"), [("/api/chat", {"messages": []}), ("/api/generate", {"prompt": ""})])
async def test_empty_prompts_load_and_unload(path: str, empty: dict[str, Any]) -> None:
    async with front() as at:
        reply = await at.client.post(path, json={"model": "tiny", **empty})
        assert reply.json()["done_reason"] == "load"
        assert at.engine.calls == ["load"]
        reply = await at.client.post(path, json={"model": "tiny", **empty, "keep_alive": 0})
        assert reply.json()["done_reason"] == "unload"
        await asyncio.sleep(0)
        assert at.engine.calls == ["load", "unload"]


@pytest.mark.parametrize(("verbs", "value", "seconds"), [
    ("infer", 10, 30), ("infer", 60, 60), ("infer", -1, -1), ("infer", 0, 30), ("infer", None, 30),
    ("infer,manage", 10, 10), ("infer,manage", 0, 0),
])  # fmt: skip
async def test_a_key_for_inference_only_lengthens_keep_alive(verbs: str, value: object, seconds: float) -> None:
    async with front(keepAliveSeconds=30) as at:
        reply = await at.client.post(
            "/api/chat", json={**CHAT, "keep_alive": value}, headers={"X-Paddock-Verbs": verbs}
        )
        assert reply.status_code == 200
        assert at.engine.keep_alives[-1] == seconds


@pytest.mark.parametrize(("path", "empty"), [("/api/chat", {"messages": []}), ("/api/generate", {"prompt": ""})])
async def test_unloading_needs_the_verb_manage(path: str, empty: dict[str, Any]) -> None:
    async with front() as at:
        body = {"model": "tiny", **empty, "keep_alive": 0}
        reply = await at.client.post(path, json=body, headers={"X-Paddock-Verbs": "infer"})
        assert reply.status_code == 403
        assert reply.json() == {"error": "unloading a model needs a key with the verb manage"}
        await asyncio.sleep(0)
        assert at.engine.calls == []
        reply = await at.client.post(path, json=body, headers={"X-Paddock-Verbs": "infer,manage"})
        assert reply.json()["done_reason"] == "unload"


async def test_ps_tells_until_when() -> None:
    async with front(keepAliveSeconds=-1) as at:
        assert (await at.client.get("/api/ps")).json()["models"][0]["expires_at"].startswith("23")
        await at.client.post("/api/chat", json={**CHAT, "keep_alive": 60})
        assert 59 <= at.runner.expires_in() <= 60
        at.engine.state = "unloaded"
        assert (await at.client.get("/api/ps")).json() == {"models": []}


async def test_names_compare_as_ollama_does_and_are_echoed() -> None:
    async with front() as at:
        for name in ("tiny", "TINY", "tiny:latest", "Tiny:135m"):
            assert (await at.client.post("/api/chat", json={**CHAT, "model": name})).json()["model"] == name
        assert (await at.client.get("/v1/models/tiny")).json()["id"] == "tiny"


OPEN = ["/healthz", "/readyz", "/metrics"]
CLOSED = [
    ("GET", "/"),
    ("GET", "/api/version"),
    ("GET", "/api/tags"),
    ("POST", "/api/chat"),
    ("GET", "/nothing"),
    ("GET", "/v1/models"),
    ("POST", "/v1/chat/completions"),
    ("GET", "/v1/nothing"),
    ("POST", "/v1/messages"),
]
WRONG = ["Bearer wrong", "Bearer ", f"Basic {CREDENTIAL}", CREDENTIAL, f"Bearer {'x' * 5000}", "Bearer é"]


@pytest.mark.parametrize("sent", [None, *WRONG])
async def test_without_the_credential_only_health_and_metrics(sent: str | None) -> None:
    async with front(anonymous=False, credentials=[{"endpoint": "default/main", "sha256": SUM}]) as at:
        headers = {} if sent is None else {"authorization": sent.encode("latin-1")}
        for path in OPEN:
            assert (await at.client.get(path, headers=headers)).status_code in (200, 503)
        for method, path in CLOSED:
            reply = await at.client.request(method, path, headers=headers)
            assert reply.status_code == 401, path
            assert reply.headers["www-authenticate"] == "Bearer"
            error = reply.json()["error"]
            assert isinstance(error, dict) == path.startswith("/v1/")
        assert at.sample("paddock_runner_input_rejected_total", reason="auth") == len(CLOSED)


async def test_any_listed_credential_opens_and_a_removed_one_does_not() -> None:
    other = {"endpoint": "default/other", "sha256": "0" * 64}
    mine = {"endpoint": "default/main", "sha256": SUM}
    async with front(anonymous=False, credentials=[other, mine]) as at:
        headers = {"authorization": f"bearer {CREDENTIAL}"}
        assert (await at.client.post("/api/chat", json=CHAT, headers=headers)).status_code == 200
        at.config.replace(anonymous=False, credentials=[other])
        assert (await at.client.post("/api/chat", json=CHAT, headers=headers)).status_code == 401
        at.config.replace(anonymous=False, credentials=[])
        assert (await at.client.get("/api/tags", headers=headers)).status_code == 401


async def _readiness(at: Front) -> tuple[int, dict[str, Any]]:
    reply = await at.client.get("/readyz")
    return reply.status_code, reply.json()


async def test_readiness_follows_the_self_test_the_crash_and_the_drain() -> None:
    async with front(ScriptedEngine(state="loading")) as at:
        status, body = await _readiness(at)
        assert (status, body["ready"], body["state"]) == (503, False, "loading")
        assert body["reason"] == "the engine is loading"
        at.engine.state = "ready"
        at.runner.on_state("ready")
        status, body = await _readiness(at)
        assert (status, body) == (200, {
            "ready": True, "config": "0" * 64, "digest": "sha256:" + "ab" * 32, "state": "ready", "restarts": 0,
            "oomKills": 0, "memory": {"weights": 1000, "kv": 200, "resident": 5000},
        })  # fmt: skip
        at.engine.state, at.engine.memory = "unloaded", None
        assert (await _readiness(at))[0] == 200, "unloaded for idleness is ready: the next request loads it"
        at.engine.state, at.engine.reason = "crashed", "the engine process was ended by SIGKILL"
        at.runner.on_state("crashed")
        status, body = await _readiness(at)
        assert (status, body["reason"]) == (503, "the engine process was ended by SIGKILL")
        at.runner.on_state("ready")
        at.runner.draining = True
        status, body = await _readiness(at)
        assert (status, body["state"]) == (503, "draining")
        assert (await at.client.get("/healthz")).status_code == 200


async def test_a_draining_runner_takes_no_new_work() -> None:
    async with front() as at:
        at.runner.draining = True
        for path in ("/api/chat", "/v1/chat/completions"):
            reply = await at.client.post(path, json=CHAT)
            assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
        assert (await at.client.post("/api/generate", json={"model": "tiny"})).status_code == 503
        assert at.engine.requests == []
        assert at.engine.calls == []


async def test_metrics_move() -> None:
    labels = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "llama_cpp", "gen_ai_request_model": "tiny",
              "gen_ai_response_model": "tiny"}  # fmt: skip
    async with front() as at:
        assert (await at.client.post("/api/chat", json=CHAT)).status_code == 200
        at.engine.script = [EngineFailedError("gone")]
        assert (await at.client.post("/api/chat", json=CHAT)).status_code == 503
        at.engine.script = answer("x")
        await at.client.post("/v1/completions", json={"model": "tiny", "prompt": "x"})
        requests = "paddock_runner_requests_total"
        assert at.sample(requests, model="tiny", operation="chat", outcome="ok") == 1
        assert at.sample(requests, model="tiny", operation="chat", outcome="engine_error") == 1
        assert at.sample(requests, model="tiny", operation="text_completion", outcome="ok") == 1
        assert at.sample("paddock_runner_finish_total", model="tiny", reason="stop") == 2
        assert at.sample("gen_ai_server_time_to_first_token_seconds_count", **labels) == 1
        assert at.sample("gen_ai_server_request_duration_seconds_count", **labels, error_type="") == 1
        assert at.sample("gen_ai_server_request_duration_seconds_count", **labels, error_type="engine") == 1
        assert at.sample("gen_ai_client_token_usage_sum", **labels, gen_ai_token_type="input") == 7
        assert at.sample("paddock_runner_inter_token_latency_seconds_count", model="tiny") == 1
        assert at.sample("paddock_runner_template_render_seconds_count", model="tiny") == 2


async def test_the_capacity_is_what_llama_cpp_made_of_it() -> None:
    stats = StepStats(0, 0, 0, 0, 1.0, 0, 4200, 0, 0.0, 0)
    for loaded, seen, shown, free in ((0, None, 4096, 4096), (4352, stats, 4352, 152)):
        async with front(ScriptedEngine(stats=seen, cells=loaded)) as at:
            lines = (await at.client.get("/metrics")).text.splitlines()
            for state, number in (("capacity", shown), ("free", free)):
                assert f'paddock_runner_kv_cache_tokens{{model="tiny",state="{state}"}} {number}.0' in lines


async def test_the_exposition_shows_the_engine() -> None:
    async with front(ScriptedEngine(stats=StepStats(1, 0, 5, 2, 40.0, 1024, 256, 16, 0.0, 99), open_requests=3)) as at:
        for event in answer("x"):
            at.runner.metrics.on_event("id", event)  # type: ignore[arg-type]
        at.runner.metrics.on_step(
            StepStats(1, 0, 5, 2, 40.0, 1024, 256, 16, 0.0, 99, mask_milliseconds=500.0, threads=3)
        )
        at.runner.metrics.on_state("crashed")
        at.runner.metrics.on_crash("abort")
        reply = await at.client.get("/metrics")
        assert reply.headers["content-type"].startswith("text/plain")
        lines = reply.text.splitlines()
        for line in (
            'paddock_runner_requests_running{model="tiny"} 2.0',
            'paddock_runner_requests_waiting{model="tiny"} 1.0',
            'paddock_runner_slots{model="tiny",state="busy"} 2.0',
            'paddock_runner_kv_cache_tokens{model="tiny",state="used"} 1024.0',
            'paddock_runner_kv_cache_tokens{model="tiny",state="retained"} 256.0',
            'paddock_runner_kv_cache_tokens{model="tiny",state="shared"} 16.0',
            'paddock_runner_kv_cache_tokens{model="tiny",state="saved"} 99.0',
            'paddock_runner_kv_cache_usage_ratio{model="tiny"} 0.25',
            'paddock_runner_constraint_mask_seconds_total{model="tiny"} 0.5',
            'paddock_runner_engine_crashes_total{cause="abort",model="tiny"} 1.0',
            'paddock_runner_engine_crashes_total{cause="stall",model="tiny"} 0.0',
            'paddock_runner_threads{model="tiny"} 3.0',
            'paddock_runner_memory_bytes{kind="weights",model="tiny"} 1000.0',
            'paddock_runner_engine_state{model="tiny",state="ready"} 1.0',
            'paddock_runner_engine_restarts_total{model="tiny"} 1.0',
            'paddock_runner_tokens_total{model="tiny",type="prompt"} 7.0',
            'paddock_runner_tokens_total{model="tiny",type="cached_prompt"} 3.0',
            'paddock_runner_tokens_total{model="tiny",type="output"} 1.0',
            'paddock_runner_decode_batches_total{model="tiny"} 1.0',
        ):
            assert line in lines, line
        assert not any("_created" in line for line in lines)


async def test_hostile_requests_do_not_add_series() -> None:
    async with front() as at:
        await at.client.post("/api/chat", json=CHAT)
        before = (await at.client.get("/metrics")).text.count("\n")
        for number in range(300):
            await at.client.post("/api/chat", json={**CHAT, "model": f"evil{number}"})
            await at.client.get(f"/nothing/{number}", headers={"x-request-id": f"id-{number}"})
        assert (await at.client.get("/metrics")).text.count("\n") == before


async def test_request_ids_are_kept_made_and_refused() -> None:
    async with front() as at:
        reply = await at.client.post("/api/chat", json=CHAT, headers={"x-request-id": "abc-1"})
        assert reply.headers["x-request-id"] == at.request.request_id == "abc-1"
        for offered in ("a b", "x" * 65, "évil"):
            reply = await at.client.post("/api/chat", json=CHAT, headers={"x-request-id": offered.encode("latin-1")})
            assert len(reply.headers["x-request-id"]) == 32


async def test_logs_hold_no_prompt_and_no_credential(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    async with front(anonymous=False, credentials=[{"endpoint": "default/main", "sha256": SUM}]) as at:
        body = {**CHAT, "messages": [{"role": "user", "content": "my secret prompt"}]}
        await at.client.post("/api/chat", json=body, headers={"authorization": f"Bearer {CREDENTIAL}"})
        at.engine.script = [RuntimeError("boom")]
        await at.client.post("/api/chat", json=body, headers={"authorization": f"Bearer {CREDENTIAL}"})
        await at.client.post("/api/chat", json=body, headers={"authorization": "Bearer another-secret"})
    said = [record.__dict__ for record in caplog.records if record.name.startswith("paddock_runner")]
    assert [entry["status"] for entry in said if entry["message"] == "request"] == [200, 500, 401]
    for secret in ("my secret prompt", CREDENTIAL, "another-secret"):
        assert secret not in repr(said)


def test_a_changed_file_comes_into_force(tmp_path: Path) -> None:
    path = tmp_path / "serve.json"
    path.write_text(json.dumps(config_json()))
    errors: list[str] = []
    config = ConfigFile(path, parse_settings, on_error=errors.append)
    (tmp_path / "new").write_text(json.dumps(config_json(names=["other"], system="new", queueDepth=3)))
    (tmp_path / "new").rename(path)
    assert config.poll()
    assert (config.value.names, config.value.system, config.value.queue_depth) == (["other"], "new", 3)
    (tmp_path / "bad").write_text(json.dumps(config_json(names=[])))
    (tmp_path / "bad").rename(path)
    assert not config.poll()
    assert config.value.names == ["other"]
    assert "names" in errors[0]


async def test_hot_numbers_reach_the_engine() -> None:
    async with front() as at:
        at.config.replace(queueDepth=3, keepAliveSeconds=12)
        at.runner.apply_config(at.config.value)
        assert (at.engine.queue_depth, at.engine.keep_alives[-1]) == (3, 12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "version"),
        ({"surprise": 1}, "surprise"),
        ({"names": []}, "names"),
        ({"digest": "sha256:xyz"}, "digest"),
        ({"digest": "sha256:" + "ab" * 32 + "\n"}, "digest"),
        ({"credentials": [{"endpoint": "x", "sha256": "short"}]}, "credentials.0.sha256"),
        ({"anonymous": "yes"}, "anonymous"),
        ({"queueDepth": -1}, "queueDepth"),
        ({"drainSeconds": 1e9}, "drainSeconds"),
        ({"parameters": {"temperature": "hot"}}, "parameters"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"engine": {"contextLength": 5}}, "engine"),
    ],
)
def test_a_bad_configuration_names_its_field(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match="serve configuration") as caught:
        parse_settings(json.dumps(config_json(**change)).encode())
    assert words in str(caught.value)


def test_unusable_layers_of_a_manifest_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    assert usable_options({"temperature": "x", "top_k": 5, "num_ctx": 1e12, "stop": ["a"] * 99}) == {"top_k": 5}
    assert len(caplog.records) == 3
    messages = ({"role": "tool", "content": "x"}, {"role": "user", "content": "y"})
    assert usable_messages(messages) == (Message("user", "y"),)


def test_a_shown_modelfile_tells_no_paths_of_the_server() -> None:
    blob = "/srv/cache/blobs/sha256-" + "a" * 64
    text = f"FROM {blob}\nADAPTER {blob}\nSYSTEM FROM here on, be kind.\n"
    expected = f"FROM tiny:latest\nADAPTER sha256:{'a' * 64}\nSYSTEM FROM here on, be kind.\n"
    assert ollama_models.without_paths(text, "tiny:latest") == expected


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_the_gateways_tenant_reaches_the_engine(path: str) -> None:
    async with front() as at:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
        assert (await at.client.post(path, json=body, headers={"X-Paddock-Tenant": "default/first"})).status_code == 200
        assert (await at.client.post(path, json=body)).status_code == 200
        assert [request.tenant for request in at.engine.requests] == ["default/first", ""]
