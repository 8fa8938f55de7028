"""Collect what a plan needs from memory: no request is sent here. Called by `reconcile`.

What watches do not show (logs, Warnings) is asked for in the background; `again` says when it should be asked next.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from paddock_operator.core.bases import base_name
from paddock_operator.core.clock import seconds_between
from paddock_operator.core.cluster.labels import COMPONENT, CONFIG_HASH, RUNNER
from paddock_operator.core.cluster.observed import Children, EndpointSeen, ModelSeen, NamespaceSeen, Object
from paddock_operator.core.cluster.pods import annotation, config_changed_at, ready, serves_hash, wants_log
from paddock_operator.core.cluster.settings import Settings
from paddock_operator.core.resources import KeyRecord, Ref, is_api_key, parse, secret_text
from paddock_operator.executors.kube.kinds import CONFIG_MAP, ENDPOINT, MODEL, POD
from paddock_operator.executors.kube.looks import Looks
from paddock_operator.executors.kube.names import Names, Served
from paddock_operator.executors.kube.world import SecretWatch, World

log = logging.getLogger(__name__)

STUCK_SECONDS = 5.0
YOUNG_RUNNER_SECONDS = 3.0
SERVE_FILE = "serve.json"


def utc_now() -> str:
    """The time as RFC 3339, whole seconds, as the API server writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Gatherer:
    """Makes `…Seen` records. `again` holds the wishes of the last call per key: seconds until the next look."""

    def __init__(self, world: World, names: Names, looks: Looks, settings: Settings, now: Callable[[], str]) -> None:
        self._world, self._names, self._looks, self._settings, self._now = world, names, looks, settings, now
        self._credentials: dict[Ref, str] = {}

    def model(self, key: Ref, document: Object, may_roll: bool) -> tuple[ModelSeen, float | None]:
        """What a Model's plan reads, and the seconds until logs or Warnings should be looked at again."""
        children = self._world.children(key, document["metadata"]["uid"])
        now = self._now()
        again = [*self._want_logs(key, children, now), *self._want_warnings(key, children, now)]
        served = self._served(key, children)
        seen = ModelSeen(
            model=document,
            children=children,
            claim=self._world.claim(key.namespace),
            events=self._events(children.pods),
            warnings=self._looks.warnings(key.namespace),
            names=served.names,
            credentials=served.credentials,
            now=now,
            settings=self._settings,
            may_roll=may_roll,
            others=self._others(key, document),
        )
        return seen, min(again, default=None)

    def _others(self, key: Ref, document: Object) -> Mapping[str, Object]:
        """The Models of the namespace by name, for one that is made from another."""
        if not base_name(document):
            return {}
        return {item["metadata"]["name"]: item for item in self._world.store(MODEL.name).within(key.namespace)}

    def endpoint(
        self, key: Ref, document: Object, may_roll: bool, watch: SecretWatch
    ) -> tuple[EndpointSeen, float | None]:
        """What an Endpoint's plan reads, and the seconds until Warnings should be looked at again."""
        children = self._world.children(key, document["metadata"]["uid"])
        now = self._now()
        again = list(self._want_warnings(key, children, now))
        seen = EndpointSeen(
            endpoint=document,
            children=children,
            warnings=self._looks.warnings(key.namespace),
            models=self._names.snapshots(key.namespace),
            keys=tuple(key_records(self._world.key_secrets.within(key.namespace))),
            keys_problem=watch.problem,
            credential=self._credential(key, children),
            now=now,
            settings=self._settings,
            may_roll=may_roll,
            has_http_route=self._world.has_http_route,
        )
        return seen, min(again, default=None)

    def namespace(self, key: Ref) -> NamespaceSeen:
        """What the plan of a namespace reads."""
        world, namespace = self._world, key.namespace
        return NamespaceSeen(
            namespace=namespace,
            models=world.store(MODEL.name).within(namespace),
            endpoints=world.store(ENDPOINT.name).within(namespace),
            children=world.children(key, ""),
            claim=world.claim(namespace),
            model_config_maps=_serving(world.store(CONFIG_MAP.name).within(namespace)),
            now=self._now(),
            settings=self._settings,
            pods=world.store(POD.name).within(namespace),
        )

    def forget(self, key: Ref) -> None:
        """An object is gone."""
        self._credentials.pop(key, None)
        if key.kind == MODEL.name:
            self._names.forget(key.namespace, key.name)

    def _credential(self, key: Ref, children: Children) -> str:
        """The backend credential: that of the Endpoint's Secret, else one that is made once."""
        for secret in children.secrets:
            if found := _decoded(secret, "credential"):
                return found
        return self._credentials.setdefault(key, secrets.token_urlsafe(32))

    def _served(self, key: Ref, children: Children) -> Served:
        served = self._names.served(key.namespace, key.name)
        if not self._world.secrets_problem(key.namespace):
            return served
        # Hashes cannot be read: who could call the runners until now goes on to do so.
        return Served(served.names, tuple(_known_credentials(children.config_maps)))

    def _events(self, pods: Iterable[Object]) -> dict[str, Mapping[str, Any]]:
        found = ((pod["metadata"]["uid"], self._looks.event(pod)) for pod in pods)
        return {uid: event for uid, event in found if event is not None}

    def _want_logs(self, key: Ref, children: Children, now: str) -> Iterable[float]:
        changed_at = max((config_changed_at(item) for item in children.config_maps), default="")
        hashes = {annotation(item, CONFIG_HASH) for item in children.config_maps}
        for pod in children.pods:
            container = wants_log(pod, changed_at, now)
            told = (self._looks.event(pod) or {}).get("config") or serves_hash(pod)
            if container == RUNNER and ready(pod) and told in hashes:
                continue
            if container is not None:
                yield self._looks.want_log(pod, container, key)
            elif _is_young_runner(pod):
                yield YOUNG_RUNNER_SECONDS

    def _want_warnings(self, key: Ref, children: Children, now: str) -> Iterable[float]:
        waiting = [item for item in (*children.pods, *_without_pods(children)) if _waits(item)]
        if any(_age(item, now) > STUCK_SECONDS for item in waiting):
            yield self._looks.want_warnings(key.namespace, key)
        elif waiting:
            yield STUCK_SECONDS


