"""NetworkPolicies: who may talk to whom. Deny by default, with exactly the flows that each component needs.

Called by `endpoint` and `namespace`. A cluster whose network enforces no policies ignores them; runners ask for a
credential besides. DNS is allowed to every address on port 53: resolvers live in pods, on the host's network or at
link-local addresses, and as they forward whatever name is asked, limiting their address would protect nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from paddock_operator.core.cluster.endpoint_fields import sound_peer
from paddock_operator.core.cluster.labels import (
    COLLECTOR,
    COMPONENT,
    CONVERTER,
    GATEWAY,
    GATEWAY_PORT,
    MANAGED_BY,
    MANAGED_BY_VALUE,
    PULLER,
    RUNNER,
    RUNNER_PORT,
    common_labels,
    pod_selector,
)
from paddock_operator.core.cluster.meta import metadata
from paddock_operator.core.cluster.observed import EndpointSeen
from paddock_operator.core.cluster.settings import Settings
from paddock_operator.core.cluster.source_settings import Sources
from paddock_operator.core.endpoint_spec import Peer
from paddock_operator.core.identity import child_name
from paddock_operator.core.resources import Endpoint
from paddock_operator.core.wire import to_wire

Rule = dict[str, Any]
HTTPS_PORT = 443
PUBLIC: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "0.0.0.0/0",
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "168.63.129.16/32",  # the platform of Azure's virtual machines
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
        ),
    ),
    # Teredo and 6to4 carry IPv4 addresses of any kind.
    ("2000::/3", ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")),
)
"""The internet: blocks with the private, link-local, metadata and reserved ranges that are left out."""


def _tcp(*numbers: int) -> list[dict[str, Any]]:
    return [{"protocol": "TCP", "port": number} for number in numbers]


DNS: Rule = {"ports": [{"protocol": "UDP", "port": 53}, *_tcp(53)]}


def component_selector(component: str) -> dict[str, Any]:
    """Selects our pods of a component, whichever object they belong to."""
    return {"matchLabels": {MANAGED_BY: MANAGED_BY_VALUE, COMPONENT: component}}


def _block(cidr: str, apart_from: Iterable[str] = ()) -> dict[str, Any]:
    excluded = list(apart_from)
    return {"ipBlock": {"cidr": cidr, **({"except": excluded} if excluded else {})}}


def _policy(
    made: Mapping[str, Any], selector: Mapping[str, Any], ingress: list[Rule], egress: list[Rule]
) -> dict[str, Any]:
    """Both directions are always named, so that what no rule allows is denied, and a rule added by hand is removed."""
    spec = {"podSelector": dict(selector), "policyTypes": ["Ingress", "Egress"]}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": dict(made),
        "spec": {**spec, "ingress": ingress, "egress": egress},
    }


def gateway_policy(seen: EndpointSeen, endpoint: Endpoint) -> dict[str, Any]:
    """In: what spec.network allows (else every pod of the namespace). Out: runners, DNS, the API server."""
    labels = common_labels(endpoint.ref, GATEWAY)
    made = metadata(child_name(endpoint.ref), endpoint.ref.namespace, labels, None, seen.endpoint)
    api_server = seen.settings.api_server
    egress = [
        {"to": [{"podSelector": component_selector(RUNNER)}], "ports": _tcp(RUNNER_PORT)},
        DNS,
        {"to": [_block(api_server.cidr)], "ports": _tcp(*api_server.ports)},
    ]
    return _policy(made, {"matchLabels": pod_selector(endpoint.ref, GATEWAY)}, _admitted(endpoint), egress)


def _admitted(endpoint: Endpoint) -> list[Rule]:
    network = endpoint.spec.network
    if network is None or not network.allow_from:
        return [{"from": [{"podSelector": {}}], "ports": _tcp(GATEWAY_PORT)}]
    # A rule without peers would admit everybody: if none of them can be used, there is no rule.
    peers = [_peer(peer) for peer in network.allow_from if sound_peer(peer)]
    return [{"from": peers, "ports": _tcp(GATEWAY_PORT)}] if peers else []


def _peer(peer: Peer) -> dict[str, Any]:
    return _block(peer.cidr) if peer.cidr else dict(to_wire(peer))


def namespace_policies(namespace: str, labels: Mapping[str, str], settings: Settings) -> list[dict[str, Any]]:
    """The policies of a namespace's pullers, converters, runners and collectors. `labels`: those of such objects."""
    callers = {"from": [{"podSelector": component_selector(GATEWAY)}], "ports": _tcp(RUNNER_PORT)}
    rules: tuple[tuple[str, list[Rule], list[Rule]], ...] = (
        (PULLER, [], _sources(settings.sources)),
        (RUNNER, [callers], []),
        (COLLECTOR, [], []),
        (CONVERTER, [], []),
    )
    return [
        _policy(
            metadata(f"paddock-{component}", namespace, {**labels, COMPONENT: component}),
            component_selector(component),
            ingress,
            egress,
        )
        for component, ingress, egress in rules
    ]


def _sources(sources: Sources) -> list[Rule]:
    """Names, the internet, and what the settings list; only the proxies where everything goes through them."""
    if sources.offline:
        return []
    places = [*((item.cidr, item.port) for item in sources.allow), *sources.own_places]
    listed: list[Rule] = [{"to": [_block(cidr)], "ports": _tcp(port)} for cidr, port in dict.fromkeys(places)]
    public = {"to": [_block(cidr, inner) for cidr, inner in PUBLIC], "ports": _tcp(HTTPS_PORT)}
    return [DNS, *([] if sources.only_by_proxy else [public]), *listed]
