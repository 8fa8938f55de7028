"""From a decided request to a streamed answer: choose a backend, retry once before the first byte, pass bytes through.

Called by `gateway.inference` when a request is authenticated, routed and has its place. An answer that breaks off
never looks finished: an NDJSON or SSE stream gets an error as its last record, anything else ends with the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping
from typing import Literal

import aiohttp

from paddock_runner.core.gateway_config import Model
from paddock_runner.gateway import errors
from paddock_runner.gateway.backends import Backends
from paddock_runner.gateway.errors import Refusal, retry_after
from paddock_runner.gateway.exchange import Exchange
from paddock_runner.gateway.metrics import Metrics
from paddock_runner.gateway.upstream import Upstream, UpstreamError, failure_of, headers_down, headers_up

Side = Literal["backend", "gateway"]

WHOLE_BYTES = 1024 * 1024
"""Answers up to this declared size are read whole before their first byte goes out: then they can still be refused."""
TRIES = 2
RETRY_SECONDS = 1.0
_BROKEN: Mapping[Side, Refusal] = {
    "backend": Refusal("backend_failed", "the model's runner stopped in the middle of the answer; send it again"),
    "gateway": Refusal("draining", "the gateway was stopped in the middle of the answer; send the request again"),
}

log = logging.getLogger(__name__)


class Proxy:
    """Forwards requests and counts how that went."""

    def __init__(self, upstream: Upstream, backends: Backends, metrics: Metrics) -> None:
        self._upstream = upstream
        self._backends = backends
        self._metrics = metrics

    async def forward(
        self, exchange: Exchange, path: str, model: Model, body: bytes, *, credential: str, verbs: Iterable[str]
    ) -> None:
        """Answer the exchange from one of the model's backends. Raises `Refusal` while nothing was sent."""
        if not model.ready or not model.backends:
            raise not_ready(model)
        headers = headers_up(exchange.headers, credential, exchange.request_id, verbs)
        try:
            response = await self._open(model, path, body, headers)
            try:
                await self._relay(exchange, model, response)
            finally:
                # Does nothing when the answer was read to its end; otherwise it tells the runner that nobody listens.
                response.close()
        except asyncio.CancelledError:
            self._metrics.count(self._metrics.backend_requests, model.name, "cancelled")
            raise

    async def _open(self, model: Model, path: str, body: bytes, headers: dict[str, str]) -> aiohttp.ClientResponse:
        order = self._backends.order(model)
        for number, backend in enumerate((*order, order[0])[:TRIES]):
            try:
                response = await self._upstream.post(backend + path, body, headers)
            except UpstreamError as error:
                self._failed(model, backend, error)
                if number + 1 == TRIES or not _worth_a_retry(error, len(order)):
                    raise _refusal(model, error) from error
                self._metrics.count(self._metrics.retries, error.failure)
                continue
            self._backends.worked(backend)
            if response.status == 503 and number + 1 < TRIES and len(order) > 1:
                response.close()
                self._metrics.count(self._metrics.retries, "5xx")
                continue
            return response
        raise not_ready(model)

    def _failed(self, model: Model, backend: str, error: UpstreamError) -> None:
        self._metrics.count(self._metrics.backend_requests, model.name, error.failure)
        if error.failure == "connect_error":
            self._backends.failed(backend)
        log.warning("backend failed", extra={"backend": backend, "model": model.name, "failure": error.failure})

    async def _relay(self, exchange: Exchange, model: Model, response: aiohttp.ClientResponse) -> None:
        if response.status == 401:
            log.error("the runner refused the credential of this Endpoint", extra={"model": model.name})
            raise Refusal("backend_failed", f"the runner of model {model.name!r} does not know this Endpoint")
        try:
            if response.content_length is not None and response.content_length <= WHOLE_BYTES:
                await self._relay_whole(exchange, response)
            else:
                await self._relay_stream(exchange, response)
        except (aiohttp.ClientError, ConnectionError) as error:
            self._metrics.count(self._metrics.backend_requests, model.name, failure_of(error))
            await self._break_off(exchange, response, "backend")
        except asyncio.CancelledError:
            if exchange.status and exchange.client_gone:
                self._metrics.count(self._metrics.stream_aborts, "client")
            elif exchange.status:
                await self._break_off(exchange, response, "gateway")
            raise
        else:
            result = "ok" if response.status < 500 else "5xx"
            self._metrics.count(self._metrics.backend_requests, model.name, result)

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


def not_ready(model: Model) -> Refusal:
    """No backend can take the request now."""
    return retry_after("no_backend", f"model {model.name!r} is not ready yet; try again in a moment", RETRY_SECONDS)


def _worth_a_retry(error: UpstreamError, backends: int) -> bool:
    """A reset may be an idle connection that the backend closed just now; a refused one needs another backend."""
    return error.failure == "reset" or (error.failure == "connect_error" and backends > 1)


def _refusal(model: Model, error: UpstreamError) -> Refusal:
    if error.failure == "connect_error":
        return not_ready(model)
    if error.failure == "timeout":
        return Refusal("backend_failed", f"the runner of model {model.name!r} did not answer in time")
    return Refusal("backend_failed", f"the runner of model {model.name!r} stopped before it answered; try again")
