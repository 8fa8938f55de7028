"""The DNS names of headless Services, for as long as EndpointSlices were never heard. Run by `gateway.app`."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable
from urllib.parse import urlsplit

from paddock_runner.core.gateway_config import Model
from paddock_runner.gateway.directory import Directory

INTERVAL = 3.0
LOOKUP_SECONDS = 15.0
MAX_ADDRESSES = 256

Resolve = Callable[[str], Awaitable[list[str]]]
"""All addresses of a name; raises socket.gaierror."""

_NOBODY = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))

log = logging.getLogger(__name__)


async def system_resolve(host: str) -> list[str]:
    """Ask the system's resolver for all A and AAAA records."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def follow_names(
    directory: Directory, models: Callable[[], Iterable[Model]], resolve: Resolve, interval: float = INTERVAL
) -> None:
    """Resolve the names again and again; ends when EndpointSlices were heard."""
    while not directory.knows_slices:
        backends = {backend for model in models() if model.service for backend in model.backends}
        directory.keep_names(backends)
        await asyncio.gather(*(_follow(directory, backend, resolve) for backend in sorted(backends)))
        await asyncio.sleep(interval)


async def _follow(directory: Directory, backend: str, resolve: Resolve) -> None:
    parts = urlsplit(backend)
    try:
        async with asyncio.timeout(LOOKUP_SECONDS):
            addresses = await resolve(parts.hostname or "")
    except (OSError, TimeoutError, UnicodeError) as error:
        # No record means that no runner is ready; any other failure is the resolver's, and what it said last holds.
        if not isinstance(error, socket.gaierror) or error.errno not in _NOBODY:
            log.debug("a name could not be resolved", extra={"host": parts.hostname, "problem": str(error)})
            return
        addresses = []
    port = parts.port or 80
    urls = (f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}" for host in sorted(addresses))
    directory.take_name(backend, tuple(urls)[:MAX_ADDRESSES])
