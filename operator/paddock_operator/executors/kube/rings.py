"""Which keys a change rings: an object's own, its owner's, and those that depend on it.

`Rings.changed` is what every store of `world` calls. What we wrote ourselves rings only those who depend on it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from paddock_operator.core.bases import base_name
from paddock_operator.core.cluster.labels import CHILD
from paddock_operator.core.cluster.observed import Object
from paddock_operator.core.identity import child_name
from paddock_operator.core.resources import API_KEY_TYPE, Ref
from paddock_operator.executors.kube.kinds import CLAIM, ENDPOINT, MODEL, POD, SECRET, Kind
from paddock_operator.executors.kube.store import controller_of

Ring = Callable[[Ref, float], None]
"""Work on a key after so many seconds."""
DEPENDANT_SECONDS = 0.3
"""Changes of many Models make one pass of their Endpoint."""
NAMESPACE_SECONDS = 2.0
NAMES_SECONDS = 0.05
VARIANT_SECONDS = 0.1
NAMES = "Names"
"""Kind of the keys that spread public names and credentials to the Models of a namespace."""
SEEN_BY_ENDPOINTS = ("conditions", "resolved", "details")


def namespace_key(namespace: str) -> Ref:
    """The key of what all Models and Endpoints of a namespace share."""
    return Ref("Namespace", namespace, namespace)


def names_key(namespace: str) -> Ref:
    """The key that spreads the names of a namespace."""
    return Ref(NAMES, namespace, namespace)


class Rings:
    """Turns changes into rings. `within` lists the objects of a kind in a namespace; `watcher` sees every change,
    `names_changed` is told at once when public names or credentials of a namespace may be others.
    """

    def __init__(
        self,
        ring: Ring,
        within: Callable[[str, str], tuple[Object, ...]],
        watcher: Callable[[Kind, Object | None, Object | None], None],
        names_changed: Callable[[str], None],
    ) -> None:
        self._ring, self._within, self._watcher, self._outdate = ring, within, watcher, names_changed
        self._children: dict[tuple[str, str], Ref] = {}

    def changed(self, kind: Kind, before: Object | None, after: Object | None, own: bool) -> None:
        """One change of one object."""
        self._watcher(kind, before, after)
        item = after or before or {}
        namespace = str(item["metadata"].get("namespace") or "")
        if kind in (MODEL, ENDPOINT):
            self._declared(Ref(kind.name, namespace, item["metadata"]["name"]), before, after, own)
        elif kind is CLAIM:
            self._claim(namespace, before, after)
        elif kind is SECRET and item.get("type") == API_KEY_TYPE:
            self.all_of(ENDPOINT, namespace, 0.0)
        elif not own:
            self._child(kind, item, namespace)
        if kind is SECRET and item.get("type") != API_KEY_TYPE and _mark(before) != _mark(after):
            self._names_changed(namespace)

    def secrets_known(self, namespace: str) -> None:
        """The Secrets of a namespace are known now, or refused."""
        self._names_changed(namespace)
        for kind in (ENDPOINT, MODEL):
            self.all_of(kind, namespace, 0.0)

    def _names_changed(self, namespace: str) -> None:
        self._outdate(namespace)
        self._ring(names_key(namespace), NAMES_SECONDS)

    def all_of(self, kind: Kind, namespace: str, after: float) -> None:
        """Ring every object of a kind in a namespace."""
        for item in self._within(kind.name, namespace):
            self._ring(Ref(kind.name, namespace, item["metadata"]["name"]), after)

    def _declared(self, key: Ref, before: Object | None, after: Object | None, own: bool) -> None:
        child = (key.namespace, child_name(key))
        if before is None or after is None:
            self._children.pop(child, None)
            self._ring(namespace_key(key.namespace), 0.0)
        if after is not None:
            self._children[child] = key
        if intent(before) != intent(after) or (not own and _status(before) != _status(after)):
            self._ring(key, 0.0)
        if key.kind == ENDPOINT.name:
            if intent(before) != intent(after):
                self._names_changed(key.namespace)
            return
        if _labels(before) != _labels(after) or before is None or after is None:
            self._names_changed(key.namespace)
        if _shown(before) != _shown(after):
            self.all_of(ENDPOINT, key.namespace, DEPENDANT_SECONDS)
        if _digest(before) != _digest(after):
            self._ring(namespace_key(key.namespace), NAMESPACE_SECONDS)
        if _pin(before) != _pin(after) or intent(before) != intent(after):
            self._ring_variants(key.namespace)

    def _ring_variants(self, namespace: str) -> None:
        """Ring the Models that are made from others: they follow digests, and a new spec may close a circle."""
        for item in self._within(MODEL.name, namespace):
            if base_name(item):
                self._ring(Ref(MODEL.name, namespace, item["metadata"]["name"]), VARIANT_SECONDS)

    def _claim(self, namespace: str, before: Object | None, after: Object | None) -> None:
        self._ring(namespace_key(namespace), 0.0)
        if (before is None) != (after is None) or _phase(before) != _phase(after):
            self.all_of(MODEL, namespace, 0.0)

    def _child(self, kind: Kind, item: Object, namespace: str) -> None:
        owner = controller_of(item)
        label = str((item["metadata"].get("labels") or {}).get(CHILD) or "")
        if kind is POD:
            self._ring(self._children.get((namespace, label), namespace_key(namespace)), 0.0)
        elif owner.get("kind") in (MODEL.name, ENDPOINT.name):
            self._ring(Ref(str(owner["kind"]), namespace, str(owner["name"])), 0.0)
        elif not owner:
            # Without its owner reference a child still has its name: whoever plans that name takes it back.
            self._ring(self._children.get((namespace, label), namespace_key(namespace)), 0.0)


def intent(item: Object | None) -> Any:
    """What a person decides: it is another object, another generation, or its end."""
    if item is None:
        return None
    metadata = item["metadata"]
    return metadata.get("uid"), metadata.get("generation"), bool(metadata.get("deletionTimestamp"))


def _status(item: Object | None) -> Any:
    return item.get("status") if item else None


def _labels(item: Object | None) -> Any:
    return (item["metadata"].get("labels") or {}) if item else None


def _shown(item: Object | None) -> Any:
    """What Endpoints see of a Model."""
    if item is None:
        return None
    status = item.get("status") or {}
    return _labels(item), [status.get(name) for name in SEEN_BY_ENDPOINTS]


def _digest(item: Object | None) -> Any:
    return ((item.get("status") or {}).get("resolved") or {}).get("digest") if item else None


def _pin(item: Object | None) -> Any:
    """What variants of a Model take from it: its digest, and for which source it is."""
    resolved = ((item.get("status") or {}).get("resolved") or {}) if item else {}
    return resolved.get("digest"), resolved.get("sourceHash")


def _phase(item: Object | None) -> Any:
    return (item.get("status") or {}).get("phase") if item else None


def _mark(item: Object | None) -> Any:
    return (item["metadata"].get("annotations") or {}) if item else None
