"""Turn statuses into news: conditions as they change, and `ready` when every object is.

Called by `controller`. It remembers what was said, so nothing is said twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from paddock_operator.core.conditions import find
from paddock_operator.core.resources import Ref
from paddock_operator.executors.local.report import Reporter


class Announcer:
    """`on_urls` gets the addresses of all Endpoints (`ns/name`) whenever they change."""

    def __init__(self, reporter: Reporter, on_urls: Callable[[Mapping[str, str]], None]) -> None:
        self._reporter = reporter
        self._on_urls = on_urls
        self._said: dict[Ref, dict[str, tuple[str, str, str]]] = {}
        self._statuses: dict[Ref, Mapping[str, Any]] = {}
        self._announced: set[Ref] = set()
        self._spoken = False
        self._urls: dict[str, str] = {}

    def status(self, ref: Ref, status: Mapping[str, Any]) -> None:
        """Report the conditions of `status` that differ from those said last."""
        self._statuses[ref] = status
        before = self._said.get(ref, {})
        after = {str(entry["type"]): _essence(entry) for entry in status.get("conditions") or ()}
        self._said[ref] = after
        for entry in status.get("conditions") or ():
            if before.get(str(entry["type"])) != after[str(entry["type"])]:
                self._reporter.condition(ref, entry)

    def forget(self, ref: Ref) -> None:
        """An object is gone."""
        self._said.pop(ref, None)
        self._statuses.pop(ref, None)
        self._announced.discard(ref)
        self._reporter.forget(ref)

    def settled(self, bodies: Mapping[Ref, Mapping[str, Any]], urls: Mapping[Ref, str]) -> None:
        """Nothing is left to do for now: if every object is Ready, say so for each Endpoint that was not announced."""
        self._publish(urls)
        if not all(self._ready(ref, body) for ref, body in bodies.items()):
            return
        for ref, url in urls.items():
            if ref not in self._announced:
                self._reporter.ready(ref, url, first=not self._spoken)
                self._announced.add(ref)
                self._spoken = True

    def _publish(self, urls: Mapping[Ref, str]) -> None:
        found = {f"{ref.namespace}/{ref.name}": url for ref, url in urls.items() if url}
        if found != self._urls:
            self._urls = found
            self._on_urls(found)

    def _ready(self, ref: Ref, body: Mapping[str, Any]) -> bool:
        status = self._statuses.get(ref, {})
        current = status.get("observedGeneration") == body["metadata"]["generation"]
        return current and find(status, "Ready").get("status") == "True"


def _essence(entry: Mapping[str, Any]) -> tuple[str, str, str]:
    return (str(entry.get("status", "")), str(entry.get("reason", "")), str(entry.get("message", "")))
