"""`/healthz` and `/metrics` over HTTP, each on a port of its own. Started by `app`.

Healthy means that work goes on: no ready object waits long while all workers are busy, and no watch is deaf.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from aiohttp import web

STUCK_SECONDS = 60.0
DEAF_SECONDS = 300.0


def problem(oldest_seconds: float, busy: int, deaf_seconds: float) -> str:
    """Why the operator should be restarted, empty if it should not."""
    if oldest_seconds > STUCK_SECONDS and busy:
        return f"the first object in the queue has waited for {oldest_seconds:.0f} s while {busy} workers are busy"
    if deaf_seconds > DEAF_SECONDS:
        return f"a watch has not heard from the API server for {deaf_seconds:.0f} s"
    return ""


class Ports:
    """The two servers. A port of 0 takes a free one; `ports` are those that were bound, health first."""

    def __init__(self, health: Callable[[], str], metrics: Callable[[], bytes]) -> None:
        self._health, self._metrics = health, metrics
        self._runners: list[web.AppRunner] = []
        self.ports: tuple[int, ...] = ()

    async def start(self, health_port: int, metrics_port: int) -> None:
        """Listen on all addresses. Raises OSError if a port is taken."""
        routes = ((health_port, "/healthz", self._answer_health), (metrics_port, "/metrics", self._answer_metrics))
        for port, path, handler in routes:
            application = web.Application()
            application.router.add_get(path, handler)
            runner = web.AppRunner(application, access_log=None)
            await runner.setup()
            self._runners.append(runner)
            await web.SockSite(runner, _listen(port)).start()
        self.ports = tuple(runner.addresses[0][1] for runner in self._runners)

    async def stop(self) -> None:
        """Stop listening."""
        for runner in self._runners:
            await runner.cleanup()

    async def _answer_health(self, _: web.Request) -> web.Response:
        found = self._health()
        return web.Response(text=f"{found or 'ok'}\n", status=500 if found else 200)

    async def _answer_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


def _listen(port: int) -> socket.socket:
    """One socket for both families where the machine has both."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))
