"""Names and hashes that must never drift: child names, the hash of a source, the bytes and hash of a configuration.

Called by the plans and by executors. Everything here is a pure function of its input, so two processes always agree.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from paddock_operator.core.model_spec import Source
from paddock_operator.core.resources import Ref
from paddock_operator.core.wire import to_wire

MAX_CHILD_NAME = 52
HASH_LENGTH = 8
SHORT_DIGEST = 12
_NOT_LABEL = re.compile(r"[^a-z0-9]+")


def canonical_json(value: Mapping[str, Any]) -> bytes:
    """The one byte form of a configuration: sorted keys, no spaces, UTF-8, final newline. Raises ValueError on NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8") + b"\n"


def config_hash(value: Mapping[str, Any]) -> str:
    """SHA-256 (64 hex) of `canonical_json(value)`: what `/readyz` reports as `config` when that file is in force."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def secret_hash(clear: str) -> str:
    """What is stored of a clear key or credential: SHA-256 of the whole string, hex."""
    return hashlib.sha256(clear.encode()).hexdigest()


def short_hash(value: Mapping[str, Any]) -> str:
    """The first 16 hex digits of `config_hash`, for statuses that compare settings."""
    return config_hash(value)[:16]


def source_hash(source: Source, quantization: str | None = None) -> str:
    """Hash of what a resolution depends on: every field of the source, the `resolve` token included, and
    `spec.quantization`, which selects a file or has it converted.
    """
    return short_hash(to_wire(source) | ({"quantization": quantization} if quantization else {}))


def short_digest(digest: str | None) -> str:
    """The 12 hex digits by which people tell digests apart."""
    return (digest or "nothing").removeprefix("sha256:")[:SHORT_DIGEST]


def selector(ref: Ref, component: str = "") -> str:
    """The label selector of everything that runs for an object, or of one of its components: the same for ever."""
    everything = f"paddock.dev/child={child_name(ref)}"
    return f"{everything},paddock.dev/component={component}" if component else everything


def child_name(ref: Ref, suffix: str = "") -> str:
    """A name for the children of an object: slug, short hash of its identity, optional suffix.

    At most 52 characters, a valid Service name (a letter, then lower-case letters, digits and dashes). Two objects
    with one slug (`a.b`, `a-b`), or of different kinds or namespaces, get different names.
    """
    digest = hashlib.sha256(f"{ref.kind}/{ref.namespace}/{ref.name}".encode()).hexdigest()[:HASH_LENGTH]
    tail = f"-{digest}-{suffix}" if suffix else f"-{digest}"
    slug = _NOT_LABEL.sub("-", ref.name.lower()).strip("-")
    if not slug or not slug[0].isalpha():
        slug = f"m-{slug}".rstrip("-")
    return slug[: MAX_CHILD_NAME - len(tail)].rstrip("-") + tail
