"""The gateway's metrics. Fed by `gateway.app` and `gateway.proxy`, served at /metrics, listed in docs/metrics.md.

Labels are bounded: routes by their template, models by configured names (`unknown` otherwise), reasons from closed
lists.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

DURATION = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
    163.84, 327.68, 655.36, 1310.72,
)  # fmt: skip
FIRST_BYTE = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 15, 20, 30, 45, 60, 120, 300,
)  # fmt: skip
QUEUE = (0.001, 0.005, 0.01, 0.05, 0.1, 0.3, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300)

UNKNOWN = "unknown"
_GEN_AI = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
_OPERATIONS = {
    "/api/chat": "chat",
    "/v1/chat/completions": "chat",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
    "/api/generate": "text_completion",
    "/v1/completions": "text_completion",
    "/api/embed": "embeddings",
    "/api/embeddings": "embeddings",
    "/v1/embeddings": "embeddings",
    "/v1/rerank": "rerank",
}


class Metrics:
    """One registry of its own, so that a process (or a test) may hold several gateways."""

    def __init__(self, endpoint: str) -> None:
        self.registry = CollectorRegistry()
        self._endpoint = endpoint
        self.requests = self._counter("requests", "Answered requests", "route", "code", "error_type")
        self.duration = self._gen_ai(
            "request_duration_seconds", "Arrival to last byte, measured at the gateway", DURATION, "error_type"
        )
        self.first_byte = self._gen_ai(
            "time_to_first_token_seconds", "Arrival to the first byte of a good answer", FIRST_BYTE
        )
        self.in_flight = self._gauge("requests_in_flight", "Requests that hold one of the Endpoint's places")
        self.queue_depth = self._gauge("queue_depth", "Requests that wait for a place")
        self.queue_time = Histogram(
            "paddock_gateway_queue_time_seconds",
            "Time that a request waited for a place",
            ("endpoint",),
            buckets=QUEUE,
            registry=self.registry,
        )
        self.auth = self._counter("auth", "Authentications by mode (apiKey, none) and result", "mode", "result")
        self.api_keys = self._gauge("api_keys", "Keys of the configuration in force")
        self.unauthenticated = self._gauge("unauthenticated", "1 when the Endpoint asks for no key beyond loopback")
        self.rejected = self._counter("rejected", "Requests that the gateway refused, by reason", "reason")
        self.backend_requests = self._counter(
            "backend_requests", "Tries at a backend by result (ok, 5xx, connect_error, reset, timeout, cancelled)",
            "model", "result",
        )  # fmt: skip
        self.retries = self._counter(
            "retries",
            "Further tries before the first byte by reason (connect_error, reset, 5xx, unauthorized)",
            "reason",
        )
        self.stream_aborts = self._counter(
            "stream_aborts", "Answers cut after their first byte, by side (client, backend, gateway)", "side"
        )
        self.held = self._gauge("requests_held", "Requests that wait until a backend of their model can take them")
        self.backends = self._gauge("backends", "Backends by model and state (healthy, ejected)", "model", "state")
        self.ejections = self._counter("backend_ejections", "Backends put aside after a failure", "model")
        self.config_reloads = self._counter("config_reloads", "Configurations that came into force")
        self.config_errors = self._counter("config_errors", "Configurations that were refused")
        self.config_source = self._gauge(
            "config_source", "1 for where the configuration in force came from (file, watch)", "source"
        )
        self.watch_connected = self._gauge("watch_connected", "1 while a watch of the API server stands", "resource")
        self.watch_restarts = self._counter("watch_restarts", "Watches begun again after a failure", "resource")
        self.watch_last_event = self._gauge(
            "watch_last_event_timestamp_seconds", "Unix time of a watch's last event or bookmark", "resource"
        )
        self.reports_failed = self._counter("reports_failed", "Reports to the operator that failed and are repeated")
        self._request_children: dict[tuple[str, str, str], Counter] = {}
        self._timing_children: dict[tuple[str, str, str], tuple[Histogram, Histogram]] = {}

    def answered(
        self, route: str, code: int, reason: str, model: str, seconds: float, first_byte: float | None
    ) -> None:
        """Count one finished request: `reason` is empty for a good answer, `model` a configured name or `unknown`."""
        key = (route, str(code), reason)
        counter = self._request_children.get(key)
        if counter is None:
            counter = self._request_children[key] = self.requests.labels(self._endpoint, *key)
        counter.inc()
        if operation := _OPERATIONS.get(route):
            duration, first = self._timing(operation, model, reason)
            duration.observe(seconds)
            if first_byte is not None and not reason:
                first.observe(first_byte)

    def count(self, counter: Counter, *labels: str) -> None:
        """Add one to a counter of this Endpoint."""
        counter.labels(self._endpoint, *labels).inc()

    def set(self, gauge: Gauge, value: float, *labels: str) -> None:
        """Set a gauge of this Endpoint."""
        gauge.labels(self._endpoint, *labels).set(value)

    def follow(self, gauge: Gauge, read: Callable[[], float], *labels: str) -> None:
        """Let a gauge of this Endpoint read its value when somebody asks."""
        gauge.labels(self._endpoint, *labels).set_function(read)

    def forget(self, gauge: Gauge, *labels: str) -> None:
        """Drop one series of this Endpoint."""
        gauge.remove(self._endpoint, *labels)

    def waited(self, seconds: float) -> None:
        """One request got its place after so many seconds."""
        self.queue_time.labels(self._endpoint).observe(seconds)

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self.registry)

    def _timing(self, operation: str, model: str, reason: str) -> tuple[Histogram, Histogram]:
        key = (operation, model, reason)
        pair = self._timing_children.get(key)
        if pair is None:
            labels = (operation, "llama_cpp", model)
            pair = self._timing_children[key] = self.duration.labels(*labels, reason), self.first_byte.labels(*labels)
        return pair

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"paddock_gateway_{name}", text, ("endpoint", *labels), registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"paddock_gateway_{name}", text, ("endpoint", *labels), registry=self.registry)

    def _gen_ai(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"gen_ai_server_{name}", text, (*_GEN_AI, *labels), buckets=buckets, registry=self.registry)
