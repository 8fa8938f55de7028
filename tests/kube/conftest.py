"""Fixtures of the cluster executor's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.kube.kit import Cluster
from tests.support.apiserver import ApiServer

from paddock_operator.executors.kube.client import Client
from paddock_operator.executors.kube.login import Login


@pytest.fixture
def cluster(apiserver: ApiServer, namespace: str) -> Cluster:
    """The API server, seen from a fresh namespace."""
    return Cluster(apiserver, namespace)


@pytest.fixture
async def client(apiserver: ApiServer) -> AsyncIterator[Client]:
    """A client of the operator's own kind."""
    made = await Client.connect(Login(str(apiserver.kubeconfig)))
    yield made
    await made.close()
