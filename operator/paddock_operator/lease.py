"""Leadership by a Lease: one replica acts, another waits, and who loses it ends. Used by `app` if settings ask for it.

Whether a holder is alive is judged by our own clock: its record must change within the duration that it names.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from paddock_operator.errors import LeaseLostError
from paddock_operator.executors.kube.client import Client
from paddock_operator.executors.kube.errors import ApiError
from paddock_operator.executors.kube.kinds import LEASE

log = logging.getLogger(__name__)

DURATION_SECONDS, RENEW_SECONDS, RETRY_SECONDS = 15, 10.0, 2.0
NAME = "paddock-operator"


class Lease:
    """`acquire`, then `hold` until it raises LeaseLostError; `release` on the way out."""

    def __init__(self, client: Client, namespace: str, identity: str = "") -> None:
        self._client, self._namespace = client, namespace
        self.identity = identity or f"{os.environ.get('POD_NAME') or socket.gethostname()}_{secrets.token_hex(4)}"
        self._record: tuple[Any, Any] = (None, None)
        self._seen_at = monotonic()
        self._version = ""

    async def acquire(self) -> None:
        """Return when this replica leads."""
        waited = False
        while not await self._tried():
            if not waited:
                log.info("another replica holds Lease %s/%s: waiting", self._namespace, NAME)
            waited = True
            await asyncio.sleep(RETRY_SECONDS)
        log.info("leading as %s", self.identity)

    async def hold(self) -> None:
        """Renew for ever. Raises LeaseLostError when another holds it, or when it could not be renewed in 10 s."""
        renewed = monotonic()
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            try:
                async with asyncio.timeout(RENEW_SECONDS):
                    held = await self._tried()
            except TimeoutError:
                held = False
            if held:
                renewed = monotonic()
            elif self._record[0] not in (None, self.identity) or monotonic() - renewed > RENEW_SECONDS:
                raise LeaseLostError(f"Lease {self._namespace}/{NAME} is lost to {self._record[0] or 'nobody'}")

    async def release(self) -> None:
        """Let the next replica begin at once. A failure only costs it the wait."""
        if not self._version:
            return
        spec = {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}
        patch = {"metadata": {"resourceVersion": self._version}, "spec": spec}
        try:
            await self._client.merge_patch(LEASE, self._namespace, NAME, patch)
        except ApiError as error:
            log.info("the Lease was not released: %s", error)

    async def _tried(self) -> bool:
        """Take or renew the Lease; whether we hold it now."""
        try:
            return await self._take()
        except ApiError as error:
            if not error.conflict:
                log.warning("cannot take Lease %s/%s: %s", self._namespace, NAME, error)
            return False

    async def _take(self) -> bool:
        try:
            live = await self._client.get(LEASE, self._namespace, NAME)
        except ApiError as error:
            if not error.absent:
                raise
            self._noted(await self._client.create(LEASE, self._fresh()))
            return True
        if not self._may_take(live):
            return False
        patch = {"metadata": {"resourceVersion": live["metadata"]["resourceVersion"]}, "spec": self._spec(live)}
        self._noted(await self._client.merge_patch(LEASE, self._namespace, NAME, patch))
        return True

    def _may_take(self, live: dict[str, Any]) -> bool:
        spec = live.get("spec") or {}
        record = (spec.get("holderIdentity"), spec.get("renewTime"))
        if record != self._record:
            self._record, self._seen_at = record, monotonic()
        expired = monotonic() - self._seen_at > float(spec.get("leaseDurationSeconds") or DURATION_SECONDS)
        return record[0] in ("", None, self.identity) or expired

    def _noted(self, live: dict[str, Any]) -> None:
        self._version = live["metadata"]["resourceVersion"]
        self._record = (live["spec"]["holderIdentity"], live["spec"]["renewTime"])
        self._seen_at = monotonic()

    def _spec(self, live: dict[str, Any]) -> dict[str, Any]:
        before = live.get("spec") or {}
        spec: dict[str, Any] = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": DURATION_SECONDS,
            "renewTime": _now(),
        }
        if before.get("holderIdentity") != self.identity:
            spec |= {"acquireTime": _now(), "leaseTransitions": int(before.get("leaseTransitions") or 0) + 1}
        return spec

    def _fresh(self) -> dict[str, Any]:
        metadata = {"name": NAME, "namespace": self._namespace}
        return {"apiVersion": LEASE.api_version, "kind": LEASE.name, "metadata": metadata, "spec": self._spec({})}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
