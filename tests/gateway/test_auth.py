"""Who gets in: the table of credentials, rotation, expiry, throttling, and what two keys may see of each other."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest
from tests.gateway import kit

from paddock_runner.core.gateway_config import Key, Previous
from paddock_runner.gateway.auth import FAILURES_AT_ONCE, AuthFailure, FailureLimit, KeyRing

SECRET, OLD, EXPIRED = kit.new_key(), kit.new_key(), kit.new_key()
NOW = 1_800_000_000.0
ANY: dict[str, Any] = {"models": frozenset("*"), "verbs": frozenset({"infer"})}
RING = KeyRing(
    [
        Key("ns/good", kit.sha256(SECRET), previous=Previous(kit.sha256(OLD), NOW + 10), **ANY),
        Key("ns/over", kit.sha256(EXPIRED), expires=NOW, **ANY),
    ]
)


def bearer(secret: str) -> tuple[bytes, bytes]:
    return b"authorization", f"Bearer {secret}".encode()


def outcome(headers: list[tuple[bytes, bytes]], now: float) -> str:
    try:
        return RING.authenticate(headers, now).id
    except AuthFailure as failure:
        return failure.result


@pytest.mark.parametrize(
    ("headers", "now", "result"),
    [
        ([bearer(SECRET)], NOW, "ns/good"),
        ([(b"authorization", b"bearer " + SECRET.encode())], NOW, "ns/good"),
        ([(b"x-api-key", SECRET.encode())], NOW, "ns/good"),
        ([(b"cookie", b"a=b"), bearer(SECRET)], NOW, "ns/good"),
        ([bearer(OLD)], NOW + 9, "ns/good"),
        ([bearer(OLD)], NOW + 10, "expired"),
        ([bearer(EXPIRED)], NOW - 1, "ns/over"),
        ([bearer(EXPIRED)], NOW, "expired"),
        ([bearer(kit.new_key())], NOW, "unknown"),
        ([], NOW, "missing"),
        ([(b"cookie", SECRET.encode())], NOW, "missing"),
        ([bearer("")], NOW, "malformed"),
        ([(b"authorization", b"Bearer")], NOW, "malformed"),
        ([(b"authorization", b"Basic " + SECRET.encode())], NOW, "malformed"),
        ([(b"authorization", SECRET.encode())], NOW, "malformed"),
        ([bearer(f" {SECRET}")], NOW, "malformed"),
        ([bearer(f"{SECRET} {SECRET}")], NOW, "malformed"),
        ([bearer(SECRET + "x")], NOW, "malformed"),
        ([bearer(SECRET.upper())], NOW, "malformed"),
        ([bearer("pdk_" + "x" * 10_000)], NOW, "malformed"),
        ([bearer("pdk_00000000_' OR 1=1 --")], NOW, "malformed"),
        ([(b"authorization", "Bearer pdk_\u0661".encode())], NOW, "malformed"),
        ([(b"authorization", b"Bearer a\x00b")], NOW, "malformed"),
        ([bearer(SECRET), bearer(SECRET)], NOW, "malformed"),
        ([bearer(SECRET), (b"x-api-key", SECRET.encode())], NOW, "malformed"),
    ],
)
def test_the_table_of_credentials(headers: list[tuple[bytes, bytes]], now: float, result: str) -> None:
    assert outcome(headers, now) == result


def test_failures_are_throttled_by_address() -> None:
    limit = FailureLimit()
    statuses = [limit.refusal("10.0.0.1", 0.0).status for _ in range(FAILURES_AT_ONCE + 2)]
    assert statuses == [401] * FAILURES_AT_ONCE + [429] * 2
    assert limit.refusal("10.0.0.1", 0.0).headers["Retry-After"] == "1"
    assert limit.refusal("10.0.0.2", 0.0).status == 401
    assert limit.refusal("10.0.0.1", 1.0).status == 401


PATHS = ["/api/tags", "/api/ps", "/v1/models", "/v1/models/smollm2", "/api/chat", "/v1/messages", "/api/delete"]


async def call(gateway: kit.Running, path: str, headers: dict[str, str]) -> Any:
    method = {"/api/chat": "POST", "/v1/messages": "POST", "/api/delete": "DELETE"}.get(path.split("?")[0], "GET")
    return await gateway.client.request(method, path, headers=headers, content=b'{"model":"smollm2"}')


@pytest.mark.parametrize("path", PATHS)
async def test_every_closed_path_gives_one_answer_to_every_bad_credential(gateway: kit.Running, path: str) -> None:
    good_in_the_wrong_place = {"Cookie": f"key={gateway.key}"}
    bad: list[dict[str, str]] = [{}, gateway.auth("nonsense"), gateway.auth(kit.new_key()), good_in_the_wrong_place]
    answers = [await call(gateway, path, headers) for headers in bad]
    answers.append(await call(gateway, f"{path}?key={gateway.key}&api_key={gateway.key}", {}))
    assert {answer.status_code for answer in answers} == {401}
    assert {answer.headers["www-authenticate"] for answer in answers} == {"Bearer"}
    bodies = {json.dumps({**answer.json(), "request_id": ""}) for answer in answers}
    assert len(bodies) == 1


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api/tags", lambda message: {"error": message}),
        (
            "/v1/models",
            lambda message: {
                "error": {"message": message, "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}
            },
        ),
        ("/v1/messages", lambda message: {"type": "authentication_error", "message": message}),
    ],
)
async def test_401_speaks_the_dialect(gateway: kit.Running, path: str, expected: Any) -> None:
    body = (await call(gateway, path, {})).json()
    found = body["error"] if body.get("type") == "error" else body
    assert found == expected("invalid or missing API key; send Authorization: Bearer KEY")


async def test_open_paths_need_no_key(gateway: kit.Running) -> None:
    for path in ("/", "/api/version", "/healthz", "/readyz", "/metrics"):
        assert (await gateway.client.get(path)).status_code == 200
        assert (await gateway.client.head(path)).status_code == 200


async def test_a_flood_of_bad_keys_does_not_lock_out_a_good_one(gateway: kit.Running) -> None:
    codes = [(await gateway.get("/api/tags", headers={})).status_code for _ in range(FAILURES_AT_ONCE + 5)]
    assert codes[:FAILURES_AT_ONCE] == [401] * FAILURES_AT_ONCE
    assert codes[-1] == 429
    assert (await gateway.get("/api/tags")).status_code == 200
    assert gateway.metric("paddock_gateway_auth_total", mode="apiKey", result="missing") == FAILURES_AT_ONCE + 5
    assert gateway.metric("paddock_gateway_auth_total", result="ok") == 1


async def test_a_key_never_reaches_a_log(
    gateway: kit.Running, backend: kit.Backend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    stranger = kit.new_key()
    await gateway.post("/api/chat", {"model": "smollm2", "messages": [{"content": "a secret prompt"}]})
    await gateway.post("/api/chat", {"model": "smollm2"}, headers=gateway.auth(stranger))
    await backend.stop()
    text = "\n".join(str(vars(record)) for record in caplog.records if not record.name.startswith(("http", "asyncio")))
    assert "default/first" in text
    for secret in (gateway.key, stranger, kit.CREDENTIAL, "a secret prompt"):
        assert secret not in text


async def test_two_keys_live_in_two_worlds(gateway: kit.Running, backend: kit.Backend, tmp_path: Path) -> None:
    ours, theirs = kit.new_key(), kit.new_key()
    models = [
        kit.model_entry("alpha", backend.url, names=["alpha", "shared/alpha:1b"]),
        kit.model_entry("beta", backend.url, names=["team/beta:2b"]),
    ]
    keys = [
        kit.key_entry(ours, id="ns/ours", models=["alpha"]),
        kit.key_entry(theirs, id="ns/theirs", models=["TEAM/beta:2B"]),
    ]
    backend.script = kit.replying({"models": [{"name": "internal", "model": "internal", "size": 1}]})
    async with kit.running(tmp_path / "two.json", kit.config(models, keys), ours) as two:
        for key, mine, other in ((ours, "alpha", "team/beta:2b"), (theirs, "team/beta:2b", "alpha")):
            headers = two.auth(key)
            tags = (await two.get("/api/tags", headers=headers)).text
            listed = (await two.get("/v1/models", headers=headers)).text
            running = (await two.get("/api/ps", headers=headers)).json()["models"]
            assert mine in tags
            assert mine in listed
            assert other not in tags + listed
            assert [entry["name"].split(":")[0] for entry in running] == [mine.split(":")[0]]
            assert (await two.get(f"/v1/models/{mine}", headers=headers)).status_code == 200
            for path in ("/api/chat", "/api/show", "/v1/chat/completions", "/v1/messages"):
                denied = await two.post(path, {"model": other}, headers=headers)
                missing = await two.post(path, {"model": "m" * len(other)}, headers=headers)
                assert denied.status_code == missing.status_code == 404
                same = missing.text.replace("m" * len(other), other).replace(":latest", "")
                hidden = {denied.headers["x-request-id"], missing.headers["x-request-id"]}
                left, right = denied.text.replace(":latest", ""), same
                for identity in hidden:
                    left, right = left.replace(identity, ""), right.replace(identity, "")
                assert left == right
            assert (await two.get(f"/v1/models/{other}", headers=headers)).status_code == 404


async def test_a_key_without_infer_may_only_list(gateway: kit.Running, backend: kit.Backend, tmp_path: Path) -> None:
    key = kit.new_key()
    value = kit.config([kit.model_entry("smollm2", backend.url)], [kit.key_entry(key, verbs=["list"])])
    async with kit.running(tmp_path / "list.json", value, key) as other:
        assert (await other.get("/v1/models")).status_code == 200
        assert (await other.post("/api/chat", {"model": "smollm2"})).status_code == 403


async def test_a_rotated_key_opens_until_its_date(gateway: kit.Running, backend: kit.Backend, tmp_path: Path) -> None:
    new, old = kit.new_key(), kit.new_key()
    for until, expected in ((time.time() + 100, 200), (time.time() - 1, 401)):
        entry = kit.key_entry(new, previous={"sha256": kit.sha256(old), "until": until})
        async with kit.running(tmp_path / "r.json", kit.config([], [entry]), new) as other:
            assert (await other.get("/api/tags")).status_code == 200
            assert (await other.get("/api/tags", headers=other.auth(old))).status_code == expected
