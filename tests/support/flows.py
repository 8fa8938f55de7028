"""Whether NetworkPolicies let a connection through: the semantics of networking.k8s.io/v1 on plain data.

For tests of rendered policies: `allows(policies, source, target, port)` says what a network that enforces them does.
Every rule of the API is here (selectors, blocks with exceptions, ports by number, range and name, policy types and
their defaults); what a network adds of its own (the kubelet's probes, replies) is not.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Policy = Mapping[str, Any]
NAMESPACE_NAME = "kubernetes.io/metadata.name"


@dataclass(frozen=True)
class Peer:
    """A pod, or (without a namespace) an address outside of the cluster. `ports` are (name, protocol) -> number."""

    ip: str
    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[tuple[str, str], int] = field(default_factory=dict)

    @property
    def all_namespace_labels(self) -> Mapping[str, str]:
        return {NAMESPACE_NAME: self.namespace, **self.namespace_labels}


def allows(policies: Iterable[Policy], source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Whether a new connection from `source` to `port` of `target` is let through at both ends."""
    known = list(policies)
    return _end(known, "Egress", source, target, target, port, protocol) and _end(
        known, "Ingress", target, source, target, port, protocol
    )


def _end(
    policies: list[Policy],
    direction: Literal["Ingress", "Egress"],
    subject: Peer,
    other: Peer,
    target: Peer,
    port: int,
    protocol: str,
) -> bool:
    """What the policies that select `subject` say; without one everything is allowed."""
    applying = [policy for policy in policies if _selects(policy, subject) and direction in policy_types(policy)]
    if not applying:
        return True
    field_name, side = ("ingress", "from") if direction == "Ingress" else ("egress", "to")
    return any(
        _peers(rule.get(side), other, policy["metadata"]["namespace"])
        and _ports(rule.get("ports"), target, port, protocol)
        for policy in applying
        for rule in policy["spec"].get(field_name) or ()
    )


def policy_types(policy: Policy) -> list[str]:
    """The directions that a policy limits: as written, else Ingress, and Egress if there are egress rules."""
    written = policy["spec"].get("policyTypes")
    return list(written) if written else ["Ingress", *(["Egress"] if policy["spec"].get("egress") else [])]


def _selects(policy: Policy, subject: Peer) -> bool:
    in_namespace = bool(subject.namespace) and policy["metadata"]["namespace"] == subject.namespace
    return in_namespace and matches(policy["spec"].get("podSelector") or {}, subject.labels)


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches; an empty one matches everything."""
    equal = all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items())
    return equal and all(_requirement(item, labels) for item in selector.get("matchExpressions") or ())


def _requirement(item: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, values = item["key"], item.get("values") or ()
    return {
        "In": key in labels and labels[key] in values,
        "NotIn": key not in labels or labels[key] not in values,
        "Exists": key in labels,
        "DoesNotExist": key not in labels,
    }[item["operator"]]


def _peers(peers: list[Mapping[str, Any]] | None, other: Peer, namespace: str) -> bool:
    """No list, or an empty one, is everybody."""
    return not peers or any(_peer(peer, other, namespace) for peer in peers)


def _peer(peer: Mapping[str, Any], other: Peer, namespace: str) -> bool:
    if "ipBlock" in peer:
        return _block(peer["ipBlock"], other.ip)
    if not other.namespace:
        return False
    if peer.get("namespaceSelector") is not None:
        in_scope = matches(peer["namespaceSelector"], other.all_namespace_labels)
    else:
        in_scope = other.namespace == namespace
    return in_scope and matches(peer.get("podSelector") or {}, other.labels)


def _block(block: Mapping[str, Any], address: str) -> bool:
    ip = ipaddress.ip_address(address)
    inside = ip in ipaddress.ip_network(block["cidr"], strict=False)
    return inside and not any(ip in ipaddress.ip_network(cidr, strict=False) for cidr in block.get("except") or ())


def _ports(ports: list[Mapping[str, Any]] | None, target: Peer, port: int, protocol: str) -> bool:
    return not ports or any(_port(item, target, port, protocol) for item in ports)


def _port(item: Mapping[str, Any], target: Peer, port: int, protocol: str) -> bool:
    if item.get("protocol", "TCP") != protocol:
        return False
    wanted = item.get("port")
    if wanted is None:
        return True
    if isinstance(wanted, str):
        return target.ports.get((wanted, protocol)) == port
    return bool(wanted <= port <= item.get("endPort", wanted))
