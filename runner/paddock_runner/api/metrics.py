"""The runner's metrics: one registry per process, all names in one place. `docs/metrics.md` is generated from here.

`Metrics` is built by `commands.serve` and observes the engine client; label values come from closed lists and the
Model's own name, so the number of series is bounded whatever clients send.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from paddock_runner.api.errors import REASONS, Reason
from paddock_runner.core.crash import CAUSES, Cause
from paddock_runner.core.embedding import Embedded, EmbedDone, EmbedEvent
from paddock_runner.core.engine_facts import MemoryNumbers, StepStats
from paddock_runner.core.generation import Delta, Event, Finished, Started

Operation = Literal["chat", "text_completion", "embeddings", "rerank"]
Outcome = Literal["ok", "client_error", "engine_error", "cancelled", "shed", "drained"]
Phase = Literal["queue", "prefill", "decode"]

OPERATIONS: tuple[Operation, ...] = ("chat", "text_completion", "embeddings", "rerank")
OUTCOMES: tuple[Outcome, ...] = ("ok", "client_error", "engine_error", "cancelled", "shed", "drained")
PHASES: tuple[Phase, ...] = ("queue", "prefill", "decode")
STATES = ("starting", "loading", "ready", "unloaded", "crashed", "draining")

LATENCY = tuple(0.01 * 2**power for power in range(18))
FIRST_TOKEN = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 15, 20, 30, 45, 60, 120, 300,
)  # fmt: skip
PER_TOKEN = (
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5,
)  # fmt: skip
QUEUE = (0.001, 0.005, 0.01, 0.05, 0.1, 0.3, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300)
TOKENS = tuple(4**power for power in range(10))
CONTROL = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
LOAD = (0.1, 0.5, 1, 5, 15, 30, 60, 120, 300, 600, 1800)

GEN_AI = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "gen_ai_response_model")
PROVIDER = "llama_cpp"

# Half of all series would be times of birth, which nobody here asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """`model` is the Model object's name. Implements the engine client's observer."""

    def __init__(self, model: str) -> None:
        self.registry = CollectorRegistry()
        self.model = model
        self._gen_ai_metrics()
        self._request_metrics()
        self._engine_metrics()
        self._preset_zeros()

    def _gen_ai_metrics(self) -> None:
        name, registry = "gen_ai_server_", self.registry
        self.request_seconds = Histogram(
            f"{name}request_duration_seconds", "From a request's arrival to its last byte, with its time in the queue.",
            (*GEN_AI, "error_type"), buckets=LATENCY, registry=registry,
        )  # fmt: skip
        self.first_token_seconds = Histogram(
            f"{name}time_to_first_token_seconds", "From a request's arrival to its first token.",
            GEN_AI, buckets=FIRST_TOKEN, registry=registry,
        )  # fmt: skip
        self.per_token_seconds = Histogram(
            f"{name}time_per_output_token_seconds", "Mean time per token after the first, per request.",
            GEN_AI, buckets=PER_TOKEN, registry=registry,
        )  # fmt: skip
        self.token_usage = Histogram(
            "gen_ai_client_token_usage", "Tokens per request, by direction.",
            (*GEN_AI, "gen_ai_token_type"), buckets=TOKENS, registry=registry,
        )  # fmt: skip

    def _request_metrics(self) -> None:
        registry = self.registry
        self.between_tokens = self._histogram(
            "inter_token_latency_seconds", "Gap between two pieces of a stream.", PER_TOKEN
        )
        self.queue_seconds = self._histogram("queue_time_seconds", "Waiting for a slot.", QUEUE)
        self.prefill_seconds = self._histogram("prefill_seconds", "Reading the prompt.", FIRST_TOKEN)
        self.decode_seconds = self._histogram("decode_seconds", "Writing the answer.", LATENCY)
        self.template_seconds = self._histogram("template_render_seconds", "Rendering the chat template.", CONTROL)
        self.requests = self._counter("requests_total", "Finished requests.", ("operation", "outcome"))
        self.finishes = self._counter("finish_total", "Why generations ended.", ("reason",))
        self.tokens = self._counter(
            "tokens_total", "Tokens read and written; cached_prompt is part of prompt.", ("type",)
        )
        self.embeddings = self._counter("embeddings_total", "Vectors, or scores of a reranker, that were computed.")
        self.rejected = Counter(
            "paddock_runner_input_rejected_total", "Requests that were refused before or instead of an answer.",
            ("reason",), registry=registry,
        )  # fmt: skip
        self.disconnects = Counter(
            "paddock_runner_client_disconnects_total", "Clients that left before their answer was complete.",
            ("phase",), registry=registry,
        )  # fmt: skip
        self.configuration_errors = Counter(
            "paddock_runner_configuration_errors_total", "Versions of the configuration file that were refused.",
            registry=registry,
        )  # fmt: skip

    def _engine_metrics(self) -> None:
        self.running = self._gauge("requests_running", "Requests in a slot.")
        self.waiting = self._gauge("requests_waiting", "Requests waiting for a slot.")
        self.slots = self._gauge("slots", "Slots by use.", ("state",))
        self.kv_tokens = self._gauge(
            "kv_cache_tokens",
            "Cells of the KV cache: used by requests that run (shared: by several), retained for prefixes, free; "
            "saved in host memory.",
            ("state",),
        )
        self.kv_ratio = self._gauge("kv_cache_usage_ratio", "Part of the KV cache that requests use, 0 to 1.")
        self.memory = self._gauge(
            "memory_bytes", "Memory of the engine by use, of its process (resident) and of the front.", ("kind",)
        )
        self.threads = self._gauge("threads", "Threads that compute; they follow the CPU quota of the container.")
        self.state = self._gauge("engine_state", "1 for the state that the runner is in.", ("state",))
        self.restarts = self._counter("engine_restarts_total", "Engine processes that were lost and replaced.")
        self.crashes = self._counter(
            "engine_crashes_total",
            "Engine processes that died unasked, by how; the log has what they computed.",
            ("cause",),
        )
        self.batches = self._counter("decode_batches_total", "Steps of the engine.")
        self.step_seconds = self._histogram("step_seconds", "Wall time of one step of the engine.", CONTROL)
        self.mask_seconds = self._counter(
            "constraint_mask_seconds_total", "Finding out which tokens the schemas and grammars of requests allow."
        )
        self.load_seconds = self._histogram("model_load_seconds", "Loading the weights, with the self-test.", LOAD)

    def _name(self, name: str) -> str:
        return f"paddock_runner_{name}"

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(self._name(name), text, ("model",), buckets=buckets, registry=self.registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(self._name(name), text, ("model", *labels), registry=self.registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(self._name(name), text, ("model", *labels), registry=self.registry)

    def _preset_zeros(self) -> None:
        """Export every known label value from the start, so that rates and alerts see zero and not nothing."""
        for operation in OPERATIONS:
            for outcome in OUTCOMES:
                self.requests.labels(self.model, operation, outcome)
        for reason in REASONS:
            self.rejected.labels(reason)
        for phase in PHASES:
            self.disconnects.labels(phase)
        for kind in ("prompt", "cached_prompt", "output"):
            self.tokens.labels(self.model, kind)
        for cause in CAUSES:
            self.crashes.labels(self.model, cause)
        self.restarts.labels(self.model)
        self.embeddings.labels(self.model)

    def gen_ai(self, operation: Operation) -> tuple[str, str, str, str]:
        """The values of the common labels."""
        return (operation, PROVIDER, self.model, self.model)

    def reject(self, reason: Reason) -> None:
        """Count a refusal."""
        self.rejected.labels(reason).inc()

    def on_state(self, state: str) -> None:
        """Observer's hook. Restarts are counted where the engine is found dead."""
        if state == "crashed":
            self.restarts.labels(self.model).inc()

    def on_crash(self, cause: Cause) -> None:
        """Observer's hook."""
        self.crashes.labels(self.model, cause).inc()

    def on_step(self, stats: StepStats) -> None:
        """Observer's hook."""
        self.batches.labels(self.model).inc()
        self.threads.labels(self.model).set(stats.threads)
        self.step_seconds.labels(self.model).observe(stats.milliseconds / 1000)
        self.mask_seconds.labels(self.model).inc(stats.mask_milliseconds / 1000)

    def on_event(self, request_id: str, event: Event | EmbedEvent) -> None:
        """Observer's hook: tokens count when the engine made them, however slow the reader is."""
        if isinstance(event, Started):
            self.tokens.labels(self.model, "prompt").inc(event.prompt_tokens)
            self.tokens.labels(self.model, "cached_prompt").inc(event.cached_tokens)
        elif isinstance(event, Delta):
            self.tokens.labels(self.model, "output").inc(len(event.tokens))
        elif isinstance(event, Embedded):
            self.tokens.labels(self.model, "prompt").inc(event.tokens)
            self.embeddings.labels(self.model).inc()

    def show_memory(self, memory: MemoryNumbers | None, front: int) -> None:
        """Set the memory gauges (bytes); the engine's are zero while no weights are loaded."""
        self.memory.labels(self.model, "front").set(front)
        for kind in ("weights", "kv", "compute", "output", "resident"):
            self.memory.labels(self.model, kind).set(getattr(memory, kind) if memory else 0)

    def show_state(self, state: str) -> None:
        """Set the state gauges."""
        for known in STATES:
            self.state.labels(self.model, known).set(known == state)

    def show_load(self, stats: StepStats | None, busy: int, slots: int, cells: int) -> None:
        """Set the gauges of slots and cells; `busy` counts requests in slots or waiting for one."""
        running = min(busy, slots)
        used = stats.used_cells if stats else 0
        self.running.labels(self.model).set(running)
        self.waiting.labels(self.model).set(busy - running)
        self.slots.labels(self.model, "busy").set(running)
        self.slots.labels(self.model, "idle").set(slots - running)
        retained = stats.retained_cells if stats else 0
        shared, saved = (stats.shared_cells, stats.saved_cells) if stats else (0, 0)
        numbers = {"used": used, "shared": shared, "retained": retained, "saved": saved, "capacity": cells}
        for state, number in {**numbers, "free": cells - used - retained}.items():
            self.kv_tokens.labels(self.model, state).set(number)
        self.kv_ratio.labels(self.model).set(used / cells if cells else 0)

    def finished(self, operation: Operation, event: Finished) -> None:
        """A generation came to its end."""
        self.finishes.labels(self.model, event.reason).inc()
        self.queue_seconds.labels(self.model).observe(event.queue_seconds)
        self.prefill_seconds.labels(self.model).observe(event.prefill_seconds)
        self.decode_seconds.labels(self.model).observe(event.decode_seconds)
        self.token_usage.labels(*self.gen_ai(operation), "input").observe(event.prompt_tokens)
        self.token_usage.labels(*self.gen_ai(operation), "output").observe(event.output_tokens)

    def embedded(self, operation: Operation, event: EmbedDone) -> None:
        """All texts of a request are answered."""
        self.queue_seconds.labels(self.model).observe(event.queue_seconds)
        self.prefill_seconds.labels(self.model).observe(event.compute_seconds)
        self.token_usage.labels(*self.gen_ai(operation), "input").observe(event.tokens)

    def exposition(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)
