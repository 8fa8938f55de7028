"""Whatever is seen, a plan made again from its own status changes nothing, and every status fits the CRD."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.plan.world import (
    T0,
    T1,
    A,
    B,
    Machine,
    failed,
    key,
    make_endpoint,
    make_model,
    observe,
    observe_endpoint,
    pulled,
    ready,
    snapshot,
)

from paddock_operator.core.bases import Base
from paddock_operator.core.identity import source_hash
from paddock_operator.core.observed import GatewayObserved, PullObserved, RunnerObserved
from paddock_operator.core.plan import plan_endpoint, plan_model
from paddock_operator.core.resources import Model
from paddock_operator.core.schema import Schemas, status_problems

HEALTH = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

sources: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        {"ollama": {"name": "smollm2:135m"}},
        {"ollama": {"name": "smollm2:135m", "digest": A}},
        {"ollama": {"name": "other"}, "resolve": "2"},
        {"http": {"url": "https://h/m.gguf", "sha256": "0" * 64}},
        {"huggingFace": {"repo": "a/b"}},
        {"model": {"name": "base"}},
    ]
)
extras: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "replicas": st.sampled_from([0, 1]),
        "suspend": st.booleans(),
        "serving": st.sampled_from([{}, {"contextLength": 512}, {"keepAlive": "5m"}]),
        "rollout": st.sampled_from([{"rollback": "Disabled"}, {"drainSeconds": 1}]),
        "license": st.sampled_from(["MIT", "Apache-2.0\nlong text"]),
        "updatePolicy": st.just({"type": "Pinned"}),
        "quantization": st.sampled_from(["Q8_0", "Q4_1", "IQ1_S"]),
    },
)
runners = st.builds(
    RunnerObserved,
    state=st.sampled_from(["none", "starting", "loading", "ready", "unloaded", "crashed", "stopped"]),
    config_hash=st.sampled_from(["", "x"]),
    digest=st.sampled_from(["", A, B]),
    restarts=st.integers(0, 5),
    message=st.sampled_from(["", "no"]),
)


bases = st.sampled_from([Base(A), Base(B), Base("", "ModelNotReady", "no"), Base("", "InvalidSpec", "circle", True)])


@st.composite
def models(draw: st.DrawFn) -> Model:
    spec = draw(extras)
    tracked = draw(st.booleans()) and "updatePolicy" not in spec
    source = draw(sources)
    if tracked and "http" not in source and "digest" not in source.get("ollama", {}):
        spec = {**spec, "updatePolicy": {"type": "Track", "interval": "1m"}}
    return make_model(draw(st.integers(1, 2)), source=source, **spec)


@st.composite
def pulls(draw: st.DrawFn, keys: list[str]) -> PullObserved:
    name = draw(st.sampled_from([*keys, "stale"]))
    done = pulled(name, draw(st.sampled_from([A, B])), quantization=draw(st.sampled_from(["Q4_1", "F16", "Q8_0"])))
    running = PullObserved("running", name, completed=draw(st.integers(0, 200)), total=100)
    broken = failed(name, draw(st.sampled_from(["NotFound", "NetworkError", "Odd"])), retryable=draw(st.booleans()))
    return draw(st.sampled_from([PullObserved(), done, running, broken]))


@HEALTH
@given(data=st.data())
def test_a_plan_on_its_own_status_changes_nothing(schemas: Schemas, data: st.DataObject) -> None:
    status: Any = {}
    for now in (T0, T1, "2026-01-01T00:03:00Z"):
        model = data.draw(models())
        base = data.draw(bases) if model.spec.source.model else None
        platform = data.draw(st.sampled_from(["local", "cluster"]))
        seen = {"now": now, "base": base, "platform": platform}
        key_now = plan_model(observe(model, status=status, **seen)).pull_key
        seen |= {"pull": data.draw(pulls([source_hash(model.spec.source, model.spec.quantization), key_now]))}
        seen |= {"convert": data.draw(pulls([plan_model(observe(model, status=status, **seen)).convert_key]))}
        seen |= {"runner": data.draw(runners)}
        planned = plan_model(observe(model, status=status, **seen)).serve
        if planned and data.draw(st.booleans()):
            seen |= {"runner": ready(planned)}
        # a key may move on when a pull ends, and a proof may end a proving runner: two rounds reach the fixed point
        for _ in range(3):
            before = status
            status = plan_model(observe(model, status=status, **seen)).status
            assert status_problems("Model", status, schemas) == ()
        again = plan_model(observe(model, status=status, **seen))
        assert again.status == status == plan_model(observe(model, status=before, **seen)).status
        assert again.notes == ()


@HEALTH
@given(steps=st.lists(st.tuples(models(), st.sampled_from([[A], [B]]), st.sampled_from([set(), {A}, {B}])), max_size=5))
def test_a_machine_always_comes_to_rest(steps: list[tuple[Model, list[str], set[str]]]) -> None:
    machine = Machine(make_model(), base=Base(A), quantization="F16")
    for generation, (model, digests, broken) in enumerate(steps, 1):
        machine.model = Model(model.ref, generation, model.spec)
        machine.digests, machine.broken = digests, broken
        plan = machine.settle()
        assert plan.notes == ()
        if model.spec.suspend:
            assert (plan.pull, plan.serve) == (None, None)


@HEALTH
@given(
    names=st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3, unique=True),
    aliases=st.lists(st.sampled_from(["x", "X:latest", "a", "y:1"]), max_size=3, unique=True),
    present=st.sets(st.sampled_from(["a", "b", "c"])),
    ready_ones=st.sets(st.sampled_from(["a", "b", "c"])),
    gateway=st.builds(GatewayObserved, state=st.sampled_from(["none", "starting", "ready", "crashed", "stopped"])),
    digits=st.lists(st.sampled_from("123"), max_size=3),
)
def test_endpoint_plans_are_idempotent_and_routes_unique(
    schemas: Schemas,
    names: list[str],
    aliases: list[str],
    present: set[str],
    ready_ones: set[str],
    gateway: GatewayObserved,
    digits: list[str],
) -> None:
    endpoint = make_endpoint(models=[{"name": name, "aliases": aliases} for name in names])
    seen = {
        "models": {name: snapshot(name, ready=name in ready_ones) for name in present},
        "gateway": gateway,
        "keys": tuple(key(f"k{index}", digit) for index, digit in enumerate(digits)),
    }
    first = plan_endpoint(observe_endpoint(endpoint, **seen))
    assert status_problems("Endpoint", first.status, schemas) == ()
    second = plan_endpoint(observe_endpoint(endpoint, status=first.status, **(seen | {"now": T1})))
    assert (second.status, second.gateway, second.notes) == (first.status, first.gateway, ())
    assert first.gateway is not None
    routed = [name.lower().removesuffix(":latest") for entry in first.gateway["models"] for name in entry["names"]]
    assert len(routed) == len(set(routed))
    hashes = [entry["sha256"] for entry in first.gateway["keys"]]
    assert len(hashes) == len(set(hashes))
