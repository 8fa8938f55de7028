"""The control plane is down for two minutes while users chat and a gateway restarts: nobody notices."""

from __future__ import annotations

import time

import pytest

from e2e.conftest import SYSTEM, Line
from e2e.support.cluster import Cluster, eventually, ready_pods
from e2e.support.load import Load

OUTAGE_SECONDS = 120.0


@pytest.mark.own_cluster
def test_two_minutes_without_operator_and_api_server(cluster: Cluster, line: Line) -> None:
    from e2e.cluster import components

    gateway = ready_pods(cluster.pods(line.namespace, "endpoint", "main", "gateway"))[0]
    cluster.kubectl("scale", "deployment", "--all", "--replicas=0", "-n", SYSTEM)
    eventually(lambda: not cluster.all_of(SYSTEM, "pods"), "the operator is gone", timeout=60)
    try:
        with Load(line.url, line.key, "smollm2") as load:
            eventually(lambda: load.served() >= 4, "the load runs")
            components.kill("kube-apiserver")
            down = time.monotonic()
            components.restart_container(gateway["metadata"]["uid"])
            eventually(lambda: time.monotonic() - down > OUTAGE_SECONDS, "the outage", timeout=OUTAGE_SECONDS + 5)
            assert load.served(since=down + OUTAGE_SECONDS - 20) >= 4
            components.start("kube-apiserver")
            eventually(lambda: cluster.get(line.namespace, "model", "smollm2"), "the API server is back", timeout=60)
        late = [item for item in load.failures if item.started > down + 5]
        assert not late, late[:3]
    finally:
        cluster.kubectl("scale", "deployment", "--all", "--replicas=1", "-n", SYSTEM)
        # The cluster's own controllers come back with growing pauses after so long an outage; they are not under test.
        cluster.kubectl("rollout", "status", "deployment", "-n", SYSTEM, "--timeout=300s", timeout=310)
    cluster.wait(line.namespace, "model", "smollm2", timeout=60)
