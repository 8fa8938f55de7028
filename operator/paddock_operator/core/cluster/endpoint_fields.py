"""What of an Endpoint's spec a cluster cannot honour: fields without effect, and fields that must not be passed over.

Called by `plan_endpoint` and by the cluster plan of an Endpoint. A field that asks for protection or for an API which
the gateway does not have yet makes the Endpoint not ready; what only tunes is named in status.effective.ignored.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from paddock_operator.core.endpoint_spec import EndpointSpec, Network, Peer

MISSING_APIS = frozenset({"anthropic"})
Fault = tuple[str, str]
"""A reason of condition Ready and its message."""


def served_apis(wanted: Iterable[str]) -> list[str]:
    """The dialects of `wanted` that the gateway speaks."""
    return [name for name in wanted if name not in MISSING_APIS]


def ignored_on_cluster(spec: EndpointSpec) -> list[str]:
    """Paths of fields that are set and have no effect on a cluster yet, sorted."""
    ignored = {
        "spec.activation": spec.activation is not None,
        "spec.management": spec.management == "Enabled",
        "spec.routing": spec.routing is not None,
    }
    return sorted(path for path, acts in ignored.items() if acts)


def spec_fault(spec: EndpointSpec) -> Fault | None:
    """Why this spec cannot be served as it was asked, None if it can."""
    if unsupported := list(_unsupported(spec)):
        return "Unsupported", "; ".join(unsupported)
    if wrong := list(_wrong_blocks(spec.network)):
        return "InvalidSpec", "; ".join(wrong)
    return None


def _unsupported(spec: EndpointSpec) -> Iterator[str]:
    if spec.auth and spec.auth.service_accounts:
        yield "spec.auth.serviceAccounts: tokens of ServiceAccounts are not verified yet and open nothing; use apiKeys"
    if spec.auth and spec.auth.jwt:
        yield "spec.auth.jwt: tokens of identity providers are not verified yet and open nothing; use apiKeys"
    if spec.limits and spec.limits.tokens_per_minute:
        yield "spec.limits.tokensPerMinute: tokens are not counted yet; use requestsPerMinute and concurrency"
    for name in sorted(MISSING_APIS.intersection(spec.apis)):
        yield f"spec.apis: {name} is not served yet; list ollama and openai"


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
