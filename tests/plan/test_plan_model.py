"""The life of a Model, state by state: what is asked for, and what its conditions say."""

from __future__ import annotations

from typing import Any

import pytest
from tests.plan.world import T0, T1, A, B, Machine, condition, crashed, failed, make_model, observe, pulled, ready

from paddock_operator.core.conditions import REASONS
from paddock_operator.core.identity import config_hash, source_hash
from paddock_operator.core.observed import PullObserved, RunnerObserved
from paddock_operator.core.plan import plan_model
from paddock_operator.core.resources import Model
from paddock_operator.core.schema import Schemas, status_problems

MODEL = make_model()
KEY = source_hash(MODEL.spec.source)
SERVE = plan_model(observe(MODEL, pull=pulled(KEY))).serve
assert SERVE is not None
GOOD = plan_model(observe(MODEL, pull=pulled(KEY), runner=ready(SERVE))).status

# name, model, what is seen; then (status, reason) of Ready, Available, Resolved, Cached, Reconciling, Stalled
NONE = ("", "")
TABLE: list[tuple[str, Model, dict[str, Any], dict[str, tuple[str, str]]]] = [
    (
        "new", MODEL, {},
        {"Ready": ("False", "Resolving"), "Available": ("False", "NoRunner"), "Resolved": ("Unknown", "Resolving"),
         "Cached": ("Unknown", "Resolving"), "Reconciling": ("True", "Resolving"), "Stalled": NONE},
    ),
    (
        "a pull of another source is no pull of this one", MODEL, {"pull": pulled("other")},
        {"Ready": ("False", "Resolving"), "Resolved": ("Unknown", "Resolving")},
    ),
    (
        "not found, retried", MODEL, {"pull": failed(KEY, "NotFound", retryable=True)},
        {"Ready": ("False", "NotFound"), "Resolved": ("False", "NotFound"), "Cached": ("False", "NotFound"),
         "Reconciling": ("True", "NotFound"), "Stalled": NONE},
    ),
    (
        "not a GGUF", MODEL, {"pull": failed(KEY, "NotGGUF")},
        {"Ready": ("False", "NotGGUF"), "Reconciling": NONE, "Stalled": ("True", "NotGGUF")},
    ),
    (
        "an unknown reason of the puller stays in the closed list", MODEL, {"pull": failed(KEY, "Odd", retryable=True)},
        {"Ready": ("False", "PullFailed"), "Reconciling": ("True", "PullFailed")},
    ),
    (
        "pulled, no runner yet", MODEL, {"pull": pulled(KEY)},
        {"Ready": ("False", "Starting"), "Resolved": ("True", "Pinned"), "Cached": ("True", "Verified"),
         "Fits": ("True", "Fits"), "Reconciling": ("True", "Starting")},
    ),
    (
        "loading", MODEL, {"pull": pulled(KEY), "runner": RunnerObserved("loading")},
        {"Ready": ("False", "Loading"), "Available": ("False", "RunnerNotReady"), "Reconciling": ("True", "Loading")},
    ),
    (
        "serving", MODEL, {"pull": pulled(KEY), "runner": ready(SERVE)},
        {"Ready": ("True", "Serving"), "Available": ("True", "RunnerReady"), "Reconciling": NONE, "Stalled": NONE},
    ),
    (
        "unloaded for idleness is ready", MODEL,
        {"pull": pulled(KEY), "runner": RunnerObserved("unloaded", config_hash(SERVE), A)},
        {"Ready": ("True", "Serving"), "Available": ("True", "RunnerReady")},
    ),
    (
        "ready with another configuration", MODEL, {"pull": pulled(KEY), "runner": RunnerObserved("ready", "old", A)},
        {"Ready": ("False", "Configuring"), "Available": ("True", "RunnerReady"),
         "Reconciling": ("True", "Configuring")},
    ),
    (
        "ready with another digest", MODEL,
        {"pull": pulled(KEY), "runner": RunnerObserved("ready", config_hash(SERVE), B)},
        {"Ready": ("False", "Configuring")},
    ),
    (
        "first crash while loading", MODEL, {"pull": pulled(KEY), "runner": crashed(1)},
        {"Ready": ("False", "Crashed"), "Available": ("False", "RunnerNotReady"), "Reconciling": ("True", "Crashed")},
    ),
    (
        "never loads", MODEL, {"pull": pulled(KEY), "runner": crashed(3)},
        {"Ready": ("False", "CrashLooping"), "Reconciling": NONE, "Stalled": ("True", "CrashLooping")},
    ),
    (
        "a proven model that crashes is neither reconciling nor stalled", MODEL,
        {"status": GOOD, "pull": pulled(KEY), "runner": crashed(7)},
        {"Ready": ("False", "CrashLooping"), "Reconciling": NONE, "Stalled": NONE},
    ),
    (
        "after a restart of the operator the pin is verified again", MODEL, {"status": GOOD},
        {"Ready": ("False", "Verifying"), "Resolved": ("True", "Pinned"), "Cached": ("Unknown", "Verifying"),
         "Reconciling": NONE},
    ),
    (
        "a running runner proves the bytes before the puller does", MODEL, {"status": GOOD, "runner": ready(SERVE)},
        {"Ready": ("True", "Serving"), "Cached": ("True", "Verified")},
    ),
    (
        "the bytes are gone", MODEL, {"status": GOOD, "pull": failed(KEY, "NotFound"), "runner": crashed(1)},
        {"Ready": ("False", "NotFound"), "Resolved": ("True", "Pinned"), "Stalled": ("True", "NotFound")},
    ),
    (
        "suspended", make_model(2, suspend=True), {"status": GOOD, "pull": pulled(KEY), "runner": ready(SERVE)},
        {"Ready": ("False", "Suspended"), "Resolved": ("True", "Pinned"), "Reconciling": NONE, "Stalled": NONE},
    ),
    (
        "suspended before it was resolved", make_model(suspend=True), {},
        {"Ready": ("False", "Suspended"), "Resolved": ("Unknown", "Suspended"), "Cached": ("Unknown", "Suspended")},
    ),
    (
        "zero wanted, proven", make_model(2, replicas=0), {"status": GOOD, "pull": pulled(KEY)},
        {"Ready": ("True", "Idle"), "Available": ("False", "NoRunner"), "Reconciling": NONE},
    ),
    (
        "zero wanted, not proven yet", make_model(replicas=0), {"pull": pulled(KEY)},
        {"Ready": ("False", "Starting"), "Reconciling": ("True", "Starting")},
    ),
    (
        "a digest in spec is resolved at once",
        make_model(source={"ollama": {"name": "x", "digest": B}}), {},
        {"Ready": ("False", "Pulling"), "Resolved": ("True", "DigestInSpec"), "Cached": ("Unknown", "Pulling")},
    ),
    (
        "too large for the machine", MODEL, {"pull": pulled(KEY), "memory_available": 1 << 20},
        {"Fits": ("False", "ExceedsMemory"), "Ready": ("False", "Starting")},
    ),
    (
        "too large for what spec grants", make_model(resources={"memory": "100Mi"}), {"pull": pulled(KEY)},
        {"Fits": ("False", "ExceedsMemory")},
    ),
    (
        "memory of the machine unknown", MODEL, {"pull": pulled(KEY), "memory_available": 0},
        {"Fits": ("Unknown", "Unknown")},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("model", "seen", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_conditions(schemas: Schemas, model: Model, seen: dict[str, Any], expected: dict[str, tuple[str, str]]) -> None:
    status = plan_model(observe(model, **seen)).status
    assert {kind: condition(status, kind) for kind in expected} == expected
    assert status_problems("Model", status, schemas) == ()
    for entry in status["conditions"]:
        assert entry["reason"] in REASONS[entry["type"]]
        assert entry["message"]
        assert entry["observedGeneration"] == status["observedGeneration"] == model.generation


def test_the_configuration_is_the_contracts() -> None:
    assert SERVE is not None
    assert set(SERVE) == {
        "version", "namespace", "name", "names", "models", "digest", "system", "template", "parameters", "messages",
        "engine", "keepAliveSeconds", "queueDepth", "drainSeconds", "credentials", "anonymous",
    }  # fmt: skip
    assert SERVE["names"] == ["smollm2", "smollm2:135m"]
    assert SERVE["credentials"] == [{"endpoint": "default/main", "sha256": "d" * 64}]
    assert SERVE["engine"] == {
        "mode": "generate", "contextLength": 2048, "slots": 4, "cells": 8192, "sequences": 20, "batch": 512,
        "prefixBytes": 268435456, "typeK": "f16", "typeV": "f16",
        "flashAttention": "auto", "mmap": True, "mlock": False, "gpuLayers": 0, "threads": 0,
    }  # fmt: skip
    assert (SERVE["keepAliveSeconds"], SERVE["drainSeconds"], SERVE["anonymous"]) == (-1, 30, False)


def test_spec_reaches_the_configuration() -> None:
    model = make_model(
        system="be brief",
        template="{{ .Prompt }}",
        parameters={"num_ctx": 1024, "temperature": 0.2, "stop": ["x"], "num_batch": 256, "use_mmap": False, "seed": 0},
        messages=[{"role": "user", "content": "hi"}],
        serving={"slots": 2, "keepAlive": "1m30s", "kvCache": {"typeK": "q8_0"}, "flashAttention": "Enabled"},
        resources={"cpu": "1500m"},
        rollout={"drainSeconds": 5},
    )
    serve = plan_model(observe(model, pull=pulled(source_hash(model.spec.source)))).serve
    assert serve is not None
    assert (serve["system"], serve["template"]) == ("be brief", "{{ .Prompt }}")
    assert serve["parameters"] == {"temperature": 0.2, "stop": ["x"], "seed": 0}
    assert serve["messages"] == [{"role": "user", "content": "hi"}]
    assert (serve["keepAliveSeconds"], serve["drainSeconds"]) == (90, 5)
    engine = serve["engine"]
    assert (engine["contextLength"], engine["cells"], engine["batch"], engine["threads"]) == (1024, 2048, 256, 2)
    assert (engine["mmap"], engine["typeK"], engine["typeV"], engine["flashAttention"]) == (False, "q8_0", "f16", "on")


def test_a_pull_is_asked_for_without_and_then_with_the_pin() -> None:
    first = plan_model(observe(MODEL))
    assert first.pull == {"source": {"ollama": {"name": "smollm2:135m"}}, "digest": None}
    assert first.pull_key == KEY
    assert first.serve is None
    later = plan_model(observe(MODEL, status=GOOD))
    assert later.pull is not None
    assert (later.pull["digest"], later.pull_key) == (A, KEY)


def test_a_proven_pin_is_served_at_once_after_a_restart() -> None:
    assert plan_model(observe(MODEL, status=GOOD)).serve == SERVE


def test_only_a_new_token_resolves_a_pinned_name_again() -> None:
    machine = Machine(MODEL)
    machine.settle()
    machine.digests = [B]
    assert machine.settle().serve == SERVE
    machine.model = make_model(2, source={"ollama": {"name": "smollm2:135m"}, "resolve": "again"})
    plan = machine.settle()
    assert plan.serve is not None
    assert plan.serve["digest"] == B
    assert [entry["digest"] for entry in plan.status["history"]] == [B, A]


@pytest.mark.parametrize("asked", [{"name": "smollm2:135m", "digest": B}, {"name": f"smollm2:135m@{B}"}])
def test_digest_in_spec_wins_over_the_pin(asked: dict[str, str]) -> None:
    machine = Machine(MODEL)
    machine.settle()
    machine.model = make_model(2, source={"ollama": asked})
    plan = machine.step()
    assert plan.pull is not None
    assert plan.pull["digest"] == B
    assert plan.serve is not None
    assert plan.serve["digest"] == A, "the last good digest serves while its successor is pulled"
    assert machine.settle().status["resolved"]["digest"] == B


def test_a_puller_that_brings_another_digest_is_refused() -> None:
    model = make_model(source={"ollama": {"name": "x", "digest": B}})
    plan = plan_model(observe(model, pull=pulled(source_hash(model.spec.source), A)))
    assert condition(plan.status, "Ready") == ("False", "DigestMismatch")
    assert plan.serve is None


def test_a_failed_pull_keeps_the_last_good_digest_serving() -> None:
    machine = Machine(MODEL)
    machine.settle()
    machine.model, machine.error = make_model(2, source={"ollama": {"name": "nonsense"}}), ("NotFound", False)
    plan = machine.settle()
    assert plan.serve == SERVE
    assert condition(plan.status, "Ready") == ("False", "NotFound")
    assert condition(plan.status, "Available") == ("True", "RunnerReady")
    assert condition(plan.status, "Stalled") == ("True", "NotFound")
    machine.model, machine.error = make_model(3), None
    assert condition(machine.settle().status, "Ready") == ("True", "Serving")


def test_a_new_digest_that_cannot_load_returns_to_the_last_good_one() -> None:
    machine = Machine(MODEL, broken={B})
    machine.settle()
    machine.model, machine.digests = make_model(2, source={"ollama": {"name": "other"}}), [B]
    plan = machine.settle()
    assert plan.serve is not None
    assert plan.serve["digest"] == A
    assert plan.serve["engine"]["contextLength"] == 2048
    assert condition(plan.status, "Ready") == ("False", "RolledBack")
    assert condition(plan.status, "Available") == ("True", "RunnerReady")
    assert condition(plan.status, "Stalled") == ("True", "RolledBack")
    assert plan.status["quarantine"][0]["digest"] == B
    machine.model, machine.broken = make_model(3, source={"ollama": {"name": "other"}}), set()
    plan = machine.settle()
    assert condition(plan.status, "Ready") == ("True", "Serving")
    assert "quarantine" not in plan.status


def test_without_rollback_the_new_digest_is_tried_again() -> None:
    machine = Machine(MODEL, broken={B})
    machine.settle()
    spec: dict[str, Any] = {"source": {"ollama": {"name": "other"}}, "rollout": {"rollback": "Disabled"}}
    machine.model, machine.digests = make_model(2, **spec), [B]
    plan = machine.settle()
    assert plan.serve is not None
    assert plan.serve["digest"] == B
    assert condition(plan.status, "Stalled") == ("True", "CrashLooping")


def test_crashes_of_settings_never_blame_a_proven_digest() -> None:
    machine = Machine(MODEL)
    machine.settle()
    machine.model, machine.broken = make_model(2, serving={"contextLength": 1024}), {A}
    plan = machine.settle()
    assert plan.serve is not None
    assert (plan.serve["digest"], plan.serve["engine"]["contextLength"]) == (A, 1024)
    assert "quarantine" not in plan.status
    assert condition(plan.status, "Stalled") == ("True", "CrashLooping")


def test_crashes_of_the_old_settings_do_not_condemn_the_new() -> None:
    machine = Machine(MODEL, broken={A})
    machine.settle()
    plan = plan_model(
        observe(make_model(2, serving={"slots": 1}), status=machine.status, pull=machine.pull, runner=crashed(9))
    )
    assert "quarantine" not in plan.status


def test_zero_replicas_prove_once_and_then_stop() -> None:
    machine = Machine(make_model(replicas=0))
    assert machine.step().serve is None
    assert machine.step().serve is not None
    plan = machine.settle()
    assert plan.serve is None
    assert condition(plan.status, "Ready") == ("True", "Idle")
    assert plan.status["effective"]["replicas"] == 0


def test_suspend_stops_pull_and_runner_and_keeps_the_pin() -> None:
    machine = Machine(MODEL)
    machine.settle()
    machine.model = make_model(2, suspend=True)
    plan = machine.settle()
    assert (plan.pull, plan.serve) == (None, None)
    assert plan.status["resolved"]["digest"] == A
    assert plan.status["history"][0]["digest"] == A


def test_scaling_to_zero_means_unloading_here() -> None:
    idle = make_model(scaling={"minReplicas": 0, "maxReplicas": 2, "idleTimeout": "90s"})
    status = plan_model(observe(idle)).status
    assert status["effective"]["keepAliveSeconds"] == 90
    assert status["effective"]["ignored"] == ["spec.scaling.maxReplicas"]
    wins = make_model(scaling={"minReplicas": 0, "maxReplicas": 2}, serving={"keepAlive": "0"})
    assert plan_model(observe(wins)).status["effective"]["keepAliveSeconds"] == 0


def test_ignored_fields_are_named_in_status() -> None:
    model = make_model(placement={"nodeSelector": {"a": "b"}}, parameters={"num_gpu": 1})
    assert plan_model(observe(model)).status["effective"]["ignored"] == ["spec.parameters.num_gpu", "spec.placement"]
    on_cluster = plan_model(observe(model, platform="cluster")).status["effective"]
    assert on_cluster["ignored"] == ["spec.parameters.num_gpu"]


class TestTrack:
    MODEL = make_model(updatePolicy={"type": "Track", "interval": "1h"})

    def serving(self) -> Machine:
        machine = Machine(self.MODEL)
        machine.settle()
        return machine

    def test_asks_again_only_when_due(self) -> None:
        machine = self.serving()
        machine.now = "2026-01-01T00:59:00Z"
        plan = machine.settle()
        assert plan.pull_key == KEY
        assert plan.requeue_seconds == 60
        machine.now = "2026-01-01T01:00:00Z"
        plan = plan_model(
            observe(self.MODEL, status=machine.status, pull=machine.pull, runner=machine.runner, now=machine.now)
        )
        assert plan.pull_key != KEY
        assert plan.pull is not None
        assert plan.pull["digest"] is None
        assert condition(plan.status, "Ready") == ("True", "Serving"), "the old pin serves meanwhile"

    def test_a_moved_tag_is_a_rollout(self) -> None:
        machine = self.serving()
        machine.digests, machine.now = [B], "2026-01-01T01:30:00Z"
        plan = machine.settle()
        assert plan.serve is not None
        assert plan.serve["digest"] == B
        assert plan.status["resolved"]["resolvedAt"] == machine.now
        assert plan.requeue_seconds == 3600

    def test_a_failed_attempt_keeps_the_pin_and_comes_again(self) -> None:
        machine = self.serving()
        machine.error, machine.now = ("NetworkError", False), "2026-01-01T01:00:01Z"
        plan = machine.settle()
        assert condition(plan.status, "Ready") == ("True", "Serving")
        resolved = next(entry for entry in plan.status["conditions"] if entry["type"] == "Resolved")
        assert (resolved["status"], "about NetworkError" in resolved["message"]) == ("True", True)
        first = plan.pull_key
        machine.now = "2026-01-01T02:00:01Z"
        assert machine.step().pull_key != first

    def test_a_restart_does_not_resolve_early(self) -> None:
        machine = self.serving()
        machine.pull, machine.runner, machine.now = PullObserved(), RunnerObserved(), T1
        plan = machine.step()
        assert plan.pull is not None
        assert plan.pull["digest"] == A


def test_transition_times_change_only_with_the_status() -> None:
    machine = Machine(MODEL)
    machine.step()
    machine.now = T1
    machine.settle()
    times = {entry["type"]: entry["lastTransitionTime"] for entry in machine.status["conditions"]}
    assert times["Ready"] == T1
    machine.now = "2026-01-01T00:02:00Z"
    machine.settle()
    assert {entry["type"]: entry["lastTransitionTime"] for entry in machine.status["conditions"]} == times
    assert T0 not in times.values()


def test_progress_is_written_in_whole_percent() -> None:
    pull = PullObserved("running", KEY, completed=123456, total=1000000)
    status = plan_model(observe(MODEL, pull=pull)).status
    assert status["pull"] == {"completed": 120000, "total": 1000000, "percent": 12, "attempts": 0}


def test_notes_tell_each_change_once() -> None:
    machine = Machine(MODEL)
    first = machine.step()
    assert ("Resolving", "Ready is False: the puller resolves spec.source") in [
        (note.reason, note.message) for note in first.notes
    ]
    machine.settle()
    assert machine.step().notes == ()


def test_measured_memory_is_rounded_so_that_status_stays_still() -> None:
    assert SERVE is not None
    base = ready(SERVE)
    statuses = [
        plan_model(
            observe(
                MODEL, status=GOOD, pull=pulled(KEY), runner=RunnerObserved("ready", base.config_hash, A, memory=memory)
            )
        ).status
        for memory in ({"resident": 300_000_000}, {"resident": 300_000_001})
    ]
    assert statuses[0] == statuses[1]
