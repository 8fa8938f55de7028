"""A cluster as small as it can be, for tests of the plan of an Endpoint: it applies, prunes and keeps the status.

Nothing happens by itself: a test makes gateway pods and moves them (`kube_objects`), lets them report, moves the clock.
"""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests.plan.world import key, snapshot
from tests.support import kube_objects as kube
from tests.support.kube_objects import Document

from paddock_operator.core.cluster.endpoint import plan_cluster_endpoint
from paddock_operator.core.cluster.observed import EndpointSeen
from paddock_operator.core.cluster.settings import Images, Settings
from paddock_operator.core.cluster.types import ClusterPlan
from paddock_operator.core.observed import ModelSnapshot
from paddock_operator.core.resources import KeyRecord

MODELS = [{"name": "smollm2", "aliases": ["smollm2:135m"]}]


def endpoint_document(name: str = "main", namespace: str = "default", generation: int = 1, **spec: Any) -> Document:
    """An Endpoint; `models` is smollm2 unless models or a selector are given."""
    body = spec if "selector" in spec else {"models": MODELS, **spec}
    document = kube.model_document(name, namespace, generation)
    return {**document, "kind": "Endpoint", "spec": body}


def on_cluster(name: str = "smollm2", **fields: Any) -> ModelSnapshot:
    """A Model that is ready, with its headless Service."""
    service = fields.pop("service", f"{name}-12345678")
    return replace(snapshot(name, **fields), service=service, addresses=(f"http://{service}.default.svc:8080",))


@dataclass
class World:
    """One Endpoint and its children. `writes` counts how often the status was written."""

    endpoint: Document = field(default_factory=endpoint_document)
    children: dict[tuple[str, str], Document] = field(default_factory=dict)
    pods: dict[str, Document] = field(default_factory=dict)
    warnings: dict[str, tuple[str, str]] = field(default_factory=dict)
    models: dict[str, ModelSnapshot] = field(default_factory=lambda: {"smollm2": on_cluster()})
    keys: tuple[KeyRecord, ...] = field(default_factory=lambda: (key(),))
    keys_problem: str = ""
    credential: str = "clear"
    settings: Settings = field(default_factory=lambda: Settings(images=Images("gateway:1", "runner:1")))
    may_roll: bool = True
    has_http_route: bool = False
    clock: float = 0
    writes: int = 0

    def see(self) -> EndpointSeen:
        return EndpointSeen(
            endpoint=self.endpoint,
            children=kube.as_children(self.children, self.pods),
            warnings=self.warnings,
            models=self.models,
            keys=self.keys,
            keys_problem=self.keys_problem,
            credential=self.credential,
            now=kube.at(self.clock),
            settings=self.settings,
            may_roll=self.may_roll,
            has_http_route=self.has_http_route,
        )

    def plan(self) -> ClusterPlan:
        return plan_cluster_endpoint(self.see())

    def step(self, seconds: float = 1) -> ClusterPlan:
        """Move the clock, plan, and do what the plan says."""
        self.clock += seconds
        plan = self.plan()
        kube.carry_out(plan, self.children, self.clock, self._changed)
        if plan.status is not None and plan.status != self.endpoint.get("status"):
            self.endpoint = {**self.endpoint, "status": plan.status}
            self.writes += 1
        return plan

    def _changed(self, place: tuple[str, str], manifest: Mapping[str, Any]) -> Document:
        before = self.children[place]
        data = before.get("data")
        after = kube.changed(before, manifest, self.clock)
        if place[0] == "Deployment" and not kube.covers(before["spec"], manifest["spec"]):
            after["metadata"]["generation"] = before["metadata"].get("generation", 1) + 1
        return {**after, "data": data} if place[0] == "ConfigMap" and data else after

    def edit(self, **spec: Any) -> None:
        """Change fields of the spec; None removes one. The generation counts it."""
        self.endpoint = kube.edited(self.endpoint, **spec)

    def one(self, kind: str) -> Document:
        """The only live child of a kind."""
        return kube.only(self.children, kind)

    def has(self, kind: str) -> bool:
        return any(name == kind for name, _ in self.children)

    def config(self) -> dict[str, Any]:
        """The gateway configuration in the Secret."""
        found: dict[str, Any] = json.loads(base64.b64decode(self.one("Secret")["data"]["gateway.json"]))
        return found

    def hashed(self) -> str:
        return str(self.one("Secret")["metadata"]["annotations"]["paddock.dev/config-hash"])

    def put(self, pod: Document) -> Document:
        """Make a pod or replace it by its next state."""
        self.pods[pod["metadata"]["name"]] = pod
        return pod

    def gateway(self, suffix: str = "g0") -> Document:
        """A new pod of the Deployment, pending."""
        return self.put(kube.pod(self.one("Deployment"), suffix, self.clock))

    def ready(self, suffix: str = "g0") -> Document:
        """A new gateway that is ready at once; it has not reported yet."""
        made = kube.is_ready(self.gateway(suffix), self.clock)
        for entry in made["status"]["conditions"]:
            entry["lastTransitionTime"] = kube.at(self.clock)
        return self.put(made)

    def report(self, config: str | None = None, *names: str) -> None:
        """Gateways (all, unless named) say that a configuration (the Secret's, unless given) is in force."""
        place = next(place for place in self.children if place[0] == "ConfigMap")
        document = copy.deepcopy(self.children[place])
        data = document.setdefault("data", {})
        for pod in names or self.pods:
            data[pod] = json.dumps({"config": config or self.hashed(), "at": kube.at(self.clock)})
        self.children[place] = document

    def rolled(self) -> None:
        """The Deployment's controller has done its work."""
        live = self.one("Deployment")
        count, generation = live["spec"]["replicas"], live["metadata"].get("generation", 1)
        status = {"observedGeneration": generation, "replicas": count, "updatedReplicas": count, "readyReplicas": count}
        self.children["Deployment", live["metadata"]["name"]] = {**live, "status": status}

    def status(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.endpoint.get("status") or {}
        return found

    def condition(self, kind: str) -> tuple[str, str]:
        """(status, reason) of a condition, ("", "") if it is absent."""
        return self._entry(kind).get("status", ""), self._entry(kind).get("reason", "")

    def message(self, kind: str) -> str:
        return str(self._entry(kind).get("message", ""))

    def _entry(self, kind: str) -> Mapping[str, Any]:
        return next((entry for entry in self.status().get("conditions") or () if entry["type"] == kind), {})


def serving(**spec: Any) -> World:
    """An Endpoint whose gateways serve and which has nothing more to do."""
    world = World(endpoint=endpoint_document(**spec))
    world.step()
    for index in range(world.one("Deployment")["spec"]["replicas"]):
        world.ready(f"g{index}")
    world.rolled()
    world.report()
    world.step()
    return world
