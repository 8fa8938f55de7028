"""The lists of models that a key may see, from the configuration. Called by `gateway.answers`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from paddock_runner.core import public_names
from paddock_runner.core.gateway_config import Info, Model

Json = dict[str, object]


def tags(models: Iterable[Model]) -> Json:
    """The body of /api/tags: every public name of every model, newest first."""
    newest = sorted(models, key=lambda model: model.info.modified_at, reverse=True)
    return {"models": [_tag(name, model.info) for model in newest for name in _tagged_names(model)]}


def models(visible: Iterable[Model]) -> Json:
    """The body of /v1/models: every public name as it was configured."""
    return {"object": "list", "data": [openai_model(name, model) for model in visible for name in model.names]}


def openai_model(name: str, model: Model) -> Json:
    """One entry of /v1/models, under the name that was asked for."""
    created = _seconds(model.info.modified_at)
    return {"id": name, "object": "model", "created": created, "owned_by": "library"}


def running(found: Mapping[str, Json], visible: Iterable[Model]) -> Json:
    """The body of /api/ps: what the runners of the visible models said, under the models' public names.

    `found` maps a Model's name to its runner's entry; a Model that is not loaded has none.
    """
    entries = []
    for model in visible:
        if entry := found.get(model.name):
            name = _tagged_names(model)[0]
            entries.append({**entry, "name": name, "model": name})
    entries.sort(key=lambda entry: str(entry.get("expires_at", "")), reverse=True)
    return {"models": entries}


def _tagged_names(model: Model) -> list[str]:
    return list({public_names.normal(name): public_names.tagged(name) for name in model.names}.values())


def _tag(name: str, info: Info) -> Json:
    return {
        "name": name,
        "model": name,
        "modified_at": info.modified_at,
        "size": info.size,
        "digest": info.digest.removeprefix("sha256:"),
        "details": _details(info.details or {}),
        "capabilities": list(info.capabilities),
    }


def _details(details: Mapping[str, object]) -> Json:
    family = details.get("family") or ""
    return {
        "parent_model": "",
        "format": details.get("format") or "gguf",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": details.get("parameterSize") or "",
        "quantization_level": details.get("quantization") or "",
        "context_length": details.get("contextLength") or 0,
        "embedding_length": details.get("embeddingLength") or 0,
    }


def _seconds(moment: str) -> int:
    try:
        return int(datetime.fromisoformat(moment).timestamp())
    except ValueError:
        return 0
