"""Client, reflector and store against a real API server: selectors, lost history, refusals, races with own writes."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.kube.kit import Cluster, until

from paddock_operator.core.cluster.observed import Object
from paddock_operator.executors.kube.client import Client
from paddock_operator.executors.kube.errors import ApiError
from paddock_operator.executors.kube.kinds import BY_NAME, CONFIG_MAP, Kind
from paddock_operator.executors.kube.login import Login
from paddock_operator.executors.kube.reflector import Reflector, Scope
from paddock_operator.executors.kube.store import Store

LABEL = {"app.kubernetes.io/managed-by": "paddock"}


class Watched:
    """A store of ConfigMaps and what it told."""

    def __init__(self, client: Client, cluster: Cluster, labels: str = "app.kubernetes.io/managed-by=paddock") -> None:
        self.told: list[tuple[str, str]] = []
        self.restarts: list[str] = []
        self.store = Store(CONFIG_MAP, self._changed)
        scope = Scope(cluster.namespace, labels)
        self.reflector = Reflector(client, self.store, scope, self.restarts.append, lambda: None)

    def _changed(self, kind: Kind, before: Object | None, after: Object | None, own: bool) -> None:
        item = after or before or {}
        what = "added" if before is None else "removed" if after is None else "changed"
        self.told.append((what, item["metadata"]["name"]))

    def names(self) -> list[str]:
        return sorted(item["metadata"]["name"] for item in self.store.all())


@contextlib.asynccontextmanager
async def watching(watched: Watched) -> AsyncIterator[None]:
    task = asyncio.create_task(watched.reflector.run())
    try:
        await asyncio.wait_for(watched.reflector.ready.wait(), 10)
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def config_map(cluster: Cluster, name: str, text: str = "1", **labels: str) -> dict[str, Any]:
    meta = {"name": name, "namespace": cluster.namespace, "labels": labels or LABEL}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"text": text}}


async def test_it_follows_what_happens(client: Client, cluster: Cluster) -> None:
    watched = Watched(client, cluster)
    await client.apply(CONFIG_MAP, config_map(cluster, "before"))
    async with watching(watched):
        assert watched.names() == ["before"]
        await client.apply(CONFIG_MAP, config_map(cluster, "later"))
        await client.create(CONFIG_MAP, config_map(cluster, "foreign", team="blue"))
        await client.apply(CONFIG_MAP, config_map(cluster, "before", "2"))
        await until("all is seen", lambda: watched.told[-1] == ("changed", "before"))
        uid = str(watched.store.get(cluster.namespace, "later")["metadata"]["uid"])  # type: ignore[index]
        await client.delete(CONFIG_MAP, cluster.namespace, "later", uid)
        await until("it is gone", lambda: watched.names() == ["before"])
    assert watched.told == [("added", "before"), ("added", "later"), ("changed", "before"), ("removed", "later")]


async def test_deletions_in_a_gap_are_seen(client: Client, cluster: Cluster) -> None:
    """The history is lost (410): the next list replaces the store whole."""
    watched = Watched(client, cluster)
    for name in ("a", "b", "c"):
        await client.apply(CONFIG_MAP, config_map(cluster, name))
    async with watching(watched):
        assert watched.names() == ["a", "b", "c"]
    for name in ("a", "c"):
        uid = watched.store.get(cluster.namespace, name)["metadata"]["uid"]  # type: ignore[index]
        await client.delete(CONFIG_MAP, cluster.namespace, name, uid)
    watched.reflector._version = "1"  # older than anything that etcd or the watch cache still knows
    compact(cluster)
    async with watching(watched):
        await until("the gap is closed", lambda: watched.names() == ["b"])
    assert ("removed", "a") in watched.told
    assert watched.restarts == ["ConfigMap"]


def compact(cluster: Cluster) -> None:
    """The watch cache of a fresh server knows no history at all: version 1 is too old for it."""
    cluster.server.restart()


async def test_a_version_that_is_too_old_is_gone(client: Client, cluster: Cluster) -> None:
    with pytest.raises(ApiError) as caught:
        async for _ in client.watch(CONFIG_MAP, cluster.namespace, "1", 5, lambda: None):
            pass
    assert caught.value.gone


async def test_our_own_write_is_never_older(client: Client, cluster: Cluster) -> None:
    watched = Watched(client, cluster)
    async with watching(watched):
        first = await client.apply(CONFIG_MAP, config_map(cluster, "mine", "1"))
        second = await client.apply(CONFIG_MAP, config_map(cluster, "mine", "2"))
        watched.store.put(second, own=True)
        watched.store.put(first)
        watched.store.sweep((), first["metadata"]["resourceVersion"])
        assert watched.store.get(cluster.namespace, "mine")["data"]["text"] == "2"  # type: ignore[index]


async def test_pages_and_selectors(client: Client, cluster: Cluster) -> None:
    for number in range(7):
        await client.apply(CONFIG_MAP, config_map(cluster, f"page-{number}"))
    query = {"limit": "3", "labelSelector": "app.kubernetes.io/managed-by"}
    pages = [page async for page in client.pages(CONFIG_MAP, cluster.namespace, **query)]
    assert [len(items) for items, _ in pages] == [3, 3, 1]
    assert len({version for _, version in pages}) == 1
    named = await client.list_page(CONFIG_MAP, cluster.namespace, fieldSelector="metadata.name=page-3")
    assert [item["metadata"]["name"] for item in named["items"]] == ["page-3"]


async def test_errors_are_typed(client: Client, cluster: Cluster) -> None:
    with pytest.raises(ApiError) as missing:
        await client.get(CONFIG_MAP, cluster.namespace, "absent")
    assert (missing.value.absent, missing.value.reason) == (True, "NotFound")
    await client.create(CONFIG_MAP, config_map(cluster, "twice"))
    with pytest.raises(ApiError) as twice:
        await client.create(CONFIG_MAP, config_map(cluster, "twice"))
    assert (twice.value.conflict, twice.value.reason) == (True, "AlreadyExists")
    broken = {**config_map(cluster, "bad"), "data": {"a b": "x"}}
    with pytest.raises(ApiError) as invalid:
        await client.apply(CONFIG_MAP, broken)
    assert invalid.value.status == 422
    stale = {"metadata": {"resourceVersion": "1"}, "data": {"text": "3"}}
    with pytest.raises(ApiError) as conflict:
        await client.merge_patch(CONFIG_MAP, cluster.namespace, "twice", stale)
    assert conflict.value.conflict


async def test_only_the_meant_object_is_deleted(client: Client, cluster: Cluster) -> None:
    await client.create(CONFIG_MAP, config_map(cluster, "precious"))
    await client.delete(CONFIG_MAP, cluster.namespace, "precious", "11111111-2222-3333-4444-555555555555")
    assert await client.get(CONFIG_MAP, cluster.namespace, "precious")
    await client.delete(CONFIG_MAP, cluster.namespace, "absent", "11111111-2222-3333-4444-555555555555")


async def test_metadata_only_keeps_the_content_away(client: Client, cluster: Cluster) -> None:
    await client.create(CONFIG_MAP, config_map(cluster, "secretive"))
    found = await client.get(CONFIG_MAP, cluster.namespace, "secretive", metadata_only=True)
    assert found["metadata"]["name"] == "secretive"
    assert "data" not in found


async def test_nobody_answers() -> None:
    with pytest.raises(ApiError) as caught:
        await Login("/nonexistent/kubeconfig").configuration()
    assert "cannot read credentials" in str(caught.value)


async def test_requests_are_counted(cluster: Cluster) -> None:
    counted: list[tuple[str, int]] = []
    made = await Client.connect(Login(str(cluster.server.kubeconfig)), lambda verb, code: counted.append((verb, code)))
    await made.list_page(CONFIG_MAP, cluster.namespace)
    with pytest.raises(ApiError):
        await made.get(CONFIG_MAP, cluster.namespace, "absent")
    await made.close()
    assert counted == [("list", 200), ("get", 404)]


async def test_a_refused_kind_says_why_and_does_not_crash(cluster: Cluster) -> None:
    """An identity without rights: the reflector is ready with a problem, and tries again later."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody"}}
    cluster.api.apply(f"/api/v1/namespaces/{cluster.namespace}/serviceaccounts/nobody", account)
    made = await Client.connect(Login(str(cluster.server.kubeconfig)))
    made._api.configuration.api_key = {"BearerToken": f"Bearer {cluster.server.token_for(cluster.namespace, 'nobody')}"}
    made._api.rest_client.ssl_context = trusting(cluster)
    watched = Watched(made, cluster)
    async with watching(watched):
        assert "cannot list resource" in watched.reflector.problem
        assert watched.restarts == ["ConfigMap"]
    await made.close()


def trusting(cluster: Cluster) -> Any:
    """TLS without the administrator's certificate."""
    return ssl.create_default_context(cafile=str(cluster.server.ca))


@pytest.mark.parametrize("kind", [kind for kind in BY_NAME if kind != "HTTPRoute"])
async def test_every_kind_is_where_the_table_says(client: Client, cluster: Cluster, kind: str) -> None:
    page = await client.list_page(BY_NAME[kind], cluster.namespace)
    assert page["kind"] == f"{kind}List"
