"""The page docs/metrics.md, made from the metrics that the programs register. Called by docs.py; a test compares."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from paddock_operator.metrics import Metrics as OperatorMetrics
from paddock_runner.api.metrics import Metrics as RunnerMetrics
from paddock_runner.gateway.metrics import Metrics as GatewayMetrics

PAGE = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"
INTRODUCTION = """# Metrics

Made from the code by `make docs`; do not edit. Each program serves its metrics at `/metrics` without a credential.
Label values come from closed lists and from the names of Models and Endpoints, so the number of series is bounded.
Histograms have the usual `_bucket`, `_sum` and `_count` series.
"""


def rows(registry: CollectorRegistry) -> list[tuple[str, str, str, str]]:
    """(name, type, labels, meaning) of every metric of `registry`, by name."""
    metrics = [item for item in registry._collector_to_names if isinstance(item, MetricWrapperBase)]
    return sorted((_name(item), item._type, ", ".join(item._labelnames), item._documentation) for item in metrics)


def _name(metric: MetricWrapperBase) -> str:
    return f"{metric._name}_total" if metric._type == "counter" else metric._name


def table(title: str, registry: CollectorRegistry) -> str:
    """One program's section."""
    lines = [f"| `{name}` | {kind} | {labels} | {text} |" for name, kind, labels, text in rows(registry)]
    return "\n".join([f"## {title}", "", "| metric | type | labels | meaning |", "|---|---|---|---|", *lines, ""])


def page() -> str:
    """The whole page."""
    sections = [
        table("Runner", RunnerMetrics("example").registry),
        table("Gateway", GatewayMetrics("example").registry),
        table("Operator", OperatorMetrics().registry),
    ]
    return "\n".join([INTRODUCTION, *sections])