def key_records(items: Iterable[Object]) -> Iterable[KeyRecord]:
    """The records of key Secrets; one that cannot be read is left out, and logged by name only."""
    for item in items:
        try:
            record = parse(item) if is_api_key(item) else None
        except (ValueError, KeyError, TypeError):
            log.warning(
                "Secret %s/%s is no API key record", item["metadata"].get("namespace"), item["metadata"]["name"]
            )
            continue
        if isinstance(record, KeyRecord):
            yield record


def _serving(items: Iterable[Object]) -> tuple[Object, ...]:
    return tuple(item for item in items if SERVE_FILE in (item.get("data") or {}))


def _decoded(secret: Object, name: str) -> str:
    try:
        return secret_text(secret, name) or ""
    except ValueError:
        return ""


def _known_credentials(config_maps: Iterable[Object]) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    for item in _serving(config_maps):
        config = json.loads(item["data"][SERVE_FILE])
        found |= {entry["endpoint"]: entry["sha256"] for entry in config.get("credentials") or ()}
    return sorted(found.items())


def _is_young_runner(pod: Object) -> bool:
    """A runner that started but is not ready yet: its log will have to be looked at if that lasts."""
    status = pod.get("status") or {}
    conditions = status.get("conditions") or ()
    unready = not any(entry.get("type") == "Ready" and entry.get("status") == "True" for entry in conditions)
    runs = any("running" in (entry.get("state") or {}) for entry in status.get("containerStatuses") or ())
    return (pod["metadata"].get("labels") or {}).get(COMPONENT) == RUNNER and runs and unready


def _without_pods(children: Children) -> Iterable[Object]:
    """Jobs and Deployments that should have a pod and have none."""
    return () if children.pods else (*children.jobs, *children.deployments)


def _waits(item: Object) -> bool:
    """Whether a pod has no container that ever ran, or a Job or Deployment wants a pod that it does not get."""
    if item["metadata"].get("deletionTimestamp"):
        return False
    status = item.get("status") or {}
    if item["kind"] == POD.name:
        entries = status.get("containerStatuses") or ()
        started = any(set(entry.get("state") or {}) & {"running", "terminated"} for entry in entries)
        return not started and status.get("phase") in (None, "Pending")
    if item["kind"] == "Deployment":
        return bool((item.get("spec") or {}).get("replicas", 1))
    return not (status.get("succeeded") or status.get("conditions"))


def _age(item: Object, now: str) -> float:
    return seconds_between(item["metadata"].get("creationTimestamp") or now, now)
