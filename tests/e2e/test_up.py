"""`paddock up` with the real programs on a tiny model: start, keys, edits, refusals, stop."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.support.gguf_maker import make_gguf
from tests.support.up import Up, cli, create, endpoint, model, write
from tests.support.waiting import until_sync

Start = Callable[..., Up]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "manifests"


def ask(client: httpx.Client, name: str = "tiny", tokens: int = 8) -> httpx.Response:
    return client.post("/api/generate", json={"model": name, "prompt": "hello", "options": {"num_predict": tokens}})


def answers(up: Up, name: str = "tiny", **client: Any) -> None:
    """A model answers in full; 503 is waited out, as a client with Retry-After does (a gateway learns within 1 s)."""
    with up.client(**client) as http:
        replies: list[httpx.Response] = []

        def tried() -> bool:
            replies.append(ask(http, name))
            return replies[-1].status_code != 503

        until_sync(tried, 10)
        assert replies[-1].status_code == 200, replies[-1].text
        lines = [json.loads(line) for line in replies[-1].text.splitlines()]
        assert lines[-1]["done"] is True
        assert lines[-1]["eval_count"] == 8


def test_from_manifest_to_authenticated_answer(up: Start, folder: Path) -> None:
    write(folder, model("tiny"), endpoint("main", "tiny"))
    running = up().ready()
    assert running.key.startswith("pdk_")
    with running.client(key="") as nobody:
        assert ask(nobody).status_code == 401
    with running.client(key="pdk_00000000_wrong") as stranger:
        assert ask(stranger).status_code == 401
    answers(running)
    with running.client() as http:
        assert [one["name"] for one in http.get("/api/tags").json()["models"]] == ["tiny:latest"]
        assert "paddock_" in http.get("/metrics").text
    assert running.stop() == 0
    assert running.out.rest()[-1] == '{"event": "stopped"}'


def test_the_key_is_printed_once_and_found_nowhere_in_clear(up: Start, folder: Path, tmp_path: Path) -> None:
    write(folder, model("tiny"), endpoint("main", "tiny"))
    first = up().ready()
    local = (tmp_path / "home" / "run" / "local.key").read_text().strip()
    first.stop()
    secret = first.key.encode()
    for path in (tmp_path / "home").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert secret not in data, path
            assert local.encode() not in data, path
    assert [path.name for path in (tmp_path / "home" / "run").iterdir()] == ["up.lock"]
    second = up()
    second.ready(key=False)
    assert not [line for line in second.out.seen if '"key"' in json.loads(line)["event"]]
    answers(second, key=first.key)


def test_a_restart_keeps_the_pin(up: Start, folder: Path, tmp_path: Path) -> None:
    write(folder, model("tiny"), endpoint("main", "tiny"))
    digests = []
    for _ in range(2):
        up().ready(key=not digests).stop()
        found = json.loads(cli(tmp_path / "home", "get", "models", "tiny", "-o", "json").stdout)
        digests.append((found["status"]["resolved"], found["metadata"]["generation"]))
    assert digests[0] == digests[1]


def test_text_mode_prints_two_lines_and_nothing_else_on_stdout(up: Start, folder: Path) -> None:
    write(folder, model("tiny"), endpoint("main", "tiny"))
    running = up(json_output=False)
    key = running.out.next(30)
    ready = running.out.next(30)
    assert key is not None
    assert ready is not None
    assert key.startswith("key default pdk_")
    assert ready.startswith("ready http://127.0.0.1:")
    write(folder, model("tiny", system="changed"), endpoint("main", "tiny"))
    running.err.find(lambda line: "Configuring" in line)
    running.err.find(lambda line: "Ready=True Serving" in line)
    assert running.stop() == 0
    assert running.out.rest() == []
    assert key.split()[2] not in "\n".join([*running.err.seen, *running.err.rest()])


def test_json_mode_prints_only_events(up: Start, folder: Path) -> None:
    write(folder, model("tiny"), endpoint("main", "tiny"))
    running = up().ready()
    running.stop()
    events = [json.loads(line) for line in [*running.out.seen, *running.out.rest()]]
    known = {"ready", "key", "progress", "condition", "error", "stopping", "stopped"}
    assert {event["event"] for event in events} <= known
    assert [event["event"] for event in events].count("ready") == 1
    conditions = [event for event in events if event["event"] == "condition"]
    assert all(
        set(one) == {"event", "kind", "namespace", "name", "type", "status", "reason", "message"} for one in conditions
    )
    assert running.err.rest() == []


def test_a_hot_edit_keeps_the_process_and_a_new_context_replaces_it(up: Start, folder: Path) -> None:
    write(folder, model("tiny"), endpoint("main", "tiny"))
    running = up().ready()
    (before,) = running.children("serve")
    write(folder, model("tiny", system="Be brief."), endpoint("main", "tiny"))
    running.condition("Model", "tiny", "Ready", reason="Configuring")
    running.condition("Model", "tiny", "Ready", status="True")
    assert running.children("serve") == [before]
    write(folder, model("tiny", serving={"contextLength": 512}), endpoint("main", "tiny"))
    running.condition("Model", "tiny", "Ready", status="False")
    running.condition("Model", "tiny", "Ready", status="True")
    assert before not in running.children("serve")
    answers(running)


def test_added_and_removed_manifests_do_not_touch_the_others(up: Start, folder: Path, tmp_path: Path) -> None:
    write(folder, model("tiny"), endpoint("main", "tiny"))
    running = up().ready()
    before = running.children("serve")
    write(folder, model("other"), name="more.yaml")
    write(folder, model("tiny"), endpoint("main", "tiny", "other"))
    running.condition("Model", "other", "Ready", status="True")
    until_sync(lambda: _served(running) == {"tiny:latest", "other:latest"})
    answers(running, "other")
    assert set(before) < set(running.children("serve"))
    (folder / "more.yaml").unlink()
    running.condition("Endpoint", "main", "ModelsReady", reason="ModelNotFound")
    until_sync(lambda: running.children("serve") == before, 20)
    assert cli(tmp_path / "home", "get", "models", "other").returncode == 1
    answers(running)


def _served(running: Up) -> set[str]:
    with running.client() as http:
        return {one["name"] for one in http.get("/api/tags").json()["models"]}


@pytest.mark.parametrize("text", ["kind: [", yaml.safe_dump(model("tiny") | {"spec": {"sauce": 1}})])
def test_an_invalid_edit_is_reported_and_the_last_good_state_serves(up: Start, folder: Path, text: str) -> None:
    path = write(folder, model("tiny"), name="model.yaml")
    write(folder, endpoint("main", "tiny"), name="endpoint.yaml")
    running = up().ready()
    path.write_text(text)
    message = running.event("error")["message"]
    assert message.startswith(f"{path}:")
    answers(running)
    write(folder, model("tiny", system="good again"), name="model.yaml")
    running.condition("Model", "tiny", "Ready", reason="Configuring")
    running.condition("Model", "tiny", "Ready", status="True")


def test_a_reference_to_a_missing_model_is_a_condition(up: Start, folder: Path) -> None:
    write(folder, model("tiny"), endpoint("main", "tiny", "ghost"))
    running = up()
    running.key = running.event("key")["secret"]
    found = running.condition("Endpoint", "main", "ModelsReady", reason="ModelNotFound")
    assert "ghost" in found["message"]
    running.url = running.event("ready")["url"]
    answers(running)


def test_what_is_not_in_the_cache_is_a_condition_that_create_cures(
    up: Start, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PADDOCK_OFFLINE", "1")
    write(folder, model("late"), endpoint("main", "late"))
    running = up("--models", str(tmp_path / "home" / "models"))
    running.key = running.event("key")["secret"]
    found = running.condition("Model", "late", "Ready", status="False", reason="Offline")
    assert "PADDOCK_OFFLINE" in found["message"]
    create(tmp_path / "home", "late", make_gguf(tmp_path / "late.gguf", seed=3))
    running.url = running.event("ready")["url"]
    answers(running, "late")


def test_manifests_from_stdin(up: Start) -> None:
    running = up("-f", "-", stdin=yaml.safe_dump_all([model("tiny"), endpoint("main", "tiny")])).ready()
    answers(running)


def test_auth_none_needs_no_key(up: Start, folder: Path) -> None:
    write(folder, model("tiny"), endpoint("main", "tiny", auth={"none": {}}))
    running = up().ready(key=False)
    answers(running, key="")
    assert not (running.home / "keys" / "default").exists()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_two_endpoints_are_two_gateways(up: Start, folder: Path) -> None:
    port = free_port()
    side = endpoint("side", "tiny")
    write(folder, model("tiny"), endpoint("main", "tiny"), side)
    running = up()
    running.key = running.event("key")["secret"]
    found = running.condition("Endpoint", "side", "Ready", reason="NotListening")
    assert "spec.service.port" in found["message"]
    side["spec"]["service"] = {"port": port}
    write(folder, model("tiny"), endpoint("main", "tiny"), side)
    urls = {event["endpoint"]: event["url"] for event in (running.event("ready"), running.event("ready"))}
    assert urls["default/side"] == f"http://127.0.0.1:{port}"
    for url in urls.values():
        answers(running, url=url)
    assert len(running.children("gateway")) == 2


def test_a_key_opens_its_namespace_only(up: Start, folder: Path) -> None:
    there: list[dict[str, Any]] = [model("tiny"), endpoint("side", "tiny", service={"port": free_port()})]
    for one in there:
        one["metadata"] = one["metadata"] | {"namespace": "team"}
    write(folder, model("tiny"), endpoint("main", "tiny"), *there)
    running = up()
    keys = [running.event("key")["secret"] for _ in range(2)]
    urls = {event["endpoint"]: event["url"] for event in (running.event("ready"), running.event("ready"))}
    codes = []
    for key in keys:
        for url in (urls["default/main"], urls["team/side"]):
            with running.client(key, url) as http:
                codes.append(ask(http).status_code)
    assert codes == [200, 401, 401, 200]


def test_keys_come_and_go_while_it_runs(up: Start, folder: Path, tmp_path: Path) -> None:
    write(folder, model("tiny"), model("other"), endpoint("main", "tiny", "other"))
    running = up().ready()
    made = cli(tmp_path / "home", "key", "create", "laptop", "--models", "tiny")
    key = made.stdout.strip()
    with running.client(key) as http:
        until_sync(lambda: ask(http).status_code == 200, 5)
        assert ask(http, "other").status_code == 404, "a denied model looks like a missing one"
        cli(tmp_path / "home", "key", "revoke", "laptop")
        until_sync(lambda: ask(http).status_code == 401, 5)
    answers(running)


def test_revoked_keys_do_not_come_back(up: Start, folder: Path, tmp_path: Path) -> None:
    write(folder, model("tiny"), endpoint("main", "tiny"))
    running = up().ready()
    assert cli(tmp_path / "home", "key", "revoke", "default").returncode == 0
    with running.client() as http:
        until_sync(lambda: ask(http).status_code == 401, 5)
    write(folder, model("tiny", system="x"), endpoint("main", "tiny"))
    running.condition("Model", "tiny", "Ready", reason="Configuring")
    running.condition("Model", "tiny", "Ready", status="True")
    assert cli(tmp_path / "home", "key", "list").stdout.split() == ["NAMESPACE", "NAME", "MODELS", "VERBS", "EXPIRES"]
    running.stop()
    assert not [line for line in running.out.rest() if json.loads(line)["event"] == "key"]


def test_a_second_up_on_the_same_home_is_refused(up: Start, folder: Path) -> None:
    write(folder, model("tiny"), endpoint("main", "tiny"))
    first = up().ready()
    second = up()
    assert f"process {first.pid}, started 20" in second.event("error")["message"]
    assert second.process.wait(10) == 3
    answers(first)


def test_a_port_in_use_is_one_line(up: Start, folder: Path) -> None:
    write(folder, model("tiny"), endpoint("main", "tiny"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        running = up("--listen", f"127.0.0.1:{server.getsockname()[1]}", json_output=False)
        assert running.process.wait(10) == 4
    (line,) = running.err.rest()
    assert "is in use by another process" in line
    assert running.out.rest() == []


@pytest.mark.parametrize(
    ("documents", "words"),
    [
        ([model("tiny") | {"spec": {"source": {"ollama": {"name": "a"}, "model": {"name": "b"}}}}], "exactly one of"),
        ([model("tiny", serving={"slots": "many"})], "spec.serving.slots"),
        ([model("tiny", colour="red")], "spec.colour"),
        ([endpoint("main") | {"spec": {}}], "spec"),
        ([{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}], "kind"),
        ([model("tiny"), model("tiny")], "declared twice"),
        ([{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "token": "x"}], "token: unknown field"),
    ],
)  # fmt: skip
def test_bad_manifests_at_start(up: Start, folder: Path, documents: list[dict[str, Any]], words: str) -> None:
    path = write(folder, *documents)
    running = up(json_output=False)
    assert running.process.wait(20) == 2
    lines = running.err.rest()
    assert any(line.startswith(f"error: {path}:") and words in line for line in lines), lines
    assert running.out.rest() == []


def test_a_path_that_is_not_there(up: Start, folder: Path) -> None:
    running = up("-f", str(folder / "none.yaml"), json_output=False)
    assert running.process.wait(10) == 2
    assert running.err.rest() == [f"error: {folder / 'none.yaml'}: No such file or directory"]
