"""Keep every declared object true: a ring, then gather → plan → act → status, for one key at a time.

Made by `up`, which tells it the declared objects and the keys whenever they change. Nobody branches on what happened:
each ring looks at everything that its object depends on. One object that fails never stops another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from paddock_operator.core.bases import Base, base_name, find_base
from paddock_operator.core.observed import ModelSnapshot
from paddock_operator.core.plan_endpoint import plan_endpoint
from paddock_operator.core.plan_model import plan_model
from paddock_operator.core.resources import Endpoint, KeyRecord, Model, Ref
from paddock_operator.core.snapshot import snapshot
from paddock_operator.executors.local import credentials, state
from paddock_operator.executors.local.announce import Announcer
from paddock_operator.executors.local.context import Context
from paddock_operator.executors.local.endpoint import EndpointUnit
from paddock_operator.executors.local.keyed import KeyedQueue
from paddock_operator.executors.local.listen import ListenError
from paddock_operator.executors.local.model import ModelUnit
from paddock_operator.executors.local.objects import Declared, adopt
from paddock_operator.executors.local.ports import Ports
from paddock_operator.executors.local.status import not_running
from paddock_operator.executors.local.yamlread import Document

_LISTEN_RETRY_SECONDS = 5.0


class Controller:
    """Owns the units and their statuses. `apply` is called on the event loop; work happens in tasks of the queue."""

    def __init__(self, context: Context, ports: Ports, local_key: KeyRecord, announcer: Announcer) -> None:
        self._context = context
        self._ports = ports
        self._local_key = local_key
        self._announcer = announcer
        self._declared: dict[Ref, Declared] = {}
        self._models: dict[Ref, ModelUnit] = {}
        self._endpoints: dict[Ref, EndpointUnit] = {}
        self._snapshots: dict[Ref, ModelSnapshot] = {}
        self._keys: tuple[KeyRecord, ...] = ()
        self._secrets: Mapping[Ref, Document] = {}
        self._queue: KeyedQueue[Ref] = KeyedQueue(self._reconcile, self._failed, self._idle)
        context.ring = self._queue.ring

    def apply(
        self, documents: Mapping[Ref, Document], keys: Sequence[KeyRecord], secrets: Mapping[Ref, Document]
    ) -> None:
        """The whole desired state: these objects, in this order, these keys, and what `secretRef` may name."""
        gone = [ref for ref in self._declared if ref not in documents]
        self._keys, self._secrets = tuple(keys), secrets
        self._declared = {ref: self._adopt(ref, document) for ref, document in documents.items()}
        self._ports.claim(dict(self._parsed(Endpoint)))
        # Endpoints first: their plans say under which names Models are called.
        for ref in [*gone, *sorted(self._declared, key=lambda ref: ref.kind)]:
            self._queue.ring(ref)

    def _adopt(self, ref: Ref, document: Document) -> Declared:
        known = self._declared.get(ref)
        if known is not None and known.document.body == document.body:
            return known
        return adopt(self._context.home, ref, document, known, self._context.now())

    def _parsed(self, kind: type[Any]) -> list[tuple[Ref, Any]]:
        return [(ref, item.parsed) for ref, item in self._declared.items() if isinstance(item.parsed, kind)]

    async def _reconcile(self, ref: Ref) -> None:
        item = self._declared.get(ref)
        if item is None:
            await self._remove(ref)
        elif isinstance(item.parsed, Model):
            self._model(ref, item, item.parsed)
        else:
            await self._endpoint(ref, item, item.parsed)

    def _model(self, ref: Ref, item: Declared, model: Model) -> None:
        unit = self._models.setdefault(ref, ModelUnit(self._context, ref))
        unit.sign_in(credentials.find(model.spec.source, ref.namespace, self._secrets))
        names, backend = self._links(ref)
        plan = plan_model(unit.gather(model, item.status, names, backend, self._base(ref, item)))
        unit.act(plan)
        before = item.status.get("resolved")
        self._keep_status(ref, item, plan.status)
        if plan.status.get("resolved") != before:
            self._tell_variants(ref)
        self._tell_endpoints(ref, unit.snapshot(model, item.status))
        if plan.requeue_seconds is not None:
            self._queue.ring_later(ref, plan.requeue_seconds)

    def _base(self, ref: Ref, item: Declared) -> Base | None:
        """The Model that this one is made from."""
        if not base_name(item.body):
            return None
        others = {
            other.name: {**found.body, "status": found.status}
            for other, found in self._declared.items()
            if other.kind == ref.kind and _near(other, ref)
        }
        return find_base(item.body, others)

    def _tell_variants(self, ref: Ref) -> None:
        """This Model has another digest: whoever is made from it, or from its variants, looks again."""
        for other, found in self._declared.items():
            if _near(other, ref) and base_name(found.body) == ref.name:
                self._queue.ring(other)

    def _links(self, ref: Ref) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
        """Names and credentials that Endpoints give to a Model."""
        names: dict[str, None] = {ref.name: None}
        shown = []
        for unit in self._beside(ref, self._endpoints):
            public = unit.public_names(ref.name)
            if public is not None:
                names |= dict.fromkeys(public)
                shown.append(unit.credential)
        return tuple(names), tuple(sorted(shown))

    def _beside(self, ref: Ref, units: Mapping[Ref, Any]) -> list[Any]:
        return [units[other] for other in sorted(units) if other.namespace == ref.namespace]

    def _tell_endpoints(self, ref: Ref, now: ModelSnapshot | None) -> None:
        if self._snapshots.get(ref) == now:
            return
        if now is None:
            self._snapshots.pop(ref, None)
        else:
            self._snapshots[ref] = now
        for unit in self._beside(ref, self._endpoints):
            self._queue.ring(unit.ref)

    async def _endpoint(self, ref: Ref, item: Declared, endpoint: Endpoint) -> None:
        unit = self._endpoints.setdefault(ref, EndpointUnit(self._context, ref))
        await self._listen(ref, unit)
        models = {other.name: self._seen(other, model) for other, model in self._parsed(Model) if _near(other, ref)}
        keys = tuple(key for key in self._keys if key.id.partition("/")[0] == ref.namespace)
        before = unit.planned
        plan = plan_endpoint(unit.gather(endpoint, item.status, models, (*keys, self._local_key)))
        await unit.act(plan)
        self._keep_status(ref, item, plan.status)
        self._tell_models(ref, before, unit.planned)

    def _seen(self, ref: Ref, model: Model) -> ModelSnapshot:
        return self._snapshots.get(ref) or snapshot(model, self._declared[ref].status, ())

    async def _listen(self, ref: Ref, unit: EndpointUnit) -> None:
        try:
            await unit.listen(self._ports.listener(ref))
        except ListenError as error:
            await unit.listen(None, str(error))
            self._queue.ring_later(ref, _LISTEN_RETRY_SECONDS)

    def _tell_models(self, ref: Ref, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        if _names(before) != _names(after):
            for other, _ in self._parsed(Model):
                if _near(other, ref):
                    self._queue.ring(other)

    def _keep_status(self, ref: Ref, item: Declared, status: Mapping[str, Any]) -> None:
        item.status = status
        state.write(self._context.home, item.body, status)
        self._announcer.status(ref, status)

    async def _remove(self, ref: Ref) -> None:
        unit = self._models.pop(ref, None) or self._endpoints.pop(ref, None)
        if unit is not None:
            await unit.stop()
        if ref in self._declared:
            return
        state.remove(self._context.home, ref)
        self._queue.forget(ref)
        self._announcer.forget(ref)
        self._tell_endpoints(ref, None)
        self._tell_models(ref, {}, {"models": [{"name": ""}]})

    def _failed(self, ref: Ref, error: Exception) -> None:
        self._context.reporter.error(f"{ref}: {type(error).__name__}: {error}; it is tried again")

    def _idle(self) -> None:
        self._announcer.settled({ref: item.body for ref, item in self._declared.items()}, self.urls())

    def urls(self) -> dict[Ref, str]:
        """Where Endpoints answer, in the order of the manifests."""
        return {ref: self._endpoints[ref].url for ref in self._declared if ref in self._endpoints}

    def retry_pulls(self) -> None:
        """The cache changed: what was missing may be there."""
        for unit in self._models.values():
            unit.retry_pull()

    @property
    def missing_models(self) -> bool:
        """Whether some pull failed and waits."""
        return any(unit.waits_for_bytes for unit in self._models.values())

    async def stop(self) -> None:
        """Drain: gateways first, then runners; then say in every status that nothing runs."""
        self._ports.close()
        await self._queue.close()
        await asyncio.gather(*(unit.stop() for unit in self._endpoints.values()), return_exceptions=True)
        await asyncio.gather(*(unit.stop() for unit in self._models.values()), return_exceptions=True)
        for item in self._declared.values():
            state.write(self._context.home, item.body, not_running(item.status, self._context.now()))

    def kill(self) -> None:
        """End every child at once."""
        units: list[ModelUnit | EndpointUnit] = [*self._endpoints.values(), *self._models.values()]
        for unit in units:
            unit.kill()


def _near(one: Ref, other: Ref) -> bool:
    return one.namespace == other.namespace


def _names(config: Mapping[str, Any]) -> dict[str, Any]:
    return {str(entry.get("name")): entry.get("names") for entry in config.get("models") or ()}
