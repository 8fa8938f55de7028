"""Whatever a server answers, a download ends, in the right bytes or a typed error. `ANSWERS` pulls per seed (15)."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from tests.support.downloads import CHUNK, Pull, random_file
from tests.support.fault_server import FaultServer, serving, span, whole

from paddock_runner.store.errors import StoreError
from paddock_runner.store.store import Store

PULLS = int(os.environ.get("ANSWERS", "15"))
DATA = random_file(6 * CHUNK + 77)


@dataclass
class Answer:
    """A right answer to a request, to be spoilt. `length` is declared instead of the body's own, -1: none is."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None


Spoil = Callable[[random.Random, Answer], None]


def a_status(luck: random.Random, answer: Answer) -> None:
    answer.status = luck.choice([200, 206, 204, 301, 304, 400, 401, 403, 404, 416, 429, 500, 503])


def a_range(luck: random.Random, answer: Answer) -> None:
    first, size = luck.randrange(-2, len(DATA)), luck.randrange(-2, len(DATA))
    answer.headers["Content-Range"] = luck.choice(
        [
            f"bytes {first}-{first + size}/{len(DATA)}",
            f"bytes 0-{len(DATA)}/{len(DATA)}",
            "bytes */10",
            "bytes 5-1/3",
            "",
        ]
    )


def cut(luck: random.Random, answer: Answer) -> None:
    answer.body = answer.body[: luck.randrange(len(answer.body) + 1)]


def longer(luck: random.Random, answer: Answer) -> None:
    answer.body += bytes(luck.randrange(1, 100))


def other_bytes(luck: random.Random, answer: Answer) -> None:
    at = luck.randrange(len(answer.body) + 1)
    answer.body = answer.body[:at] + b"\0" + answer.body[at + 1 :]


def a_length(luck: random.Random, answer: Answer) -> None:
    answer.length = luck.choice([-1, 0, len(answer.body) + 10, max(0, len(answer.body) - 10), 10**15])


def a_header(luck: random.Random, answer: Answer) -> None:
    name, value = luck.choice(
        [("ETag", '"a"'), ("ETag", '"b"'), ("ETag", 'W/"a"'), ("Content-Encoding", "gzip"), ("Location", "//"),
         ("Location", "https://127.0.0.1/"), ("Retry-After", "0"), ("Retry-After", "-1")]
    )  # fmt: skip
    answer.headers[name] = value


def the_whole(luck: random.Random, answer: Answer) -> None:
    answer.status, answer.body = 200, DATA


def a_page(luck: random.Random, answer: Answer) -> None:
    answer.status, answer.body = 200, b"<html>" * luck.randrange(1, 2000)


SPOILS: tuple[Spoil, ...] = (
    a_status, a_range, cut, longer, other_bytes, a_length, a_header, the_whole, a_page,
)  # fmt: skip


def anything(luck: random.Random) -> Callable[[FaultServer, BaseHTTPRequestHandler], None]:
    def behave(server: FaultServer, request: BaseHTTPRequestHandler) -> None:
        start, end, ranged = span(server, request)
        answer = Answer(206 if ranged else 200, DATA[start:end])
        if ranged:
            answer.headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(DATA)}"
        for spoil in luck.choices(SPOILS, k=luck.choice([0, 0, 1, 1, 2])):
            spoil(luck, answer)
        with contextlib.suppress(OSError):
            send(request, answer)

    return behave


def send(request: BaseHTTPRequestHandler, answer: Answer) -> None:
    request.close_connection = True
    request.send_response(answer.status)
    for name, value in answer.headers.items():
        request.send_header(name, value)
    if answer.length != -1:
        request.send_header("Content-Length", str(len(answer.body) if answer.length is None else answer.length))
    request.end_headers()
    request.wfile.write(answer.body)


@pytest.mark.parametrize("seed", range(4))
async def test_any_answer(tmp_path: Path, seed: int) -> None:
    luck = random.Random(seed)
    done = 0
    with serving(DATA) as server:
        server.script = [anything(luck)]
        for number in range(PULLS):
            # Some begin with what another left.
            store = Store(tmp_path / str(number % 3))
            size = luck.choice([len(DATA), None])
            with contextlib.suppress(StoreError):
                await Pull(store, server.url, server.digest, size, connections=luck.choice([1, 3])).run()
                done += 1
            blob = store.blob_path(server.digest)
            if blob.exists():
                assert blob.read_bytes() == DATA
                shutil.rmtree(store.path)
        server.script[:] = [whole]
        store = Store(tmp_path / "0")
        await Pull(store, server.url, server.digest).run()
        assert store.blob_path(server.digest).read_bytes() == DATA
    assert done > 0
