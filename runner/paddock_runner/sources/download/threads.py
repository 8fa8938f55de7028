"""Blocking work beside the event loop that is never left behind. Used by `sources.download`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def finish(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `function` in a thread. A cancellation waits for its end: it may hold files that the caller closes next."""
    return await settled(asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs)))


async def settled(work: asyncio.Future[T]) -> T:
    """The result of `work`; a cancellation is obeyed only when it has ended."""
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not work.cancelled():
            work.exception()
        raise cancelled
    return work.result()
