"""What the plan of a namespace sees, for tests."""

from __future__ import annotations

from typing import Any

from tests.support import kube_objects as kube

from paddock_operator.core.cluster.observed import Children, NamespaceSeen
from paddock_operator.core.cluster.settings import Settings


def namespace_seen(namespace: str = "default", **fields: Any) -> NamespaceSeen:
    """A namespace with nothing in it but a bound claim, at T0, unless given otherwise."""
    defaults: dict[str, Any] = {
        "models": (),
        "endpoints": (),
        "children": Children(),
        "claim": kube.claim(),
        "model_config_maps": (),
        "now": kube.at(),
        "settings": Settings(),
    }
    return NamespaceSeen(namespace=namespace, **{**defaults, **fields})
