"""What an engine leaves behind when it dies, and what is concluded from it."""

from __future__ import annotations

import os
import signal

import pytest
from tests.engine.conftest import Harness, make_record, make_request

from paddock_runner.core.crash import Cause, LastStep, Row, crash_cause, describe, newest
from paddock_runner.engine.backend import BackendError
from paddock_runner.engine.fake import FakeBackend, Faults
from paddock_runner.engine.step_note import StepNote

READ, WRITE = Row(7, 0, 64, True), Row(5, 90, 1, False)


@pytest.mark.parametrize(
    ("code", "stalled", "ended", "memory", "cause"),
    [
        (-signal.SIGKILL, False, False, True, "memory"),
        (-signal.SIGKILL, True, False, False, "stall"),
        (-signal.SIGKILL, False, True, False, "error"),
        (-signal.SIGKILL, False, False, False, "signal"),
        (-signal.SIGTERM, False, False, False, "signal"),
        (-signal.SIGABRT, False, False, False, "abort"),
        (-signal.SIGSEGV, False, False, False, "segfault"),
        (-signal.SIGBUS, False, False, False, "segfault"),
        (1, False, False, False, "error"),
        (0, False, False, False, "error"),
    ],
)
def test_causes(code: int, stalled: bool, ended: bool, memory: bool, cause: Cause) -> None:
    assert crash_cause(code, stalled=stalled, ended=ended, out_of_memory=memory) == cause


@pytest.mark.parametrize(
    ("last", "handles"),
    [
        (LastStep(), ()),
        (LastStep(3, (WRITE, READ)), (7,)),
        (LastStep(3, (WRITE, Row(6, 4, 1, False))), (6,)),
        (LastStep(3, (READ, Row(8, 0, 9, True))), (7, 8)),
        (LastStep(3, (), 9), (9,)),
        (LastStep(3, (WRITE,), 9), (9,)),
        (LastStep(3, (READ,), 9), (9, 7)),
        (LastStep(3, (READ,), 7), (7,)),
    ],
)
def test_what_was_new_is_suspected(last: LastStep, handles: tuple[int, ...]) -> None:
    assert newest(last) == handles


def test_words_for_the_log() -> None:
    assert describe(LastStep(4), {}) == "outside of a step, after 4 steps"
    assert describe(LastStep(3, (READ, WRITE), 9), {5: "ab12"}) == (
        "in step 3, which read 64 tokens and decoded 1 of 2 requests (#7: 64 at 0, ab12: 1 at 90) "
        "and while request #9 was tokenised"
    )


def test_the_page_of_a_dead_process_is_read_by_another() -> None:
    note, descriptor = StepNote.create()
    child = os.fork()
    if child == 0:
        mine = StepNote.open(descriptor)
        mine.begin([READ])
        mine.end()
        mine.prepare(9)
        mine.begin([READ, WRITE])
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(descriptor)
    os.waitpid(child, 0)
    assert note.read() == LastStep(2, (READ, WRITE), 9)
    note.close()


def test_a_page_holds_what_fits_and_nonsense_does_no_harm() -> None:
    note = StepNote.private()
    note.begin(Row(number, 0, 1, True) for number in range(10_000))
    rows = note.read().rows
    assert 100 < len(rows) < 10_000
    assert [row.handle for row in rows] == list(range(len(rows)))
    note._page[:] = b"\xff" * len(note._page)
    assert len(note.read().rows) == len(rows)
    note.close()


def test_a_step_that_fails_stays_noted_and_one_that_does_not_is_wiped() -> None:
    harness = Harness(FakeBackend(faults=Faults(fatal={2})), make_record())
    harness.submit(4, make_request())
    with pytest.raises(BackendError):
        harness.pump(lambda: False)
    last = harness.note.read()
    assert (last.number, [(row.handle, row.reading) for row in last.rows]) == (3, [(4, False)])
    harness.close()
    whole = Harness(FakeBackend(), make_record())
    whole.submit(4, make_request())
    whole.pump(lambda: whole.is_done(4))
    assert (whole.note.read().rows, whole.note.read().preparing) == ((), 0)
    whole.close()
