"""Observations for the tests of the plans, and the smallest executor that can be: it does at once what a plan asks.

Pure data: no process, no clock. `Machine.step` plans, remembers the status, and answers what would be seen next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from paddock_operator.core.bases import Base
from paddock_operator.core.identity import config_hash
from paddock_operator.core.observed import (
    EndpointObserved,
    GatewayObserved,
    ModelObserved,
    ModelSnapshot,
    PullObserved,
    PullResult,
    RunnerObserved,
)
from paddock_operator.core.plan import ModelPlan, plan_model
from paddock_operator.core.resources import Endpoint, KeyRecord, Model, parse

A, B, C = "sha256:" + "a" * 64, "sha256:" + "b" * 64, "sha256:" + "e" * 64
T0, T1 = "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"
DETAILS = {
    "format": "gguf", "family": "llama", "parameterSize": "135M", "quantization": "Q4_1", "architecture": "llama",
    "contextLength": 2048, "embeddingLength": 576, "blockCount": 30, "headCount": 9, "headCountKV": 3, "keyLength": 64,
    "valueLength": 64, "vocabSize": 49152, "capabilities": ["completion"],
}  # fmt: skip


def make_model(generation: int = 1, name: str = "smollm2", **spec: Any) -> Model:
    body = {"source": {"ollama": {"name": "smollm2:135m"}}, **spec}
    parsed = parse({"kind": "Model", "metadata": {"name": name, "generation": generation}, "spec": body})
    assert isinstance(parsed, Model)
    return parsed


def make_endpoint(generation: int = 1, **spec: Any) -> Endpoint:
    body = spec or {"models": [{"name": "smollm2", "aliases": ["smollm2:135m"]}]}
    parsed = parse({"kind": "Endpoint", "metadata": {"name": "main", "generation": generation}, "spec": body})
    assert isinstance(parsed, Endpoint)
    return parsed


def result(digest: str = A, **details: Any) -> PullResult:
    files = ({"role": "model", "digest": "sha256:" + "c" * 64, "size": 98000000},)
    return PullResult(digest, "registry.ollama.ai/library/smollm2:135m", 98001234, files, DETAILS | details)


def pulled(key: str, digest: str = A, **details: Any) -> PullObserved:
    return PullObserved("succeeded", key, result=result(digest, **details), attempts=1)


def failed(key: str, reason: str, *, retryable: bool = False) -> PullObserved:
    return PullObserved("failed", key, reason=reason, message=f"about {reason}", retryable=retryable, attempts=2)


def ready(config: Mapping[str, Any]) -> RunnerObserved:
    memory = {"weights": 98000000, "kv": 188743680, "resident": 301234567}
    return RunnerObserved("ready", config_hash(config), str(config["digest"]), "127.0.0.1:4321", memory=memory)


def crashed(restarts: int, message: str = "bad tensor") -> RunnerObserved:
    return RunnerObserved("crashed", restarts=restarts, message=message)


def observe(model: Model, **seen: Any) -> ModelObserved:
    defaults: dict[str, Any] = {
        "status": {}, "pull": PullObserved(), "runner": RunnerObserved(), "names": ("smollm2", "smollm2:135m"),
        "credentials": (("default/main", "d" * 64),), "models_dir": "/models", "now": T0, "memory_available": 8 << 30,
    }  # fmt: skip
    return ModelObserved(model=model, **{**defaults, **seen})


def snapshot(name: str = "smollm2", **fields: Any) -> ModelSnapshot:
    sound = ModelSnapshot(name, True, True, "Serving", A, 98001234, DETAILS, T0, ("http://127.0.0.1:4321",), {}, T0)
    return replace(sound, **fields)


def key(name: str = "first", digit: str = "1", **fields: Any) -> KeyRecord:
    return KeyRecord(f"default/{name}", digit * 64, **fields)


def observe_endpoint(endpoint: Endpoint, **seen: Any) -> EndpointObserved:
    defaults: dict[str, Any] = {
        "status": {}, "models": {"smollm2": snapshot()}, "gateway": GatewayObserved(), "keys": (key(),),
        "backend_credential": "clear", "listen_url": "http://127.0.0.1:11434", "now": T0,
    }  # fmt: skip
    return EndpointObserved(endpoint=endpoint, **{**defaults, **seen})


def condition(status: Mapping[str, Any], kind: str) -> tuple[str, str]:
    """(status, reason) of a condition, ("", "") if it is absent."""
    entry = next((entry for entry in status["conditions"] if entry["type"] == kind), {})
    return entry.get("status", ""), entry.get("reason", "")


@dataclass
class Machine:
    """What persists (status) and what is seen (pull, conversion, runner). Names resolve to `digests`; those in `broken`
    crash. `quantization` is that of everything pulled, C what conversions make; `base` is the Model of source.model.
    `lost`: the cache holds nothing of what was pulled before. `asked`: the requests, in order.
    """

    model: Model
    digests: list[str] = field(default_factory=lambda: [A])
    broken: set[str] = field(default_factory=set)
    error: tuple[str, bool] | None = None
    now: str = T0
    status: Mapping[str, Any] = field(default_factory=dict)
    pull: PullObserved = field(default_factory=PullObserved)
    runner: RunnerObserved = field(default_factory=RunnerObserved)
    convert: PullObserved = field(default_factory=PullObserved)
    base: Base | None = None
    quantization: str = "Q4_1"
    lost: bool = False
    asked: list[Mapping[str, Any]] = field(default_factory=list)

    def step(self) -> ModelPlan:
        seen = {"pull": self.pull, "runner": self.runner, "convert": self.convert, "base": self.base}
        plan = plan_model(observe(self.model, status=self.status, now=self.now, **seen))
        self.status = plan.status
        self._do_pull(plan)
        self._do_convert(plan)
        self._do_serve(plan)
        return plan

    def settle(self) -> ModelPlan:
        """Steps until nothing changes; fails if that takes more than 20."""
        for _ in range(20):
            before = (self.status, self.pull, self.convert, self.runner)
            plan = self.step()
            if (self.status, self.pull, self.convert, self.runner) == before:
                return plan
        raise AssertionError(f"no fixed point: {self.status}")

    def restart(self) -> None:
        """Another process goes on from the status."""
        self.pull, self.convert, self.runner = PullObserved(), PullObserved(), RunnerObserved()

    def _do_convert(self, plan: ModelPlan) -> None:
        if plan.convert is None:
            self.convert = self.convert if self.convert.state == "succeeded" else PullObserved()
        elif self.lost:
            self.convert = failed(plan.convert_key, "NotFound")
        elif self.convert.source_hash != plan.convert_key or self.convert.state == "failed":
            self.asked.append(plan.convert)
            made = replace(result(C, quantization=plan.convert["type"]), name="converted.paddock.dev/sha256/x:latest")
            self.convert = PullObserved("succeeded", plan.convert_key, result=made, attempts=1)

    def _do_pull(self, plan: ModelPlan) -> None:
        if plan.pull is None:
            return
        self.lost = False
        if self.pull.source_hash != plan.pull_key or (self.error is None and self.pull.state == "failed"):
            if self.error:
                self.pull = failed(plan.pull_key, self.error[0], retryable=self.error[1])
            else:
                self.asked.append(plan.pull)
                digest = plan.pull["digest"] or self.digests[0]
                self.pull = pulled(plan.pull_key, digest, quantization=self.quantization)

    def _do_serve(self, plan: ModelPlan) -> None:
        if plan.serve is None:
            self.runner = RunnerObserved("none")
        elif plan.serve["digest"] in self.broken:
            self.runner = crashed(5)
        else:
            self.runner = ready(plan.serve)
