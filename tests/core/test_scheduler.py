"""The scheduler against a backend that notices every wrong token, position and slot."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.kv_mirror import check_mirror

from paddock_runner.core.costs import CostModel
from paddock_runner.core.engine_record import EngineRecord
from paddock_runner.core.generation import ContextExceededError, InvalidRequestError, QueueFullError, Sampling
from paddock_runner.core.prefix import PrefixTree
from paddock_runner.core.prefix_host import HostTier
from paddock_runner.core.scheduler import MAX_PREEMPTIONS, Scheduler
from paddock_runner.core.scheduler_packing import CHUNK_UNIT
from paddock_runner.core.sequence import Sampled, Sequence, Step
from paddock_runner.engine.backend import NoCellsError
from paddock_runner.engine.cache_hands import CacheHands
from paddock_runner.engine.fake import FakeBackend

LIMIT = 96


def record(slots: int = 4, cells: int = 4096, batch: int = 64, sequences: int = 0) -> EngineRecord:
    ids = sequences or slots + 4
    return EngineRecord("generate", LIMIT, slots, cells, ids, batch, 0, "f16", "f16", "auto", True, False, 0, 1)


def scheduler(
    slots: int = 4,
    cells: int = 4096,
    batch: int = 64,
    queue_depth: int = 100,
    ms: float = 1.0,
    sequences: int = 0,
    hot: int = 1 << 20,
    host: int = 0,
) -> Scheduler:
    return Scheduler(
        slots=slots,
        cells=cells,
        batch=batch,
        queue_depth=queue_depth,
        costs=CostModel(ms),
        prefixes=PrefixTree(sequences or slots + 4, cells, HostTier(host, 1)),
        hot=hot,
    )


@dataclass
class Machine:
    """Scheduler and fake backend, as the loop joins them; time is what the cost function says."""

    scheduler: Scheduler
    backend: FakeBackend = field(default_factory=FakeBackend)
    ms_per_token: float = 1.0
    finished: dict[int, tuple[list[int], str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.hands = CacheHands(self.backend)

    def step(self, check: Callable[[Step], None] = lambda _: None) -> Step:
        step = self.scheduler.schedule()
        check(step)
        self.hands.apply(step.operations)
        check_mirror(self.scheduler.cells, self.backend, self.hands)
        if step.chunks:
            try:
                self.backend.decode(step.chunks)
            except NoCellsError:
                self._give_way(step)
            else:
                self._finish(step)
        return step

    def cancel(self, sequence: Sequence) -> None:
        self.scheduler.remove(sequence)

    def flush(self) -> None:
        """Give up what is kept; then nothing may be left."""
        self.scheduler.cells.evict(1 << 30)
        self.hands.apply(self.scheduler.cells.take_operations())
        check_mirror(self.scheduler.cells, self.backend, self.hands)
        assert self.backend.cells == {}
        assert self.scheduler.running == self.scheduler.waiting == self.scheduler.cells.used == 0

    def _give_way(self, step: Step) -> None:
        victim = self.scheduler.make_room(step)
        if victim is not None:
            self.cancel(victim)
            self.finished[victim.key] = victim.tokens, "failed"

    def _finish(self, step: Step) -> None:
        sampler = self.backend.open_sampler(Sampling(temperature=0), ())
        outputs = [chunk.sequence for chunk in step.chunks if chunk.output]
        sampled = []
        for row, sequence in enumerate(outputs):
            token = self.backend.sample(row, sampler)
            sampled.append(Sampled(sequence, token, self.backend.is_end(token)))
        tokens = sum(len(chunk.tokens) for chunk in step.chunks)
        for sequence, reason in self.scheduler.postprocess(step, sampled, tokens * self.ms_per_token):
            self.cancel(sequence)
            self.finished[sequence.key] = sequence.tokens, reason


def alone(prompt: list[int], max_tokens: int) -> list[int]:
    """What the fake model says when nobody else is there and the whole prompt is one chunk."""
    machine = Machine(scheduler(slots=1, batch=LIMIT))
    machine.backend.load(record(slots=1, batch=LIMIT), lambda _: None)
    machine.scheduler.add(Sequence(0, list(prompt), LIMIT, max_tokens))
    while 0 not in machine.finished:
        machine.step()
    return machine.finished[0][0]


BEGINNINGS = [[], [1] * 20, [1] * 20 + [2] * 30, [3] * 60]
prompts = st.builds(
    lambda beginning, rest: (BEGINNINGS[beginning] + rest)[: LIMIT - 1],
    st.integers(0, 3),
    st.lists(st.integers(0, 255), min_size=1, max_size=LIMIT - 1),
)
requests = st.lists(st.tuples(prompts, st.integers(1, 20)), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(
    requests,
    st.integers(1, 4),
    st.integers(8, 64),
    st.integers(LIMIT, 400),
    st.floats(0.1, 40),
    st.integers(0, 5),
    st.sampled_from([0, 40, 1000]),
    st.sampled_from([0, 150, 1000]),
)
def test_sequences_together_say_what_each_says_alone(
    wanted: list[tuple[list[int], int]], slots: int, batch: int, cells: int, ms: float, more: int, hot: int, host: int
) -> None:
    ids = slots + more
    machine = Machine(scheduler(slots, cells, batch, ms=ms, sequences=ids, hot=hot, host=host), ms_per_token=ms)
    machine.backend.load(record(slots, cells, batch, ids), lambda _: None)
    for key, (prompt, max_tokens) in enumerate(wanted):
        machine.scheduler.add(Sequence(key, list(prompt), LIMIT, max_tokens))
    for _ in range(4000):
        if len(machine.finished) == len(wanted):
            break
        machine.step(lambda step: check_step(step, slots, batch))
    for key, (prompt, max_tokens) in enumerate(wanted):
        tokens, reason = machine.finished[key]
        expected = alone(prompt, max_tokens)
        assert tokens == expected if reason != "failed" else tokens == expected[: len(tokens)]
    machine.flush()


def check_step(step: Step, slots: int, batch: int) -> None:
    assert 0 < sum(len(chunk.tokens) for chunk in step.chunks) <= batch
    assert len({chunk.sequence.key for chunk in step.chunks}) == len(step.chunks) <= slots
    for chunk in step.chunks:
        whole = chunk.start + len(chunk.tokens) == len(chunk.sequence.tokens)
        assert chunk.output == whole
        small = len(chunk.tokens) < CHUNK_UNIT and len(step.chunks) == 1
        assert whole or small or len(chunk.tokens) % CHUNK_UNIT == 0


@settings(max_examples=40, deadline=None)
@given(requests, st.lists(st.tuples(st.integers(0, 7), st.sampled_from(["cancel", "hold", "release"])), max_size=30))
def test_cancel_and_hold_at_any_moment_disturb_nobody_else(
    wanted: list[tuple[list[int], int]], actions: list[tuple[int, str]]
) -> None:
    machine = Machine(scheduler(slots=3))
    machine.backend.load(record(slots=3), lambda _: None)
    sequences = [Sequence(key, list(prompt), LIMIT, most) for key, (prompt, most) in enumerate(wanted)]
    for sequence in sequences:
        machine.scheduler.add(sequence)
    cancelled = set()
    for number, action in actions:
        sequence = sequences[number % len(sequences)]
        assert machine.scheduler.running <= 3
        if action == "cancel" and sequence.key not in machine.finished and sequence.key not in cancelled:
            machine.cancel(sequence)
            cancelled.add(sequence.key)
        sequence.held = action == "hold"
        assert all(not chunk.sequence.held for chunk in machine.step().chunks)
    for sequence in sequences:
        sequence.held = False
    for _ in range(2000):
        machine.step()
    assert machine.finished.keys() | cancelled == set(range(len(wanted)))
    for key, (tokens, _) in machine.finished.items():
        assert tokens == alone(*wanted[key])
    machine.flush()


def test_first_come_first_served() -> None:
    machine = Machine(scheduler(slots=2))
    machine.backend.load(record(slots=2), lambda _: None)
    for key in range(6):
        machine.scheduler.add(Sequence(key, [key + 1], LIMIT, 3))
    order: list[int] = []
    while len(machine.finished) < 6:
        order += [sequence.key for sequence in machine.step().admitted]
    assert order == list(range(6))


def test_decode_goes_first_and_a_step_with_it_stays_short() -> None:
    """Reading takes at most three times as long as decoding does: five decode in 10 ms, so 15 tokens would fit."""
    plan = scheduler(slots=6, batch=64, ms=2.0)
    talking = [Sequence(key, [1], LIMIT) for key in range(5)]
    for sequence in talking:
        plan.add(sequence)
    plan.postprocess(plan.schedule(), [Sampled(one, 5, False) for one in talking], 10.0)
    plan.add(Sequence(5, [1] * 90, LIMIT))
    sizes = []
    for _ in range(12):
        step = plan.schedule()
        sizes.append((step.costs.decode_tokens, step.costs.prefill_tokens))
        plan.postprocess(
            step, [Sampled(c.sequence, 5, False) for c in step.chunks if c.output], 10 + sizes[-1][1] * 1.0
        )
    assert all(decoded >= 5 for decoded, _ in sizes), "nobody is left out"
    assert max(read for _, read in sizes) <= 32
    assert sum(read for _, read in sizes) == 90


def test_alone_a_prompt_may_fill_the_step() -> None:
    plan = scheduler(batch=64, ms=2.0)
    plan.add(Sequence(1, [1] * 90, LIMIT))
    assert plan.schedule().costs.prefill_tokens == 64


def test_chunks_follow_the_learned_cost() -> None:
    plan = scheduler(batch=512, ms=1.0)
    long = Sequence(0, [1] * 3000, 4096)
    plan.add(long)
    first = plan.schedule()
    assert len(first.chunks[0].tokens) == 144
    plan.postprocess(first, [], 432.0)  # three times slower than thought
    assert len(plan.schedule().chunks[0].tokens) == 32


def test_a_busy_machine_does_not_shrink_batches_to_nothing() -> None:
    """Each step costs 180 ms, however few tokens it has; small chunks would only make the prompt take for ever."""
    plan = scheduler(slots=8, batch=512, ms=7.0)
    long = Sequence(0, [1] * 1600, 4096)
    plan.add(long)
    steps = 0
    while plan.cells.used < 1600:
        plan.postprocess(plan.schedule(), [], 180.0)
        steps += 1
    assert steps <= 101
    plan.remove(long)
    sequences = [Sequence(key, [1], LIMIT) for key in range(8)]
    for sequence in sequences:
        plan.add(sequence)
    for _ in range(40):
        step = plan.schedule()
        plan.postprocess(step, [Sampled(c.sequence, 5, False) for c in step.chunks if c.output], 180.0)
    assert len(plan.schedule().chunks) == 8


def test_a_slow_model_gets_chunks_below_the_grid() -> None:
    plan = scheduler(batch=512, ms=60.0)
    plan.add(Sequence(0, [1] * 100, 4096))
    assert len(plan.schedule().chunks[0].tokens) == 3


@pytest.mark.parametrize(("fixed", "each", "most"), [(40, 2, 32), (20, 7, 16), (10, 20, 6), (3, 3, 48), (150, 0.5, 16)])
def test_chunks_grow_to_what_a_step_can_take(fixed: float, each: float, most: int) -> None:
    """Also from a bad start: the time of the first token was taken while the machine was busy."""
    plan = scheduler(batch=512, ms=50.0)
    plan.add(Sequence(0, [1] * 3000, 4096))
    sizes = []
    for _ in range(30):
        step = plan.schedule()
        sizes.append(step.costs.prefill_tokens)
        plan.postprocess(step, [], fixed + each * sizes[-1])
    assert statistics.median(sizes[10:]) >= most
    assert fixed + each * max(sizes) <= 200


def test_steps_stay_below_the_bound_when_the_first_estimate_is_right() -> None:
    plan = scheduler(batch=512, ms=3.0)
    plan.add(Sequence(0, [1] * 1000, 4096))
    while plan.cells.used < 1000:
        step = plan.schedule()
        milliseconds = sum(len(chunk.tokens) for chunk in step.chunks) * 3.0
        assert milliseconds <= 200
        plan.postprocess(step, [], milliseconds)


def test_a_prompt_is_never_starved_by_decoding() -> None:
    plan = scheduler(slots=2, ms=149.0)
    talking = Sequence(0, [1], LIMIT)
    plan.add(talking)
    plan.postprocess(plan.schedule(), [Sampled(talking, 5, False)], 149.0)
    plan.add(Sequence(1, [1] * 20, LIMIT))
    fed = 0
    for _ in range(4):
        step = plan.schedule()
        fed += step.costs.prefill_tokens
        plan.postprocess(step, [Sampled(c.sequence, 5, False) for c in step.chunks if c.output], 149.0)
    assert fed > 0


def test_decoders_take_turns_when_a_step_cannot_hold_all() -> None:
    plan = scheduler(slots=4, ms=60.0)
    sequences = [Sequence(key, [1], LIMIT) for key in range(4)]
    for sequence in sequences:
        plan.add(sequence)
    for _ in range(20):
        step = plan.schedule()
        sampled = [Sampled(chunk.sequence, 5, False) for chunk in step.chunks if chunk.output]
        plan.postprocess(step, sampled, 60.0 * len(step.chunks))
    counts = [sequence.generated for sequence in sequences]
    assert min(counts) > 0
    assert max(counts) - min(counts) <= 2


def test_length_at_the_context_limit() -> None:
    machine = Machine(scheduler())
    machine.backend.load(record(), lambda _: None)
    machine.scheduler.add(Sequence(0, [7] * 90, 95))
    while not machine.finished:
        machine.step()
    tokens, reason = machine.finished[0]
    assert (len(tokens), reason) == (95, "length")


def test_the_end_token_ends() -> None:
    plan = scheduler()
    sequence = Sequence(0, [1], LIMIT)
    plan.add(sequence)
    assert plan.postprocess(plan.schedule(), [Sampled(sequence, 257, True)], 1.0) == [(sequence, "stop")]


def test_refusals_change_nothing() -> None:
    plan = scheduler(queue_depth=1)
    with pytest.raises(InvalidRequestError, match="prompt"):
        plan.add(Sequence(0, [], LIMIT))
    with pytest.raises(ContextExceededError, match=f"{LIMIT} tokens, but the context length is {LIMIT}"):
        plan.add(Sequence(0, [1] * LIMIT, LIMIT))
    plan.add(Sequence(0, [1], LIMIT))
    with pytest.raises(QueueFullError):
        plan.add(Sequence(1, [1], LIMIT))
    assert plan.waiting == 1


def test_the_newest_gives_way_and_comes_back_first() -> None:
    plan = scheduler(slots=2)
    old, new, later = (Sequence(key, [1] * 8, LIMIT) for key in range(3))
    for sequence in (old, new, later):
        plan.add(sequence)
    step = plan.schedule()
    assert plan.make_room(step) is None
    assert (new.slot, new.cached, plan.running, plan.waiting) == (-1, 0, 1, 2)
    assert plan.schedule().admitted == [new]


def test_nobody_gives_way_alone_or_for_ever() -> None:
    plan = scheduler(slots=2)
    first, second = Sequence(0, [1], LIMIT), Sequence(1, [1], LIMIT)
    plan.add(first)
    assert plan.make_room(plan.schedule()) is first
    plan.add(second)
    for _ in range(MAX_PREEMPTIONS):
        assert plan.make_room(plan.schedule()) is None
    assert plan.make_room(plan.schedule()) is second


def test_nobody_is_admitted_without_cells() -> None:
    plan = scheduler(slots=2, cells=20)
    plan.add(Sequence(0, [1] * 12, LIMIT))
    plan.add(Sequence(1, [1] * 12, LIMIT))
    assert [sequence.key for sequence in plan.schedule().admitted] == [0]


def test_a_prompt_that_many_share_is_read_once() -> None:
    machine = Machine(scheduler(slots=8, batch=32))
    machine.backend.load(record(slots=8, batch=32), lambda _: None)
    shared = list(range(64))
    for key in range(8):
        machine.scheduler.add(Sequence(key, [*shared, 100 + key, 7], LIMIT, 5))
    read = 0
    while len(machine.finished) < 8:
        read += machine.step().costs.prefill_tokens
    assert read <= 64 + 8 * 2
    for key in range(8):
        assert machine.finished[key][0] == alone([*shared, 100 + key, 7], 5)


def test_other_prompts_pass_those_that_wait_for_one() -> None:
    plan = scheduler(slots=3, batch=32)
    for key, first in enumerate([1, 1, 2, 3]):
        plan.add(Sequence(key, [first] * 80, LIMIT, 5))
    assert [sequence.key for sequence in plan.schedule().admitted] == [0, 2], (
        "and the last place is kept for the second"
    )


@pytest.mark.parametrize("event", ["cancel", "hold", "preempt"])
def test_waiting_for_a_prompt_ends_with_its_reader(event: str) -> None:
    plan = scheduler(slots=3, batch=32)
    reader, waiting = Sequence(0, [1] * 80, LIMIT), Sequence(1, [1] * 80, LIMIT)
    plan.add(reader)
    plan.add(waiting)
    step = plan.schedule()
    assert step.admitted == [reader]
    plan.postprocess(step, [], 1.0)
    assert plan.schedule().admitted == []
    if event == "cancel":
        plan.remove(reader)
    elif event == "hold":
        reader.held = True
    else:
        plan.add(other := Sequence(2, [9] * 20, LIMIT))
        assert plan.schedule().admitted == [other]
        plan.remove(reader)
    assert plan.schedule().admitted == [waiting]
    assert waiting.cached == 32


def test_spoilt_cells_are_kept_by_nobody() -> None:
    machine = Machine(scheduler())
    machine.backend.load(record(), lambda _: None)
    machine.scheduler.add(Sequence(0, [1] * 40, LIMIT, 1))
    machine.scheduler.add(broken := Sequence(1, [2] * 40, LIMIT, 9))
    while 0 not in machine.finished:
        machine.step()
    assert machine.scheduler.cells.retained == 40
    machine.scheduler.remove(broken, spoilt=True)
    assert machine.scheduler.cells.used == 0
