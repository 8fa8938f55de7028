"""From a decided request to a streamed answer: choose a backend, retry before the first byte, pass bytes through.

Called by `gateway.inference` when a request is authenticated, routed and has its place. An answer that breaks off
never looks finished: an NDJSON or SSE stream gets an error as its last record, anything else ends with the connection.

Before the first byte a request is tried at two backends at most. If that was not enough and the Model has a Service,
the refusal is an `Unavailable`: the caller waits for a runner and comes back. A runner that died over a request may
have died of it, so one that broke off twice is not sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import aiohttp

from paddock_runner.core.gateway_config import Model
from paddock_runner.gateway import errors
from paddock_runner.gateway.backends import Backends
from paddock_runner.gateway.directory import Directory
from paddock_runner.gateway.errors import RETRY_SECONDS, Refusal, Unavailable, not_ready, retry_after
from paddock_runner.gateway.exchange import Exchange
from paddock_runner.gateway.metrics import Metrics
from paddock_runner.gateway.upstream import Upstream, UpstreamError, failure_of, headers_down

Side = Literal["backend", "gateway"]

WHOLE_BYTES = 1024 * 1024
"""Answers up to this declared size are read whole before their first byte goes out: then they can still be refused."""
TRIES = 2
_BROKEN: Mapping[Side, Refusal] = {
    "backend": Refusal("backend_failed", "the model's runner stopped in the middle of the answer; send it again"),
    "gateway": Refusal("draining", "the gateway was stopped in the middle of the answer; send the request again"),
}

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Job:
    """A request on its way: where to, what to send. `resets` counts the runners that broke off before they answered."""

    exchange: Exchange
    path: str
    model: Model
    body: bytes
    headers: dict[str, str]
    resets: int = 0


class Proxy:
    """Forwards requests and counts how that went."""

    def __init__(self, upstream: Upstream, directory: Directory, backends: Backends, metrics: Metrics) -> None:
        self._upstream = upstream
        self._directory = directory
        self._backends = backends
        self._metrics = metrics

    async def forward(self, job: Job) -> None:
        """Answer the exchange from one of the model's backends. Raises `Refusal` while nothing was sent."""
        tried: list[str] = []
        problem: Refusal = not_ready(job.model)
        while len(tried) < TRIES and (url := self._choose(job.model, tried)):
            tried.append(url)
            with self._backends.using(url):
                try:
                    response = await self._send(job, url, last=len(tried) == TRIES)
                except Unavailable as unavailable:
                    problem = unavailable
                    continue
                except asyncio.CancelledError:
                    self._count(job.model, "cancelled")
                    raise
                await self._pass_on(job, response)
                return
        raise problem

    async def _pass_on(self, job: Job, response: aiohttp.ClientResponse) -> None:
        try:
            await self._relay(job.exchange, job.model, response)
        except asyncio.CancelledError:
            self._count(job.model, "cancelled")
            raise
        finally:
            # Does nothing when the answer was read to its end; otherwise it tells the runner that nobody listens.
            response.close()

    def _choose(self, model: Model, tried: list[str]) -> str | None:
        urls = self._directory.urls(model)
        chosen = self._backends.choose(urls, tried)
        # Nobody waits for a fixed backend: it is asked even when it just failed.
        return chosen or (
            None if model.service else self._backends.soonest([u for u in urls if u not in tried] or urls)
        )

    async def _send(self, job: Job, url: str, *, last: bool) -> aiohttp.ClientResponse:
        """The answer of one backend. Raises `Unavailable` when another try makes sense, else `Refusal`."""
        model = job.model
        try:
            response = await self._upstream.post(url + job.path, job.body, job.headers)
        except UpstreamError as error:
            self._failed(model, url, error)
            job.resets += error.failure == "reset"
            raise self._after(job, error) from error
        others = len(self._directory.urls(model)) > 1
        if self._declined(model, response) or (response.status == 503 and not last and others):
            raise self._decline(model, url, response)
        self._backends.worked(url)
        return response

    def _declined(self, model: Model, response: aiohttp.ClientResponse) -> bool:
        """Whether the runner says "not now" (it starts, drains, is full) or knows nothing of this Endpoint (yet)."""
        if not model.service:
            return False
        return response.status == 401 or (response.status == 503 and "Retry-After" in response.headers)

    def _decline(self, model: Model, url: str, response: aiohttp.ClientResponse) -> Unavailable:
        response.close()
        unauthorized = response.status == 401
        self._metrics.count(self._metrics.retries, "unauthorized" if unauthorized else "5xx")
        if not unauthorized:
            self._count(model, "5xx")
        if model.service:
            self._backends.rest(url, _seconds(response.headers.get("Retry-After", "")))
        if unauthorized:
            return Unavailable("backend_failed", self._unknown_here(model))
        return not_ready(model)

    def _failed(self, model: Model, backend: str, error: UpstreamError) -> None:
        self._count(model, error.failure)
        if error.failure != "timeout":
            self._backends.failed(backend)
            self._metrics.count(self._metrics.ejections, model.name)
        log.warning("backend failed", extra={"backend": backend, "model": model.name, "failure": error.failure})

    def _after(self, job: Job, error: UpstreamError) -> Refusal:
        model = job.model
        if error.failure == "timeout":
            return Refusal("backend_failed", f"the runner of model {model.name!r} did not answer in time")
        if job.resets >= TRIES:
            return Refusal(
                "backend_failed", f"the runner of model {model.name!r} stopped before it answered; try again"
            )
        if error.failure == "connect_error" and not model.service and len(model.backends) < TRIES:
            return retry_after("no_backend", not_ready(model).message, RETRY_SECONDS)
        self._metrics.count(self._metrics.retries, error.failure)
        return not_ready(model)

    def _unknown_here(self, model: Model) -> str:
        log.error("the runner refused the credential of this Endpoint", extra={"model": model.name})
        return f"the runner of model {model.name!r} does not know this Endpoint"

    async def _relay(self, exchange: Exchange, model: Model, response: aiohttp.ClientResponse) -> None:
        if response.status == 401:
            raise Refusal("backend_failed", self._unknown_here(model))
        try:
            if response.content_length is not None and response.content_length <= WHOLE_BYTES:
                await self._relay_whole(exchange, response)
            else:
                await self._relay_stream(exchange, response)
        except (aiohttp.ClientError, ConnectionError) as error:
            self._count(model, failure_of(error))
            await self._break_off(exchange, response, "backend")
        except asyncio.CancelledError:
            if exchange.status and exchange.client_gone:
                self._metrics.count(self._metrics.stream_aborts, "client")
            elif exchange.status:
                await self._break_off(exchange, response, "gateway")
            raise
        else:
            self._count(model, "ok" if response.status < 500 else "5xx")

    async def _relay_whole(self, exchange: Exchange, response: aiohttp.ClientResponse) -> None:
        body = await response.read()
        await exchange.start(response.status, headers_down(response))
        await exchange.write(body, more=False)

    async def _relay_stream(self, exchange: Exchange, response: aiohttp.ClientResponse) -> None:
        await exchange.start(response.status, headers_down(response))
        async for part in response.content.iter_any():
            exchange.last_byte = part[-1:]
            await exchange.write(part, more=True)
        await exchange.write(b"", more=False)

    async def _break_off(self, exchange: Exchange, response: aiohttp.ClientResponse, side: Side) -> None:
        """End an answer that cannot be completed: by a refusal, an error record, or by cutting the connection."""
        refusal = _BROKEN[side]
        if not exchange.status:
            raise refusal
        self._metrics.count(self._metrics.stream_aborts, side)
        exchange.reason = refusal.reason
        log.warning("an answer broke off", extra={"side": side, "model": exchange.model})
        tail = errors.stream_tail(refusal, exchange.dialect, response.content_type, exchange.request_id)
        if tail is None or response.content_length is not None:
            return
        if exchange.last_byte not in (b"", b"\n"):
            tail = b"\n\n" + tail if response.content_type == "text/event-stream" else b"\n" + tail
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await exchange.write(tail, more=False)

    def _count(self, model: Model, result: str) -> None:
        self._metrics.count(self._metrics.backend_requests, model.name, result)


def _seconds(retry_after: str) -> float:
    return float(retry_after) if retry_after.isdecimal() and len(retry_after) < 6 else RETRY_SECONDS
