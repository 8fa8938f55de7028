"""The client with a real child on a tiny model: lives, deaths, queues, slow readers."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from tests.engine.conftest import make_record, make_request
from tests.support.gguf_maker import make_gguf

from paddock_runner.core.crash import Cause
from paddock_runner.core.engine_facts import StepStats
from paddock_runner.core.generation import (
    ContextExceededError,
    Delta,
    DrainingError,
    EngineFailedError,
    EngineLoadingError,
    Event,
    Finished,
    GenerationRequest,
    InvalidRequestError,
    QueueFullError,
    Segment,
    Started,
)
from paddock_runner.engine.client import EngineClient, EngineState, EngineTimings

Make = Callable[..., Awaitable[EngineClient]]
QUICK = EngineTimings(backoff_first=0.05, backoff_most=0.2, stall=2.0)
ENDLESS = make_request(max_tokens=-1)


class Watcher:
    def __init__(self) -> None:
        self.states: list[EngineState] = []
        self.steps: list[StepStats] = []
        self.crashes: list[Cause] = []
        self.events: list[tuple[str, Event]] = []

    def on_state(self, state: EngineState) -> None:
        self.states.append(state)

    def on_step(self, stats: StepStats) -> None:
        self.steps.append(stats)

    def on_crash(self, cause: Cause) -> None:
        self.crashes.append(cause)

    def on_event(self, request_id: str, event: Event) -> None:
        self.events.append((request_id, event))


@pytest.fixture
async def client(tiny_model: Path) -> AsyncIterator[Make]:
    """Make loaded clients: `await client(path=…, load=…, **EngineClient options)`."""
    made: list[EngineClient] = []

    async def make(path: Path = tiny_model, load: bool = True, **options: object) -> EngineClient:
        record = make_record(context_length=4096, cells=16384)
        made.append(EngineClient(path, record, **{"timings": QUICK, **options}))
        if load:
            await made[-1].load()
        return made[-1]

    yield make
    for item in made:
        await item.close()


async def collect(client: EngineClient, request: GenerationRequest) -> list[Event]:
    return [event async for event in client.generate(request)]


async def exhaust(stream: AsyncIterator[Event]) -> None:
    async for _ in stream:
        pass


async def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_from_start_to_close(client: Make) -> None:
    watcher = Watcher()
    engine = await client(load=False, observer=watcher)
    assert (engine.state, engine.vocab, engine.pid) == ("starting", None, None)
    vocab = await engine.start()
    assert vocab.size == 512
    ready = await engine.load()
    assert (engine.state, ready.cells, engine.restarts) == ("ready", 16384, 0)
    events = await collect(engine, make_request())
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    assert events[-1].output_tokens == sum(len(e.tokens) for e in events if isinstance(e, Delta)) == 20
    await eventually(lambda: engine.stats is not None and engine.stats.running == 0)
    assert watcher.states == ["loading", "ready"]
    assert [event for _, event in watcher.events] == events
    assert sum(stats.decode_tokens for stats in watcher.steps) == 19
    assert engine.memory is not None
    assert engine.memory.resident > 10_000_000
    assert (engine.last_load_seconds or 0) > 0
    pid = engine.pid
    assert pid is not None
    await engine.close()
    assert not is_alive(pid)
    with pytest.raises(DrainingError):
        await collect(engine, make_request())


async def test_sigkill_mid_stream_is_a_typed_error_and_then_all_is_well(client: Make) -> None:
    engine = await client()
    streams = [engine.generate(ENDLESS) for _ in range(6)]  # four run, two wait
    for stream in streams[:4]:
        await anext(stream)
    waiting = [asyncio.ensure_future(anext(stream)) for stream in streams[4:]]
    await asyncio.sleep(0)
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    killed = time.monotonic()
    for stream in streams[:4]:
        with pytest.raises(EngineFailedError, match="ended"):
            await exhaust(stream)
    for task in waiting:
        with pytest.raises(EngineFailedError):
            await task
    assert time.monotonic() - killed < 1.0
    await eventually(lambda: engine.state == "ready")
    assert engine.restarts == 1
    assert isinstance((await collect(engine, make_request()))[-1], Finished)


async def test_requests_during_back_off_are_told_to_come_again(client: Make) -> None:
    engine = await client(timings=EngineTimings(backoff_first=1.0))
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    await eventually(lambda: "SIGKILL" in engine.reason)
    assert engine.state == "crashed"
    with pytest.raises(EngineLoadingError) as caught:
        await collect(engine, make_request())
    assert caught.value.retry_after >= 1.0


async def test_a_file_that_is_no_model_is_contained(client: Make, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.gguf"
    garbage.write_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 4000)
    engine = await client(path=garbage, load=False)
    with pytest.raises(EngineFailedError, match="does not load"):
        await engine.start()
    assert engine.state == "crashed"
    assert engine.restarts == 3
    assert engine.reason
    with pytest.raises(EngineLoadingError):
        await collect(engine, make_request())


async def test_a_hostile_vocabulary_kills_only_the_child(client: Make, tmp_path: Path) -> None:
    """An SPM vocabulary without byte tokens loads, and then any unknown character aborts llama.cpp."""
    model = make_gguf(tmp_path / "model.gguf", tokenizer="spm")
    data = model.read_bytes()
    assert data.count(b"<0xE2>") == 1
    model.write_bytes(data.replace(b"<0xE2>", b"<0xZ2>"))
    engine = await client(path=model)
    with pytest.raises(EngineFailedError):
        await collect(engine, make_request("€"))
    await eventually(lambda: engine.state == "ready")
    assert isinstance((await collect(engine, make_request("hello")))[-1], Finished)


async def test_a_death_in_a_step_is_told_by_the_shape_of_the_step(
    client: Make, caplog: pytest.LogCaptureFixture
) -> None:
    watcher = Watcher()
    engine = await client(observer=watcher)
    streams = [engine.generate(make_request("secret words", max_tokens=-1)) for _ in range(2)]
    for stream in streams:
        await anext(stream)
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGSEGV)
    for stream in streams:
        with pytest.raises(EngineFailedError):
            await exhaust(stream)
    await eventually(lambda: engine.state == "ready")
    assert watcher.crashes == ["segfault"]
    (told,) = [message for message in caplog.messages if message.startswith("engine crash (segfault)")]
    assert re.search(r"(of [12] requests \(#[12]: 1 at \d+|outside of a step, after \d+ steps)", told)
    assert "16384 cells for 4 slots" in told
    assert "secret" not in caplog.text


async def test_a_hang_is_ended_and_told(client: Make) -> None:
    engine = await client(timings=EngineTimings(backoff_first=0.05, stall=0.4))
    stream = engine.generate(ENDLESS)
    await anext(stream)
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGSTOP)
    with pytest.raises(EngineFailedError):
        await exhaust(stream)
    await eventually(lambda: engine.state == "ready")


async def test_closing_the_iterator_frees_the_slot(client: Make) -> None:
    engine = await client()
    async with aclosing(engine.generate(ENDLESS)) as stream:
        await anext(stream)
        assert engine.open_requests == 1
    assert engine.open_requests == 0
    await eventually(lambda: engine.stats is not None and engine.stats.running == 0, seconds=1.0)


async def test_a_cancelled_task_frees_the_slot(client: Make) -> None:
    engine = await client()
    task = asyncio.ensure_future(collect(engine, ENDLESS))
    await eventually(lambda: engine.stats is not None and engine.stats.running == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: engine.stats is not None and engine.stats.running == 0, seconds=1.0)


async def test_the_queue_is_bounded(client: Make) -> None:
    engine = await client(queue_depth=1)
    tasks = [asyncio.ensure_future(collect(engine, ENDLESS)) for _ in range(5)]
    await eventually(lambda: engine.stats is not None and engine.stats.running == 4)
    with pytest.raises(QueueFullError) as caught:
        await collect(engine, make_request())
    assert caught.value.retry_after >= 1
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_bad_requests_are_typed_errors(client: Make) -> None:
    engine = await client()
    with pytest.raises(ContextExceededError, match="context length is 4096"):
        await collect(engine, make_request("x" * 5000))
    with pytest.raises(InvalidRequestError, match="max_tokens"):
        await collect(engine, make_request(max_tokens=0))
    with pytest.raises(InvalidRequestError, match="Unicode"):
        await collect(engine, make_request("\udcff"))
    with pytest.raises(InvalidRequestError, match="limit"):
        await collect(engine, make_request("x" * 17_000_000))
    assert engine.open_requests == 0


async def test_unload_and_a_request_that_loads_again(client: Make) -> None:
    engine = await client()
    pid = engine.pid
    assert pid is not None
    await engine.unload()
    assert (engine.state, engine.pid, engine.memory) == ("unloaded", None, None)
    assert engine.vocab is not None
    assert not is_alive(pid)
    assert isinstance((await collect(engine, make_request()))[-1], Finished)
    assert (engine.state, engine.restarts) == ("ready", 0)


async def test_unload_waits_for_running_requests_and_new_ones_for_the_next_load(client: Make) -> None:
    engine = await client()
    running = asyncio.ensure_future(collect(engine, make_request(max_tokens=300)))
    await eventually(lambda: engine.open_requests == 1)
    unloading = asyncio.ensure_future(engine.unload())
    assert isinstance((await running)[-1], Finished)
    next_one = asyncio.ensure_future(collect(engine, make_request()))
    await unloading
    assert isinstance((await next_one)[-1], Finished)
    assert engine.restarts == 0


async def test_keep_alive_counts_from_the_last_request(client: Make) -> None:
    engine = await client()
    engine.keep_alive(0.3)
    await collect(engine, make_request())
    assert engine.state == "ready"
    await eventually(lambda: engine.state == "unloaded" and engine.pid is None, seconds=3.0)
    await collect(engine, make_request())
    engine.keep_alive(-1)
    await asyncio.sleep(0.4)
    assert engine.state == "ready"


async def test_a_slow_reader_is_held_and_loses_nothing(client: Make) -> None:
    engine = await client()
    slow = engine.generate(make_request(max_tokens=1500, logprobs=128))
    events = [await anext(slow)]
    (stream,) = engine._streams.values()
    await eventually(lambda: stream.held)
    await eventually(lambda: engine.stats is not None and engine.stats.decode_tokens == 0)
    quick = await collect(engine, make_request(max_tokens=200))
    assert isinstance(quick[-1], Finished)
    events += [event async for event in slow]
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.output_tokens == sum(len(e.tokens) for e in events if isinstance(e, Delta)) == 1500


async def test_draining_fails_open_requests(client: Make) -> None:
    engine = await client()
    stream = engine.generate(ENDLESS)
    await anext(stream)
    await engine.close()
    with pytest.raises(DrainingError):
        await exhaust(stream)


PARENT = """
import asyncio, sys
from pathlib import Path
from paddock_runner.engine.client import EngineClient
from paddock_runner.core.engine_record import EngineRecord

async def main():
    record = EngineRecord("generate", 512, 1, 512, 1, 64, 0, "f16", "f16", "auto", True, False, 0, 1)
    client = EngineClient(Path(sys.argv[1]), record)
    await client.load()
    print(client.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_the_child_does_not_survive_its_parent(tiny_model: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tiny_model)]
    parent = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    assert is_alive(pid)
    os.kill(parent.pid, signal.SIGKILL)
    await parent.wait()
    await eventually(lambda: not is_alive(pid), seconds=2.0)


async def test_prompts_never_reach_the_log(client: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    engine = await client()
    await collect(engine, GenerationRequest("r", (Segment("my-secret-prompt"),), max_tokens=3))
    await engine.close()
    assert caplog.records
    assert "my-secret-prompt" not in caplog.text
