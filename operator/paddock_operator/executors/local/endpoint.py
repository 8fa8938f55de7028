"""One Endpoint on this machine: its gateway process and the listening socket that outlives it.

Called by `controller` for one key at a time. The backend credential is made here, once per run; runners learn its hash.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from paddock_operator.core.identity import child_name, secret_hash
from paddock_operator.core.observed import EndpointObserved, GatewayObserved, GatewayState, ModelSnapshot
from paddock_operator.core.plan_types import EndpointPlan
from paddock_operator.core.resources import Endpoint, KeyRecord, Ref
from paddock_operator.executors.local.context import Context
from paddock_operator.executors.local.listen import Listener
from paddock_operator.executors.local.model import grace
from paddock_operator.executors.local.program import Program


class EndpointUnit:
    """The gateway of one Endpoint. `planned` is the configuration that the last plan asked for."""

    def __init__(self, context: Context, ref: Ref) -> None:
        self.ref = ref
        self.listener: Listener | None = None
        self.listen_problem = ""
        self.planned: Mapping[str, Any] = {}
        self._context = context
        self._child = child_name(ref)
        self._credential = secrets.token_urlsafe(32)
        self._program: Program | None = None

    @property
    def credential(self) -> tuple[str, str]:
        """What runners learn: the Endpoint's id and the SHA-256 of its backend credential."""
        return (f"{self.ref.namespace}/{self.ref.name}", secret_hash(self._credential))

    @property
    def url(self) -> str:
        return self.listener.url if self.listener is not None else ""

    def public_names(self, model: str) -> tuple[str, ...] | None:
        """The names under which the gateway shows a Model, None when it does not."""
        for entry in self.planned.get("models") or ():
            if entry.get("name") == model:
                return tuple(entry.get("names") or ())
        return None

    def gather(
        self,
        endpoint: Endpoint,
        status: Mapping[str, Any],
        models: Mapping[str, ModelSnapshot],
        keys: tuple[KeyRecord, ...],
    ) -> EndpointObserved:
        """What is true now, for the plan."""
        return EndpointObserved(
            endpoint=endpoint,
            status=status,
            models=models,
            gateway=self._gateway(),
            keys=keys,
            backend_credential=self._credential,
            listen_url=self.url,
            now=self._context.now(),
        )

    def _gateway(self) -> GatewayObserved:
        program = self._program
        if program is None:
            return GatewayObserved("none", message=self.listen_problem)
        state: GatewayState = "crashed" if program.crashed else "ready" if program.readiness.ready else "starting"
        message = f"ended with status {program.last_exit}; see logs/{self._child}.log" if program.crashed else ""
        return GatewayObserved(state, program.readiness.text("config"), self.url, program.restarts, message)

    async def act(self, plan: EndpointPlan) -> None:
        """Start, configure or stop the gateway. Without a listener none can run."""
        self.planned = plan.gateway or {}
        if plan.gateway is None:
            await self.stop()
        elif self._program is not None and self._program.config != plan.gateway:
            self._program.configure(plan.gateway)
        elif self._program is None and self.listener is not None:
            self._program = self._start(plan.gateway, self.listener)

    def _start(self, config: Mapping[str, Any], listener: Listener) -> Program:
        path = self._context.home.run / f"endpoint-{self._child}.json"
        descriptor = listener.descriptor
        arguments = ("gateway", "--listen", f"fd:{descriptor}")
        return Program(self._context, self._child, path, arguments, config, self._ring, (descriptor,))

    def _ring(self) -> None:
        self._context.ring(self.ref)

    async def listen(self, listener: Listener | None, problem: str = "") -> None:
        """Serve on this socket (or nowhere, and why). If it is another one, the gateway ends; `act` starts the next."""
        if listener is not self.listener:
            await self.stop()
        self.listener, self.listen_problem = listener, problem

    async def stop(self) -> None:
        """End the gateway; running answers may finish within drainSeconds."""
        if self._program is not None:
            program, self._program = self._program, None
            await program.stop(grace(program.config))

    def kill(self) -> None:
        """End the gateway at once."""
        if self._program is not None:
            self._program.kill()
