"""What Endpoints need to know of a Model, from its object and its status. Called by the executors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paddock_operator.core.conditions import find
from paddock_operator.core.observed import ModelSnapshot
from paddock_operator.core.resources import Model


def snapshot(model: Model, status: Mapping[str, Any], addresses: tuple[str, ...], service: str = "") -> ModelSnapshot:
    """`addresses` are `http://host:port` of its runners; `service` is the name of its headless Service, if any."""
    ready, resolved = find(status, "Ready"), status.get("resolved") or {}
    return ModelSnapshot(
        name=model.ref.name,
        ready=ready.get("status") == "True",
        available=find(status, "Available").get("status") == "True",
        reason=str(ready.get("reason", "")),
        digest=str(resolved.get("digest", "")),
        size=int(resolved.get("size", 0)),
        details=status.get("details") or {},
        modified_at=str(resolved.get("resolvedAt") or model.created),
        addresses=addresses,
        labels=model.labels,
        created=model.created,
        service=service,
    )
