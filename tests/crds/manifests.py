"""Small manifests for the tests of the CRDs; each function overrides a field of a sound document."""

from __future__ import annotations

import json
from typing import Any

OLLAMA = {"ollama": {"name": "smollm2:135m"}}
HEX = "0123456789abcdef" * 4
HTTP = {"http": {"url": "https://example.org/m.gguf", "sha256": HEX}}


def model(**spec: Any) -> dict[str, Any]:
    body = {"source": OLLAMA, **spec}
    return {"apiVersion": "paddock.dev/v1alpha1", "kind": "Model", "metadata": {"name": "m"}, "spec": body}


def source(**members: Any) -> dict[str, Any]:
    return model(source=members)


def endpoint(**spec: Any) -> dict[str, Any]:
    body = {"models": [{"name": "m"}], **spec}
    return {"apiVersion": "paddock.dev/v1alpha1", "kind": "Endpoint", "metadata": {"name": "e"}, "spec": body}


def selecting(**selector: Any) -> dict[str, Any]:
    return {**endpoint(), "spec": {"selector": selector}}


def named(name: Any, **metadata: Any) -> dict[str, Any]:
    return {**model(), "metadata": {"name": name, **metadata}}


def secret(policy: Any = None, sha256: Any = HEX, **more: Any) -> dict[str, Any]:
    data = {"sha256": sha256} | ({} if policy is None else {"policy": policy})
    body = {"apiVersion": "v1", "kind": "Secret", "type": "paddock.dev/api-key", "metadata": {"name": "k"}}
    return {**body, "stringData": data, **more}


def policy(**fields: Any) -> dict[str, Any]:
    return secret(json.dumps(fields))
