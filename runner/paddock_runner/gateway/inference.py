"""Requests for a model: read, parse, authorise, limit, wait for a place, forward. Called by `gateway.app`."""

from __future__ import annotations

import asyncio
import math
import time

from paddock_runner.core import strict_json
from paddock_runner.core.gateway_config import Limits, Model
from paddock_runner.gateway import guards, naming
from paddock_runner.gateway.call import Call
from paddock_runner.gateway.errors import Refusal, Unavailable, retry_after
from paddock_runner.gateway.exchange import Exchange
from paddock_runner.gateway.holds import Holds
from paddock_runner.gateway.limits import Buckets, Gate
from paddock_runner.gateway.metrics import Metrics
from paddock_runner.gateway.proxy import Job, Proxy
from paddock_runner.gateway.snapshot import INFER, MANAGE
from paddock_runner.gateway.upstream import headers_up

PARSE_IN_THREAD_BYTES = 256 * 1024


class Inference:
    """`body_seconds` is how long a body may take to arrive."""

    def __init__(self, proxy: Proxy, holds: Holds, gate: Gate, metrics: Metrics, body_seconds: float) -> None:
        self._proxy = proxy
        self._holds = holds
        self._gate = gate
        self._metrics = metrics
        self._rates = Buckets()
        self._body_seconds = body_seconds

    async def answer(self, call: Call) -> None:
        """Answer a request from a backend. Raises `Refusal` while nothing was sent."""
        limits = call.snapshot.config.limits
        guards.check_media(call.exchange.headers)
        body = await call.exchange.read(limits.body_bytes, self._body_seconds)
        model = _authorise(call, await _parse(body))
        self._check_rate(call.exchange, limits.requests_per_minute)
        watcher = asyncio.create_task(_watch_client(call.exchange, asyncio.current_task()))
        try:
            await self._in_turn(call, model, body)
        finally:
            watcher.cancel()

    async def _in_turn(self, call: Call, model: Model, body: bytes) -> None:
        job, limits = _job(call, model, body), call.snapshot.config.limits
        deadline = time.monotonic() + (limits.queue_seconds or math.inf)
        while True:
            await self._holds.wait(model, limits, deadline)
            try:
                return await self._once(job, limits, deadline)
            except Unavailable:
                # Only where somebody is about to come; the refusal is that of the last try.
                if not model.service or not limits.queue_depth or time.monotonic() >= deadline:
                    raise

    async def _once(self, job: Job, limits: Limits, deadline: float) -> None:
        arrived = time.monotonic()
        await self._gate.enter(limits, max(0.0, deadline - arrived) if deadline < math.inf else None)
        try:
            self._metrics.waited(time.monotonic() - arrived)
            await self._proxy.forward(job)
        finally:
            self._gate.leave()

    def _check_rate(self, exchange: Exchange, per_minute: int) -> None:
        if not per_minute:
            return
        wait = self._rates.take(exchange.key_id or exchange.address, per_minute, time.monotonic())
        if wait:
            raise retry_after("rate_limited", f"more than {per_minute} requests per minute with this key", wait)


def _job(call: Call, model: Model, body: bytes) -> Job:
    # Without authentication everybody may do everything.
    verbs = call.key.verbs if call.key else (INFER, MANAGE)
    exchange = call.exchange
    credential = call.snapshot.config.backend_credential
    headers = headers_up(exchange.headers, credential, exchange.request_id, verbs, exchange.key_id or "")
    return Job(exchange, call.route.path, model, body, headers)


def _authorise(call: Call, document: object) -> Model:
    name = naming.model_of(call.route, document)
    model = call.snapshot.find(name, call.key)
    if model is None:
        raise naming.not_found(call.route, name)
    if call.key and INFER not in call.key.verbs:
        raise Refusal("forbidden", "this key does not have the verb infer")
    call.exchange.model = model.name
    return model


async def _parse(body: bytes) -> object:
    """The strict reading of a body; a big one in a thread, so that it does not hold up the others."""
    try:
        if len(body) > PARSE_IN_THREAD_BYTES:
            return await asyncio.to_thread(strict_json.loads, body)
        return strict_json.loads(body)
    except strict_json.JSONProblem as problem:
        raise Refusal("bad_json", str(problem)) from None


async def _watch_client(exchange: Exchange, worker: asyncio.Task[None] | None) -> None:
    """Cancel the worker when the client goes away: in the queue, before the first byte or in the middle of a stream."""
    while (await exchange.receive())["type"] != "http.disconnect":
        pass
    if worker and not exchange.finished:
        exchange.client_gone = True
        worker.cancel()
