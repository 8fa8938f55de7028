"""Which digest a Model is pinned to, and which pull and conversion are wanted for it.

Called by `plan_model`. Precedence: digest in spec, then the status's pin with the hash of the same source, then what
the pull resolves. A tracked name is resolved again when its interval is over (a variant: when its base has another
digest); the old pin holds until that succeeded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from paddock_operator.core import plan_conversion
from paddock_operator.core.bases import Base, Origin
from paddock_operator.core.clock import duration_seconds, seconds_between
from paddock_operator.core.identity import short_digest, source_hash
from paddock_operator.core.model_spec import ModelSpec
from paddock_operator.core.observed import ModelObserved, PullObserved, PullResult
from paddock_operator.core.plan_conversion import Making
from paddock_operator.core.plan_request import request
from paddock_operator.core.quantity import size_text
from paddock_operator.core.quantization import ImpossibleConversionError

MAX_FILES = 64
MAX_WORD = 128


_WHOLE = {"sourceHash", "pullKey", "digest", "resolvedAt"}


@dataclass(frozen=True, slots=True)
class Pin:
    """`target` is the digest to serve, None while unknown. `verified`: the current pull found its bytes.

    `resolved` and `details` are sections of the status. `current`: they belong to the source as it is now. While a
    tracked name is resolved again, the pin that holds counts as verified. `wanted`: the pull of `request` is needed;
    it is not on a cluster whose cache verified these bytes for this key before: runners verify what they load.
    `brought`: its bytes came into the cache; `verified`: and no runner says that they are gone or damaged.
    `making`: the conversion of what the pull brought, None if there is none; `converting`: it has to be done now; then
    `pull` is what is seen of it. `lacking`: the Model that this one is made from, if it has no digest to give.
    """

    key: str
    request: Mapping[str, Any]
    target: str | None
    brought: bool
    verified: bool
    current: bool
    resolved: Mapping[str, Any]
    details: Mapping[str, Any]
    pull: PullObserved
    due_seconds: float | None
    wanted: bool
    making: Making | None = None
    converting: bool = False
    lacking: Base | None = None

    @property
    def failed(self) -> bool:
        """The pull (or conversion) that is wanted now was tried and failed."""
        return self.pull.state == "failed"


def decide(o: ModelObserved) -> Pin:
    """Make the pin of a Model from its spec, its last status and the pull that was seen."""
    spec, known = o.model.spec, o.status.get("resolved") or {}
    hashed = source_hash(spec.source, spec.quantization)
    held = known if known.get("sourceHash") == hashed and set(known) >= _WHOLE else {}
    key, due = _key_and_due(o, hashed, held)
    pull = _checked(o.pull, spec) if o.pull.source_hash == key else PullObserved()
    pull, making = _converted(o, pull, held, key)
    step = _step(o, making) if making else pull
    result = step.result if step.state == "succeeded" else None
    known_pull = _belongs_to_pull(o, held, key)
    settled = known_pull and not o.runner.bytes_missing
    brought = result is not None or known_pull or _refreshing(held, key)
    resolved, details = known, o.status.get("details") or {}
    if result:
        found = replace(result, revision=result.revision or _revision(o.origin, result.digest))
        resolved, details = _resolved(found, making, hashed, key, held, o.now), _details(result, spec)
    digest = _wanted_digest(o, held, key)
    lacking = _lacking(o, held, digest)
    return Pin(
        key=key,
        request=_request(o, digest, known, held, key),
        target=_named_target(spec) or (resolved.get("digest") if result or held else None),
        brought=brought,
        verified=brought and not o.runner.bytes_missing,
        current=result is not None or _belongs(spec, held),
        resolved=resolved,
        details=details,
        pull=step,
        due_seconds=due,
        wanted=not settled and not (lacking and digest is None) and _needs_pull(making, step),
        making=making,
        converting=making is not None and result is None and not settled,
        lacking=lacking,
    )


def source_digest(held: Mapping[str, Any]) -> str:
    """The digest that the source of a pin has: that of the pin itself, unless it was converted."""
    return str(held.get("sourceDigest") or held["digest"])


def pinned_request(spec: ModelSpec, held: Mapping[str, Any], origin: Origin | None = None) -> dict[str, Any]:
    """What brings the bytes of a pin (before any conversion) into another cache."""
    digest = source_digest(held)
    return request(_asked(spec, origin), digest, str(held.get("revision") or _revision(origin, digest)))


def _asked(spec: ModelSpec, origin: Origin | None) -> ModelSpec:
    """The spec with the source that has the bytes."""
    return replace(spec, source=origin.source, quantization=origin.quantization) if origin else spec


def _revision(origin: Origin | None, digest: str | None) -> str:
    return origin.revision if origin and origin.digest == digest else ""


def _request(
    o: ModelObserved, digest: str | None, known: Mapping[str, Any], held: Mapping[str, Any], key: str
) -> Mapping[str, Any]:
    spec = o.model.spec
    if held and digest == source_digest(held):
        return pinned_request(spec, held, o.origin)
    if o.origin:
        return request(_asked(spec, o.origin), digest, _revision(o.origin, digest))
    again = _refreshing(held, key)
    # a new token asks for a new resolution, whatever the cache knows by that name
    asked_anew = bool(spec.source.resolve and known and not held)
    return request(
        spec, digest, fresh=(again or asked_anew) and digest is None, validator=str(held.get("validator") or "") * again
    )


def _needs_pull(making: Making | None, step: PullObserved) -> bool:
    """A conversion whose source is known needs no pull, unless the cache lost that source and the result."""
    return making is None or not making.recalled or (step.state == "failed" and step.reason == "NotFound")


def _converted(
    o: ModelObserved, pull: PullObserved, held: Mapping[str, Any], key: str
) -> tuple[PullObserved, Making | None]:
    """The pull, failed if what it brought cannot become what spec wants, and the conversion that follows it."""
    try:
        return pull, plan_conversion.decide(o, pull, held, key)
    except ImpossibleConversionError as error:
        return replace(pull, state="failed", reason="InvalidModel", message=str(error), retryable=False), None


def _step(o: ModelObserved, making: Making) -> PullObserved:
    return o.convert if o.convert.source_hash == making.key else PullObserved()


def _named_target(spec: ModelSpec) -> str | None:
    """The digest in spec, unless it is only that of what may have to be converted."""
    return None if spec.quantization else spec.source.pinned_digest


def _lacking(o: ModelObserved, held: Mapping[str, Any], digest: str | None) -> Base | None:
    """The base, if it is needed and cannot give a digest."""
    needed = digest is None or (tracks(o.model.spec) and o.base is not None and o.base.final)
    return o.base if o.base is not None and o.base.reason and needed else None


def _belongs_to_pull(o: ModelObserved, held: Mapping[str, Any], key: str) -> bool:
    """Whether the pull that is wanted once brought the pin into the cache of a cluster."""
    return o.platform == "cluster" and _belongs(o.model.spec, held) and held["pullKey"] == key


def _belongs(spec: ModelSpec, held: Mapping[str, Any]) -> bool:
    return bool(held) and spec.source.pinned_digest in (None, source_digest(held))


def tracks(spec: ModelSpec) -> bool:
    """Whether a Model follows its source."""
    return spec.update_policy is not None and spec.update_policy.type == "Track"


def _key_and_due(o: ModelObserved, hashed: str, held: Mapping[str, Any]) -> tuple[str, float | None]:
    """The key of the pull that is wanted, and the seconds until a tracked name is due (None: never)."""
    policy = o.model.spec.update_policy
    if not held or policy is None or not policy.interval:
        return hashed, None
    if o.model.spec.source.model:
        moved = o.base is not None and o.base.digest not in ("", source_digest(held))
        return f"{hashed}@{o.base.digest[7:23]}" if moved and o.base else str(held["pullKey"]), None
    period, since = duration_seconds(policy.interval), seconds_between(held["resolvedAt"], o.now)
    turn = max(int(since // period), 0)
    key = f"{hashed}@{held['resolvedAt']}+{turn}" if turn else str(held["pullKey"])
    return key, period * (turn + 1) - since


def _wanted_digest(o: ModelObserved, held: Mapping[str, Any], key: str) -> str | None:
    """What the puller shall fetch; None lets it resolve the name (or, of another Model, says that there is none)."""
    spec = o.model.spec
    if spec.source.pinned_digest:
        return spec.source.pinned_digest
    if held and not _refreshing(held, key):
        return source_digest(held)
    return (o.base.digest or None) if o.base is not None else None


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


def _resolved(
    result: PullResult, making: Making | None, hashed: str, key: str, held: Mapping[str, Any], now: str
) -> dict[str, Any]:
    same = held.get("digest") == result.digest
    found = {"name": result.name, "revision": result.revision, "validator": result.validator}
    if making:
        found = {"name": making.name, "revision": making.revision, "validator": making.validator}
    if same:
        # asked for by its digest: what the name meant was told before
        found = {name: held.get(name) or value for name, value in found.items()} | _news(found)
    origin = {"sourceDigest": making.digest, "quantization": making.type} if making else {}
    return {
        "sourceHash": hashed,
        "pullKey": key,
        "digest": result.digest,
        "shortDigest": short_digest(result.digest),
        "name": found["name"],
        "size": result.size,
        "sizeText": size_text(result.size),
        "resolvedAt": held["resolvedAt"] if same and held.get("pullKey") == key else now,
        "files": [dict(file) for file in result.files[:MAX_FILES]],
        **{name: found[name] for name in ("revision", "validator") if 0 < len(found[name]) <= MAX_WORD},
        **origin,
    }


def _news(found: Mapping[str, str]) -> dict[str, str]:
    """What the source was asked for and told now."""
    return {name: found[name] for name in ("revision", "validator") if found[name]}


def _details(result: PullResult, spec: ModelSpec) -> dict[str, Any]:
    details = {name: value for name, value in result.details.items() if value is not None}
    if spec.license:
        details["license"] = spec.license.strip().partition("\n")[0][:200]
    return details
