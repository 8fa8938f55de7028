"""Leadership on a real API server: one leads, one waits, a release hands over at once, a silent leader is replaced."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.kube.kit import Cluster, model

from paddock_operator import lease as module
from paddock_operator.errors import LeaseLostError
from paddock_operator.executors.kube.client import Client
from paddock_operator.executors.kube.kinds import LEASE
from paddock_operator.lease import Lease


async def test_release_hands_over_at_once(client: Client, cluster: Cluster) -> None:
    first, second = Lease(client, cluster.namespace, "first"), Lease(client, cluster.namespace, "second")
    await first.acquire()
    waiting = asyncio.create_task(second.acquire())
    await asyncio.sleep(0.3)
    assert not waiting.done()
    began = time.monotonic()
    await first.release()
    await asyncio.wait_for(waiting, 10)
    assert time.monotonic() - began < 4
    live = await client.get(LEASE, cluster.namespace, "paddock-operator")
    assert (live["spec"]["holderIdentity"], live["spec"]["leaseTransitions"]) == ("second", 2)


async def test_a_silent_leader_is_replaced(client: Client, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DURATION_SECONDS", 2)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.2)
    first, second = Lease(client, cluster.namespace, "first"), Lease(client, cluster.namespace, "second")
    await first.acquire()
    await asyncio.wait_for(second.acquire(), 10)
    with pytest.raises(LeaseLostError, match="second"):
        await asyncio.wait_for(first.hold(), 10)


async def test_a_leader_that_renews_stays(client: Client, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DURATION_SECONDS", 1)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.1)
    first, second = Lease(client, cluster.namespace, "first"), Lease(client, cluster.namespace, "second")
    await first.acquire()
    holding, waiting = asyncio.create_task(first.hold()), asyncio.create_task(second.acquire())
    await asyncio.sleep(2.5)
    assert not holding.done()
    assert not waiting.done()
    for task in (holding, waiting):
        task.cancel()
    await asyncio.gather(holding, waiting, return_exceptions=True)


async def test_an_unreachable_server_ends_leadership(
    client: Client, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RENEW_SECONDS", 0.5)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.1)
    first = Lease(client, cluster.namespace, "first")
    await first.acquire()
    cluster.server.kill_server()
    try:
        with pytest.raises(LeaseLostError):
            await asyncio.wait_for(first.hold(), 20)
    finally:
        cluster.server.start_server()


async def test_two_replicas(cluster: Cluster) -> None:
    """Two processes: the second waits, takes over when the first ends, and does its work."""
    first = replica(cluster)
    try:
        await cluster.apply_settled(model(cluster.namespace, "one"))
        leader = holder(cluster)
        second = replica(cluster)
        try:
            await asyncio.sleep(2.5)
            assert holder(cluster) == leader
            began = time.monotonic()
            first.terminate()
            await cluster.apply_settled(model(cluster.namespace, "one", "edited for the second"))
            assert time.monotonic() - began < 20
            assert holder(cluster) not in ("", leader)
            assert await asyncio.to_thread(first.wait, 6) == 0
        finally:
            second.terminate()
        assert await asyncio.to_thread(second.wait, 6) == 0
    finally:
        for child in (first, second):
            child.kill()


def replica(cluster: Cluster) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.kube.replica", str(cluster.server.kubeconfig), cluster.namespace]
    return subprocess.Popen(command, cwd=Path(__file__).resolve().parents[2])


def holder(cluster: Cluster) -> str:
    live = cluster.get(LEASE.path(cluster.namespace, "paddock-operator")) or {}
    return str(live["spec"]["holderIdentity"])
