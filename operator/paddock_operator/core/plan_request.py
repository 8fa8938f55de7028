"""What the puller is asked: the source of a spec, made exact by what is known, and how to ask. Called by `plan_pin`.

The form is that of docs/reference/contracts.md. What a pin tells of its source (a commit, a manifest's digest) is put
into the question, so that bytes which a cache lost come back although the name has moved on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paddock_operator.core.model_spec import ModelSpec
from paddock_operator.core.wire import to_wire


def request(
    spec: ModelSpec, digest: str | None, revision: str = "", *, fresh: bool = False, validator: str = ""
) -> dict[str, Any]:
    """`digest` is the manifest that must come out (None: whatever the name means), `revision` what it was found under.

    `fresh`: the cache's opinion about the name does not count. `validator`: see the contracts.
    """
    made: dict[str, Any] = {"source": _source(spec, digest, revision), "digest": digest}
    return made | ({"fresh": True} if fresh else {}) | ({"validator": validator} if validator else {})


def _source(spec: ModelSpec, digest: str | None, revision: str) -> dict[str, Any]:
    source: dict[str, Any] = to_wire(spec.source)
    exact: dict[str, Mapping[str, Any]] = {
        "ollama": {"digest": digest},
        "huggingFace": {"revision": revision, "quantization": spec.quantization},
        "oci": {"reference": _at(str((source.get("oci") or {}).get("reference") or ""), revision)},
        "model": {"digest": digest},
    }
    return {name: _with(value, exact.get(name, {})) for name, value in source.items()}


def _with(member: Any, more: Mapping[str, Any]) -> Any:
    return {**member, **{name: value for name, value in more.items() if value}} if more else member


def _at(reference: str, revision: str) -> str:
    return f"{reference}@{revision}" if revision.startswith("sha256:") and "@" not in reference else reference
