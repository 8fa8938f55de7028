"""A request on a known route: what every answer needs. Made by `gateway.app` once the caller is known."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from paddock_runner.core.gateway_config import Key
from paddock_runner.gateway.exchange import Exchange
from paddock_runner.gateway.routes import Route
from paddock_runner.gateway.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Call:
    """`snapshot` is the configuration that the request began with; `key` is None on open routes and without keys."""

    exchange: Exchange
    route: Route
    snapshot: Snapshot
    key: Key | None


Answer = Callable[[Call], Awaitable[None]]
