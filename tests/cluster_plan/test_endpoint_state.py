"""What an Endpoint's status says of its gateways: reports, changes in flight, and everything that can go wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.plan.world import key
from tests.support import kube_objects as kube
from tests.support.endpoint_world import World, endpoint_document, on_cluster, serving
from tests.support.kube_objects import Document

from paddock_operator.core.identity import child_name
from paddock_operator.core.resources import Ref

C = child_name(Ref("Endpoint", "default", "main"))


def test_from_nothing_to_ready() -> None:
    world = World()
    world.step()
    assert world.condition("Ready") == ("False", "Starting")
    assert world.condition("Reconciling") == ("True", "Starting")
    world.ready("g0")
    world.rolled()
    world.step()
    assert world.condition("Ready") == ("False", "Configuring"), "a ready pod that said nothing is not believed"
    world.report()
    world.step()
    assert world.condition("Ready") == ("True", "GatewayReady")
    assert world.condition("Reconciling") == ("", "")
    status = world.status()
    assert (status["url"], status["replicas"], status["readyReplicas"]) == (f"http://{C}.default.svc:11434", 1, 1)
    assert status["selector"] == f"paddock.dev/child={C},paddock.dev/component=gateway"
    assert status["effective"]["replicas"] == 2


def test_the_url_has_the_port_and_the_scheme() -> None:
    world = World(endpoint=endpoint_document(tls={"secretName": "x"}, service={"port": 443}))
    world.step()
    assert world.status()["url"] == f"https://{C}.default.svc:443"


def test_ready_does_not_depend_on_models() -> None:
    world = serving()
    world.models = {"smollm2": on_cluster(ready=False, available=False, reason="Loading")}
    world.step()
    assert world.condition("Ready") == ("True", "GatewayReady")
    assert world.condition("ModelsReady") == ("False", "ModelNotReady")


def _new_key(world: World) -> None:
    world.keys = (*world.keys, key("second", "2"))


def _new_pin(world: World) -> None:
    world.models = {"smollm2": on_cluster(digest="sha256:" + "b" * 64)}


def _new_credential(world: World) -> None:
    world.credential = "rotated"


@pytest.mark.parametrize("change", [_new_key, _new_pin, _new_credential])
def test_a_mere_configuration_is_taken_up_without_a_flip(change: Callable[[World], None]) -> None:
    world = serving()
    before = world.hashed()
    change(world)
    plan = world.step()
    assert world.hashed() != before
    assert world.condition("Ready") == ("True", "GatewayReady")
    assert plan.requeue_seconds == 31.0
    world.report()
    writes = world.writes
    assert world.step(2).requeue_seconds is None
    assert (world.condition("Ready"), world.writes) == (("True", "GatewayReady"), writes)


def test_a_gateway_that_does_not_take_it_up_is_named() -> None:
    world = serving()
    _new_key(world)
    world.step()
    world.report(None, f"{C}-g0")
    assert world.step(29).requeue_seconds == 2.0
    assert world.condition("Ready") == ("True", "GatewayReady")
    plan = world.step(2)
    assert world.condition("Ready") == ("False", "Configuring")
    assert f"1 of 2 gateways have not taken up the current configuration: {C}-g1" in world.message("Ready")
    assert world.condition("Reconciling") == ("", ""), "no edit is under way"
    assert plan.requeue_seconds is None
    assert [note.reason for note in plan.notes] == ["Configuring"]
    world.report()
    world.step()
    assert world.condition("Ready") == ("True", "GatewayReady")


def test_a_change_of_spec_is_configuring_until_every_gateway_has_it() -> None:
    world = serving()
    world.edit(limits={"concurrency": 1})
    world.step()
    assert world.condition("Ready") == ("False", "Configuring")
    assert world.condition("Reconciling") == ("True", "Configuring")
    world.report(None, f"{C}-g0")
    world.step()
    assert world.condition("Ready") == ("False", "Configuring")
    world.report()
    world.step()
    assert (world.condition("Ready"), world.condition("Reconciling")) == (("True", "GatewayReady"), ("", ""))


def test_a_change_of_spec_that_gateways_need_not_hear_of_is_in_force_at_once() -> None:
    world = serving()
    world.edit(service={"port": 80})
    world.step()
    assert world.condition("Ready") == ("True", "GatewayReady")
    assert world.status()["observedGeneration"] == 2


def test_a_change_of_the_template_is_configuring_until_the_old_gateways_are_gone() -> None:
    world = serving()
    world.edit(tls={"secretName": "cert"})
    assert world.step().rolls
    assert world.condition("Ready") == ("False", "Configuring"), "the old gateways report the same configuration"
    world.step()
    assert world.condition("Ready") == ("False", "Configuring"), "the Deployment's controller has not looked yet"
    live = world.one("Deployment")
    half = {"observedGeneration": 2, "replicas": 3, "updatedReplicas": 2}
    world.children["Deployment", C] = {**live, "status": half}
    world.step()
    assert world.condition("Reconciling") == ("True", "Configuring")
    world.rolled()
    world.step()
    assert world.condition("Ready") == ("True", "GatewayReady")


def test_a_new_gateway_has_time_to_report() -> None:
    world = serving()
    world.step(100)
    world.ready("g2")
    assert world.step().requeue_seconds == 30.0
    assert world.condition("Ready") == ("True", "GatewayReady")
    world.step(40)
    assert world.condition("Ready") == ("False", "Configuring")


def test_reports_of_pods_that_are_gone_and_garbage_are_ignored() -> None:
    world = serving()
    world.report("old", "gone-pod")
    world.step()
    assert world.condition("Ready") == ("True", "GatewayReady")
    for garbage in ("", "no json", "[]", "{}", '{"config":null}', "[" * 5000):
        world.children["ConfigMap", f"{C}-gateways"]["data"][f"{C}-g0"] = garbage
        world.step(40)
        assert world.condition("Ready") == ("False", "Configuring"), garbage


def test_a_gateway_that_leaves_does_not_count() -> None:
    world = serving()
    world.put(kube.leaving(world.pods[f"{C}-g1"]))
    world.report("old", f"{C}-g1")
    world.step(60)
    assert world.condition("Ready") == ("True", "GatewayReady")
    assert world.status()["replicas"] == 1


Change = Callable[[World, Document], None]


def _state(make: Callable[[Document], Document]) -> Change:
    def change(world: World, pod: Document) -> None:
        world.put(make(pod))

    return change


def _warned(reason: str, message: str) -> Change:
    def change(world: World, pod: Document) -> None:
        world.put(kube.waits(pod, "ContainerCreating"))
        world.warnings[pod["metadata"]["uid"]] = (reason, message)

    return change


def _refused(world: World, pod: Document) -> None:
    world.pods.clear()
    world.children["Deployment", C] = kube.replica_failure(world.one("Deployment"), 'pods "x-1" is forbidden: quota')


LAST = kube.terminated(2, '{"message":"gateway.json: unknown field"}')
TROUBLES: list[tuple[str, Change, str]] = [
    ("Unschedulable", _state(lambda pod: kube.unschedulable(pod, "0/1 nodes: too much memory.")), "too much memory"),
    ("ImagePullBackOff", _state(lambda pod: kube.waits(pod, "ErrImagePull", "no such tag")), "no such tag"),
    ("FailedMount", _warned("FailedMount", "the volume is broken"), "the volume is broken"),
    ("SecretNotFound", _warned("FailedMount", 'secret "cert" not found'), "Secret cert does not exist"),
    ("CrashLooping", _state(lambda pod: kube.waits(pod, "CrashLoopBackOff", last=LAST)), "unknown field"),
    ("OOMKilled", _state(lambda pod: kube.ended(pod, 137, "", "OOMKilled")), "OOMKilled"),
    ("CreateContainerConfigError", _state(lambda pod: kube.waits(pod, "CreateContainerConfigError", "no")), "no"),
    ("FailedCreate", _refused, "quota"),
]


@pytest.mark.parametrize(("reason", "change", "words"), TROUBLES, ids=[case[0] for case in TROUBLES])
def test_trouble_of_the_first_gateway_is_named(reason: str, change: Change, words: str) -> None:
    world = World()
    world.step()
    change(world, world.gateway())
    world.step(10)
    assert world.condition("Ready") == ("False", reason)
    assert world.condition("Reconciling") == ("True", reason)
    assert words in world.message("Ready")


@pytest.mark.parametrize(("reason", "change", "words"), TROUBLES[:-1], ids=[case[0] for case in TROUBLES[:-1]])
def test_trouble_of_another_gateway_is_seen_while_one_serves(reason: str, change: Change, words: str) -> None:
    world = serving()
    change(world, world.gateway("g2"))
    plan = world.step(10)
    assert world.condition("Ready") == ("True", "Degraded")
    assert reason in world.message("Ready")
    assert words in world.message("Ready")
    assert [note.reason for note in plan.notes] == ["Degraded"]
    del world.pods[f"{C}-g2"]
    world.step()
    assert world.condition("Ready") == ("True", "GatewayReady")


def test_a_template_that_does_not_come_up_after_an_edit_is_not_ready() -> None:
    world = serving()
    world.edit(tls={"secretName": "cert"})
    world.step()
    pod = world.gateway("new")
    _warned("FailedMount", 'MountVolume.SetUp failed: secret "cert" not found')(world, pod)
    world.step(10)
    assert world.condition("Ready") == ("False", "SecretNotFound")
    assert world.condition("Reconciling") == ("True", "SecretNotFound")


def test_zero_replicas() -> None:
    world = serving()
    world.edit(replicas=0)
    world.pods.clear()
    world.step()
    assert world.condition("Ready") == ("False", "ScaledToZero")
    assert world.condition("Reconciling") == ("", "")
    assert world.has("Secret")


FORBIDDEN = (
    'secrets is forbidden: User "system:serviceaccount:ops:llm-operator" cannot list resource "secrets" in API group ""'
)
COMMAND = "kubectl create rolebinding paddock-secrets --namespace default --clusterrole=paddock-secrets"


@pytest.mark.parametrize(
    ("problem", "subject"),
    [
        (FORBIDDEN, "--serviceaccount=ops:llm-operator"),
        ('forbidden: User "admin@example" cannot list', "--user=admin@example"),
        ("not allowed", "--serviceaccount=paddock-system:paddock-operator"),
    ],
)
def test_a_missing_right_is_told_with_the_command_that_gives_it(problem: str, subject: str) -> None:
    world = World(keys_problem=problem, keys=(), credential="")
    world.step()
    assert world.condition("Ready") == ("False", "Forbidden")
    assert f"{COMMAND} {subject} (" in world.message("Ready")
    assert not world.has("Secret")
    assert not world.has("Deployment"), "without a Secret a gateway could not start"


def test_a_right_that_is_taken_away_leaves_what_serves() -> None:
    world = serving()
    before = (world.one("Secret"), world.one("Deployment"))
    world.keys_problem, world.keys, world.credential = "gone", (), ""
    plan = world.step()
    assert (world.one("Secret"), world.one("Deployment")) == before
    assert ("Secret", C) in plan.keep
    assert world.condition("Ready") == ("False", "Forbidden")
    assert world.status()["readyReplicas"] == 2


UNSUPPORTED: list[tuple[dict[str, Any], str]] = [
    ({"auth": {"serviceAccounts": {"accounts": [{"name": "a"}]}}}, "spec.auth.serviceAccounts"),
    ({"auth": {"jwt": {"issuer": "i", "jwksUrl": "j", "audience": "a"}, "apiKeys": {}}}, "spec.auth.jwt"),
    ({"limits": {"tokensPerMinute": 1}}, "spec.limits.tokensPerMinute"),
    ({"apis": ["openai", "anthropic"]}, "anthropic"),
]


@pytest.mark.parametrize(("spec", "words"), UNSUPPORTED)
def test_what_the_gateway_cannot_do_is_never_passed_over(spec: dict[str, Any], words: str) -> None:
    world = serving(**spec)
    assert world.condition("Ready") == ("False", "Unsupported")
    assert world.condition("Stalled") == ("True", "Unsupported")
    assert world.condition("Reconciling") == ("", "")
    assert words in world.message("Ready")
    assert "anthropic" not in world.config()["apis"]
    world.edit(auth=None, limits=None, apis=None)
    world.step()
    assert world.condition("Stalled") == ("", "")


@pytest.mark.parametrize(
    ("auth", "keys"),
    [
        ({"serviceAccounts": {"accounts": [{"name": "a"}]}}, 0),
        ({"jwt": {"issuer": "i", "jwksUrl": "j", "audience": "a"}}, 0),
        ({"serviceAccounts": {"accounts": [{"name": "a"}]}, "apiKeys": {}}, 1),
    ],
)
def test_api_keys_open_nothing_that_did_not_ask_for_them(auth: dict[str, Any], keys: int) -> None:
    config = serving(auth=auth).config()
    assert (config["auth"], len(config["keys"])) == ("apiKey", keys)


def test_an_unusable_block_of_addresses_is_named() -> None:
    world = serving(network={"allowFrom": [{"podSelector": {}}, {"cidr": "300.0.0.0/8"}]})
    assert world.condition("Stalled") == ("True", "InvalidSpec")
    assert "spec.network.allowFrom[1].cidr: 300.0.0.0/8" in world.message("Ready")


def test_an_unknown_http_route_is_told_and_made_when_the_cluster_knows_it() -> None:
    world = serving(httpRoute={"parentRefs": [{"name": "gw"}]})
    assert world.condition("Ready") == ("True", "Degraded")
    assert "does not know HTTPRoute" in world.message("Ready")
    world.has_http_route = True
    world.step()
    assert world.has("HTTPRoute")
    assert world.condition("Ready") == ("True", "GatewayReady")


def test_too_many_keys_keep_the_last_configuration() -> None:
    world = serving()
    before = world.hashed()
    world.keys = tuple(replace(key(f"k{n}"), sha256=f"{n:064x}", models=("m" * 200,)) for n in range(3000))
    world.step()
    assert world.condition("Ready") == ("False", "TooLarge")
    assert "3000 API keys" in world.message("Ready")
    assert world.hashed() == before


def test_fields_without_effect_are_named() -> None:
    world = serving(routing={"strategy": "LeastLoaded"}, activation={"mode": "Hold"}, management="Enabled")
    assert world.status()["effective"]["ignored"] == ["spec.activation", "spec.management", "spec.routing"]
    assert world.condition("Ready") == ("True", "GatewayReady")
