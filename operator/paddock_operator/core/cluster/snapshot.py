"""What Endpoints need to know of a Model on a cluster. Called by the executor for every Model of a namespace."""

from __future__ import annotations

from paddock_operator.core.cluster.labels import RUNNER_PORT
from paddock_operator.core.cluster.observed import Object
from paddock_operator.core.identity import child_name
from paddock_operator.core.observed import ModelSnapshot
from paddock_operator.core.resources import Model, parse
from paddock_operator.core.snapshot import snapshot


def model_snapshot(document: Object) -> ModelSnapshot:
    """From a Model as the API server has it; its address is the headless Service as soon as a digest is pinned.

    Raises ValueError if the document is not a Model.
    """
    model = parse(document)
    if not isinstance(model, Model):
        raise ValueError(f"{document.get('kind')} is not a Model")
    status = document.get("status") or {}
    service = child_name(model.ref)
    pinned = bool((status.get("resolved") or {}).get("digest"))
    address = f"http://{service}.{model.ref.namespace}.svc:{RUNNER_PORT}"
    return snapshot(model, status, (address,) if pinned else (), service)
