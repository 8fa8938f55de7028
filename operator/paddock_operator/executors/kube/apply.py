"""Carry out a plan's objects: apply what differs, prune what nobody wants, nudge pods. Called by the reconcilers.

A manifest that the API server's admission changes again is applied once per live version, never in a loop.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from paddock_operator.core.cluster.diff import as_stored, needs_apply
from paddock_operator.core.cluster.labels import CONFIG_HASH
from paddock_operator.core.cluster.observed import Children, Object
from paddock_operator.core.cluster.types import ClusterPlan, Manifest
from paddock_operator.core.identity import short_hash
from paddock_operator.executors.kube.client import Client
from paddock_operator.executors.kube.errors import ApiError
from paddock_operator.executors.kube.kinds import BY_NAME, CLAIM, JOB, POD, Kind
from paddock_operator.executors.kube.world import World

log = logging.getLogger(__name__)

Place = tuple[str, str, str]
MADE_ONCE = (CLAIM, JOB)
"""What exists is taken as it is: a claim belongs to the namespace, and a Job's template cannot change."""


class Applier:
    """Writes children. What the API server answers goes to the world at once, so the next reading is not older."""

    def __init__(self, client: Client, world: World) -> None:
        self._client, self._world = client, world
        self._contested: dict[Place, tuple[str, str]] = {}

    async def apply_all(self, manifests: Iterable[Manifest]) -> ApiError | None:
        """Apply manifests in order; returns the first refusal, which holds up no other. Raises other ApiErrors.

        All of them name the object.
        """
        first: ApiError | None = None
        for manifest in manifests:
            try:
                await self.apply(manifest)
            except ApiError as error:
                named = error.about(manifest["kind"], manifest["metadata"]["name"])
                if not error.refusal:
                    raise named from error
                first = first or named
        return first

    async def apply(self, manifest: Manifest) -> bool:
        """Apply one manifest if live differs; whether something was written. Raises ApiError."""
        kind, metadata = BY_NAME[manifest["kind"]], manifest["metadata"]
        live = self._world.store(kind.name).get(metadata["namespace"], metadata["name"])
        if live is not None and (kind in MADE_ONCE or not needs_apply(live, manifest)):
            return False
        place = (kind.name, metadata["namespace"], metadata["name"])
        if live is not None and self._contested.get(place) == _meeting(live, manifest):
            return False
        answer = await self._write(kind, manifest)
        self._world.note(kind, answer)
        self._watch_for_contest(place, answer, manifest)
        return True

    async def _write(self, kind: Kind, manifest: Manifest) -> dict[str, Any]:
        if kind is CLAIM:
            return await self._create_claim(manifest)
        return await self._client.apply(kind, as_stored(manifest))

    async def _create_claim(self, manifest: Manifest) -> dict[str, Any]:
        """A claim is made once and never changed: one that exists is taken as it is."""
        try:
            return await self._client.create(CLAIM, manifest)
        except ApiError as error:
            if not error.conflict:
                raise
            return await self._client.get(CLAIM, manifest["metadata"]["namespace"], manifest["metadata"]["name"])

    def _watch_for_contest(self, place: Place, answer: Object, manifest: Manifest) -> None:
        if BY_NAME[place[0]] not in MADE_ONCE and needs_apply(answer, manifest):
            log.warning("%s %s/%s is not as it was applied: something changes it on its way", *place)
            self._contested[place] = _meeting(answer, manifest)
        else:
            self._contested.pop(place, None)

    async def prune(self, children: Children, plan: ClusterPlan) -> int:
        """Delete live children that are neither applied nor kept; the number of deletions. Raises ApiError."""
        wanted = {(item["kind"], item["metadata"]["name"]) for item in plan.apply} | set(plan.keep)
        doomed = [item for item in children.all() if _doomed(item, wanted)]
        for item in doomed:
            metadata = item["metadata"]
            kind = BY_NAME[item["kind"]]
            try:
                await self._client.delete(kind, metadata["namespace"], metadata["name"], metadata["uid"])
            except ApiError as error:
                raise error.about(kind.name, metadata["name"], "deleted") from error
        return len(doomed)

    async def nudge(self, children: Children, plan: ClusterPlan) -> int:
        """Annotate pods so that their kubelets refresh mounted configuration now; the number of writes."""
        marks = {pod["metadata"]["name"]: pod for pod in children.pods}
        due = [(name, value) for name, value in plan.nudge if name in marks and _mark(marks[name]) != value]
        for name, value in due:
            patch = {"metadata": {"annotations": {CONFIG_HASH: value}}}
            try:
                answer = await self._client.merge_patch(POD, marks[name]["metadata"]["namespace"], name, patch)
                self._world.note(POD, answer)
            except ApiError as error:
                if not error.absent:
                    raise error.about(POD.name, name, "annotated") from error
        return len(due)


def _doomed(item: Object, wanted: set[tuple[str, str]]) -> bool:
    metadata = item["metadata"]
    return (item["kind"], metadata["name"]) not in wanted and not metadata.get("deletionTimestamp")


def _mark(pod: Object) -> str:
    return str((pod["metadata"].get("annotations") or {}).get(CONFIG_HASH) or "")


def _meeting(live: Object, manifest: Mapping[str, Any]) -> tuple[str, str]:
    return str(live["metadata"].get("resourceVersion")), short_hash(manifest)
