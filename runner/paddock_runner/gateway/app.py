"""The gateway as one ASGI application: what happens to a request, in order. Made by `commands.gateway`.

bounds → route → authenticate → answer from the configuration (`answers`), or read, parse, authorise, limit, queue and
forward (`inference`). A request keeps the configuration that it began with; the next one sees the newest.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

from paddock_runner import logs
from paddock_runner.core.gateway_config import Key
from paddock_runner.gateway import auth, dns, errors, gauges, guards, routes
from paddock_runner.gateway.answers import Answers, Status
from paddock_runner.gateway.backends import Backends
from paddock_runner.gateway.call import Answer, Call
from paddock_runner.gateway.cluster.link import Link, Outlets, Place
from paddock_runner.gateway.configuration import Configuration
from paddock_runner.gateway.directory import Directory
from paddock_runner.gateway.errors import Refusal, retry_after
from paddock_runner.gateway.exchange import CLIENT_GONE, ClientGone, Exchange, Message, Receive, Send
from paddock_runner.gateway.holds import Holds
from paddock_runner.gateway.inference import Inference
from paddock_runner.gateway.limits import Gate
from paddock_runner.gateway.metrics import UNKNOWN, Metrics
from paddock_runner.gateway.proxy import Proxy
from paddock_runner.gateway.snapshot import Snapshot, load
from paddock_runner.gateway.upstream import Timings, Upstream

_QUIET = frozenset({"health", "ready", "metrics"})

log = logging.getLogger(__name__)
access = logging.getLogger("paddock_runner.gateway.access")


class Gateway:
    """Raises OSError or ValueError when the configuration at `path` is not good to start with.

    `place` tells of the cluster that it runs in, if any. After `drain` it works on for `linger_seconds`, so that
    clients with open connections can move on, and refuses new work from then on.
    """

    def __init__(
        self,
        path: Path,
        *,
        timings: Timings | None = None,
        place: Place | None = None,
        resolve: dns.Resolve = dns.system_resolve,
        linger_seconds: float = 0.0,
    ) -> None:
        self.file = Configuration(path, load, on_change=self._changed, on_error=self._refused)
        self.metrics = Metrics(self.file.value.config.endpoint)
        self.linger_seconds = linger_seconds
        self.directory = Directory(self._keep_backends)
        self._status = Status()
        self._timings = timings or Timings()
        self._resolve = resolve
        self._gate = Gate()
        self._failures = auth.FailureLimit()
        self._backends = Backends(time.monotonic)
        self._holds = Holds(self.directory, self._backends)
        self._gauges = gauges.BackendGauges(self.metrics, self.directory, self._backends)
        self._link = Link(place, self._outlets()) if place else None
        self._answers: Mapping[str, Answer] = {}
        self._follow_gauges()
        self._note(self.file.value)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await self._exchange(Exchange(scope, receive, send))

    def drain(self) -> None:
        """Not ready from now on; no new work after `linger_seconds`; what runs goes on."""
        self._status.draining = True
        self._status.refuse_at = time.monotonic() + self.linger_seconds

    def listening(self, address: str) -> None:
        """Say it when anybody who reaches `address` (HOST:PORT) may use the models."""
        host = address.rpartition(":")[0].strip("[]")
        if self.file.value.config.auth == "none" and not guards.is_loopback(host):
            warning = f"auth is none and {address} can be reached from other machines: anybody may use the models"
            self._status.warning = warning
            log.warning(warning)
        self.metrics.set(self.metrics.unauthenticated, self._status.warning is not None)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        upstream = Upstream(self._timings)
        proxy = Proxy(upstream, self.directory, self._backends, self.metrics)
        inference = Inference(proxy, self._holds, self._gate, self.metrics, self._timings.body)
        own = Answers(self.file, self._status, self.metrics, upstream, self.directory)
        self._answers = {**own.by_action(), "proxy": inference.answer}
        followers = [asyncio.create_task(work) for work in self._followers()]
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for follower in followers:
            follower.cancel()
        await asyncio.gather(*followers, return_exceptions=True)
        await upstream.close()
        await send({"type": "lifespan.shutdown.complete"})

    def _followers(self) -> list[Coroutine[Any, Any, None]]:
        names = dns.follow_names(self.directory, lambda: self.file.value.config.models, self._resolve)
        return [self.file.watch(), names, *([self._link.run()] if self._link else [])]

    def _outlets(self) -> Outlets:
        metrics = self.metrics
        return Outlets(
            take_config=self.file.take,
            take_slices=self.directory.take_slices,
            config=lambda: self.file.sha256,
            report_failed=lambda: metrics.count(metrics.reports_failed),
            watch_failed=lambda resource: metrics.count(metrics.watch_restarts, resource),
        )

    async def _exchange(self, exchange: Exchange) -> None:
        logs.request_id.set(exchange.request_id)
        try:
            await self._answer(exchange)
        except Refusal as refusal:
            await self._refuse(exchange, refusal)
        except ClientGone:
            pass
        except asyncio.CancelledError:
            if not exchange.client_gone:
                await self._refuse(exchange, _draining())
                raise
        except Exception:
            log.exception("a request failed")
            await self._refuse(exchange, Refusal("internal", "internal error; the log has the details"))
        finally:
            self._record(exchange)

    async def _answer(self, exchange: Exchange) -> None:
        snapshot = self.file.value
        path: str = exchange.scope["path"]
        exchange.dialect = routes.dialect_of(path)
        guards.check_head(exchange.scope)
        guards.check_framing(exchange.headers)
        guards.check_host(exchange.headers)
        route = routes.find(path)
        if route is None or not (route.open or route.dialect in snapshot.config.apis):
            raise routes.not_found()
        exchange.route = route
        routes.check_method(route, exchange.method)
        key = None if route.open else self._authenticate(exchange, snapshot)
        if self._status.draining and not route.open and time.monotonic() >= self._status.refuse_at:
            raise _draining()
        await self._answers[route.action](Call(exchange, route, snapshot, key))

    def _authenticate(self, exchange: Exchange, snapshot: Snapshot) -> Key | None:
        if snapshot.config.auth == "none":
            self.metrics.count(self.metrics.auth, "none", "ok")
            guards.check_local_caller(exchange.headers, exchange.scope["server"][0])
            return None
        try:
            key = snapshot.ring.authenticate(exchange.scope["headers"], time.time())
        except auth.AuthFailure as failure:
            self.metrics.count(self.metrics.auth, "apiKey", failure.result)
            raise self._failures.refusal(exchange.address, time.monotonic()) from None
        self.metrics.count(self.metrics.auth, "apiKey", "ok")
        exchange.key_id = key.id
        return key

    async def _refuse(self, exchange: Exchange, refusal: Refusal) -> None:
        if exchange.status or exchange.client_gone:
            return
        exchange.reason = refusal.reason
        self.metrics.count(self.metrics.rejected, refusal.reason)
        headers = [(name.lower().encode(), value.encode()) for name, value in refusal.headers.items()]
        try:
            if "Connection" not in refusal.headers and not await exchange.discard():
                headers.append((b"connection", b"close"))
        except ClientGone:
            return
        body = errors.body(refusal, exchange.dialect, exchange.request_id)
        await exchange.respond(refusal.status, body, headers=headers)

    def _record(self, exchange: Exchange) -> None:
        seconds = time.monotonic() - exchange.started
        first = exchange.first_byte - exchange.started if exchange.first_byte else None
        code = CLIENT_GONE if exchange.client_gone else exchange.status
        path = exchange.route.path if exchange.route else UNKNOWN
        self.metrics.answered(path, code, exchange.reason, exchange.model or UNKNOWN, seconds, first)
        if exchange.route is None or exchange.route.action not in _QUIET:
            fields = {
                "route": path,
                "method": exchange.method,
                "status": code,
                "reason": exchange.reason or None,
                "key": exchange.key_id,
                "model": exchange.model,
                "client": exchange.address,
                "seconds": round(seconds, 6),
                "first_byte_seconds": round(first, 6) if first else None,
            }
            access.info("request", extra=fields)

    def _changed(self, snapshot: Snapshot) -> None:
        self.metrics.count(self.metrics.config_reloads)
        log.info("configuration in force", extra={"config": self.file.sha256, "models": len(snapshot.config.models)})
        self._note(snapshot)

    def _refused(self, message: str) -> None:
        self.metrics.count(self.metrics.config_errors)
        log.error("the new configuration is refused, the last good one stays", extra={"problem": message})

    def _note(self, snapshot: Snapshot) -> None:
        self._gauges.follow(snapshot.config.models)
        self.directory.ring()
        if self._link:
            self._link.config_changed()
        if snapshot.config.limits.tokens_per_minute:
            log.warning("limits.tokensPerMinute is set, but this version does not enforce it")

    def _follow_gauges(self) -> None:
        metrics = self.metrics
        metrics.follow(metrics.in_flight, lambda: self._gate.running)
        metrics.follow(metrics.queue_depth, lambda: self._gate.waiting)
        metrics.follow(metrics.held, lambda: self._holds.held)
        metrics.follow(metrics.api_keys, lambda: len(self.file.value.config.keys))
        gauges.follow_source(metrics, self.file)
        if self._link:
            gauges.follow_watches(metrics, self._link)

    def _keep_backends(self) -> None:
        models = self.file.value.config.models
        self._backends.keep({url for model in models for url in self.directory.urls(model)})


def _draining() -> Refusal:
    return retry_after("draining", "the gateway is shutting down; try again in a moment", 1)
