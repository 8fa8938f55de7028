"""docs/metrics.md says what the programs register, no more and no less."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OPERATOR = ("paddock_reconcile_", "paddock_queue_", "paddock_kube_", "paddock_objects", "paddock_watch_")
PREFIXES = ("paddock_runner_", "paddock_gateway_", "gen_ai_", *OPERATOR)


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("metrics_doc", ROOT / "scripts" / "metrics_doc.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _programs(script: ModuleType) -> tuple[Any, ...]:
    return script.RunnerMetrics("x"), script.GatewayMetrics("x"), script.OperatorMetrics()


def test_page_equals_the_code() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8") == _script().page(), "run `make docs`"


def test_every_metric_of_the_programs_is_on_the_page() -> None:
    script = _script()
    page = script.page()
    for metrics in _programs(script):
        names = {family.name for family in metrics.registry.collect()}
        assert names
        assert all(f"`{name}" in page for name in names)


def test_names_follow_the_conventions() -> None:
    script = _script()
    for metrics in _programs(script):
        for name, kind, labels, text in script.rows(metrics.registry):
            assert name.startswith(PREFIXES), name
            assert (kind == "counter") == name.endswith("_total"), name
            assert text, name
            assert len(labels.split(", ")) <= 5, name
