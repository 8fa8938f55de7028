"""Everything that can die is killed under load. Requests may fail only where the only copy of something died."""

from __future__ import annotations

import time

import pytest

from e2e.conftest import SYSTEM, Line
from e2e.support.cluster import Cluster, eventually, ready_pods
from e2e.support.load import Load
from e2e.support.times import record


def test_engine_process_killed(cluster: Cluster, line: Line) -> None:
    """The front stays, answers with typed errors, restarts the engine; the pod is not replaced."""
    pod = cluster.pods(line.namespace, "model", "smollm2", "runner")[0]
    name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
    with Load(line.url, line.key, "smollm2") as load:
        eventually(lambda: load.served() >= 4, "the load runs")
        killed = time.monotonic()
        cluster.kubectl("exec", name, "-n", line.namespace, "--", *_python(_KILL_CHILD))
        eventually(lambda: load.served(since=killed) >= 4, "answers again", timeout=60)
        record("engine killed: answers again", time.monotonic() - killed)
    assert all("HTTP 5" in item.error or "error in the stream" in item.error for item in load.failures), load.failures
    assert len(load.failures) <= 8
    assert cluster.pods(line.namespace, "model", "smollm2", "runner")[0]["metadata"]["uid"] == uid
    cluster.wait(line.namespace, "model", "smollm2", timeout=30)


def test_runner_pod_killed(cluster: Cluster, line: Line) -> None:
    """The only runner dies at once: status says so, a new one serves, waiting requests are answered."""
    name = cluster.pods(line.namespace, "model", "smollm2", "runner")[0]["metadata"]["name"]
    with Load(line.url, line.key, "smollm2") as load:
        eventually(lambda: load.served() >= 4, "the load runs")
        killed = time.monotonic()
        cluster.kubectl("delete", "pod", name, "-n", line.namespace, "--grace-period=0", "--force")
        eventually(
            lambda: cluster.condition(line.namespace, "model", "smollm2", "Available").get("status") == "False",
            "status tells that no runner is there",
            timeout=10,
        )
        eventually(lambda: load.served(since=killed + 1) >= 4, "answers again", timeout=90)
        record("only runner pod killed: answers again", time.monotonic() - killed)
    # Requests in flight on the dead runner may break; those that came later waited.
    late = [item for item in load.failures if item.started > killed + 1]
    assert not late, late[:3]
    cluster.wait(line.namespace, "model", "smollm2", timeout=30)


def test_one_of_two_gateway_pods_killed(cluster: Cluster, line: Line) -> None:
    """The other one serves on; only connections of the dead one break."""
    name = ready_pods(cluster.pods(line.namespace, "endpoint", "main", "gateway"))[0]["metadata"]["name"]
    with Load(line.url, line.key, "smollm2") as load:
        eventually(lambda: load.served() >= 4, "the load runs")
        killed = time.monotonic()
        cluster.kubectl("delete", "pod", name, "-n", line.namespace, "--grace-period=0", "--force")
        eventually(lambda: load.served(since=killed + 2) >= 4, "answers go on", timeout=30)
        eventually(
            lambda: len(ready_pods(cluster.pods(line.namespace, "endpoint", "main", "gateway"))) == 2, "two again"
        )
        record("gateway pod killed: two again", time.monotonic() - killed)
    late = [item for item in load.failures if item.started > killed + 2]
    assert not late, late[:3]


def test_operator_pod_killed(cluster: Cluster, line: Line) -> None:
    """Nobody who chats notices; the next edit is acted on by the new operator, which writes nothing at start."""
    generation = _versions(cluster, line)
    with Load(line.url, line.key, "smollm2") as load:
        eventually(lambda: load.served() >= 4, "the load runs")
        killed = time.monotonic()
        cluster.kubectl("delete", "pods", "-n", SYSTEM, "--all", "--grace-period=0", "--force")
        cluster.kubectl("rollout", "status", "deployment", "-n", SYSTEM, "--timeout=90s", timeout=100)
        ready = time.monotonic()
        assert _versions(cluster, line) == generation, "a restarted operator wrote to settled objects"
        cluster.patch(line.namespace, "model", "smollm2", {"spec": {"system": "You are a sailor."}})
        cluster.wait(line.namespace, "model", "smollm2", timeout=45)
        record("operator pod killed: ready again", ready - killed)
        record("then an edit in force", time.monotonic() - ready)
    load.assert_clean(least=8)


@pytest.mark.own_cluster
def test_api_server_killed(cluster: Cluster, line: Line) -> None:
    from e2e.cluster import components

    with Load(line.url, line.key, "smollm2") as load:
        eventually(lambda: load.served() >= 4, "the load runs")
        components.kill("kube-apiserver")
        down = time.monotonic()
        eventually(lambda: load.served(since=down) >= 8, "answers go on without the API server", timeout=60)
        components.start("kube-apiserver")
        eventually(lambda: cluster.get(line.namespace, "model", "smollm2"), "the API server is back", timeout=60)
        back = time.monotonic()
        cluster.patch(line.namespace, "model", "smollm2", {"spec": {"system": "You are a gardener."}})
        cluster.wait(line.namespace, "model", "smollm2", timeout=90)
        record("API server killed: an edit in force after it came back", time.monotonic() - back)
    load.assert_clean(least=12)


@pytest.mark.own_cluster
def test_kubelet_killed(cluster: Cluster, line: Line) -> None:
    from e2e.cluster import components

    with Load(line.url, line.key, "smollm2") as load:
        eventually(lambda: load.served() >= 4, "the load runs")
        components.kill("kubelet")
        down = time.monotonic()
        eventually(lambda: load.served(since=down) >= 8, "answers go on without the kubelet", timeout=60)
        components.start("kubelet")
        cluster.wait(line.namespace, "model", "smollm2", timeout=120)
    load.assert_clean(least=12)


_KILL_CHILD = """
import os, signal
for name in os.listdir('/proc'):
    if name.isdigit() and int(name) != os.getpid():
        try: words = open(f'/proc/{name}/cmdline').read()
        except OSError: continue
        if 'paddock_runner.engine.child' in words: os.kill(int(name), signal.SIGKILL); print('killed', name); break
else: raise SystemExit('no engine process found')
"""


def _python(script: str) -> list[str]:
    return ["/opt/paddock/bin/python", "-c", script]


def _versions(cluster: Cluster, line: Line) -> dict[str, str]:
    """Resource versions of everything that the operator writes, pods and their controllers' statuses aside."""
    kinds = (
        "models.paddock.dev,endpoints.paddock.dev,configmaps,secrets,services,networkpolicies,roles,rolebindings,jobs"
    )
    found = cluster.all_of(line.namespace, kinds)
    return {f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["resourceVersion"] for item in found}
