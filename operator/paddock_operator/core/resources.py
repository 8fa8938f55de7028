"""The objects that a person declares, parsed: Model, Endpoint and the record of an API key.

Called by executors after `schema.problems` found nothing. Other kinds (Secrets of other types) have no parsed form.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from paddock_operator.core.endpoint_spec import EndpointSpec
from paddock_operator.core.model_spec import ModelSpec, Source
from paddock_operator.core.wire import build

API_VERSION = "paddock.dev/v1alpha1"
API_KEY_TYPE = "paddock.dev/api-key"
DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True, slots=True, order=True)
class Ref:
    """Identity of an object; the order is by kind, namespace, name."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Model:
    """`created` is RFC 3339 or empty; `generation` counts the changes of spec (the executor keeps it)."""

    ref: Ref
    generation: int
    spec: ModelSpec
    labels: Mapping[str, str] = field(default_factory=dict)
    created: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`created` is RFC 3339 or empty; `generation` counts the changes of spec (the executor keeps it)."""

    ref: Ref
    generation: int
    spec: EndpointSpec
    labels: Mapping[str, str] = field(default_factory=dict)
    created: str = ""


@dataclass(frozen=True, slots=True)
class PreviousKey:
    """The hash that a rotation replaces; valid until `until` (RFC 3339)."""

    sha256: str
    until: str


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What is stored of an API key: never the key. `id` is `namespace/name`, `expires` RFC 3339 or None."""

    id: str
    sha256: str
    previous: PreviousKey | None = None
    models: tuple[str, ...] = ("*",)
    verbs: tuple[str, ...] = ("infer",)
    expires: str | None = None


def reference(document: Mapping[str, Any]) -> Ref:
    """Identity of a checked document; the namespace defaults to `default`."""
    metadata = document["metadata"]
    return Ref(document["kind"], metadata.get("namespace") or DEFAULT_NAMESPACE, metadata["name"])


def is_api_key(document: Mapping[str, Any]) -> bool:
    """Whether a document is a Secret that holds an API key record."""
    return document.get("kind") == "Secret" and document.get("type") == API_KEY_TYPE


def parse(document: Mapping[str, Any]) -> Model | Endpoint | KeyRecord:
    """Parse a checked document. Raises ValueError for a kind that has no parsed form."""
    ref = reference(document)
    if is_api_key(document):
        return _key_record(ref, document)
    metadata = document["metadata"]
    labels, created = dict(metadata.get("labels") or {}), str(metadata.get("creationTimestamp") or "")
    generation = int(metadata.get("generation") or 1)
    if ref.kind == "Model":
        return Model(ref, generation, build(ModelSpec, document["spec"]), labels, created)
    if ref.kind == "Endpoint":
        return Endpoint(ref, generation, build(EndpointSpec, document["spec"]), labels, created)
    raise ValueError(f"{ref} has no parsed form; expected Model, Endpoint or a Secret of type {API_KEY_TYPE}")


def secret_text(document: Mapping[str, Any], key: str) -> str | None:
    """One value of a Secret: `stringData` wins over `data` (base64). Raises ValueError if data is no base64 text."""
    plain = (document.get("stringData") or {}).get(key)
    if plain is not None:
        return str(plain)
    encoded = (document.get("data") or {}).get(key)
    return None if encoded is None else base64.b64decode(encoded, validate=True).decode("utf-8")


def secret_values(document: Mapping[str, Any]) -> dict[str, bytes]:
    """All values of a Secret by key, as a mount of it has them. Raises ValueError if data is no base64."""
    encoded, plain = document.get("data") or {}, document.get("stringData") or {}
    found = {key: base64.b64decode("".join((value or "").split()), validate=True) for key, value in encoded.items()}
    return found | {key: (value or "").encode() for key, value in plain.items()}


def secret_name(source: Source) -> str:
    """The Secret with the credentials for a source, empty if it names none."""
    member = source.ollama or source.hugging_face or source.oci
    return member.secret_ref.name if member and member.secret_ref else ""


def _key_record(ref: Ref, document: Mapping[str, Any]) -> KeyRecord:
    policy = json.loads(secret_text(document, "policy") or "{}")
    previous = policy.get("previous")
    return KeyRecord(
        id=f"{ref.namespace}/{ref.name}",
        sha256=(secret_text(document, "sha256") or "").strip(),
        previous=PreviousKey(previous["sha256"], previous["until"]) if previous else None,
        models=tuple(policy.get("models", ("*",))),
        verbs=tuple(policy.get("verbs", ("infer",))),
        expires=policy.get("expires"),
    )
