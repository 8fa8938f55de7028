"""The operator's Prometheus metrics. One instance per process, made by `app` and by the page that documents them."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from paddock_operator.core.cluster.observed import Object

SECONDS = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)


class Metrics:
    """Counts and times; gauges of the queue and of objects are set by `page`'s caller just before a scrape."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._seconds = Histogram(
            "paddock_reconcile_seconds", "One pass over an object.", ["kind"], registry=self.registry, buckets=SECONDS
        )
        self._total = Counter(
            "paddock_reconcile_total", "Passes by result (ok, gone, error).", ["kind", "result"], registry=self.registry
        )
        self._depth = Gauge("paddock_queue_depth", "Objects that wait for a worker.", registry=self.registry)
        self._oldest = Gauge(
            "paddock_queue_oldest_seconds", "How long the first of them has waited.", registry=self.registry
        )
        self._requests = Counter(
            "paddock_kube_requests_total",
            "Requests to the API server by HTTP status (0: no answer).",
            ["verb", "code"],
            registry=self.registry,
        )
        self._objects = Gauge(
            "paddock_objects",
            "Models and Endpoints by condition and its status.",
            ["kind", "condition", "status"],
            registry=self.registry,
        )
        self._restarts = Counter(
            "paddock_watch_restarts_total", "Watches that broke or were refused.", ["kind"], registry=self.registry
        )

    def reconciled(self, kind: str, result: str, seconds: float) -> None:
        """One pass ended."""
        self._seconds.labels(kind).observe(seconds)
        self._total.labels(kind, result).inc()

    def requested(self, verb: str, code: int) -> None:
        """The API server answered, or nobody did (0)."""
        self._requests.labels(verb, str(code)).inc()

    def watch_restarted(self, kind: str) -> None:
        """A watch has to begin again."""
        self._restarts.labels(kind).inc()

    def page(self, depth: int, oldest_seconds: float, objects: Iterable[Object]) -> bytes:
        """The text of a scrape."""
        self._depth.set(depth)
        self._oldest.set(oldest_seconds)
        tally = Tally(
            (item["kind"], entry.get("type", ""), entry.get("status", ""))
            for item in objects
            for entry in (item.get("status") or {}).get("conditions") or ()
        )
        self._objects.clear()
        for labels, number in tally.items():
            self._objects.labels(*labels).set(number)
        return generate_latest(self.registry)
