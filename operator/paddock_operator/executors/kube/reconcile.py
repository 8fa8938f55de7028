"""One key at a time: gather what is true, let the pure plan decide, carry it out. Called by the controller's workers.

The same few steps for a Model, an Endpoint and what a namespace shares: apply in the plan's order, prune, nudge pods,
write the status, tell of it. A write that is refused, or goes on failing, does not keep the status from telling the
truth.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from paddock_operator.core.cluster.observed import Children, EndpointSeen, ModelSeen, NamespaceSeen, Object
from paddock_operator.core.cluster.types import ClusterPlan
from paddock_operator.core.resources import Ref
from paddock_operator.executors.kube.apply import Applier
from paddock_operator.executors.kube.errors import ApiError
from paddock_operator.executors.kube.failures import Failures
from paddock_operator.executors.kube.gather import Gatherer
from paddock_operator.executors.kube.kinds import ENDPOINT, JOB, MODEL, SECRET
from paddock_operator.executors.kube.looks import FIRST_LOOK_SECONDS, Looks
from paddock_operator.executors.kube.names import Names
from paddock_operator.executors.kube.recorder import Recorder
from paddock_operator.executors.kube.rings import NAMES, Ring, namespace_key
from paddock_operator.executors.kube.rolling import RollGate
from paddock_operator.executors.kube.status import StatusWriter
from paddock_operator.executors.kube.world import World

log = logging.getLogger(__name__)

FOREVER = float("inf")
UNKNOWN_SECRETS_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Plans:
    """The pure plans of the three kinds of keys."""

    model: Callable[[ModelSeen], ClusterPlan]
    endpoint: Callable[[EndpointSeen], ClusterPlan]
    namespace: Callable[[NamespaceSeen], ClusterPlan]


@dataclass(frozen=True, slots=True)
class Hands:
    """Everything that acts."""

    applier: Applier
    statuses: StatusWriter
    recorder: Recorder
    looks: Looks
    gate: RollGate
    ring: Ring


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan with the children that it was made for.

    `again`: seconds until logs or Warnings are due. `retell` makes the plan whose status tells of a failed write.
    """

    plan: ClusterPlan
    children: Children
    again: float | None = None
    retell: Callable[[str], ClusterPlan] | None = None


