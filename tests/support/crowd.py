"""Clients of every manner that come to a runner at random, and how each was answered. Used by `tests.soak`."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
from tests.support.serving import HEADERS

PATIENCE = 120.0
"""Seconds after which somebody who got nothing counts as forgotten."""
SURE = 3
"""Characters of an answer that must be what they are without company: later ones may be near ties."""
TENANTS = ("", "red", "green", "blue")
SYSTEM = (
    "You are a careful clerk who writes short notes about ships, grain, weather and the people of the harbour. " * 8
)
SURE_PROMPTS = (
    "The capital of France is",
    "One, two, three, four, five, six,",
    "def add(a, b):\n    return",
    "The opposite of hot is",
    "harbour harbour harbour harbour harbour",
    "17 17 17 17 17 17 17 17",
)
PROMPTS = (*SURE_PROMPTS, *(f"{SYSTEM}{prompt}" for prompt in SURE_PROMPTS))
TOKENS = 20


def body(prompt: str, *, stream: bool, **options: Any) -> dict[str, Any]:
    """A greedy raw request."""
    told: dict[str, Any] = {"temperature": 0, "num_predict": TOKENS, **options}
    return {"model": "smollm2", "prompt": prompt, "raw": True, "stream": stream, "options": told}


@dataclass
class Crowd:
    """`address` tells where the runner is now; `alone` holds what each prompt is answered without company."""

    address: Callable[[], str]
    alone: dict[str, str]
    luck: random.Random
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    may_break: float = 0.0
    """Until this moment (time.monotonic) connections may break, because something was killed."""

    async def run(self, people: int, ended: asyncio.Event) -> None:
        """Let `people` ask again and again until it `ended`."""
        async with httpx.AsyncClient(headers=HEADERS, timeout=PATIENCE) as client:
            await asyncio.gather(*(self._person(client, ended) for _ in range(people)))

    async def _person(self, client: httpx.AsyncClient, ended: asyncio.Event) -> None:
        manners = (
            self._asks,
            self._reads,
            self._reads,
            self._leaves,
            self._dawdles,
            self._talks,
            self._fills_in,
            self._errs,
        )
        while not ended.is_set():
            manner = self.luck.choice(manners)
            try:
                await manner(client)
            except httpx.TimeoutException:
                self.wrong.append(f"{manner.__name__}: nothing came for {PATIENCE:g} s")
            except httpx.TransportError as error:
                self._note("broken", time.monotonic() < self.may_break, f"{manner.__name__}: {error!r}")
                await asyncio.sleep(0.2)

    def _note(self, outcome: str, fine: bool, detail: str) -> None:
        self.outcomes[outcome] += 1
        if not fine:
            self.wrong.append(f"{outcome}: {detail}"[:300])

    def _url(self) -> str:
        return f"http://{self.address()}/api/generate"

    def _tenant(self) -> dict[str, str]:
        return {"x-paddock-tenant": self.luck.choice(TENANTS)}

    # Manners

    async def _asks(self, client: httpx.AsyncClient) -> None:
        prompt = self.luck.choice(PROMPTS)
        reply = await client.post(self._url(), json=body(prompt, stream=False), headers=self._tenant())
        if reply.status_code == 200:
            self._answered(prompt, reply.json()["response"])
        else:
            await self._refused(reply)

    async def _reads(self, client: httpx.AsyncClient) -> None:
        await self._stream(client, self.luck.choice(PROMPTS), leave=10**6, pause=0.0)

    async def _leaves(self, client: httpx.AsyncClient) -> None:
        await self._stream(client, self.luck.choice(PROMPTS), leave=self.luck.randrange(20), pause=0.0)

    async def _dawdles(self, client: httpx.AsyncClient) -> None:
        await self._stream(client, self.luck.choice(PROMPTS), leave=30, pause=self.luck.uniform(0, 0.2))

    async def _talks(self, client: httpx.AsyncClient) -> None:
        """A prompt that nobody had before, and one that goes on after it."""
        text = " ".join(str(self.luck.randrange(10**6)) for _ in range(self.luck.randrange(5, 80)))
        for _ in range(2):
            options = {"temperature": 0.9, "seed": self.luck.randrange(10**6)}
            reply = await client.post(self._url(), json=body(text, stream=False, **options), headers=self._tenant())
            if reply.status_code != 200:
                await self._refused(reply)
                return
            self.outcomes["answered"] += 1
            text += reply.json()["response"]

    async def _fills_in(self, client: httpx.AsyncClient) -> None:
        """An answer that a schema holds."""
        number = self.luck.randrange(10)
        schema = {
            "type": "object",
            "properties": {"n": {"const": number}, "ok": {"type": "boolean"}},
            "required": ["n", "ok"],
        }
        asked = {**body("Say something.", stream=False, temperature=1.0), "format": schema}
        reply = await client.post(self._url(), json=asked, headers=self._tenant())
        if reply.status_code != 200:
            await self._refused(reply)
            return
        found, ended = reply.json(), reply.json()["done_reason"]
        self.outcomes["filled in"] += 1
        if ended == "stop" and json.loads(found["response"])["n"] != number:
            self.wrong.append(f"n was to be {number}: {found['response']!r}")

    async def _errs(self, client: httpx.AsyncClient) -> None:
        long = {**body("word " * 3000, stream=False), "truncate": False}
        rubbish: tuple[Any, ...] = (long, body("x", stream=False, temperature="hot"), {"model": 7}, ["model"])
        reply = await client.post(self._url(), json=self.luck.choice(rubbish), headers=self._tenant())
        fine = reply.status_code == 400 and bool(reply.json().get("error"))
        self._note("error", fine or reply.status_code == 503, f"{reply.status_code} {reply.text}")

    # What came

    async def _stream(self, client: httpx.AsyncClient, prompt: str, leave: int, pause: float) -> None:
        asked = body(prompt, stream=True)
        async with client.stream("POST", self._url(), json=asked, headers=self._tenant()) as reply:
            if reply.status_code != 200:
                await reply.aread()
                await self._refused(reply)
                return
            text, last = "", dict[str, Any]()
            async for line in reply.aiter_lines():
                last = json.loads(line)
                text += last.get("response", "")
                leave -= 1
                if leave < 0 or "response" not in last:
                    break
                await asyncio.sleep(pause)
        self._ended(prompt, text, last)

    def _ended(self, prompt: str, text: str, last: dict[str, Any]) -> None:
        """`last` is the last line that was read of a stream."""
        if last.get("done"):
            self._answered(prompt, text)
        elif last.get("response"):
            self.outcomes["left"] += 1
        else:
            self._note("failed", time.monotonic() < self.may_break and "error" in last, f"{prompt[-40:]!r}: {last}")

    def _answered(self, prompt: str, text: str) -> None:
        expected = self.alone[prompt]
        self.outcomes["answered"] += 1
        self.outcomes["equal"] += text == expected
        if text[:SURE] != expected[:SURE]:
            self.wrong.append(f"{prompt[-40:]!r} was answered {text!r}, alone {expected!r}")

    async def _refused(self, reply: httpx.Response) -> None:
        fine = reply.status_code == 503 and bool(reply.json().get("error"))
        self._note("refused", fine, f"{reply.status_code} {reply.text}")
        await asyncio.sleep(0.1)
