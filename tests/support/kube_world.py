"""A cluster as small as it can be, for tests of the plan of a Model: it applies, prunes and keeps the status.

Nothing happens by itself: a test makes pods and moves them (`kube_objects`), moves the clock, and calls `step`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support import kube_objects as kube
from tests.support.kube_objects import Document

from paddock_operator.core.cluster.model import plan_cluster_model
from paddock_operator.core.cluster.observed import ModelSeen
from paddock_operator.core.cluster.settings import Images, Settings
from paddock_operator.core.cluster.types import ClusterPlan

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


@dataclass
class World:
    """One Model and its children. `writes` counts how often the status was written."""

    model: Document = field(default_factory=kube.model_document)
    children: dict[tuple[str, str], Document] = field(default_factory=dict)
    pods: dict[str, Document] = field(default_factory=dict)
    claim: Document | None = field(default_factory=kube.claim)
    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    warnings: dict[str, tuple[str, str]] = field(default_factory=dict)
    names: tuple[str, ...] = ("smollm2:135m",)
    credentials: tuple[tuple[str, str], ...] = (("default/main", "d" * 64),)
    settings: Settings = field(
        default_factory=lambda: Settings(images=Images("gateway:1", "runner:1"), drift_seconds=0)
    )
    may_roll: bool = True
    others: dict[str, Document] = field(default_factory=dict)
    clock: float = 0
    writes: int = 0

    def see(self) -> ModelSeen:
        return ModelSeen(
            model=self.model,
            children=kube.as_children(self.children, self.pods),
            claim=self.claim,
            events=self.events,
            warnings=self.warnings,
            names=self.names,
            credentials=self.credentials,
            now=kube.at(self.clock),
            settings=self.settings,
            may_roll=self.may_roll,
            others=self.others,
        )

    def plan(self) -> ClusterPlan:
        return plan_cluster_model(self.see())

    def step(self, seconds: float = 1) -> ClusterPlan:
        """Move the clock, plan, and do what the plan says."""
        self.clock += seconds
        plan = self.plan()
        kube.carry_out(plan, self.children, self.clock, self._changed)
        for pod, hashed in plan.nudge:
            self.pods[pod]["metadata"].setdefault("annotations", {})["paddock.dev/config-hash"] = hashed
        if plan.status is not None and plan.status != self.model.get("status"):
            self.model = {**self.model, "status": plan.status}
            self.writes += 1
        return plan

    def _changed(self, place: kube.Place, manifest: Document) -> Document:
        return kube.changed(self.children[place], manifest, self.clock)

    def edit(self, **spec: Any) -> None:
        """Change fields of the spec; None removes one. The generation counts it."""
        self.model = kube.edited(self.model, **spec)

    def one(self, kind: str) -> Document:
        """The only live child of a kind."""
        return kube.only(self.children, kind)

    def many(self, kind: str) -> list[str]:
        """Names of the live children of a kind."""
        return sorted(name for key, name in self.children if key == kind)

    def put(self, pod: Document) -> Document:
        """Make a pod or replace it by its next state."""
        self.pods[pod["metadata"]["name"]] = pod
        return pod

    def puller(self, job: Mapping[str, Any] | None = None, suffix: str = "p") -> Document:
        """A new pod of the Job."""
        return self.put(kube.pod(job or self.one("Job"), suffix, self.clock))

    def runner(self, suffix: str = "r") -> Document:
        """A new pod of the Deployment, pending."""
        return self.put(kube.pod(self.one("Deployment"), suffix, self.clock))

    def pull(self, digest: str = A, **details: Any) -> None:
        """Let the live Job bring a digest, and step."""
        job = next(item for (kind, _), item in self.children.items() if kind == "Job" and not item.get("status"))
        self.put(kube.ended(self.puller(job), 0, kube.result_message(digest, **details)))
        self.children["Job", job["metadata"]["name"]] = kube.finished(job, self.clock)
        self.step()

    def serve(self, suffix: str = "r") -> Document:
        """A new runner that becomes ready at once."""
        return self.put(kube.is_ready(self.runner(suffix), self.clock))

    def status(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.model.get("status") or {}
        return found

    def condition(self, kind: str) -> tuple[str, str]:
        """(status, reason) of a condition, ("", "") if it is absent."""
        return self._entry(kind).get("status", ""), self._entry(kind).get("reason", "")

    def message(self, kind: str) -> str:
        return str(self._entry(kind).get("message", ""))

    def _entry(self, kind: str) -> Mapping[str, Any]:
        return next((entry for entry in self.status().get("conditions") or () if entry["type"] == kind), {})


def served(digest: str = A, clock: float = 0, **spec: Any) -> World:
    """A Model that serves a digest and has nothing more to do."""
    world = World(model=kube.model_document(**spec), clock=clock)
    world.step()
    world.pull(digest)
    for index in range(world.one("Deployment")["spec"]["replicas"]):
        world.serve(f"r{index}")
    world.step()
    return world
