"""kopf at the edge: it watches Models and Endpoints, and each of its handlers rings a key. Started by `app`.

No decision lives here, nobody branches on the kind of event, and kopf writes nothing: no finalizers, no annotations,
no Events. See docs/decisions/0008-kopf-rings-a-cache-answers.md.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import kopf

from paddock_operator.core.resources import Ref
from paddock_operator.executors.kube.kinds import ENDPOINT, MODEL
from paddock_operator.executors.kube.login import Login

PREFIX = "paddock.dev"
Noticed = Callable[[Ref, Mapping[str, Any]], None]
"""Told of each event: the key, and the metadata of the object."""


class Backoffs:
    """Seconds between tries, for ever: an outage of the API server is no reason to end."""

    def __iter__(self) -> Iterator[float]:
        delay = 0.2
        while True:
            yield delay * random.uniform(0.5, 1.0)  # noqa: S311
            delay = min(delay * 2, 15.0)


class NoDiffBase(kopf.DiffBaseStorage):
    """kopf compares nothing here, so it need not copy every object that it sees."""

    def build(self, *, body: kopf.Body, extra_fields: Any = None) -> kopf.BodyEssence:
        """The essence of every object: nothing."""
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        """Nothing was ever stored."""
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Nothing is stored."""


def registry(noticed: Noticed, login: Login) -> kopf.OperatorRegistry:
    """The handlers: one line each."""
    made = kopf.OperatorRegistry()

    @kopf.on.login(registry=made)
    async def log_in(**_: Any) -> kopf.ConnectionInfo:
        return await connection(login)

    @kopf.on.event(PREFIX, "v1alpha1", MODEL.plural, registry=made)
    async def model_changed(*, namespace: str | None, name: str, meta: kopf.Meta, **_: Any) -> None:
        noticed(Ref(MODEL.name, namespace or "", name), meta)

    @kopf.on.event(PREFIX, "v1alpha1", ENDPOINT.plural, registry=made)
    async def endpoint_changed(*, namespace: str | None, name: str, meta: kopf.Meta, **_: Any) -> None:
        noticed(Ref(ENDPOINT.name, namespace or "", name), meta)

    return made


async def connection(login: Login) -> kopf.ConnectionInfo:
    """kopf's credentials: those of our own client, read again whenever kopf asks."""
    found = await login.configuration()
    scheme, _, token = str(found.api_key.get("BearerToken") or "").partition(" ")
    return kopf.ConnectionInfo(
        server=found.host,
        ca_path=found.ssl_ca_cert,
        insecure=not found.verify_ssl,
        certificate_path=found.cert_file,
        private_key_path=found.key_file,
        scheme=scheme.capitalize() or None,
        token=token.strip() or None,
        proxy_url=found.proxy,
    )


def settings() -> kopf.OperatorSettings:
    """kopf as a pure watcher: alone, silent towards users' objects, patient."""
    made = kopf.OperatorSettings()
    made.peering.standalone = True
    made.scanning.disabled = True
    made.posting.enabled = False
    made.persistence.finalizer = f"{PREFIX}/operator"
    made.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=PREFIX)
    made.persistence.diffbase_storage = NoDiffBase()
    made.networking.error_backoffs = Backoffs()
    made.networking.request_timeout = 30
    made.networking.connect_timeout = 5
    made.watching.server_timeout = 300
    made.queueing.exit_timeout = 0.5
    return made


def quiet() -> None:
    """kopf's own log: warnings only, since at lower levels it prints whole objects."""
    for name in ("kopf", "kopf.objects", "kopf._core", "kopf._cogs"):
        logging.getLogger(name).setLevel(logging.WARNING)


async def watch(noticed: Noticed, login: Login, namespaces: Sequence[str], started: Any, stopped: Any) -> None:
    """Run kopf until `stopped` (an asyncio.Event) is set; `started` is set when it watches."""
    quiet()
    scope: dict[str, Any] = {"namespaces": list(namespaces)} if namespaces else {"clusterwide": True}
    await kopf.operator(
        registry=registry(noticed, login),
        settings=settings(),
        ready_flag=started,
        stop_flag=stopped,
        **scope,
    )
