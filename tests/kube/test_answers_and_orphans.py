"""An answer is contact whatever it says, and what has no owner is nobody's: neither used nor deleted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from paddock_operator.core.cluster.labels import CHILD
from paddock_operator.core.identity import child_name
from paddock_operator.core.resources import Ref
from paddock_operator.executors.kube import reflector
from paddock_operator.executors.kube.client import Client
from paddock_operator.executors.kube.errors import ApiError
from paddock_operator.executors.kube.kinds import BY_NAME
from paddock_operator.executors.kube.reflector import Reflector, Scope
from paddock_operator.executors.kube.rings import namespace_key
from paddock_operator.executors.kube.store import Store
from paddock_operator.executors.kube.world import World

MODEL = Ref("Model", "default", "tiny")


class Refusing:
    """A client whose every list is answered with one status; status 0 is no answer at all."""

    def __init__(self, status: int) -> None:
        self.status, self.calls = status, 0

    async def pages(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        self.calls += 1
        raise ApiError(self.status, "Refused", "no", None)
        yield


@pytest.mark.parametrize(("status", "heard"), [(403, True), (404, True), (503, True), (0, False)])
async def test_a_refused_watch_is_not_a_dead_one(monkeypatch: pytest.MonkeyPatch, status: int, heard: bool) -> None:
    monkeypatch.setattr(reflector, "REFUSED_DELAY", 0.02)
    monkeypatch.setattr(reflector, "FIRST_DELAY", 0.02)
    monkeypatch.setattr(reflector, "MAX_DELAY", 0.02)
    client = Refusing(status)
    store = Store(BY_NAME["Service"], lambda *_: None)
    watch = Reflector(cast(Client, client), store, Scope(""), lambda *_: None, lambda: None)
    began = watch.silent_seconds()
    task = asyncio.create_task(watch.run())
    async with asyncio.timeout(10):
        while client.calls < 20:
            await asyncio.sleep(0.01)
    task.cancel()
    assert began < 0.1
    assert (watch.silent_seconds() < 0.15) == heard


def service(name: str, label: str, owner: str = "") -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "namespace": "default", "labels": {CHILD: label}, "resourceVersion": "1"}
    if owner:
        metadata["ownerReferences"] = [{"kind": "Model", "name": "tiny", "uid": owner, "controller": True}]
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {}}


def test_a_namespace_prunes_what_it_shares_and_no_orphan() -> None:
    world = World(cast(Client, None), (), "paddock-cache", lambda *_: None, lambda *_: None, lambda *_: None)
    child = child_name(MODEL)
    for item in (service("shared", "namespace"), service("orphan", child), service("owned", child, "u1")):
        world.store("Service").put(item)
    shared = world.children(namespace_key("default"), "")
    assert [item["metadata"]["name"] for item in shared.services] == ["shared"]
    assert [item["metadata"]["name"] for item in world.children(MODEL, "u1").services] == ["owned"]
