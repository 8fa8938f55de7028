"""Whatever an Endpoint asks for and whatever its pods do: a plan made again on its own result changes nothing.

Every configuration on the way is one that the gateway accepts, every status fits the CRD, every pod is restricted.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.plan.world import key
from tests.support import kube_objects as kube
from tests.support.endpoint_world import MODELS, World, endpoint_document, on_cluster
from tests.support.kube_objects import Document
from tests.support.restricted import violations

from paddock_operator.core.cluster.diff import needs_apply
from paddock_operator.core.schema import load_crds, problems, status_problems
from paddock_runner.core.gateway_config import parse

SCHEMAS = load_crds([yaml.safe_load(path.read_text()) for path in sorted(Path("crds").glob("*.yaml"))])
HEALTH = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))

peers = st.sampled_from(
    [
        {"podSelector": {}},
        {"namespaceSelector": {"matchLabels": {"a": "b"}}, "podSelector": {}},
        {"cidr": "10.0.0.0/8"},
        {"cidr": "1:2/200"},
        {"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}},
    ]
)
specs = st.fixed_dictionaries(
    {},
    optional={
        "models": st.sampled_from(
            [MODELS, [{"name": "ghost"}], [{"name": "a", "aliases": ["x"]}, {"name": "smollm2"}]]
        ),
        "replicas": st.integers(0, 4),
        "auth": st.sampled_from(
            [
                {"none": {}},
                {"apiKeys": {}},
                {"serviceAccounts": {"accounts": [{"name": "x"}]}},
                {"apiKeys": {"names": ["b"]}},
            ]
        ),
        "limits": st.sampled_from([{"tokensPerMinute": 5}, {"concurrency": 0}, {"queueWait": "1m"}]),
        "apis": st.sampled_from([["openai"], ["anthropic"], ["ollama", "anthropic"]]),
        "tls": st.just({"secretName": "cert"}),
        "service": st.sampled_from([{"port": 80}, {"type": "NodePort", "nodePort": 30000}]),
        "ingress": st.just({"host": "h.example"}),
        "httpRoute": st.just({"parentRefs": [{"name": "gw"}]}),
        "network": st.fixed_dictionaries({"allowFrom": st.lists(peers, max_size=3)}),
        "management": st.just("Enabled"),
    },
)


def _next(draw: Any, world: World, pod: Document) -> Document | None:
    """Some next state of a pod, None if it is gone."""
    last = kube.terminated(1, "no json")
    steps = (
        lambda: kube.is_ready(pod, world.clock),
        lambda: kube.runs(pod, world.clock),
        lambda: kube.waits(pod, "CrashLoopBackOff", restarts=2, last=last),
        lambda: kube.waits(pod, "ImagePullBackOff", "no"),
        lambda: kube.unschedulable(pod, "no node", world.clock),
        lambda: kube.ended(pod, 137, "", "OOMKilled"),
        lambda: kube.evicted(pod),
        lambda: kube.leaving(pod, world.clock),
        lambda: None,
    )
    made: Document | None = draw(st.sampled_from(steps))()
    return made


def _happen(draw: Any, world: World) -> None:
    """Something happens to one pod, to the gateways' reports or to what surrounds the Endpoint."""
    what = draw(st.sampled_from(["pod", "next", "report", "key", "pin", "rolled", "right", "edit"]))
    if what == "pod" and world.has("Deployment"):
        world.gateway(draw(st.sampled_from("abc")))
    elif what == "next" and world.pods:
        name = draw(st.sampled_from(sorted(world.pods)))
        after = _next(draw, world, world.pods.pop(name))
        if after is not None:
            world.put(after)
    elif what == "report" and world.has("Secret") and world.pods:
        world.report(draw(st.sampled_from([None, "old"])), draw(st.sampled_from(sorted(world.pods))))
    elif what == "key":
        world.keys = (key("a"), key("b", "2"))
    elif what == "pin":
        world.models = {"smollm2": on_cluster(digest="sha256:" + "b" * 64), "a": on_cluster("a", ready=False)}
    elif what == "rolled" and world.has("Deployment"):
        world.rolled()
    elif what == "right":
        world.keys_problem = draw(st.sampled_from(["", "forbidden"]))
    elif what == "edit":
        world.edit(**draw(specs))


@HEALTH
@given(st.data())
def test_a_second_plan_changes_nothing(data: st.DataObject) -> None:
    world = World(endpoint=endpoint_document(**data.draw(specs)), has_http_route=data.draw(st.booleans()))
    assert problems(world.endpoint, SCHEMAS) == ()
    for _ in range(data.draw(st.integers(1, 8))):
        _happen(data.draw, world)
        world.step(data.draw(st.integers(0, 40)))
        assert status_problems("Endpoint", world.status(), SCHEMAS) == ()
        if world.has("Secret"):
            parse(base64.b64decode(world.one("Secret")["data"]["gateway.json"]))
    for _ in range(2):
        world.step(0)
    before = (world.writes, dict(world.children), world.status())
    plan = world.step(0)
    assert (world.writes, world.children, world.status()) == before
    assert not plan.rolls
    assert plan.notes == ()
    for manifest in plan.apply:
        assert not needs_apply(world.children[manifest["kind"], manifest["metadata"]["name"]], manifest)
        if "template" in manifest.get("spec", {}):
            assert violations(manifest["spec"]["template"]["spec"]) == []
    if plan.requeue_seconds is None:
        world.step(100000)
        assert world.writes == before[0], "what is not looked at again does not change by time alone"
