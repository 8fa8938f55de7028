"""Parts that need no API server: looks at logs, Events, throttled statuses, the gate for rolls, settings, kopf."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import kopf
import pytest

from paddock_operator import handlers, logs, settings
from paddock_operator.__main__ import main
from paddock_operator.core.identity import child_name
from paddock_operator.core.plan_types import Note
from paddock_operator.core.resources import Ref
from paddock_operator.errors import SettingsError
from paddock_operator.executors.kube.client import Client
from paddock_operator.executors.kube.errors import ApiError
from paddock_operator.executors.kube.kinds import DEPLOYMENT, MODEL, POD, SECRET, Kind
from paddock_operator.executors.kube.login import Login
from paddock_operator.executors.kube.looks import Looks, last_event, newest
from paddock_operator.executors.kube.recorder import Recorder, is_warning, worth_an_event
from paddock_operator.executors.kube.rings import Rings
from paddock_operator.executors.kube.rolling import RollGate, rolling
from paddock_operator.executors.kube.status import StatusWriter
from paddock_operator.executors.kube.store import Store
from paddock_operator.executors.kube.world import World

KEY = Ref("Model", "default", "tiny")


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FaultyClient:
    """Answers as it is told, and remembers what was asked."""

    def __init__(self) -> None:
        self.log: str | ApiError = ""
        self.applied: list[tuple[str, Mapping[str, Any]]] = []
        self.logs = 0
        self.pages: list[dict[str, Any]] = []

    async def pod_log(self, namespace: str, pod: str, container: str, tail: int) -> str:
        self.logs += 1
        if isinstance(self.log, ApiError):
            raise self.log
        return self.log

    async def list_page(self, kind: Kind, namespace: str = "", **query: str) -> dict[str, Any]:
        return self.pages.pop(0)

    async def apply(self, kind: Kind, manifest: Mapping[str, Any], sub: str = "") -> dict[str, Any]:
        self.applied.append((kind.name, manifest))
        metadata = {**manifest["metadata"], "resourceVersion": str(100 + len(self.applied))}
        return {**manifest, "metadata": metadata}


def pod(uid: str = "u", restarts: int = 0) -> dict[str, Any]:
    status = {"containerStatuses": [{"name": "runner", "restartCount": restarts}]}
    return {"kind": "Pod", "metadata": {"name": "p", "namespace": "default", "uid": uid}, "status": status}


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def looks() -> tuple[Looks, FaultyClient, Clock, list[Ref]]:
    client, clock, rung = FaultyClient(), Clock(), list[Ref]()
    return Looks(cast(Client, client), lambda key, after: rung.append(key), clock), client, clock, rung


async def test_a_log_is_read_in_the_background_and_news_ring() -> None:
    made, client, clock, rung = looks()
    client.log = 'noise\n{"event":"state","state":"loading"}\n{"other":1}\n'
    assert made.want_log(pod(), "runner", KEY) == 1.0
    assert made.awaits_first([pod()])
    await settle()
    assert made.event(pod()) == {"event": "state", "state": "loading"}
    assert rung == [KEY]
    assert not made.awaits_first([pod()])
    assert 0 < made.want_log(pod(), "runner", KEY) <= 1.0
    assert client.logs == 1
    clock.now += 1.1
    made.want_log(pod(), "runner", KEY)
    await settle()
    assert (client.logs, rung) == (2, [KEY])


async def test_what_an_earlier_container_said_does_not_count() -> None:
    made, client, _, _ = looks()
    client.log = '{"event":"state","state":"ready"}\n'
    made.want_log(pod(), "runner", KEY)
    await settle()
    assert made.event(pod(restarts=1)) is None


async def test_a_kubelet_that_does_not_answer_is_asked_less_and_less() -> None:
    made, client, clock, rung = looks()
    client.log = ApiError(500, "InternalError", "connection refused")
    for _ in range(300):
        made.want_log(pod(), "runner", KEY)
        await settle()
        clock.now += 1.0
    assert 5 < client.logs < 15
    assert rung == [KEY]


async def test_a_hanging_first_look_holds_a_plan_for_five_seconds_only() -> None:
    made, _, clock, _ = looks()
    made.want_log(pod(), "runner", KEY)
    assert made.awaits_first([pod()])
    clock.now += 5.1
    assert not made.awaits_first([pod()])
    await made.stop()


async def test_a_pod_that_is_gone_is_forgotten() -> None:
    made, client, _, rung = looks()
    client.log = '{"event":"state"}\n'
    made.want_log(pod(), "runner", KEY)
    made.forget_pod("u")
    await settle()
    assert made.event(pod()) is None
    assert rung == []


async def test_warnings_are_read_page_by_page_and_the_newest_counts() -> None:
    made, client, _, rung = looks()
    first = {
        "involvedObject": {"uid": "u"},
        "reason": "FailedMount",
        "message": "old",
        "lastTimestamp": "2026-01-01T00:00:00Z",
    }
    second = {**first, "message": "new", "lastTimestamp": "2026-01-01T00:00:09Z"}
    ours = {
        **second,
        "message": "ours",
        "lastTimestamp": "2026-01-02T00:00:00Z",
        "source": {"component": "paddock-operator"},
    }
    client.pages = [{"items": [second, ours], "metadata": {"continue": "t"}}, {"items": [first], "metadata": {}}]
    made.want_warnings("default", KEY)
    await settle()
    assert made.warnings("default") == {"u": ("FailedMount", "new")}
    assert rung == [KEY]
    assert made.want_warnings("default", KEY) == pytest.approx(5.0)
    made.forget_namespace("default")
    assert made.warnings("default") == {}


@pytest.mark.parametrize("text", ["", "plain", "{broken", '{"event":"result"}', "[1]"])
def test_logs_without_an_event(text: str) -> None:
    assert last_event(text) is None


def test_events_of_all_three_spellings_of_time() -> None:
    base = {"involvedObject": {"uid": "u"}, "reason": "R"}
    series = {**base, "message": "series", "series": {"lastObservedTime": "2026-01-03T00:00:00Z"}}
    plain = {**base, "message": "plain", "eventTime": "2026-01-02T00:00:00Z"}
    assert newest([series, plain])["u"] == ("R", "series")
    assert newest([{"reason": "R"}]) == {}


def document(status: Mapping[str, Any] | None = None, version: str = "1") -> dict[str, Any]:
    meta = {"name": "tiny", "namespace": "default", "uid": "u", "generation": 1, "resourceVersion": version}
    return {"apiVersion": "paddock.dev/v1alpha1", "kind": "Model", "metadata": meta, "status": status or {}}


async def test_an_event_is_written_once_in_ten_minutes_and_counted() -> None:
    client, clock = FaultyClient(), Clock()
    recorder = Recorder(cast(Client, client), clock, lambda: "2026-01-01T00:00:00Z")
    notes = (Note("Crashed", "Ready is False: boom"), Note("Crashed", "Stalled is True: boom"))
    for pause in (0.0, 100.0, 700.0):
        clock.now += pause
        await recorder.record(document(), notes)
    assert [body["count"] for _, body in client.applied] == [1, 2]
    assert len({body["metadata"]["name"] for _, body in client.applied}) == 1


@pytest.mark.parametrize(
    ("note", "worth", "warning"),
    [
        (Note("Serving", "Ready is True: a pod serves"), True, False),
        (Note("NotFound", "Ready is False: no such model"), True, True),
        (Note("Loading", "Ready is False: on the way"), False, True),
        (Note("Pinned", "Resolved is True: pinned"), False, False),
        (Note("CrashLooping", "Stalled is True: crashes"), True, True),
        (Note("Suspended", "Ready is False: spec.suspend"), True, False),
        (Note("NameConflict", "NameConflict is True: x"), True, True),
    ],
)
def test_which_notes_become_events(note: Note, worth: bool, warning: bool) -> None:
    assert (worth_an_event(note), is_warning(note)) == (worth, warning)


def status(percent: int, reason: str = "Pulling") -> dict[str, Any]:
    condition = {"type": "Ready", "status": "False", "reason": reason, "message": f"{percent} %"}
    return {"observedGeneration": 1, "conditions": [condition], "pull": {"percent": percent}}


async def test_progress_is_written_every_ten_seconds_and_news_at_once() -> None:
    client, clock = FaultyClient(), Clock()
    rung: list[Ref] = []
    world = World(cast(Client, client), (), "cache", lambda *_: None, lambda _: None)
    writer = StatusWriter(cast(Client, client), world, clock)
    live = document()
    for second in range(30):
        written, wait = await writer.write(KEY, live, status(second))
        assert written == (second % 10 == 0)
        assert written or wait is not None
        if written:
            live = document(status(second), str(second + 2))
        clock.now += 1.0
    assert await writer.write(KEY, live, status(99, "Loading")) == (True, None)
    assert rung == []


async def test_an_equal_status_and_a_pruned_one_are_not_written_again() -> None:
    client, clock = FaultyClient(), Clock()
    world = World(cast(Client, client), (), "cache", lambda *_: None, lambda _: None)
    writer = StatusWriter(cast(Client, client), world, clock)
    assert await writer.write(KEY, document(status(1)), status(1)) == (False, None)
    assert await writer.write(KEY, document(), status(2)) == (True, None)
    kept = client.applied[0][1]["status"]
    assert await writer.write(KEY, document(kept), status(2)) == (False, None)
    writer._answered[KEY] = (status(3), {"observedGeneration": 1})
    assert await writer.write(KEY, document({"observedGeneration": 1}), status(3)) == (False, None)


def deployment(
    name: str, reason: str = "", generation: int = 1, observed: int = 1, replicas: int = 1
) -> dict[str, Any]:
    conditions = [{"type": "Progressing", "reason": reason}] if reason else []
    return {
        "metadata": {"name": name, "namespace": "default", "generation": generation},
        "spec": {"replicas": replicas},
        "status": {"observedGeneration": observed, "conditions": conditions},
    }


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (deployment("a", "NewReplicaSetAvailable"), False),
        (deployment("a", "ReplicaSetUpdated"), True),
        (deployment("a", "ProgressDeadlineExceeded"), False),
        (deployment("a", "NewReplicaSetAvailable", generation=2), True),
        (deployment("a", generation=2, replicas=0), False),
        ({**deployment("a", "DeploymentPaused"), "spec": {"replicas": 1, "paused": True}}, False),
    ],
)
def test_what_rolls(found: dict[str, Any], expected: bool) -> None:
    assert rolling(found) is expected


def test_the_gate_counts_what_rolls_and_what_is_about_to() -> None:
    gate = RollGate(2)
    gate.saw(DEPLOYMENT, None, deployment("a", "ReplicaSetUpdated"))
    assert gate.may_roll()
    gate.take(KEY)
    assert not gate.may_roll()
    gate.give_back(KEY)
    gate.saw(DEPLOYMENT, None, deployment("b", "ReplicaSetUpdated"))
    assert not gate.may_roll()
    gate.saw(DEPLOYMENT, deployment("b"), deployment("b", "NewReplicaSetAvailable"))
    gate.saw(DEPLOYMENT, deployment("a"), None)
    gate.saw(POD, None, pod())
    assert gate.may_roll()


def test_rings_of_a_pod_lead_to_its_model_and_of_a_key_to_the_endpoints() -> None:
    rung: list[Ref] = []
    endpoint = {"metadata": {"name": "chat", "namespace": "default"}}
    rings = Rings(lambda key, _: rung.append(key), lambda *_: (endpoint,), lambda *_: None, lambda _: None)
    rings.changed(MODEL, None, document(), False)
    assert KEY in rung
    rung.clear()
    labelled = pod()
    labelled["metadata"]["labels"] = {"paddock.dev/child": child_name(KEY)}
    rings.changed(POD, None, labelled, False)
    assert rung == [KEY]
    rung.clear()
    key = {"type": "paddock.dev/api-key", "metadata": {"name": "k", "namespace": "default"}}
    rings.changed(SECRET, None, key, False)
    assert rung == [Ref("Endpoint", "default", "chat")]


def test_a_new_digest_or_spec_rings_the_variants() -> None:
    rung: list[Ref] = []
    variant = {"metadata": {"name": "v", "namespace": "default"}, "spec": {"source": {"model": {"name": "base"}}}}
    plain = {"metadata": {"name": "p", "namespace": "default"}, "spec": {"source": {"ollama": {"name": "x"}}}}
    rings = Rings(lambda key, _: rung.append(key), lambda *_: (variant, plain), lambda *_: None, lambda _: None)
    before = {"metadata": {"name": "base", "namespace": "default", "generation": 1}}
    pinned = {**before, "status": {"resolved": {"digest": "sha256:a", "sourceHash": "h"}}}
    edited = {**pinned, "metadata": {**pinned["metadata"], "generation": 2}}
    follower = Ref("Model", "default", "v")
    for old, new, rings_it in ((before, pinned, True), (pinned, pinned, False), (pinned, edited, True)):
        rung.clear()
        rings.changed(MODEL, old, new, True)
        assert (follower in rung) is rings_it
        assert Ref("Model", "default", "p") not in rung


def test_a_store_keeps_indexes_right_when_owners_change() -> None:
    store = Store(DEPLOYMENT, lambda *_: None)
    for version, owner in (("1", "x"), ("2", "y")):
        owners = [{"controller": True, "uid": owner}]
        meta = {"name": "p", "namespace": "default", "resourceVersion": version, "ownerReferences": owners}
        store.put({"metadata": meta})
    assert store.owned("default", "x") == ()
    assert len(store.owned("default", "y")) == 1
    store.clear("default")
    assert store.within("default") == ()


SETTINGS = [
    ("workers: eight", "workers"),
    ("unknownField: 1", "unknownField"),
    ("[1]", "must be a mapping"),
    ("a: [", "cannot read settings"),
]


@pytest.mark.parametrize(("text", "named"), SETTINGS)
def test_bad_settings_name_the_field(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=named):
        settings.load(path)
    assert main(["run", "--config", str(path)]) == 2


def test_good_and_empty_settings(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("")
    assert settings.load(path).workers == 8
    path.write_text("workers: 3\nnamespaces: [a, b]\n")
    assert settings.load(path).namespaces == ("a", "b")


def test_without_credentials_it_ends_with_a_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("{}")
    assert main(["run", "--config", str(path), "--kubeconfig", str(tmp_path / "absent")]) == 1
    line = json.loads(capfd.readouterr().err.splitlines()[-1])
    assert "cannot read credentials" in line["message"]


def test_logs_are_json_with_the_traceback() -> None:
    try:
        raise ValueError("boom")
    except ValueError as error:
        record = logging.LogRecord(
            "x", logging.ERROR, "", 0, "failed: %s", ("it",), (ValueError, error, error.__traceback__)
        )
    entry = json.loads(logs.JsonFormatter().format(record))
    assert (entry["message"], entry["level"]) == ("failed: it", "error")
    assert "boom" in entry["traceback"]


def test_kopf_writes_nothing() -> None:
    made = handlers.settings()
    assert made.peering.standalone
    assert not made.posting.enabled
    registry = handlers.registry(lambda *_: None, Login())
    assert not registry._changing.get_all_handlers()
    assert not registry._spawning.get_all_handlers()
    assert made.persistence.diffbase_storage.build(body=kopf.Body({"spec": {"a": 1}})) == {}
    pauses = iter(made.networking.error_backoffs)  # type: ignore[arg-type]
    assert all(0 < next(pauses) <= 15 for _ in range(100))
