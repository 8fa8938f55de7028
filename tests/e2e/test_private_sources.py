"""`paddock up` with a private registry: a Secret among the manifests opens it, and shows up nowhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.ollama_registry import PASSWORD, USER
from tests.support.ollama_registry_http import serving_registry
from tests.support.up import Up, cli, endpoint, model, write
from tests.support.waiting import until_sync

from paddock_operator.core.conditions import find
from paddock_operator.core.resources import Ref
from paddock_operator.executors.local import state
from paddock_operator.executors.local.home import Home

Start = Callable[..., Up]
CONFIG = b'{"model_format":"gguf"}'


def secret(**values: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "registry"}, "stringData": values}


def ready_of(home: Path) -> dict[str, Any]:
    found = state.read(Home.at(home), Ref("Model", "default", "private")) or {}
    return dict(find(found.get("status") or {}, "Ready"))


def test_a_private_registry(up: Start, tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No Secret, one without the right key, a wrong password, the right one: each edit of the file acts by itself."""
    folder, home = tmp_path / "manifests", tmp_path / "home"
    with serving_registry(tmp_path / "registry", "docker") as registry:
        registry.add_model("team/tiny", "1", {"model": tiny_gguf.read_bytes()}, CONFIG)
        monkeypatch.setenv("PADDOCK_ALLOW_INSECURE_HOSTS", registry.listed)
        source = {"ollama": {"name": registry.name("team/tiny:1"), "secretRef": {"name": "registry"}}}
        wanted = [
            model("private") | {"spec": {**model("private")["spec"], "source": source}},
            endpoint("main", "private"),
        ]
        write(folder, *wanted)
        running = up("--models", str(tmp_path / "models"))
        until_sync(lambda: ready_of(home).get("reason") == "SecretNotFound", 30)
        assert "Secret registry does not exist in this namespace; create it" in ready_of(home)["message"]
        assert not registry.seen, "nobody is asked without the Secret"

        write(folder, secret(user=USER), name="secret.yaml")
        until_sync(lambda: "must hold token, or username and password" in ready_of(home).get("message", ""), 30)
        assert ready_of(home)["reason"] == "Unauthorized"
        write(folder, secret(username=USER, password="not-" + PASSWORD), name="secret.yaml")
        until_sync(lambda: ready_of(home).get("message", "").count("correct the Secret of secretRef"), 30)
        write(folder, secret(username=USER, password=PASSWORD), name="secret.yaml")
        until_sync(lambda: ready_of(home).get("status") == "True", 60)

        shown = cli(home, "get", "models", "-o", "yaml").stdout + cli(home, "describe", "model", "private").stdout
        assert "private" in shown
        assert running.stop() == 0
    told = [*running.out.rest(), *running.err.rest()]
    kept = [path for path in home.rglob("*") if path.is_file()]
    assert any(path.name.endswith("-pull.log") for path in kept)
    for text in (shown, json.dumps(told), *(path.read_text(errors="replace") for path in kept)):
        assert PASSWORD not in text
    assert not list((home / "run").glob("credentials-*"))
