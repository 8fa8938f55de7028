"""The controller with real child processes of a stand-in runner: who starts, who stays, who is told what."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import stub_runner
from tests.support.up import endpoint, model
from tests.support.waiting import until

from paddock_operator.core.conditions import find
from paddock_operator.core.observed import ModelObserved
from paddock_operator.core.plan_model import plan_model
from paddock_operator.core.plan_types import ModelPlan
from paddock_operator.core.resources import KeyRecord, Ref
from paddock_operator.executors.local import controller as controller_module
from paddock_operator.executors.local import state
from paddock_operator.executors.local.announce import Announcer
from paddock_operator.executors.local.context import Context
from paddock_operator.executors.local.controller import Controller
from paddock_operator.executors.local.home import Home
from paddock_operator.executors.local.listen import Address
from paddock_operator.executors.local.ports import Ports
from paddock_operator.executors.local.report import JsonReporter
from paddock_operator.executors.local.yamlread import Document

KEY = KeyRecord("default/k", "c" * 64)


class World:
    """A controller on a fresh home, with what it told and what its children did."""

    def __init__(self, tmp_path: Path, journal: Path) -> None:
        self.home = Home.at(tmp_path / "home")
        self.home.prepare()
        self._journal = journal
        self.out = io.StringIO()
        self.urls: dict[str, str] = {}
        reporter = JsonReporter(self.out, io.StringIO())
        context = Context(self.home, reporter, runner=(sys.executable, stub_runner.__file__))
        announcer = Announcer(reporter, self._publish)
        self.controller = Controller(context, Ports(Address("127.0.0.1", 0)), KeyRecord("x:y/z", "d" * 64), announcer)

    def _publish(self, urls: Any) -> None:
        self.urls = dict(urls)

    def apply(self, *documents: dict[str, Any]) -> None:
        found = [Document("f", 1, document) for document in documents]
        refs = [Ref(one.body["kind"], one.body["metadata"].get("namespace", "default"), one.body["metadata"]["name"]) for one in found]  # fmt: skip  # noqa: E501
        self.controller.apply(dict(zip(refs, found, strict=True)), [KEY], {})

    def events(self, name: str) -> list[dict[str, Any]]:
        return [event for event in map(json.loads, self.out.getvalue().splitlines()) if event["event"] == name]

    def journal(self) -> list[str]:
        return self._journal.read_text().splitlines() if self._journal.exists() else []

    def status(self, kind: str, name: str, type_: str = "Ready") -> str:
        found = state.read(self.home, Ref(kind, "default", name)) or {}
        verdict = find(found.get("status") or {}, type_)
        return f"{verdict.get('status')} {verdict.get('reason')}"

    def config(self, kind: str, name: str) -> dict[str, Any]:
        """The configuration file of the runner of a Model or the gateway of an Endpoint."""
        (path,) = self.home.run.glob(f"{kind}-{name}-*.json")
        found: dict[str, Any] = json.loads(path.read_text())
        return found


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setenv("STUB_JOURNAL", str(tmp_path / "journal"))
    found = World(tmp_path, tmp_path / "journal")
    yield found
    await found.controller.stop()


async def test_everything_becomes_ready(world: World) -> None:
    world.apply(model("a"), model("b"), endpoint("main", "a", "b"))
    await until(lambda: world.events("ready"))
    assert world.status("Model", "a") == "True Serving"
    assert world.status("Endpoint", "main") == "True GatewayReady"
    assert world.status("Endpoint", "main", "ModelsReady") == "True AllReady"
    assert world.urls["default/main"] == world.events("ready")[0]["url"]
    serve, gateway = world.config("model", "a"), world.config("endpoint", "main")
    assert serve["credentials"][0]["endpoint"] == "default/main"
    assert gateway["backendCredential"] not in json.dumps(serve), "runners know a hash only"
    assert {key["id"] for key in gateway["keys"]} == {"default/k", "x:y/z"}
    assert all(one["backends"] and one["ready"] for one in gateway["models"])


async def test_nothing_changes_so_nothing_is_done(world: World) -> None:
    documents = (model("a"), endpoint("main", "a"))
    world.apply(*documents)
    await until(lambda: world.events("ready"))
    journal, said = world.journal(), world.out.getvalue()
    for _ in range(3):
        world.apply(*documents)
        await asyncio.sleep(0.1)
    assert (world.journal(), world.out.getvalue()) == (journal, said)


async def test_a_poisoned_object_stops_nobody_else(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned = True

    def plan(observed: ModelObserved) -> ModelPlan:
        if observed.model.ref.name == "bad" and poisoned:
            raise RuntimeError("poison")
        return plan_model(observed)

    monkeypatch.setattr(controller_module, "plan_model", plan)
    world.apply(model("bad"), model("good"), endpoint("main", "good"))
    await until(lambda: world.status("Endpoint", "main", "ModelsReady") == "True AllReady")
    assert "Model default/bad: RuntimeError: poison" in world.events("error")[0]["message"]
    assert not world.events("ready")
    poisoned = False
    await until(lambda: world.events("ready"))


async def test_hot_and_cold_changes(world: World) -> None:
    world.apply(model("a"), model("b"), endpoint("main", "a", "b"))
    await until(lambda: world.events("ready"))
    world.apply(model("a", system="x"), model("b"), endpoint("main", "a", "b"))
    await until(lambda: world.config("model", "a")["system"] == "x" and world.status("Model", "a") == "True Serving")
    assert "end serve a" not in world.journal()
    world.apply(model("a", serving={"slots": 1}), model("b"), endpoint("main", "a", "b"))
    await until(lambda: world.journal().count("start serve a") == 2)
    await until(lambda: world.status("Endpoint", "main", "ModelsReady") == "True AllReady")
    assert world.journal().index("end serve a") < len(world.journal()) - 1
    assert world.journal().count("start serve b") == 1
    assert world.journal().count("start gateway main") == 1


async def test_a_removed_model_leaves_its_endpoint_serving(world: World) -> None:
    world.apply(model("a"), model("b"), endpoint("main", "a", "b"))
    await until(lambda: world.events("ready"))
    world.apply(model("a"), endpoint("main", "a", "b"))
    await until(lambda: "end serve b" in world.journal())
    await until(lambda: world.status("Endpoint", "main", "ModelsReady") == "False ModelNotFound")
    await until(lambda: world.status("Endpoint", "main") == "True GatewayReady")
    assert state.read(world.home, Ref("Model", "default", "b")) is None
    assert [one["name"] for one in world.config("endpoint", "main")["models"]] == ["a"]


async def test_a_killed_runner_gets_a_new_address_and_the_gateway_learns_it(world: World) -> None:
    world.apply(model("a"), endpoint("main", "a"))
    await until(lambda: world.events("ready"))
    before = world.config("endpoint", "main")["models"][0]["backends"]
    (unit,) = world.controller._models.values()
    assert unit._program is not None
    os.kill(unit._program.pid, signal.SIGKILL)
    await until(lambda: world.journal().count("start serve a") == 2)
    await until(lambda: world.config("endpoint", "main")["models"][0]["backends"] not in ([], before))
    await until(lambda: world.status("Model", "a") == "True Serving")
    assert len(world.events("ready")) == 1


async def test_a_failed_pull_is_tried_again_when_the_cache_changes(world: World) -> None:
    world.apply(model("missing"), endpoint("main", "missing"))
    await until(lambda: world.status("Model", "missing") == "False NotFound")
    assert world.controller.missing_models
    tries = world.journal().count("pull missing")
    world.controller.retry_pulls()
    await until(lambda: world.journal().count("pull missing") > tries, 0.9)


async def test_gateways_drain_before_runners_and_statuses_say_so(tmp_path: Path, world: World) -> None:
    world.apply(model("a"), endpoint("main", "a"))
    await until(lambda: world.events("ready"))
    await world.controller.stop()
    assert world.journal()[-2:] == ["end gateway main", "end serve a"]
    assert world.status("Model", "a") == "Unknown NotRunning"
    assert world.status("Model", "a", "Available") == "False NotRunning"
    assert world.status("Endpoint", "main") == "Unknown NotRunning"
    assert list(world.home.run.glob("*.json")) == []


async def test_an_endpoint_alone(world: World) -> None:
    world.apply(endpoint("main", "ghost"))
    await until(lambda: world.events("ready"))
    assert world.status("Endpoint", "main", "ModelsReady") == "False ModelNotFound"


async def test_the_same_name_in_two_namespaces_is_two_objects(world: World) -> None:
    there = model("a") | {"metadata": {"name": "a", "namespace": "team"}}
    world.apply(model("a"), there, endpoint("main", "a"))
    await until(lambda: world.events("ready"))
    assert world.journal().count("start serve a") == 2
    backends = world.config("endpoint", "main")["models"][0]["backends"]
    assert len(backends) == 1
