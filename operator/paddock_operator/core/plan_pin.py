"""Which digest a Model is pinned to, and which pull is wanted for it.

Called by `plan_model`. Precedence: digest in spec, then the status's pin with the hash of the same source, then what
the pull resolves. A tracked name is resolved again when its interval is over; the old pin holds until that succeeded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from paddock_operator.core.clock import duration_seconds, seconds_between
from paddock_operator.core.identity import source_hash
from paddock_operator.core.model_spec import ModelSpec
from paddock_operator.core.observed import ModelObserved, PullObserved, PullResult
from paddock_operator.core.quantity import size_text
from paddock_operator.core.wire import to_wire

SHORT_DIGEST = 12
MAX_FILES = 64


_WHOLE = {"sourceHash", "pullKey", "digest", "resolvedAt"}


@dataclass(frozen=True, slots=True)
class Pin:
    """`target` is the digest to serve, None while unknown. `verified`: the current pull found its bytes.

    `resolved` and `details` are sections of the status. `current`: they belong to the source as it is now. While a
    tracked name is resolved again, the pin that holds counts as verified. `wanted`: the pull of `request` is needed;
    it is not on a cluster whose cache verified these bytes for this key before: runners verify what they load.
    """

    key: str
    request: Mapping[str, Any]
    target: str | None
    verified: bool
    current: bool
    resolved: Mapping[str, Any]
    details: Mapping[str, Any]
    pull: PullObserved
    due_seconds: float | None
    wanted: bool

    @property
    def failed(self) -> bool:
        """The pull that is wanted now was tried and failed."""
        return self.pull.state == "failed"


def decide(o: ModelObserved) -> Pin:
    """Make the pin of a Model from its spec, its last status and the pull that was seen."""
    spec, known = o.model.spec, o.status.get("resolved") or {}
    hashed = source_hash(spec.source)
    held = known if known.get("sourceHash") == hashed and set(known) >= _WHOLE else {}
    key, due = _key_and_due(spec, hashed, held, o.now)
    pull = _checked(o.pull, spec) if o.pull.source_hash == key else PullObserved()
    result = pull.result if pull.state == "succeeded" else None
    settled = _settled(o, held, key)
    resolved, details = known, o.status.get("details") or {}
    if result:
        resolved, details = _resolved(result, hashed, key, held, o.now), _details(result, spec)
    return Pin(
        key=key,
        request={"source": to_wire(spec.source), "digest": _wanted_digest(spec, held, key)},
        target=spec.source.pinned_digest or (resolved.get("digest") if result or held else None),
        verified=not o.runner.bytes_missing and (result is not None or settled or _refreshing(held, key)),
        current=result is not None or _belongs(spec, held),
        resolved=resolved,
        details=details,
        pull=pull,
        due_seconds=due,
        wanted=not settled,
    )


def _settled(o: ModelObserved, held: Mapping[str, Any], key: str) -> bool:
    """Whether the cache of a cluster was found to hold the pin by the pull that is wanted, and still does."""
    kept = o.platform == "cluster" and not o.runner.bytes_missing
    return kept and _belongs(o.model.spec, held) and held["pullKey"] == key


def _belongs(spec: ModelSpec, held: Mapping[str, Any]) -> bool:
    return bool(held) and spec.source.pinned_digest in (None, held.get("digest"))


def _key_and_due(spec: ModelSpec, hashed: str, held: Mapping[str, Any], now: str) -> tuple[str, float | None]:
    """The key of the pull that is wanted, and the seconds until a tracked name is due (None: never)."""
    interval = spec.update_policy.interval if spec.update_policy else None
    if not held:
        return hashed, None
    if not interval:
        return hashed, None
    period, since = duration_seconds(interval), seconds_between(held["resolvedAt"], now)
    turn = max(int(since // period), 0)
    key = f"{hashed}@{held['resolvedAt']}+{turn}" if turn else str(held["pullKey"])
    return key, period * (turn + 1) - since


def _wanted_digest(spec: ModelSpec, held: Mapping[str, Any], key: str) -> str | None:
    """What the puller shall fetch; None lets it resolve the name."""
    if spec.source.pinned_digest:
        return spec.source.pinned_digest
    return str(held["digest"]) if held and not _refreshing(held, key) else None


def _refreshing(held: Mapping[str, Any], key: str) -> bool:
    """Whether this key asks for a tracked name again while an older pin holds."""
    return bool(held) and "@" in key and key != held["pullKey"]


def _checked(pull: PullObserved, spec: ModelSpec) -> PullObserved:
    """The pull as it was seen; one that brought another digest than spec demands has failed."""
    demanded, result = spec.source.pinned_digest, pull.result
    if pull.state != "succeeded" or result is None or demanded in (None, result.digest):
        return pull
    message = f"{result.name} has digest {result.digest}, but spec.source demands {demanded}"
    return replace(pull, state="failed", reason="DigestMismatch", message=message, retryable=False)


def _resolved(result: PullResult, hashed: str, key: str, held: Mapping[str, Any], now: str) -> dict[str, Any]:
    same = held.get("pullKey") == key and held.get("digest") == result.digest
    return {
        "sourceHash": hashed,
        "pullKey": key,
        "digest": result.digest,
        "shortDigest": result.digest.removeprefix("sha256:")[:SHORT_DIGEST],
        "name": result.name,
        "size": result.size,
        "sizeText": size_text(result.size),
        "resolvedAt": held["resolvedAt"] if same else now,
        "files": [dict(file) for file in result.files[:MAX_FILES]],
    }


def _details(result: PullResult, spec: ModelSpec) -> dict[str, Any]:
    details = {name: value for name, value in result.details.items() if value is not None}
    if spec.license:
        details["license"] = spec.license.strip().partition("\n")[0][:200]
    return details
