"""Who reaches whom under the policies that the plans render: a table of flows, and the edges of what is public."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.endpoint_world import World, endpoint_document
from tests.support.flows import Peer, allows
from tests.support.kube_objects import model_document
from tests.support.namespace_world import namespace_seen

from paddock_operator.core.cluster.labels import common_labels
from paddock_operator.core.cluster.namespace import LABELS, plan_namespace
from paddock_operator.core.cluster.settings import ApiServer, Settings
from paddock_operator.core.cluster.source_settings import AllowedSource, Sources
from paddock_operator.core.resources import Ref
from paddock_runner.sources.addresses import is_public

SETTINGS = Settings(
    sources=Sources((AllowedSource("registry.lan:5000", "10.9.0.0/28", 5000),)),
    api_server=ApiServer("10.96.0.0/30", (443, 6443)),
)
MAIN, OTHER, MODEL = Ref("Endpoint", "team", "main"), Ref("Endpoint", "team", "other"), Ref("Model", "team", "m")


def ours(ip: str, ref: Ref, component: str) -> Peer:
    return Peer(ip, "team", common_labels(ref, component), {"env": "prod"})


PEERS = {
    "gateway": ours("10.42.0.1", MAIN, "gateway"),
    "open gateway": ours("10.42.0.2", OTHER, "gateway"),
    "runner": ours("10.42.0.3", MODEL, "runner"),
    "puller": ours("10.42.0.4", MODEL, "puller"),
    "collector": Peer("10.42.0.5", "team", {**LABELS, "paddock.dev/component": "collector"}),
    "converter": ours("10.42.0.7", MODEL, "converter"),
    "app": Peer("10.42.0.6", "team", {"app": "chat"}),
    "prometheus": Peer("10.42.1.1", "monitoring", {"app": "prometheus"}, {"purpose": "monitoring"}),
    "ingress": Peer("10.42.1.2", "edge", {"app": "nginx"}),
    "foreign app": Peer("10.42.1.3", "elsewhere", {"app": "chat"}),
    "foreign gateway": Peer("10.42.1.4", "elsewhere", common_labels(MAIN, "gateway")),
    "dns": Peer("10.42.1.5", "kube-system", {"k8s-app": "kube-dns"}),
    "node dns": Peer("169.254.20.10"),
    "api server": Peer("10.96.0.1"),
    "node": Peer("192.168.1.10"),
    "office": Peer("198.18.7.7"),
    "metadata": Peer("169.254.169.254"),
    "azure platform": Peer("168.63.129.16"),
    "carrier": Peer("100.100.100.200"),
    "registry": Peer("10.9.0.5"),
    "near registry": Peer("10.9.0.16"),
    "internet": Peer("104.16.1.1"),
    "internet 6": Peer("2606:4700::1"),
    "metadata 6": Peer("fd00:ec2::254"),
    "6to4 of 10.0.0.1": Peer("2002:a00:1::1"),
}
OPEN = {
    "allowFrom": [
        {"namespaceSelector": {"matchLabels": {"purpose": "monitoring"}}},
        {"podSelector": {"matchLabels": {"app": "chat"}}},
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "edge"}}, "podSelector": {}},
        {"cidr": "198.18.0.0/15"},
    ]
}


def policies(**network: Any) -> list[dict[str, Any]]:
    """What the plans render for a namespace with two Endpoints: one closed, one with `network`."""
    rendered: list[Any] = []
    for name, spec in (("main", {}), ("other", {"network": network or OPEN})):
        world = World(endpoint=endpoint_document(name, "team", **spec), settings=SETTINGS)
        rendered += world.plan().apply
    seen = namespace_seen("team", models=(model_document("m", "team"),), settings=SETTINGS)
    rendered += plan_namespace(seen).apply
    return [dict(item) for item in rendered if item["kind"] == "NetworkPolicy"]


FLOWS = [
    # from, to, port, protocol, allowed
    ("app", "gateway", 11434, "TCP", True),
    ("gateway", "gateway", 11434, "TCP", False),  # pods may come in, but a gateway calls runners only
    ("app", "gateway", 8080, "TCP", False),
    ("app", "gateway", 11434, "UDP", False),
    ("foreign app", "gateway", 11434, "TCP", False),
    ("prometheus", "gateway", 11434, "TCP", False),
    ("ingress", "gateway", 11434, "TCP", False),
    ("internet", "gateway", 11434, "TCP", False),
    ("prometheus", "open gateway", 11434, "TCP", True),
    ("ingress", "open gateway", 11434, "TCP", True),
    ("app", "open gateway", 11434, "TCP", True),
    ("office", "open gateway", 11434, "TCP", True),
    ("foreign app", "open gateway", 11434, "TCP", False),
    ("internet", "open gateway", 11434, "TCP", False),
    ("office", "open gateway", 22, "TCP", False),
    ("gateway", "runner", 8080, "TCP", True),
    ("open gateway", "runner", 8080, "TCP", True),
    ("gateway", "runner", 22, "TCP", False),
    ("app", "runner", 8080, "TCP", False),
    ("foreign gateway", "runner", 8080, "TCP", False),
    ("prometheus", "runner", 8080, "TCP", False),
    ("puller", "runner", 8080, "TCP", False),
    ("runner", "runner", 8080, "TCP", False),
    ("node", "runner", 8080, "TCP", False),
    ("gateway", "dns", 53, "UDP", True),
    ("gateway", "node dns", 53, "TCP", True),
    ("gateway", "api server", 443, "TCP", True),
    ("gateway", "api server", 6443, "TCP", True),
    ("gateway", "api server", 22, "TCP", False),
    ("gateway", "internet", 443, "TCP", False),
    ("gateway", "metadata", 80, "TCP", False),
    ("gateway", "puller", 8080, "TCP", False),
    ("gateway", "app", 8080, "TCP", False),
    ("runner", "dns", 53, "UDP", False),
    ("runner", "internet", 443, "TCP", False),
    ("runner", "api server", 443, "TCP", False),
    ("runner", "gateway", 11434, "TCP", False),
    ("puller", "dns", 53, "UDP", True),
    ("puller", "dns", 53, "TCP", True),
    ("puller", "internet", 443, "TCP", True),
    ("puller", "internet 6", 443, "TCP", True),
    ("puller", "internet", 80, "TCP", False),
    ("puller", "internet", 443, "UDP", False),
    ("puller", "registry", 5000, "TCP", True),
    ("puller", "registry", 443, "TCP", False),
    ("puller", "near registry", 5000, "TCP", False),
    ("puller", "api server", 443, "TCP", False),
    ("puller", "node", 443, "TCP", False),
    ("puller", "metadata", 443, "TCP", False),
    ("puller", "metadata", 80, "TCP", False),
    ("puller", "metadata 6", 443, "TCP", False),
    ("puller", "azure platform", 443, "TCP", False),
    ("puller", "carrier", 443, "TCP", False),
    ("puller", "6to4 of 10.0.0.1", 443, "TCP", False),
    ("puller", "gateway", 11434, "TCP", False),
    ("puller", "app", 443, "TCP", False),
    ("app", "puller", 8080, "TCP", False),
    ("node", "puller", 8080, "TCP", False),
    ("collector", "dns", 53, "UDP", False),
    ("collector", "internet", 443, "TCP", False),
    ("collector", "gateway", 11434, "TCP", False),
    ("converter", "dns", 53, "UDP", False),
    ("converter", "internet", 443, "TCP", False),
    ("converter", "runner", 8080, "TCP", False),
    ("app", "converter", 1, "TCP", False),
    ("app", "collector", 1, "TCP", False),
    ("app", "internet", 443, "TCP", True),  # pods that are not ours are none of our business
]
RENDERED = policies()


@pytest.mark.parametrize(("source", "target", "port", "protocol", "expected"), FLOWS)
def test_flow(source: str, target: str, port: int, protocol: str, expected: bool) -> None:
    assert allows(RENDERED, PEERS[source], PEERS[target], port, protocol) is expected


def test_the_names_are_the_contracts() -> None:
    names = sorted(item["metadata"]["name"] for item in RENDERED)
    assert [name for name in names if name.startswith("paddock-")] == [
        "paddock-collector",
        "paddock-converter",
        "paddock-puller",
        "paddock-runner",
    ]
    assert all(item["spec"]["policyTypes"] == ["Ingress", "Egress"] for item in RENDERED)


def test_an_unusable_peer_admits_nobody() -> None:
    rendered = policies(allowFrom=[{"cidr": "999.0.0.0/8"}])
    assert not any(allows(rendered, peer, PEERS["open gateway"], 11434) for peer in PEERS.values())
    mixed = policies(allowFrom=[{"cidr": "10.0.0.0/99"}, {"podSelector": {}}])
    assert allows(mixed, PEERS["app"], PEERS["open gateway"], 11434)
    assert not allows(mixed, PEERS["foreign app"], PEERS["open gateway"], 11434)


def test_an_empty_selector_is_rendered_as_such() -> None:
    rendered = policies(allowFrom=[{"namespaceSelector": {}}])
    assert allows(rendered, PEERS["foreign app"], PEERS["open gateway"], 11434)
    assert not allows(rendered, PEERS["internet"], PEERS["open gateway"], 11434)


addresses = st.one_of(
    st.ip_addresses(v=4),
    st.ip_addresses(v=6),
    st.ip_addresses(network="2000::/3"),
    st.sampled_from([ipaddress.ip_address(peer.ip) for peer in PEERS.values()]),
    *(st.ip_addresses(network=cidr) for cidr in ("10.0.0.0/7", "172.0.0.0/8", "192.168.0.0/15", "224.0.0.0/3")),
)


@given(addresses)
def test_the_policy_is_never_wider_than_the_pullers_own_check(address: Any) -> None:
    """The puller refuses what is not public by itself; the network must not be the weaker of the two."""
    reached = allows(RENDERED, PEERS["puller"], Peer(str(address)), 443)
    assert not reached or is_public(str(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "172.15.0.1", "172.32.0.1", "11.0.0.1", "223.255.255.254"])
def test_public_addresses_next_to_private_ones_are_reached(address: str) -> None:
    assert is_public(address)
    assert allows(RENDERED, PEERS["puller"], Peer(address), 443)
