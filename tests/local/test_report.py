"""What a user is told: lines, events, `ready` once; and statuses of objects that nobody serves."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from paddock_operator.core.conditions import find
from paddock_operator.core.resources import Ref
from paddock_operator.executors.local import state
from paddock_operator.executors.local.announce import Announcer
from paddock_operator.executors.local.home import Home
from paddock_operator.executors.local.machine import memory
from paddock_operator.executors.local.objects import adopt
from paddock_operator.executors.local.report import JsonReporter, TextReporter
from paddock_operator.executors.local.status import not_running
from paddock_operator.executors.local.terminal import TerminalReporter
from paddock_operator.executors.local.yamlread import Document

A, M = Ref("Endpoint", "default", "a"), Ref("Model", "default", "m")
NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


def status(ready: str, reason: str = "R", generation: int = 1, **more: str) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": ready, "reason": reason, "message": "m", "lastTransitionTime": NOW}]
    conditions += [{"type": kind, "status": value, "reason": "R", "message": "n"} for kind, value in more.items()]
    return {"observedGeneration": generation, "conditions": conditions}


def body(generation: int = 1) -> dict[str, Any]:
    return {"metadata": {"generation": generation}}


class Text:
    def __init__(self) -> None:
        self.out, self.err = io.StringIO(), io.StringIO()
        self.reporter = TextReporter(self.out, self.err)
        self.urls: list[dict[str, str]] = []
        self.announcer = Announcer(self.reporter, lambda urls: self.urls.append(dict(urls)))


def test_ready_is_said_once_when_everything_is_ready() -> None:
    text = Text()
    bodies, urls = {M: body(), A: body()}, {A: "http://x"}
    text.announcer.status(A, status("True"))
    text.announcer.status(M, status("False"))
    text.announcer.settled(bodies, urls)
    assert text.out.getvalue() == ""
    assert text.urls == [{"default/a": "http://x"}], "the CLI may talk to an Endpoint before all is ready"
    text.announcer.status(M, status("True"))
    text.announcer.settled(bodies, urls)
    text.announcer.settled(bodies, urls)
    assert text.out.getvalue() == "ready http://x\n"
    text.announcer.forget(A)
    other = Ref("Endpoint", "default", "b")
    text.announcer.status(other, status("True"))
    text.announcer.settled({M: body(), other: body()}, {other: "http://y"})
    assert text.out.getvalue() == "ready http://x\n", "exactly one line in a run"
    assert "http://y" in text.err.getvalue()


def test_an_old_generation_is_not_ready() -> None:
    text = Text()
    text.announcer.status(A, status("True", generation=1))
    text.announcer.settled({A: body(2)}, {A: "http://x"})
    assert text.out.getvalue() == ""


def test_each_endpoint_is_announced_once_in_json() -> None:
    out = io.StringIO()
    announcer = Announcer(JsonReporter(out, io.StringIO()), lambda urls: None)
    b = Ref("Endpoint", "team", "b")
    for ref in (A, b):
        announcer.status(ref, status("True"))
    for _ in range(2):
        announcer.settled({A: body(), b: body()}, {A: "http://x", b: "http://y"})
    ready = [event for event in map(json.loads, out.getvalue().splitlines()) if event["event"] == "ready"]
    assert [(event["url"], event["endpoint"]) for event in ready] == [("http://x", "default/a"), ("http://y", "team/b")]


def test_conditions_are_reported_when_they_change() -> None:
    out = io.StringIO()
    announcer = Announcer(JsonReporter(out, io.StringIO()), lambda urls: None)
    for _ in range(3):
        announcer.status(M, status("False", Available="False"))
    announcer.status(M, status("True", Available="False"))
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(event["type"], event["status"]) for event in events] == [
        ("Ready", "False"),
        ("Available", "False"),
        ("Ready", "True"),
    ]
    assert events[0] == {
        "event": "condition",
        "kind": "Model",
        "namespace": "default",
        "name": "m",
        "type": "Ready",
        "status": "False",
        "reason": "R",
        "message": "m",
    }


def test_text_shows_what_matters() -> None:
    text = Text()
    for kind, value, message in (
        ("Ready", "False", "no such model"),
        ("Ready", "False", "no such model (attempt 2)"),
        ("Available", "False", "x"),
        ("ModelsReady", "False", "one of two"),
        ("ModelsReady", "False", "one of three"),
        ("Fits", "True", "x"),
        ("NameConflict", "True", "x stays with y"),
        ("Ready", "True", "serves"),
    ):
        text.reporter.condition(M, {"type": kind, "status": value, "reason": "R", "message": message})
    assert text.err.getvalue().splitlines() == [
        "Model default/m: Ready=False R: no such model",
        "Model default/m: ModelsReady=False R: one of two",
        "Model default/m: NameConflict=True R: x stays with y",
        "Model default/m: Ready=True R: serves",
    ]


def test_a_reader_that_went_away_is_no_error() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    TextReporter(Gone(), Gone()).key("n", "s")
    JsonReporter(Gone(), Gone()).ready(A, "u", True)


def test_the_terminal_view(capsys: pytest.CaptureFixture[str]) -> None:
    screen = io.StringIO()
    reporter = TerminalReporter(Console(file=screen, force_terminal=True, width=120))
    reporter.condition(M, {"type": "Ready", "status": "False", "reason": "Pulling", "message": "[half]"})
    reporter.progress(M, "sha256:a", 500_000_000, 1_000_000_000, 1e6)
    reporter.key("default", "pdk_x")
    reporter.ready(A, "http://x", True)
    reporter.progress(M, "sha256:a", 1_000_000_000, 1_000_000_000, 1e6)
    reporter.forget(M)
    reporter.error("trouble")
    reporter.close()
    shown = screen.getvalue()
    for words in ("Pulling", "[half]", "GB", "-:--:--", "error: trouble"):
        assert words in shown
    assert capsys.readouterr().out == "key default pdk_x\nready http://x\n"


def test_not_running_keeps_facts_and_drops_verdicts() -> None:
    before = status("True", Available="True", Resolved="True") | {"readyReplicas": 1, "resolved": {"digest": "d"}}
    after = not_running(before, LATER)
    assert {entry["type"]: entry["status"] for entry in after["conditions"]} == {
        "Ready": "Unknown",
        "Available": "False",
        "Resolved": "True",
    }
    ready = find(after, "Ready")
    assert (ready["reason"], ready["lastTransitionTime"]) == ("NotRunning", LATER)
    assert (after["readyReplicas"], after["resolved"]) == (0, {"digest": "d"})
    assert not_running(after, "2026-02-02T00:00:00Z") == after, "the second time nothing changes"
    assert find({}, "Ready") == {}


def test_generation_and_creation_are_remembered(tmp_path: Path) -> None:
    home = Home.at(tmp_path)

    def document(context: int, label: str = "x") -> Document:
        spec = {"source": {"ollama": {"name": "a"}}, "serving": {"contextLength": context}}
        return Document("f", 1, {"kind": "Model", "metadata": {"name": "m", "labels": {"l": label}}, "spec": spec})

    first = adopt(home, M, document(1), None, NOW)
    assert first.body["metadata"] == {
        "name": "m",
        "labels": {"l": "x"},
        "namespace": "default",
        "generation": 1,
        "creationTimestamp": NOW,
    }
    state.write(home, first.body, status("True"))
    again = adopt(home, M, document(1, "y"), None, LATER)
    assert (again.body["metadata"]["generation"], again.body["metadata"]["creationTimestamp"]) == (1, NOW)
    assert find(again.status, "Ready")["reason"] == "NotRunning"
    changed = adopt(home, M, document(2), again, LATER)
    assert changed.parsed.generation == 2
    assert changed.status == again.status


def test_state_files(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    document = {"kind": "Model", "metadata": {"name": "m", "namespace": "default"}, "spec": {}}
    assert state.write(home, document, {"a": 1})
    assert not state.write(home, document, {"a": 1})
    assert state.stored(home, "Model") == [M]
    assert state.read(home, M) == document | {"status": {"a": 1}}
    state.path(home, M).write_text("{")
    assert state.read(home, M) is None
    state.remove(home, M)
    state.remove(home, M)
    assert state.stored(home, "Model") == []


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 0),
        ({"proc/meminfo": "MemTotal:  100 kB\n"}, 102400),
        ({"proc/meminfo": "MemTotal:  100 kB\n", "sys/fs/cgroup/memory.max": "max\n"}, 102400),
        ({"proc/meminfo": "MemTotal:  100 kB\n", "sys/fs/cgroup/memory.max": "5000\n"}, 5000),
        ({"proc/meminfo": "x", "sys/fs/cgroup/memory/memory.limit_in_bytes": "7000\n"}, 7000),
    ],
)
def test_memory_of_the_machine(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory(tmp_path) == expected
