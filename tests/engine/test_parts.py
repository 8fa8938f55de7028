"""The small parts between loop and client: link, streams, log lines, the child's command line."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.engine.conftest import make_record, make_request

from paddock_runner.core.generation import Delta, EngineFailedError, Finished, TokenLogprob
from paddock_runner.engine.backend import BackendError
from paddock_runner.engine.codec import DecodeError
from paddock_runner.engine.fake import FakeBackend, Faults
from paddock_runner.engine.link import FrameLink, LinkClosedError
from paddock_runner.engine.process import parse_log_line
from paddock_runner.engine.procfs import resident_bytes
from paddock_runner.engine.protocol import (
    Cancel,
    Fatal,
    FrameReader,
    Hello,
    Load,
    Progress,
    Ready,
    Shutdown,
    Submit,
    decode,
    encode,
)
from paddock_runner.engine.startup import serve
from paddock_runner.engine.step_note import StepNote
from paddock_runner.engine.streams import HOLD_BYTES, RELEASE_BYTES, Stream, event_bytes


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, FrameLink]]:
    front, theirs = socket.socketpair()
    link = FrameLink(theirs)
    yield front, link
    front.close()
    link.close()


def test_a_link_gives_frames_in_order_and_never_blocks(pair: tuple[socket.socket, FrameLink]) -> None:
    front, link = pair
    assert link.receive() == []
    data = encode(Cancel(1)) + encode(Cancel(2)) + encode(Cancel(3))
    front.sendall(data[:12])
    first = link.receive()
    front.sendall(data[12:])
    assert [*first, *link.receive()] == [Cancel(1), Cancel(2), Cancel(3)]


def test_a_full_socket_queues_and_wait_writes_it_out(pair: tuple[socket.socket, FrameLink]) -> None:
    front, link = pair
    message = Fatal("x" * 1_000_000)
    for _ in range(5):
        link.send(message)
    assert link.backlogged
    reader, received = FrameReader(), []
    front.setblocking(False)
    deadline = time.monotonic() + 5
    while len(received) < 5 and time.monotonic() < deadline:
        received += reader.feed(front.recv(1 << 20))
        if len(received) < 5:
            link.wait()  # returns when the socket takes more
    assert [decode(payload) for payload in received] == [message] * 5
    assert not link.backlogged


def test_wake_ends_a_wait_from_another_thread(pair: tuple[socket.socket, FrameLink]) -> None:
    _, link = pair
    waiter = threading.Thread(target=link.wait)
    waiter.start()
    link.wake()
    waiter.join(5)
    assert not waiter.is_alive()


@pytest.mark.parametrize("data", [b"\xff" * 8, encode(Fatal("not for the engine")), b"\x00\x00\x00\x01\xc0"])
def test_nonsense_from_the_front_ends_the_link(pair: tuple[socket.socket, FrameLink], data: bytes) -> None:
    front, link = pair
    front.sendall(data)
    with pytest.raises((DecodeError, LinkClosedError)):
        link.receive()


def test_a_closed_front_is_noticed_in_both_directions(pair: tuple[socket.socket, FrameLink]) -> None:
    front, link = pair
    front.close()
    with pytest.raises(LinkClosedError):
        link.receive()
    with pytest.raises(LinkClosedError):
        link.send(Fatal("x"))
    with pytest.raises(LinkClosedError):
        link.drain(0.1)


def served(front: socket.socket) -> list[object]:
    front.settimeout(5)
    reader, messages = FrameReader(), []
    while data := front.recv(1 << 20):
        messages += [decode(payload) for payload in reader.feed(data)]
    return messages


def test_startup_says_hello_progress_ready_and_ends_when_asked() -> None:
    front, theirs = socket.socketpair()
    link = FrameLink(theirs)
    for message in (Load(make_record(), 10), Shutdown()):
        front.sendall(encode(message))
    serve(FakeBackend(), link, StepNote.private())
    link.close()
    with front:
        kinds = [type(message) for message in served(front)]
    assert kinds == [Hello, Progress, Ready]


@pytest.mark.parametrize("faults", [Faults(not_finite={2}), Faults(no_cells={0}), Faults(fatal={3})])
def test_a_failing_self_test_is_a_backend_error(pair: tuple[socket.socket, FrameLink], faults: Faults) -> None:
    front, link = pair
    front.sendall(encode(Load(make_record(), 10)))
    with pytest.raises(BackendError):
        serve(FakeBackend(faults=faults), link, StepNote.private())


def test_work_before_load_is_refused(pair: tuple[socket.socket, FrameLink]) -> None:
    front, link = pair
    front.sendall(encode(Submit(1, make_request())))
    with pytest.raises(LinkClosedError, match="before Load"):
        serve(FakeBackend(), link, StepNote.private())


def big(text: str) -> Delta:
    return Delta(text, (1,), ())


async def test_a_stream_asks_to_hold_once_and_to_release_once() -> None:
    stream = Stream(1, "r")
    part = big("x" * (HOLD_BYTES // 10))
    asked = [stream.put(part) for _ in range(14)]
    assert asked.count("hold") == 1
    assert sum(map(event_bytes, [part] * (asked.index("hold") + 1))) > HOLD_BYTES
    flows = [(await stream.take())[1] for _ in range(14)]
    assert flows.count("release") == 1
    assert event_bytes(part) * (13 - flows.index("release")) <= RELEASE_BYTES


async def test_a_failed_stream_gives_what_it_has_first() -> None:
    stream = Stream(1, "r")
    stream.put(big("a"))
    stream.fail(EngineFailedError("first"))
    stream.fail(EngineFailedError("second"))
    assert (await stream.take())[0] == big("a")
    with pytest.raises(EngineFailedError, match="first"):
        await stream.take()


async def test_take_waits_for_put() -> None:
    stream = Stream(1, "r")
    taking = asyncio.ensure_future(stream.take())
    await asyncio.sleep(0)
    assert not taking.done()
    stream.put(Finished("stop", None, 1, 1, 0, 0, 0))
    assert isinstance((await taking)[0], Finished)
    assert stream.ended


def test_alternatives_count_as_bytes() -> None:
    logprob = TokenLogprob(1, b"a", -1.0, tuple((n, b"ab", -2.0) for n in range(100)))
    assert event_bytes(Delta("a", (1,), (logprob,))) > 3000


@pytest.mark.parametrize(
    ("line", "parsed"),
    [
        ('{"level": "debug", "message": "loaded"}', (logging.DEBUG, "loaded")),
        ('{"level": "odd", "message": "m"}', (logging.INFO, "m")),
        ("GGML_ASSERT(x) failed", (logging.WARNING, "GGML_ASSERT(x) failed")),
        ('{"level": "debug"}', (logging.WARNING, '{"level": "debug"}')),
        ("[1, 2]", (logging.WARNING, "[1, 2]")),
    ],
)
def test_the_childs_log_lines(line: str, parsed: tuple[int, str]) -> None:
    assert parse_log_line(line) == parsed


def test_resident_memory_of_a_process() -> None:
    assert resident_bytes(os.getpid()) > 1_000_000
    assert resident_bytes(2**22 + 1) == 0


@contextmanager
def child(model: Path, parent: int, fd: int) -> Iterator[subprocess.Popen[bytes]]:
    note, page = StepNote.create()
    command = [sys.executable, "-m", "paddock_runner.engine.child", "--fd", str(fd), "--note", str(page)]
    command += ["--model", str(model), "--parent", str(parent)]
    try:
        with subprocess.Popen(command, pass_fds=[fd, page], stderr=subprocess.PIPE) as process:
            yield process
    finally:
        os.close(page)
        note.close()


def test_a_child_whose_parent_is_gone_does_nothing(tiny_model: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, child(tiny_model, 1, theirs.fileno()) as process:
        theirs.close()
        assert process.wait(10) == 0
        assert ours.recv(100) == b""


def test_a_child_tells_why_it_cannot_load(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, child(tmp_path / "missing.gguf", os.getpid(), theirs.fileno()) as process:
        theirs.close()
        (fatal,) = served(ours)
        assert process.wait(10) == 1
    assert isinstance(fatal, Fatal)
    assert "does not load" in fatal.message


def test_a_child_ignores_ctrl_c_and_ends_with_its_socket(tiny_model: Path) -> None:
    ours, theirs = socket.socketpair()
    with child(tiny_model, os.getpid(), theirs.fileno()) as process:
        theirs.close()
        ours.settimeout(10)
        assert ours.recv(1 << 16)
        process.send_signal(signal.SIGINT)
        ours.close()
        assert process.wait(10) == 0