class Reconciler:
    """`reconcile(key)` returns the seconds until the next look (infinity: a ring brings one), None if it is gone."""

    def __init__(self, world: World, names: Names, gatherer: Gatherer, hands: Hands, plans: Plans) -> None:
        self._world, self._names, self._gatherer, self._hands, self._plans = world, names, gatherer, hands, plans
        self._prepared: set[str] = set()
        self._refused: dict[str, str] = {}
        self._failures = Failures()
        self._steps = {MODEL.name: self._model, ENDPOINT.name: self._endpoint, NAMES: self._spread_names}

    async def reconcile(self, key: Ref) -> float | None:
        """Make one key true. Raises ApiError, or whatever a plan raises."""
        step = self._steps.get(key.kind, self._namespace)
        return await step(key)

    async def _model(self, key: Ref) -> float | None:
        document = await self._living(key)
        if document is None or self._is_unprepared(key):
            return None if document is None else FOREVER
        if (
            self._world.store(ENDPOINT.name).within(key.namespace)
            and not self._world.watch_secrets(key.namespace).ready
        ):
            return UNKNOWN_SECRETS_SECONDS
        # From here to the plan nothing is awaited: what is seen is of one moment, and the gate cannot be passed twice.
        seen, again = self._gatherer.model(key, document, self._hands.gate.may_roll())
        if self._hands.looks.awaits_first(seen.children.pods):
            return FIRST_LOOK_SECONDS
        seen = replace(seen, refused=self._refused.get(key.namespace, ""))
        plan = await self._planned(document, lambda: self._plans.model(seen))
        retell = lambda words: self._plans.model(replace(seen, refused=words))  # noqa: E731
        return await self._carry_out(key, document, Planned(plan, seen.children, again, retell))

    async def _endpoint(self, key: Ref) -> float | None:
        document = await self._living(key)
        if document is None or self._is_unprepared(key):
            return None if document is None else FOREVER
        watch = self._world.watch_secrets(key.namespace)
        if not watch.ready:
            return UNKNOWN_SECRETS_SECONDS
        seen, again = self._gatherer.endpoint(key, document, self._hands.gate.may_roll(), watch)
        seen = replace(seen, refused=self._refused.get(key.namespace, ""))
        plan = await self._planned(document, lambda: self._plans.endpoint(seen))
        if watch.problem:
            plan = _without_secrets(plan)
        retell = lambda words: self._plans.endpoint(replace(seen, refused=words))  # noqa: E731
        return await self._carry_out(key, document, Planned(plan, seen.children, again, retell))

    async def _namespace(self, key: Ref) -> float | None:
        seen = self._gatherer.namespace(key)
        if not seen.endpoints:
            self._world.unwatch_secrets(key.namespace)
        if not (seen.models or seen.endpoints or seen.children.all()):
            self._forget_namespace(key.namespace)
            return None
        plan = self._plans.namespace(seen)
        try:
            return await self._carry_out(key, None, Planned(plan, seen.children))
        finally:
            # Even if it failed: a Model's own trouble tells more than silence.
            self._set_prepared(key.namespace, self._trouble_for_all(key))

    def _trouble_for_all(self, key: Ref) -> str:
        """Words about an object of a namespace that cannot be made, for its Models and Endpoints; "" if all is well."""
        error = self._failures.told(key)
        # Nobody waits for the collector. Silence of the API server is told by the keys that meet it themselves.
        return "" if error is None or error.kind == JOB.name or error.status == 0 else error.message

    async def _planned(self, document: Object, plan: Callable[[], ClusterPlan]) -> ClusterPlan:
        """The plan. One that fails is an error of ours, of which the object's owner hears too."""
        try:
            return plan()
        except Exception as error:
            message = f"the operator failed on this object ({type(error).__name__}); its log says more"
            await self._hands.recorder.event(document, "PlanFailed", message, warning=True)
            raise

    async def _spread_names(self, key: Ref) -> float | None:
        """Ring the Models whose public names or credentials are new."""
        for model in self._names.stale(key.namespace):
            self._hands.ring(Ref(MODEL.name, key.namespace, model), 0.0)
        return None

    async def _living(self, key: Ref) -> Object | None:
        """The object, None if it is gone or going: its children go by their owner references."""
        document = await self._world.declared(key)
        if document is not None and not document["metadata"].get("deletionTimestamp"):
            return document
        self._gatherer.forget(key)
        self._hands.statuses.forget(key)
        self._failures.forget(key)
        return None

    def _is_unprepared(self, key: Ref) -> bool:
        """Pods of a namespace need its ServiceAccounts and its claim: those come first, then ring everybody."""
        if key.namespace in self._prepared:
            return False
        self._hands.ring(namespace_key(key.namespace), 0.0)
        return True

    def _set_prepared(self, namespace: str, refused: str) -> None:
        """`refused`: words about an object of the namespace that cannot be made, which Models and Endpoints tell."""
        if namespace in self._prepared and self._refused.get(namespace, "") == refused:
            return
        self._prepared.add(namespace)
        self._refused[namespace] = refused
        for kind in (ENDPOINT, MODEL):
            for item in self._world.store(kind.name).within(namespace):
                self._hands.ring(Ref(kind.name, namespace, item["metadata"]["name"]), 0.0)

    def _forget_namespace(self, namespace: str) -> None:
        self._prepared.discard(namespace)
        self._refused.pop(namespace, None)
        self._failures.forget(namespace_key(namespace))
        self._hands.looks.forget_namespace(namespace)

    async def _carry_out(self, key: Ref, document: Object | None, planned: Planned) -> float:
        """Apply, prune, nudge; then the status and the Events, also when a write failed, which is raised last."""
        plan, wait = planned.plan, None
        refused: ApiError | None = None
        failed: ApiError | None = None
        try:
            refused = await self._write_children(key, planned.children, plan)
        except ApiError as error:
            failed = error
        trouble = self._failures.note(key, refused, failed)
        if trouble is not None and planned.retell is not None:
            plan = planned.retell(trouble.message)
        if document is not None:
            wait = await self._tell(key, document, plan, None if trouble else failed)
        if problem := failed or refused:
            raise problem
        return min((time for time in (plan.requeue_seconds, planned.again, wait) if time is not None), default=FOREVER)

    async def _write_children(self, key: Ref, children: Children, plan: ClusterPlan) -> ApiError | None:
        """The refusal of a child, None if all were taken. Raises ApiError for what can be otherwise in a moment."""
        hands = self._hands
        if plan.rolls:
            hands.gate.take(key)
        try:
            refused = await hands.applier.apply_all(plan.apply)
        finally:
            hands.gate.give_back(key)
        await hands.applier.prune(children, plan)
        await hands.applier.nudge(children, plan)
        return refused

    async def _tell(self, key: Ref, document: Object, plan: ClusterPlan, failed: ApiError | None) -> float | None:
        hands, wait = self._hands, None
        if plan.status is not None:
            try:
                written, wait = await hands.statuses.write(key, document, plan.status)
            except ApiError as error:
                if not error.absent:
                    raise
                self._world.store(key.kind).discard(key.namespace, key.name)
                return None
            if written:
                await hands.recorder.record(document, plan.notes)
        if failed is not None and not failed.conflict and failed.status != 0:
            await hands.recorder.event(document, "ApplyFailed", failed.message, warning=True)
        return wait


def _without_secrets(plan: ClusterPlan) -> ClusterPlan:
    """Nothing is written over Secrets that cannot be read: that would change a credential in use."""
    dropped = tuple((item["kind"], item["metadata"]["name"]) for item in plan.apply if item["kind"] == SECRET.name)
    kept = tuple(item for item in plan.apply if item["kind"] != SECRET.name)
    return replace(plan, apply=kept, keep=(*plan.keep, *dropped))
