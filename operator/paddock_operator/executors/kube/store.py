"""The objects of one kind as they were seen last, indexed by owner and by child label.

Filled by `reflector` (lists and watches) and by our own writes, read by the reconcilers. An older version never
replaces a newer one.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any

from paddock_operator.core.cluster.labels import CHILD
from paddock_operator.core.cluster.observed import Object
from paddock_operator.executors.kube.kinds import POD, Kind
from paddock_operator.executors.kube.trim import trim

Changed = Callable[[Kind, Object | None, Object | None, bool], None]
"""Told of each change that means something: kind, the object before and after, and whether the write was our own."""
COMPARED_METADATA = ("uid", "labels", "annotations", "generation", "deletionTimestamp", "ownerReferences")
Place = tuple[str, str]


def version_of(item: Object) -> int:
    """The resource version as a number, by which versions of one object compare."""
    return int(item["metadata"].get("resourceVersion") or 0)


def place_of(item: Object) -> Place:
    """(namespace, name)."""
    return item["metadata"].get("namespace") or "", item["metadata"]["name"]


def controller_of(item: Object) -> Mapping[str, Any]:
    """The controller reference, empty if there is none."""
    owners = item["metadata"].get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller")), {})


class Store:
    """Objects of one kind. The values that it hands out belong to it: nobody may change them."""

    def __init__(self, kind: Kind, changed: Changed) -> None:
        self.kind = kind
        self._changed = changed
        self._items: dict[Place, Object] = {}
        self._index: dict[tuple[str, str, str], dict[Place, Object]] = {}

    def get(self, namespace: str, name: str) -> Object | None:
        """One object, None if there is none."""
        return self._items.get((namespace, name))

    def all(self) -> Iterable[Object]:
        """Every object."""
        return self._items.values()

    def within(self, namespace: str) -> tuple[Object, ...]:
        """All objects of a namespace."""
        return self._found("namespace", namespace, "")

    def owned(self, namespace: str, uid: str) -> tuple[Object, ...]:
        """The objects whose controller has this uid; those without a controller for an empty one."""
        return self._found("owner", namespace, uid)

    def labelled(self, namespace: str, child: str) -> tuple[Object, ...]:
        """The pods with this child label."""
        return self._found("child", namespace, child)

    def put(self, item: dict[str, Any], own: bool = False) -> None:
        """Take an object as the API server sent it, unless a newer version is known."""
        place = place_of(item)
        before = self._items.get(place)
        if before is not None and version_of(before) >= version_of(item):
            return
        after = trim(self.kind, item)
        if before is not None:
            self._unlink(place, before)
        self._items[place] = after
        self._link(place, after)
        if before is None or not same(before, after):
            self._changed(self.kind, before, after, own)

    def remove(self, item: Object) -> None:
        """Forget an object that was deleted, unless a newer one of its name is known."""
        place = place_of(item)
        before = self._items.get(place)
        if before is None or version_of(before) > version_of(item):
            return
        self._drop(place, before)

    def discard(self, namespace: str, name: str) -> None:
        """Forget an object that the API server says does not exist."""
        before = self._items.get((namespace, name))
        if before is not None:
            self._drop((namespace, name), before)

    def sweep(self, listed: Container[Place], version: str, namespace: str = "") -> None:
        """A whole list was put: what is of its namespace (empty: any), but not in it and not newer than it, is gone."""
        for place, before in list(self._items.items()):
            inside = not namespace or place[0] == namespace
            if inside and place not in listed and version_of(before) <= int(version):
                self._drop(place, before)

    def clear(self, namespace: str) -> None:
        """Forget a namespace, without telling anybody."""
        for item in self.within(namespace):
            self._unlink(place_of(item), self._items.pop(place_of(item)))

    def _drop(self, place: Place, before: Object) -> None:
        del self._items[place]
        self._unlink(place, before)
        self._changed(self.kind, before, None, False)

    def _found(self, index: str, namespace: str, value: str) -> tuple[Object, ...]:
        found = self._index.get((index, namespace, value), {})
        return tuple(found[place] for place in sorted(found))

    def _link(self, place: Place, item: Object) -> None:
        for key in self._keys(item):
            self._index.setdefault(key, {})[place] = item

    def _unlink(self, place: Place, item: Object) -> None:
        for key in self._keys(item):
            group = self._index.get(key, {})
            group.pop(place, None)
            if not group:
                self._index.pop(key, None)

    def _keys(self, item: Object) -> tuple[tuple[str, str, str], ...]:
        """Where an object is found: pods by label (a Job or ReplicaSet owns them), everything else by its owner."""
        metadata = item["metadata"]
        namespace = metadata.get("namespace") or ""
        if self.kind is POD:
            return ("namespace", namespace, ""), ("child", namespace, (metadata.get("labels") or {}).get(CHILD) or "")
        return ("namespace", namespace, ""), ("owner", namespace, controller_of(item).get("uid") or "")


def same(before: Object, after: Object) -> bool:
    """Whether two versions of an object differ in nothing but bookkeeping."""
    if len(before) != len(after):
        return False
    if any(before.get(name) != value for name, value in after.items() if name != "metadata"):
        return False
    old, new = before["metadata"], after["metadata"]
    return all(old.get(name) == new.get(name) for name in COMPARED_METADATA)
