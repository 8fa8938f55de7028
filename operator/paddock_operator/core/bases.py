"""The Model that `spec.source.model` names: whether there is one, and the digest that a variant of it takes.

Called by both executors before they plan a Model; the answer is a part of what they observed. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paddock_operator.core.identity import source_hash
from paddock_operator.core.model_spec import Source
from paddock_operator.core.resources import Model, parse

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Origin:
    """The source at the end of a chain of bases, and what it is pinned to (`revision`: "" where none was told).

    `converted`: a Model of the chain serves a conversion, so the variant's bytes are not those of `source`.
    """

    source: Source
    quantization: str | None
    digest: str
    revision: str
    converted: bool = False


@dataclass(frozen=True, slots=True)
class Base:
    """`digest` is that of the other Model's manifest, empty as long as it has none for its source as it is now.

    Then `reason` and `message` say why not (both of the conditions); `final`: only an edit helps. `origin`: where its
    bytes come from, None as long as that is not pinned.
    """

    digest: str = ""
    reason: str = ""
    message: str = ""
    final: bool = False
    origin: Origin | None = None


def base_name(document: Document) -> str:
    """The name of the Model that a Model is made from, empty if it has another source."""
    source = (document.get("spec") or {}).get("source") or {}
    return str((source.get("model") or {}).get("name") or "")


def find_base(document: Document, others: Mapping[str, Document]) -> Base | None:
    """The base of a Model, None if it has none. `others`: the Models of its namespace by name, with their statuses."""
    name = base_name(document)
    if not name:
        return None
    own = str(document["metadata"]["name"])
    if circle := _circle(own, name, others):
        words = "spec.source.model: " + " is made from ".join(circle)
        return Base("", "InvalidSpec", f"{words}; give one of them a source of its own", True)
    found = others.get(name)
    if found is None:
        message = f"Model {name}, which this one is made from, does not exist in this namespace; create it"
        return Base("", "ModelNotFound", message)
    digest = pinned_digest(found)
    if not digest:
        return Base("", "ModelNotReady", f"Model {name}, which this one is made from, is not pinned to a digest yet")
    return Base(digest, origin=_origin(name, others))


def _origin(name: str, others: Mapping[str, Document]) -> Origin | None:
    """Follow a chain without a circle to its end."""
    converted = False
    while True:
        document = others.get(name) or {}
        resolved = (document.get("status") or {}).get("resolved") or {}
        converted = converted or bool(resolved.get("sourceDigest"))
        if not base_name(document):
            break
        name = base_name(document)
    model = parse(document) if document else None
    if not isinstance(model, Model) or not pinned_digest(document):
        return None
    digest, revision = str(resolved["digest"]), str(resolved.get("revision") or "")
    return Origin(model.spec.source, model.spec.quantization, digest, revision, converted)


def _circle(own: str, name: str, others: Mapping[str, Document]) -> tuple[str, ...]:
    """The names on the way from a Model back to one that was met before, empty if the way ends."""
    way = [own]
    while name:
        way.append(name)
        if name in way[:-1]:
            return tuple(way)
        name = base_name(others.get(name) or {})
    return ()


def pinned_digest(document: Document) -> str:
    """The digest that a Model's status has for its source as it is now, empty if there is none."""
    model, resolved = parse(document), (document.get("status") or {}).get("resolved") or {}
    if not isinstance(model, Model) or resolved.get("sourceHash") != source_hash(
        model.spec.source, model.spec.quantization
    ):
        return ""
    return str(resolved.get("digest") or "")
