"""What of an Endpoint's spec a cluster cannot honour: APIs that nobody serves yet, fields that must not be passed over.

Called by `plan_endpoint` and by the cluster plan of an Endpoint. Which fields those are says `core.field_table`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from paddock_operator.core.endpoint_spec import EndpointSpec, Network, Peer
from paddock_operator.core.fields import unsupported
from paddock_operator.core.wire import to_wire

MISSING_APIS = frozenset({"anthropic"})
Fault = tuple[str, str]
"""A reason of condition Ready and its message."""


def served_apis(wanted: Iterable[str]) -> list[str]:
    """The dialects of `wanted` that the gateway speaks."""
    return [name for name in wanted if name not in MISSING_APIS]


def spec_fault(spec: EndpointSpec) -> Fault | None:
    """Why this spec cannot be served as it was asked, None if it can."""
    if words := unsupported("Endpoint", to_wire(spec)):
        return "Unsupported", words
    if wrong := list(_wrong_blocks(spec.network)):
        return "InvalidSpec", "; ".join(wrong)
    return None


def _wrong_blocks(network: Network | None) -> Iterator[str]:
    for index, peer in enumerate(network.allow_from if network else ()):
        if not sound_peer(peer):
            yield f"spec.network.allowFrom[{index}].cidr: {peer.cidr} is no block of addresses such as 10.0.0.0/8"


def sound_peer(peer: Peer) -> bool:
    """Whether the API server would take this peer: its `cidr`, if any, is a block of addresses."""
    if peer.cidr is None:
        return True
    try:
        ipaddress.ip_network(peer.cidr, strict=False)
    except ValueError:
        return False
    return True
