"""The conditions of a Model, decided from its pin and its service.

Called by `plan_model`. Ready mirrors the first thing that is missing; Reconciling is present only for a change of
generation or digest, Stalled only for what an edit must cure; both are absent otherwise, as kstatus wants it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paddock_operator.core.conditions import (
    BASE_REASONS,
    MODEL_PROGRESS,
    POD_REASONS,
    PULL_REASONS,
    Condition,
    Verdict,
    condition,
    find,
    pull_reason,
)
from paddock_operator.core.identity import short_digest
from paddock_operator.core.observed import ModelObserved
from paddock_operator.core.plan_drift import Drift
from paddock_operator.core.plan_pin import Pin
from paddock_operator.core.plan_serve import RUNS, Service
from paddock_operator.core.quantity import quantity, size_text


def model_conditions(
    o: ModelObserved, pin: Pin, service: Service, memory: Mapping[str, Any], drift: Drift
) -> list[Condition]:
    """All conditions in the order of the status, without transition times."""
    ready = _ready(o, pin, service)
    verdicts: list[tuple[str, Verdict | None]] = [
        ("Ready", ready),
        ("Available", _available(o, service)),
        ("Resolved", _resolved(o, pin)),
        ("Cached", _cached(o, pin)),
        ("Fits", _fits(o, memory)),
        ("Drifted", drift.verdict),
        ("Reconciling", _reconciling(o, pin, service, ready)),
        ("Stalled", _stalled(o, pin, service)),
    ]
    return [condition(kind, *verdict, o.model.generation) for kind, verdict in verdicts if verdict]


def _ready(o: ModelObserved, pin: Pin, service: Service) -> Verdict:
    if off := _off(o):
        return "False", *off
    if o.refused:
        return "False", "Refused", o.refused
    blocked = _blocked(o, pin)
    if blocked and not _proven_by_runner(o, pin):
        return blocked
    if service.rolled_back:
        served = short_digest(service.digest)
        return (
            "False",
            "RolledBack",
            f"{short_digest(pin.target)} cannot load; {served}, the last good digest, serves instead",
        )
    if service.wanted == 0:
        return "True", "Idle", f"{short_digest(pin.target)} is verified and proven; zero runners are wanted"
    return _running(o, pin, service)


def _off(o: ModelObserved) -> tuple[str, str] | None:
    """Why neither a pull nor a runner may be (reason, words), None if they may."""
    if o.unsupported:
        return "Unsupported", o.unsupported
    suspended = "spec.suspend is true: no pull and no runner; set it to false"
    return ("Suspended", suspended) if o.model.spec.suspend else None


def _blocked(o: ModelObserved, pin: Pin) -> Verdict | None:
    """What keeps the bytes from being there, or None."""
    if _is_whole(pin):
        return None
    if pin.lacking:
        return "False", pin.lacking.reason, pin.lacking.message
    if pin.failed:
        return "False", pull_reason(pin.pull.reason), _attempts(o, pin)
    if pin.converting and pin.making:
        return (
            "False",
            "Converting",
            f"{short_digest(pin.making.digest)} is converted to {pin.making.type}{_share(pin)}",
        )
    if pin.target is None and not pin.pull.total:
        return "False", "Resolving", "the puller resolves spec.source"
    known = any(entry["digest"] == pin.target for entry in o.status.get("history") or ())
    said = f"; the runner says: {o.runner.message}" if o.runner.bytes_missing else ""
    return "False", "Verifying" if known and not pin.pull.node else "Pulling", _progress(pin) + said


def _is_whole(pin: Pin) -> bool:
    """Whether the bytes are wherever they are waited for."""
    return pin.verified and not pin.pull.node


def _proven_by_runner(o: ModelObserved, pin: Pin) -> bool:
    """A runner verifies the bytes itself before it loads them: a running one proves that they are there."""
    return (
        pin.target is not None
        and o.runner.state in RUNS
        and o.runner.digest.removeprefix("sha256:") == pin.target.removeprefix("sha256:")
    )


def _attempts(o: ModelObserved, pin: Pin) -> str:
    message = pin.pull.message or "the pull failed"
    if o.platform == "cluster":
        return f"{message}; it is tried again by itself" if pin.pull.retryable else message
    return f"{message} (attempt {pin.pull.attempts})" if pin.pull.attempts > 1 else message


def shown_count(o: ModelObserved, count: int) -> int:
    """A counter for the status. On a cluster it is rounded down to a power of two: retries go on for weeks there, and
    each number would be a write.
    """
    return 1 << (count.bit_length() - 1) if o.platform == "cluster" and count > 0 else count


def counts(o: ModelObserved) -> tuple[int, int]:
    """(runners that exist, those that are ready)."""
    if o.runner.counts is not None:
        return o.runner.counts
    return int(o.runner.state not in ("none", "stopped")), int(o.runner.state in RUNS)


def _progress(pin: Pin) -> str:
    where = f" on node {pin.pull.node}" if pin.pull.node else ""
    if not pin.pull.total:
        return f"the bytes of {short_digest(pin.target)} are being checked{where}"
    done, total = size_text(pin.pull.completed), size_text(pin.pull.total)
    return f"{done} of {total} are there ({percent(pin.pull.completed, pin.pull.total)} %){where}"


def _share(pin: Pin) -> str:
    return f" ({percent(pin.pull.completed, pin.pull.total)} %)" if pin.pull.total else ""


def percent(completed: int, total: int) -> int:
    """Whole percent, 0 to 100."""
    return min(100 * completed // total, 100) if total > 0 else 0


def _running(o: ModelObserved, pin: Pin, service: Service) -> Verdict:
    target = short_digest(pin.target)
    if service.in_force and o.runner.rolling:
        words = f"pods as spec wants them now replace those that serve {target}"
        return "False", o.runner.reason or "Starting", o.runner.message or words
    if service.in_force:
        slots, context = service.engine["slots"], service.engine["contextLength"]
        return "True", "Serving", f"{target} serves {slots} sequences with {context} tokens of context"
    if o.runner.state == "crashed":
        reason = "CrashLooping" if service.crash_looping else "Crashed"
        said = o.runner.message or "no message"
        times = f"{shown_count(o, o.runner.restarts)}{' or more' if o.platform == 'cluster' else ''} restarts"
        return "False", o.runner.reason or reason, f"the runner of {target} ended ({times}): {said}"
    if o.runner.state == "loading":
        return "False", "Loading", f"the engine loads {target} and tests itself"
    if o.runner.state in RUNS:
        return "False", "Configuring", f"the runner of {target} takes up its new configuration"
    if o.runner.reason:
        return "False", o.runner.reason, o.runner.message
    return "False", "Starting", f"the runner of {target} starts"


def _available(o: ModelObserved, service: Service) -> Verdict:
    if o.runner.counts is not None:
        return _available_pods(o, service, *o.runner.counts)
    if o.runner.state in RUNS:
        return "True", "RunnerReady", f"a runner is ready with {short_digest(o.runner.digest)}"
    if o.runner.state in ("none", "stopped"):
        return "False", "NoRunner", "no runner exists"
    return "False", "RunnerNotReady", f"the runner is {o.runner.state}"


def _available_pods(o: ModelObserved, service: Service, existing: int, ready: int) -> Verdict:
    found = [(o.runner.reason, o.runner.message), (o.pull.reason if o.pull.node else "", o.pull.message)]
    trouble = next((f"; {reason}: {message}" for reason, message in found if reason), "")
    if ready:
        return "True", "RunnerReady", f"{ready} of {max(service.wanted, existing)} runners are ready{trouble}"
    if o.runner.reason:
        return "False", o.runner.reason, o.runner.message
    if not existing and service.config is None:
        return "False", "NoRunner", "no runner exists"
    if o.runner.state == "crashed":
        return "False", "CrashLooping" if service.crash_looping else "Crashed", o.runner.message or "the runner ended"
    return "False", "RunnerNotReady", f"none of {max(service.wanted, existing)} runners is ready"


def _resolved(o: ModelObserved, pin: Pin) -> Verdict:
    if o.model.spec.source.pinned_digest and pin.target is not None:
        return "True", "DigestInSpec", f"spec.source pins {short_digest(pin.target)}"
    if pin.target is not None:
        refused = pin.failed and not pin.pull.node
        again = f"; the last attempt to resolve it again failed: {pin.pull.message}" if refused else ""
        made = f", which is {pin.resolved['quantization']} of it" if pin.resolved.get("sourceDigest") else ""
        was = f" ({short_digest(pin.resolved['sourceDigest'])})" if made else ""
        name = pin.resolved.get("name", "the source")
        return "True", "Pinned", f"{name}{was} is pinned to {short_digest(pin.target)}{made}{again}"
    if off := _off(o):
        return "Unknown", off[0], f"the source was not resolved before; {off[1]}"
    if pin.lacking:
        return "False" if pin.lacking.final else "Unknown", pin.lacking.reason, pin.lacking.message
    if pin.failed:
        return "False", pull_reason(pin.pull.reason), _attempts(o, pin)
    if pin.converting and pin.making:
        return (
            "Unknown",
            "Converting",
            f"{pin.making.name} is {short_digest(pin.making.digest)}, of which {pin.making.type} is made",
        )
    return "Unknown", "Resolving", "the puller resolves spec.source"


def _cached(o: ModelObserved, pin: Pin) -> Verdict:
    if _is_whole(pin) or _proven_by_runner(o, pin):
        return "True", "Verified", f"all bytes of {short_digest(pin.target)} are in the cache and have their digests"
    if off := _off(o):
        return "Unknown", off[0], f"the bytes are not checked; {off[1]}"
    status, reason, message = _blocked(o, pin) or ("Unknown", "Resolving", "the puller resolves spec.source")
    return status if pin.failed else "Unknown", reason, message


def _fits(o: ModelObserved, memory: Mapping[str, Any]) -> Verdict:
    needed, limit, source = memory.get("total", 0), *_limit(o)
    if needed and not limit and o.platform == "cluster":
        return "Unknown", "Unknown", f"{size_text(needed)} are estimated; a node that has them is looked for"
    if not needed or not limit:
        return "Unknown", "Unknown", "the memory of the model or of the machine is not known"
    fits = needed <= limit
    words = f"{size_text(needed)} are estimated, {size_text(limit)} are {source}"
    advice = "" if fits else "; lower spec.serving.contextLength or slots, or choose a smaller quantization"
    return "True" if fits else "False", "Fits" if fits else "ExceedsMemory", words + advice


def _limit(o: ModelObserved) -> tuple[int, str]:
    wanted = o.model.spec.resources.memory if o.model.spec.resources else None
    if wanted in (None, "Auto"):
        return o.memory_available, "on this machine"
    return int(quantity(wanted or 0)), "granted by spec.resources.memory"


def _reconciling(o: ModelObserved, pin: Pin, service: Service, ready: Verdict) -> Verdict | None:
    """Present while a change of generation or digest is under way, never for a restart or for scaling."""
    if ready[0] == "True" or o.is_off or _stalled(o, pin, service):
        return None
    changing = not service.proven or o.status.get("observedGeneration") != o.model.generation
    still = find(o.status, "Reconciling").get("status") == "True"
    under_way = changing or still
    return ("True", ready[1], ready[2]) if under_way and ready[1] in _UNDER_WAY else None


_UNDER_WAY = MODEL_PROGRESS | PULL_REASONS | POD_REASONS | BASE_REASONS | {"Crashed", "Refused"}


def _stalled(o: ModelObserved, pin: Pin, service: Service) -> Verdict | None:
    if o.unsupported:
        return "True", "Unsupported", o.unsupported
    if o.model.spec.suspend:
        return None
    if pin.lacking and pin.lacking.final:
        return "True", pin.lacking.reason, pin.lacking.message
    if pin.failed and not pin.pull.retryable and not _proven_by_runner(o, pin):
        return "True", pull_reason(pin.pull.reason), pin.pull.message or "the pull failed"
    if service.rolled_back:
        return (
            "True",
            "RolledBack",
            f"{short_digest(pin.target)} crashed while loading; edit spec or choose another digest",
        )
    if service.crash_looping and not service.proven and service.config is not None:
        message = o.runner.message or "the runner ended while loading"
        return "True", "CrashLooping", f"{short_digest(pin.target)} never loaded with these settings: {message}"
    return None
