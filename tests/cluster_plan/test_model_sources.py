"""Jobs that pull and convert on a cluster: what each pod may see, when which one is made, what stays in the cache."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support import kube_objects as kube
from tests.support.kube_objects import Document
from tests.support.kube_world import A, B, World, served
from tests.support.namespace_world import namespace_seen
from tests.support.restricted import violations

from paddock_operator.core.cluster.collect import live_digests
from paddock_operator.core.cluster.network import namespace_policies
from paddock_operator.core.cluster.pull_pod import network_variables
from paddock_operator.core.cluster.settings import Cache, Settings
from paddock_operator.core.cluster.source_settings import AllowedSource, Mirror, Proxy, Sources
from paddock_operator.core.identity import source_hash
from paddock_operator.core.resources import Model, parse
from paddock_operator.core.schema import load_crds, status_problems
from paddock_runner.sources.network import Network

SCHEMAS = load_crds([yaml.safe_load(path.read_text()) for path in sorted(Path("crds").glob("*.yaml"))])
C, D = "sha256:" + "e" * 64, "sha256:" + "f" * 64
NODES = Settings(cache=Cache(mode="Node"))
GONE = "waiting for the model to be in the cache"
COMPONENT = "paddock.dev/component"


def jobs(world: World, component: str) -> list[Document]:
    found = [job for (kind, _), job in world.children.items() if kind == "Job"]
    return [job for job in found if job["metadata"]["labels"][COMPONENT] == component]


def pod_of(job: Document) -> Document:
    found: Document = job["spec"]["template"]["spec"]
    return found


def request_of(job: Document) -> dict[str, Any]:
    (container,) = pod_of(job)["containers"]
    found: dict[str, Any] = json.loads(container["env"][0]["value"])
    return found


def converting(**spec: Any) -> World:
    """A model of F16 was pulled, and Q8_0 is wanted."""
    world = World(model=kube.model_document(quantization="Q8_0", **spec))
    world.step()
    world.pull(A, quantization="F16", revision=D)
    return world


def test_a_converter_has_llama_and_the_cache_and_nothing_else() -> None:
    world = converting()
    assert world.condition("Ready") == ("False", "Converting")
    assert world.status()["conversion"]["sourceDigest"] == A
    assert status_problems("Model", world.status(), SCHEMAS) == ()
    (job,) = jobs(world, "converter")
    pod = pod_of(job)
    (container,) = pod["containers"]
    assert container["image"] == "runner:1"
    assert container["args"][:4] == ["convert", "--models", "/models", "--request"]
    assert container["args"][4] == f"env:{container['env'][0]['name']}"
    assert request_of(job) == {"digest": A, "type": "Q8_0"}
    assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"] == "2Gi"
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp", "/models"]
    assert "readOnly" not in container["volumeMounts"][1]
    assert len(container["env"]) == 1
    assert pod["automountServiceAccountToken"] is False
    assert violations(pod) == []
    assert len(jobs(world, "puller")) == 1, "the pull stays as the record of what it found"


def test_the_converted_digest_is_the_pin() -> None:
    world = converting()
    world.pull(C, quantization="Q8_0")
    resolved = world.status()["resolved"]
    assert (resolved["digest"], resolved["sourceDigest"], resolved["quantization"]) == (C, A, "Q8_0")
    assert "conversion" not in world.status()
    assert json.loads(world.one("ConfigMap")["data"]["serve.json"])["digest"] == C
    assert status_problems("Model", world.status(), SCHEMAS) == ()
    world.serve()
    world.step()
    assert world.condition("Ready") == ("True", "Serving")
    writes, before = world.writes, set(world.children)
    world.step(500)
    assert (world.writes, set(world.children)) == (writes, before)
    world.pods = {name: pod for name, pod in world.pods.items() if "-r" in name}
    world.step(500)
    assert world.condition("Ready") == ("True", "Serving"), "verdicts of pods that are gone stand in the status"
    assert (world.writes, set(world.children)) == (writes, before)


def test_the_pull_of_a_conversion_may_be_forgotten() -> None:
    world = converting()
    world.pods.clear()
    for _ in range(3):
        world.step(60)
    assert (len(jobs(world, "puller")), len(jobs(world, "converter"))) == (1, 1)
    assert world.condition("Ready") == ("False", "Converting")


def test_progress_and_failures_of_a_converter() -> None:
    world = converting()
    (job,) = jobs(world, "converter")
    pod = world.put(kube.runs(world.puller(job, "c"), world.clock))
    world.events[pod["metadata"]["uid"]] = {"event": "progress", "completed": 50, "total": 200}
    assert world.step().requeue_seconds == 10
    assert world.message("Ready") == "aaaaaaaaaaaa is converted to Q8_0 (25 %)"
    killed = kube.ended(pod, 137, reason="OOMKilled")
    world.put(killed)
    world.step()
    assert world.condition("Ready") == ("False", "OOMKilled")
    assert world.message("Ready").startswith("the converter ended without a verdict")
    refused = kube.error_message("InvalidModel", "llama.cpp cannot convert this model", retryable=False)
    world.put(kube.ended(pod, 0, refused))
    world.children["Job", job["metadata"]["name"]] = kube.finished(job, world.clock)
    world.step()
    assert world.condition("Stalled") == ("True", "InvalidModel")
    assert world.message("Ready").startswith("llama.cpp cannot convert this model; to try again, edit spec.source")


def test_suspended_means_no_converter() -> None:
    world = converting()
    world.edit(suspend=True)
    world.step()
    assert jobs(world, "converter") == []
    world.edit(suspend=None)
    world.step()
    assert len(jobs(world, "converter")) == 1


def test_bytes_that_were_lost_are_pulled_and_converted_again() -> None:
    world = converting()
    world.pull(C, quantization="Q8_0")
    world.pods.clear()
    runner = world.put(kube.runs(world.runner(), world.clock))
    world.events[runner["metadata"]["uid"]] = {"event": "state", "state": "starting", "ready": False, "reason": GONE}
    world.step(100)
    for _ in range(4):
        world.step(310)
    (job,) = jobs(world, "converter")
    assert "status" not in job, "first it is tried to make it again"
    lost = kube.error_message("NotFound", "the manifest is not in the cache", retryable=False)
    world.put(kube.ended(world.puller(job, "c"), 0, lost))
    world.children["Job", job["metadata"]["name"]] = kube.finished(job, world.clock)
    for _ in range(4):
        world.step(310)
    (pull,) = jobs(world, "puller")
    assert jobs(world, "converter") == []
    assert request_of(pull) == {"source": {"ollama": {"name": "smollm2:135m", "digest": A}}, "digest": A}
    world.pull(A, quantization="F16")
    assert len(jobs(world, "converter")) == 1


def test_a_collector_spares_what_is_converted_until_it_is() -> None:
    world = converting()
    assert live_digests(namespace_seen(models=(world.model,))) == [A]
    world.pull(C, quantization="Q8_0")
    live = live_digests(namespace_seen(models=(world.model,)))
    assert C in live
    assert A not in live


def on(world: World, job: Document, node: str, message: str) -> None:
    pod = kube.ended(kube.pod(job, "p", world.clock), 0, message)
    world.put({**pod, "spec": {**pod["spec"], "nodeName": node}})
    world.children["Job", job["metadata"]["name"]] = kube.finished(job, world.clock)


def test_where_every_node_has_a_cache_each_converts() -> None:
    world = World(model=kube.model_document(quantization="Q8_0"), settings=NODES)
    world.step()
    on(world, jobs(world, "puller")[0], "n1", kube.result_message(A, quantization="F16"))
    world.step()
    (first,) = jobs(world, "converter")
    assert first["metadata"]["annotations"]["paddock.dev/node"] == "n1", "the bytes are there"
    on(world, first, "n1", kube.result_message(C, quantization="Q8_0"))
    world.step()
    runner = world.runner()
    world.put({**kube.runs(runner, world.clock), "spec": {**runner["spec"], "nodeName": "n2"}})
    world.step()
    pull = next(job for job in jobs(world, "puller") if "paddock.dev/node" in job["metadata"]["annotations"])
    assert request_of(pull)["digest"] == A
    assert len(jobs(world, "converter")) == 1
    on(world, pull, "n2", kube.result_message(A, quantization="F16"))
    world.step()
    second = next(job for job in jobs(world, "converter") if job["metadata"]["name"] != first["metadata"]["name"])
    assert second["metadata"]["annotations"]["paddock.dev/node"] == "n2"
    assert world.condition("Ready") == ("False", "Pulling")
    on(world, second, "n2", kube.result_message(C, quantization="Q8_0"))
    world.step()
    assert world.status()["resolved"]["digest"] == C
    writes, before = world.writes, set(world.children)
    world.step(100)
    assert (world.writes, set(world.children)) == (writes, before)


def other(digest: str) -> Document:
    document = kube.model_document("base")
    model = parse(document)
    assert isinstance(model, Model)
    return {**document, "status": {"resolved": {"digest": digest, "sourceHash": source_hash(model.spec.source)}}}


def test_a_variant_takes_the_digest_of_its_base() -> None:
    world = World(model=kube.model_document(source={"model": {"name": "base"}}))
    world.step()
    assert world.many("Job") == []
    assert world.condition("Ready") == ("False", "ModelNotFound")
    world.others = {"base": other(A)}
    world.step()
    assert request_of(world.one("Job")) == {"source": {"model": {"name": "base", "digest": A}}, "digest": A}
    world.pull(A)
    assert world.status()["resolved"]["digest"] == A
    world.others = {"base": other(B)}
    world.step()
    assert world.status()["resolved"]["digest"] == A
    world.edit(updatePolicy={"type": "Track", "interval": "1h"})
    world.step()
    assert request_of(world.one("Job"))["digest"] == B


def test_a_claim_is_mounted_read_only_beside_the_cache() -> None:
    world = World(model=kube.model_document(source={"claim": {"claimName": "weights", "path": "a/m.gguf"}}))
    world.step()
    pod = pod_of(world.one("Job"))
    (container,) = pod["containers"]
    assert {"name": "claim", "mountPath": "/claims/weights", "readOnly": True} in container["volumeMounts"]
    volume = {"name": "claim", "persistentVolumeClaim": {"claimName": "weights", "readOnly": True}}
    assert volume in pod["volumes"]
    assert {"name": "PADDOCK_CLAIMS", "value": "/claims"} in container["env"]
    world.pull()
    assert all(volume["name"] != "claim" for volume in pod_of(world.one("Deployment"))["volumes"])


@pytest.mark.parametrize(
    "source", [{"huggingFace": {"repo": "a/b"}}, {"oci": {"reference": "r.io/a:1"}}, {"ollama": {"name": "x"}}]
)
def test_credentials_are_mounted_into_the_puller_alone(source: dict[str, dict[str, Any]]) -> None:
    named = {kind: {**member, "secretRef": {"name": "token"}} for kind, member in source.items()}
    world = World(model=kube.model_document(source=named, quantization="Q8_0"))
    world.step()
    pod = pod_of(world.one("Job"))
    assert pod["containers"][0]["args"][-2:] == ["--credentials", "/etc/paddock/credentials"]
    assert [item["secret"]["secretName"] for item in pod["volumes"] if "secret" in item] == ["token"]
    world.pull(A, quantization="F16")
    (job,) = jobs(world, "converter")
    assert "token" not in json.dumps(job)


EVERYTHING = Sources(
    allow=(AllowedSource("files.lan:8000", "10.1.0.0/16", 8000),),
    mirrors=(
        Mirror("registry.ollama.ai", "http://mirror.lan:5000/ollama", "10.2.0.0/24"),
        Mirror("huggingface.co", "https://hub.example"),
    ),
    proxy=Proxy("http://proxy.lan:3128", "http://proxy.lan:3128", (".lan", "10.0.0.0/8"), "10.3.0.0/28"),
    offline=True,
    rate="50M",
    connections=16,
    ca_config_map="authorities",
    hugging_face_endpoint="https://hub.example",
)


def test_a_puller_understands_its_settings() -> None:
    variables = dict(network_variables(EVERYTHING))
    found = Network.from_environment(variables)
    assert set(found.mirrors) == {"registry.ollama.ai", "huggingface.co"}
    assert (found.offline, found.rate, found.connections) == (True, 50_000_000, 16)
    assert found.direct == (".lan", "10.0.0.0/8")
    assert str(found.proxies["https"]) == "http://proxy.lan:3128"
    assert variables["PADDOCK_ALLOW_INSECURE_HOSTS"] == "files.lan:8000,mirror.lan:5000"
    assert variables["HF_ENDPOINT"] == "https://hub.example"
    assert network_variables(Sources()) == []


def test_the_password_of_a_proxy_is_mounted_and_in_no_field() -> None:
    proxy = Proxy("http://proxy.lan:3128", cidr="10.3.0.0/28", secret="proxy")
    world = World(settings=Settings(sources=Sources(proxy=proxy)))
    world.step()
    pod = pod_of(world.one("Job"))
    (volume,) = (item for item in pod["volumes"] if item["name"] == "proxy")
    assert volume["secret"] == {"secretName": "proxy", "defaultMode": 0o440}
    (container,) = pod["containers"]
    assert {"name": "PADDOCK_PROXY_CREDENTIALS", "value": "/etc/paddock/proxy"} in container["env"]
    assert {"name": "proxy", "mountPath": "/etc/paddock/proxy", "readOnly": True} in container["volumeMounts"]
    assert violations(pod) == []


def test_a_bundle_of_authorities_is_mounted() -> None:
    world = World(settings=Settings(sources=EVERYTHING))
    world.step()
    pod = pod_of(world.one("Job"))
    (volume,) = (item for item in pod["volumes"] if item["name"] == "ca")
    assert volume["configMap"] == {"name": "authorities", "items": [{"key": "ca.crt", "path": "ca.crt"}]}
    (container,) = pod["containers"]
    assert {"name": "PADDOCK_CA_FILE", "value": "/etc/paddock/ca/ca.crt"} in container["env"]
    assert violations(pod) == []
    before = world.many("Job")
    world.settings = Settings(sources=Sources(rate="1M"))
    world.step()
    world.step()
    assert world.many("Job") == before, "the Job is made anew under its name: it never started"
    assert {"name": "PADDOCK_DOWNLOAD_RATE", "value": "1M"} in pod_of(world.one("Job"))["containers"][0]["env"]


def egress(sources: Sources) -> list[tuple[str, int]]:
    (policy,) = (
        item
        for item in namespace_policies("team", {}, Settings(sources=sources))
        if item["metadata"]["name"] == "paddock-puller"
    )
    found = []
    for rule in policy["spec"]["egress"]:
        found += [(peer["ipBlock"]["cidr"], port["port"]) for peer in rule.get("to", ()) for port in rule["ports"]]
    return found


def test_the_policy_follows_proxies_and_mirrors() -> None:
    public = [("0.0.0.0/0", 443), ("2000::/3", 443)]
    listed = [("10.1.0.0/16", 8000), ("10.3.0.0/28", 3128), ("10.2.0.0/24", 5000)]
    assert egress(Sources()) == public
    assert egress(replace(EVERYTHING, offline=False)) == [*public, *listed]
    through = replace(EVERYTHING, offline=False, proxy=replace(EVERYTHING.proxy, no_proxy=()))
    assert egress(through) == listed, "where everything goes through the proxy nothing else is reached"
    assert egress(EVERYTHING) == []


def test_a_tracked_name_is_asked_anew_with_its_validator() -> None:
    world = served(updatePolicy={"type": "Track", "interval": "1h"})
    resolved = {**world.status()["resolved"], "validator": D}
    world.model = {**world.model, "status": {**world.status(), "resolved": resolved}}
    world.step(3700)
    asked = {"source": {"ollama": {"name": "smollm2:135m"}}, "digest": None, "fresh": True, "validator": D}
    assert request_of(world.one("Job")) == asked
