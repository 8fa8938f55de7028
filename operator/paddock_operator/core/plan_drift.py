"""Whether the source of a pinned Model means something else by now. Called by `plan_model`.

A pin never moves by itself; that its name moved is told by the condition Drifted and by nothing else. Once an interval
the puller asks the source, fetches nothing and answers what it would fetch; a variant is compared with its base. The
answer of one interval stands until that of the next.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paddock_operator.core.clock import seconds_between
from paddock_operator.core.conditions import Verdict, find
from paddock_operator.core.identity import short_digest
from paddock_operator.core.model_spec import ModelSpec
from paddock_operator.core.observed import ModelObserved, PullResult
from paddock_operator.core.plan_pin import Pin, source_digest, tracks
from paddock_operator.core.plan_request import request

CURE = "it stays pinned; to take what is there now, set spec.source.resolve to any new word"
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Drift:
    """`request` is what the puller is to be asked under `key`, None for nothing; `verdict` is that of Drifted, if any.

    `due_seconds`: when the next question is due (None: never).
    """

    key: str = ""
    request: Mapping[str, Any] | None = None
    verdict: Verdict | None = None
    due_seconds: float | None = None


def decide(o: ModelObserved, pin: Pin) -> Drift:
    """What is known of the source, and what is to be asked."""
    held, spec = pin.resolved, o.model.spec
    if o.is_off or not pin.current or not held or not can_drift(spec):
        return Drift()
    if spec.source.model:
        return Drift(verdict=_of_base(o, held))
    if not o.check_seconds:
        return Drift()
    since = max(seconds_between(held["resolvedAt"], o.now), 0.0)
    turn = int(since // o.check_seconds)
    due = o.check_seconds * (turn + 1) - since
    if not turn:
        return Drift(due_seconds=due)
    key = f"{held['sourceHash']}?{held['resolvedAt']}+{turn}"
    return Drift(key, request(spec, None, fresh=True) | {"check": True}, _verdict(o, key, held), due)


def can_drift(spec: ModelSpec) -> bool:
    """Whether a source is a name that may mean something else tomorrow, and the Model does not follow it."""
    source = spec.source
    if tracks(spec) or source.pinned_digest:
        return False
    if source.hugging_face:
        return _COMMIT.fullmatch(source.hugging_face.revision or "") is None
    return bool(source.ollama or source.model or (source.oci and "@" not in source.oci.reference))


def _of_base(o: ModelObserved, held: Mapping[str, Any]) -> Verdict | None:
    if o.base is None or not o.base.digest:
        return None
    name = o.model.spec.source.model.name if o.model.spec.source.model else ""
    return _compared(f"Model {name}", o.base.digest, source_digest(held))


def _verdict(o: ModelObserved, key: str, held: Mapping[str, Any]) -> Verdict | None:
    """What this turn's answer says; that of the last one until it is there."""
    seen = o.check
    if seen.source_hash == key and seen.state == "succeeded" and seen.result is not None:
        return _answer(seen.result, held)
    if seen.source_hash == key and seen.state == "failed":
        return "Unknown", "CheckFailed", f"the source cannot be asked whether it moved: {seen.message}"
    last = find(o.status, "Drifted")
    return (last["status"], last["reason"], last["message"]) if last else None


def _answer(found: PullResult, held: Mapping[str, Any]) -> Verdict:
    """A manifest is compared by its digest, files by theirs; a commit that left them alone is no other model."""
    name = str(held.get("name") or "the source")
    if found.digest:
        return _compared(name, found.digest, source_digest(held))
    known = {file["digest"] for file in held.get("files") or ()}
    given = [str(file["digest"]) for file in found.files]
    if given and known and not held.get("sourceDigest"):
        other = next((digest for digest in given if digest not in known), "")
        pinned = str(held.get("revision") or "") if found.revision else ""
        return _moved(name, found.revision or other, pinned) if other else _same(name)
    if found.revision and held.get("revision"):
        return _compared(name, found.revision, str(held["revision"]))
    return "Unknown", "CheckFailed", f"{name} does not tell enough to compare it with what is pinned"


def _compared(name: str, now: str, pinned: str) -> Verdict:
    return _same(name) if now == pinned else _moved(name, now, pinned)


def _same(name: str) -> Verdict:
    return "False", "UpToDate", f"{name} is still what is pinned"


def _moved(name: str, now: str, pinned: str) -> Verdict:
    was = f", and {short_digest(pinned)} is pinned" if pinned else ""
    return "True", "SourceMoved", f"{name} is {short_digest(now)} by now{was}; {CURE}"
