"""The API server fixture itself: identity, kinds, rights, audit log, faults."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.support.apiserver import ApiServer
from tests.support.waiting import alive, until_sync

from e2e.cluster import build

ROOT = Path(__file__).resolve().parents[2]


def test_it_is_the_pinned_version(apiserver: ApiServer) -> None:
    version = json.loads(apiserver.kubectl("version", "-o", "json").stdout)
    assert version["serverVersion"]["gitVersion"] == build.kubernetes_version()
    assert version["clientVersion"]["gitVersion"] == build.kubernetes_version()


def test_the_kinds_are_served_and_validated(apiserver: ApiServer, namespace: str) -> None:
    served = apiserver.kubectl("api-resources", "--api-group=paddock.dev", "-o", "name").stdout.split()
    assert {"models.paddock.dev", "endpoints.paddock.dev"} <= set(served)
    bad = json.dumps({"apiVersion": "paddock.dev/v1alpha1", "kind": "Model", "metadata": {"name": "x"}, "spec": 3})
    refused = apiserver.kubectl("apply", "-n", namespace, "-f", "-", input=bad, check=False)
    assert refused.returncode != 0
    assert "spec" in refused.stderr


def test_a_failed_kubectl_tells_its_complaint(apiserver: ApiServer) -> None:
    with pytest.raises(RuntimeError, match="NotFound"):
        apiserver.kubectl("get", "namespace", "no-such-namespace")


def test_namespaces_are_fresh(apiserver: ApiServer, namespace: str) -> None:
    assert apiserver.kubectl("get", "models,endpoints.paddock.dev", "-n", namespace, "-o", "name").stdout == ""


def test_a_service_account_may_nothing_until_it_is_told(apiserver: ApiServer, namespace: str) -> None:
    apiserver.kubectl("create", "serviceaccount", "someone", "-n", namespace)
    who = f"system:serviceaccount:{namespace}:someone"
    ask = ("auth", "can-i", "list", "configmaps", "-n", namespace, "--token", apiserver.token_for(namespace, "someone"))
    # The administrator's certificate would win over the token.
    bare = ("--kubeconfig", "/dev/null", "--server", apiserver.url, "--certificate-authority", str(apiserver.ca))
    assert apiserver.kubectl(*ask, *bare, check=False).stdout.strip() == "no"
    apiserver.kubectl("create", "role", "r", "--verb=list", "--resource=configmaps", "-n", namespace)
    apiserver.kubectl("create", "rolebinding", "r", "--role=r", f"--user={who}", "-n", namespace)
    assert apiserver.kubectl(*ask, *bare).stdout.strip() == "yes"


def writes(log: Path, namespace: str) -> list[str]:
    events = [json.loads(line) for line in log.read_text().splitlines()]
    mine = [event for event in events if event.get("objectRef", {}).get("namespace") == namespace]
    return [event["verb"] for event in mine if event["verb"] in ("create", "update", "patch", "delete")]


def test_the_audit_log_counts_writes(apiserver: ApiServer, namespace: str) -> None:
    apiserver.kubectl("create", "configmap", "a", "-n", namespace)
    apiserver.kubectl("get", "configmap", "a", "-n", namespace)
    apiserver.kubectl("delete", "configmap", "a", "-n", namespace)
    until_sync(lambda: "delete" in writes(apiserver.audit_log, namespace))
    assert writes(apiserver.audit_log, namespace)[-2:] == ["create", "delete"]


def test_a_killed_server_comes_back_with_its_data(apiserver: ApiServer, namespace: str) -> None:
    apiserver.kubectl("create", "configmap", "kept", "-n", namespace)
    apiserver.kill_server()
    with pytest.raises(OSError, match="refused"):
        apiserver.api.ready()
    apiserver.restart()
    assert "kept" in apiserver.kubectl("get", "configmap", "kept", "-n", namespace).stdout


STARTER = """
import pathlib, sys, time
from tests.support.apiserver import ApiServer
from e2e.cluster import build
server = ApiServer(pathlib.Path(sys.argv[1]), build.bin_dir())
server.start()
print(server._etcd.pid, server._server.pid, flush=True)
time.sleep(600)
"""


def test_no_process_outlives_a_killed_test_run(apiserver: ApiServer, tmp_path: Path) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    with starter:
        pids = [int(word) for word in starter.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(alive, pids))
        os.kill(starter.pid, signal.SIGKILL)
    until_sync(lambda: not any(map(alive, pids)))


def test_it_starts_quickly(tmp_path: Path) -> None:
    start = time.monotonic()
    server = ApiServer(tmp_path, build.ensure("apiserver"))
    try:
        server.start()
    finally:
        server.stop()
    # Measured 4 to 6 s on two idle cores; the limit leaves room for other work on the machine.
    assert time.monotonic() - start < 30
