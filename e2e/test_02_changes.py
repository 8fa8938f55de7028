"""Edits under load: hot ones reach the answers without a restart, others roll without a failed request."""

from __future__ import annotations

import json
import time
import urllib.request
from functools import partial
from typing import Any

import pytest

from e2e.conftest import Line, address, make_key
from e2e.support import objects
from e2e.support.cluster import Cluster, eventually, ready_pods
from e2e.support.load import Load
from e2e.support.times import record


def test_a_changed_system_prompt_reaches_the_running_pod(cluster: Cluster, line: Line) -> None:
    before = [pod["metadata"]["uid"] for pod in cluster.pods(line.namespace, "model", "smollm2", "runner")]
    system = "You are a pirate."
    cluster.patch(line.namespace, "model", "smollm2", {"spec": {"system": system}})
    started = time.monotonic()
    cluster.wait(line.namespace, "model", "smollm2", timeout=30)
    shown = _show(line)
    record("changed system prompt in force", time.monotonic() - started)
    assert shown["system"] == system
    after = [pod["metadata"]["uid"] for pod in cluster.pods(line.namespace, "model", "smollm2", "runner")]
    assert after == before


@pytest.mark.parametrize("strategy", ["Surge", "Drain"])
def test_a_changed_context_length_rolls_without_a_failed_request(cluster: Cluster, line: Line, strategy: str) -> None:
    length = {"Surge": 1536, "Drain": 1280}[strategy]
    cluster.patch(line.namespace, "model", "smollm2", {"spec": {"rollout": {"strategy": strategy}}})
    cluster.wait(line.namespace, "model", "smollm2")
    before = {pod["metadata"]["uid"] for pod in cluster.pods(line.namespace, "model", "smollm2", "runner")}
    with Load(line.url, line.key, "smollm2") as load:
        eventually(lambda: load.served() >= 4, "the load runs")
        change = {"spec": {"serving": {"contextLength": length}}}
        cluster.patch(line.namespace, "model", "smollm2", change)
        cluster.wait(line.namespace, "model", "smollm2", timeout=180)
        rolled = time.monotonic()
        eventually(lambda: load.served(since=rolled) >= 4, "the new pod serves")
        eventually(lambda: not before & _uids(cluster, line), "the old pod is gone", timeout=90)
    load.assert_clean(least=12)
    assert (cluster.get(line.namespace, "model", "smollm2") or {})["status"]["effective"]["contextLength"] == length


def test_an_endpoint_of_three_gateways_rolls_without_a_failed_request(cluster: Cluster, line: Line) -> None:
    with Load(line.url, line.key, "smollm2") as load:
        eventually(lambda: load.served() >= 4, "the load runs")
        cluster.patch(line.namespace, "endpoint", "main", {"spec": {"replicas": 3}})
        eventually(lambda: len(_gateways(cluster, line)) == 3, "three gateways", timeout=60)
        cluster.patch(line.namespace, "endpoint", "main", {"spec": {"replicas": 2}})
        eventually(lambda: len(_gateways(cluster, line)) == 2, "two gateways", timeout=60)
        child = cluster.child(line.namespace, "endpoint", "main")
        cluster.kubectl("delete", "pods", "-n", line.namespace, "-l", f"paddock.dev/child={child}", "--wait=false")
        eventually(lambda: len(_gateways(cluster, line)) == 2, "two new gateways", timeout=90)
    load.assert_clean(least=8)


def test_a_second_model_appears_behind_the_same_endpoint(cluster: Cluster, fresh: str) -> None:
    key = make_key(cluster, fresh)
    cluster.apply(fresh, objects.model("one"), objects.endpoint(models=("one",)))
    cluster.wait(fresh, "endpoint", "main")
    cluster.wait(fresh, "model", "one")
    cluster.apply(fresh, objects.model("two", system="Be brief."), objects.endpoint(models=("one", "two")))
    found = cluster.wait(fresh, "endpoint", "main", of="ModelsReady", timeout=180)
    url = address(cluster, found)
    for name in ("one", "two"):
        with Load(url, key, name, clients=1) as load:
            eventually(partial(load.served, 0.0), f"{name} answers", timeout=60)
        load.assert_clean(least=1)


def _uids(cluster: Cluster, line: Line) -> set[str]:
    return {pod["metadata"]["uid"] for pod in cluster.all_of(line.namespace, "pods", "paddock.dev/component=runner")}


def _gateways(cluster: Cluster, line: Line) -> list[dict[str, Any]]:
    return ready_pods(cluster.pods(line.namespace, "endpoint", "main", "gateway"))


def _show(line: Line) -> dict[str, Any]:
    data = json.dumps({"model": "smollm2"}).encode()
    request = urllib.request.Request(f"{line.url}/api/show", data, {"Authorization": f"Bearer {line.key}"})
    with urllib.request.urlopen(request, timeout=30) as response:
        shown: dict[str, Any] = json.load(response)
        return shown
