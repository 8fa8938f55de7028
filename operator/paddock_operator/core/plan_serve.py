"""Which digest a runner serves, with which configuration, and what is proven about it.

Called by `plan_model`. A digest is proven when a runner reported ready with exactly the planned configuration (its
self-test passed). A proven digest is never quarantined, and one is served while its successor is still being pulled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paddock_operator.core.clock import duration_seconds
from paddock_operator.core.identity import config_hash, short_hash
from paddock_operator.core.memory import engine_record
from paddock_operator.core.model_spec import ModelSpec, Parameters, Serving
from paddock_operator.core.observed import ModelObserved, RunnerObserved
from paddock_operator.core.plan_pin import Pin
from paddock_operator.core.wire import to_wire

CRASH_LIMIT = 3
MAX_HISTORY = 5
DRAIN_SECONDS = 30
QUEUE_DEPTH = 64
IDLE_SECONDS = 300
MAX_KEEP_ALIVE = 315_360_000
"""Ten years: what the runner accepts at most."""
MAX_NAMES = 256
# These are load-time numbers: they reach the engine in its record, not as sampling parameters.
LOAD_TIME = frozenset(
    {"num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "use_mlock", "num_thread", "draft_num_predict"}
)
RUNS = ("ready", "unloaded")

Entries = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Service:
    """`digest` is what shall be served (None: nothing), `config` the serve configuration, `standby` the one that would
    be used if any runner were wanted, `wanted` the number of runners.

    `settings` is the hash of the target's engine record, `engine` that record. `in_force`: the runner reports ready
    with exactly `config`. `proven`: the target with these settings was so once.
    """

    digest: str | None
    config: Mapping[str, Any] | None
    standby: Mapping[str, Any] | None
    engine: Mapping[str, Any]
    settings: str
    wanted: int
    in_force: bool
    proven: bool
    rolled_back: bool
    crash_looping: bool
    history: Entries
    quarantine: Entries


def decide(o: ModelObserved, pin: Pin) -> Service:
    """Choose the digest, write its configuration, and keep the record of proofs and crashes."""
    spec = o.model.spec
    engine = engine_record(spec, _context_of(pin.details) if pin.current else _trained(o.status, pin.target))
    settings = short_hash(engine)
    quarantine = _quarantine(o, pin, settings)
    digest = _choose(o.status.get("history") or (), quarantine, pin, spec)
    rolled_back = digest is not None and digest != pin.target and pin.verified
    wanted = _wanted(o, _proven(o.status.get("history") or (), pin.target, settings))
    standby = _config(o, digest, engine if digest == pin.target else _engine_of(o, digest)) if digest else None
    config = standby if wanted else None
    in_force = config is not None and serves(o.runner, config)
    history = _history(o, config) if in_force and config else list(o.status.get("history") or ())
    proven = _proven(history, pin.target, settings)
    return Service(
        digest=digest if config else None,
        config=config,
        standby=standby,
        engine=engine,
        settings=settings,
        wanted=wanted,
        in_force=in_force,
        proven=proven,
        rolled_back=rolled_back,
        crash_looping=o.runner.state == "crashed" and o.runner.restarts >= CRASH_LIMIT,
        history=history,
        quarantine=[] if proven else quarantine,
    )


def serves(runner: RunnerObserved, config: Mapping[str, Any]) -> bool:
    """Whether the runner is ready with exactly this configuration; one unloaded for idleness is."""
    return (
        runner.state in RUNS
        and runner.config_hash == config_hash(config)
        and _hex(runner.digest) == _hex(config["digest"])
    )


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _choose(history: Entries, quarantine: Entries, pin: Pin, spec: ModelSpec) -> str | None:
    """The target if its bytes are there or were served before; else the last good digest; else nothing."""
    proven = [str(entry["digest"]) for entry in history]
    banned = {entry["digest"] for entry in quarantine} if _may_roll_back(spec) else set()
    # A runner that waits for bytes which left the cache is the first to know that they are back.
    usable = pin.target is not None and (pin.brought or pin.target in proven)
    if usable and (pin.target not in banned or pin.target in proven):
        return pin.target
    others = [digest for digest in proven if digest != pin.target and digest not in banned]
    if others:
        return others[0]
    return pin.target if usable else None


def _may_roll_back(spec: ModelSpec) -> bool:
    return not (spec.rollout and spec.rollout.rollback == "Disabled")


def _wanted(o: ModelObserved, proven: bool) -> int:
    """Runners that shall exist (one machine accepts 0 and 1): a new Model is proven once even if zero are wanted.

    A Model that scales down to zero keeps one runner, whose weights go when it is idle: that needs no waking.
    """
    spec = o.model.spec
    if o.is_off:
        return 0
    if spec.replicas is not None:
        return spec.replicas or int(not proven)
    return max(spec.scaling.min_replicas or 1, 1) if spec.scaling else 1


def _proven(history: Entries, target: str | None, settings: str) -> bool:
    return any(entry["digest"] == target and entry["settingsHash"] == settings for entry in history)


def _history(o: ModelObserved, config: Mapping[str, Any]) -> Entries:
    """Put the digest that is served and proven first; it keeps the time of its first proof with these settings."""
    before: Entries = o.status.get("history") or ()
    digest, settings = config["digest"], short_hash(config["engine"])
    same = (entry for entry in before if entry["digest"] == digest and entry["settingsHash"] == settings)
    known = next(same, None)
    if known is not None and known is before[0]:
        return list(before)
    entry = known or {
        "digest": digest,
        "settingsHash": settings,
        "contextLength": _served_context(o, digest),
        "provenAt": o.now,
        **_needs_of(o.status, digest, settings),
    }
    others = [other for other in before if other["digest"] != digest]
    return [entry, *others][:MAX_HISTORY]


def _needs_of(status: Mapping[str, Any], digest: str, settings: str) -> dict[str, int]:
    """Bytes of files and memory as far as the status knows them: what a pod needs that returns to this digest."""
    resolved, estimated = status.get("resolved") or {}, (status.get("memory") or {}).get("estimated") or {}
    size = resolved.get("size", 0) if resolved.get("digest") == digest else 0
    same = estimated.get("digest") == digest and estimated.get("settingsHash") == settings
    found = {"size": size, "memory": estimated.get("total", 0) if same else 0}
    return {name: value for name, value in found.items() if value}


def _quarantine(o: ModelObserved, pin: Pin, settings: str) -> list[Mapping[str, Any]]:
    """Entries of this generation, and the target if it crash-loops without ever having been proven."""
    generation = o.model.generation
    kept = [entry for entry in o.status.get("quarantine") or () if entry["generation"] == generation]
    if any(entry["digest"] == pin.target for entry in kept) or not _condemned(o, pin, settings):
        return kept
    message = (o.runner.message or "the runner ended while loading")[:1024]
    entry = {"digest": pin.target, "settingsHash": settings, "generation": generation, "message": message}
    return [entry, *kept][:MAX_HISTORY]


def _condemned(o: ModelObserved, pin: Pin, settings: str) -> bool:
    """Whether the crashes that were seen are those of the target with these settings, and it never worked."""
    asked = (o.status.get("memory") or {}).get("estimated") or {}
    about_target = asked.get("digest") == pin.target and asked.get("settingsHash") == settings
    looping = o.runner.state == "crashed" and o.runner.restarts >= CRASH_LIMIT
    current = o.status.get("observedGeneration") == o.model.generation
    never = not any(entry["digest"] == pin.target for entry in o.status.get("history") or ())
    return looping and current and about_target and never and pin.target is not None


def _context_of(details: Mapping[str, Any]) -> int:
    value = details.get("contextLength")
    return value if isinstance(value, int) else 0


def _trained(status: Mapping[str, Any], digest: str | None) -> int:
    entries: Entries = status.get("history") or ()
    return next((int(entry.get("contextLength", 0)) for entry in entries if entry["digest"] == digest), 0)


def _served_context(o: ModelObserved, digest: str) -> int:
    from_pull = o.pull.result
    if from_pull is not None and from_pull.digest == digest:
        return _context_of(from_pull.details)
    return _trained(o.status, digest) or _context_of(o.status.get("details") or {})


def _engine_of(o: ModelObserved, digest: str | None) -> dict[str, Any]:
    return engine_record(o.model.spec, _trained(o.status, digest))


def _config(o: ModelObserved, digest: str, engine: Mapping[str, Any]) -> dict[str, Any]:
    spec = o.model.spec
    return {
        "version": 1,
        "namespace": o.model.ref.namespace,
        "name": o.model.ref.name,
        "names": list(dict.fromkeys((o.model.ref.name, *o.names)))[:MAX_NAMES],
        "models": o.models_dir,
        "digest": digest,
        "system": spec.system,
        "template": spec.template,
        "parameters": sampling_parameters(spec),
        "messages": to_wire(spec.messages),
        "engine": dict(engine),
        "keepAliveSeconds": keep_alive_seconds(spec),
        "queueDepth": QUEUE_DEPTH,
        "drainSeconds": drain_seconds(spec),
        "credentials": [{"endpoint": endpoint, "sha256": sha256} for endpoint, sha256 in sorted(o.credentials)],
        "anonymous": False,
    }


def sampling_parameters(spec: ModelSpec) -> dict[str, Any]:
    """The hot parameters; load-time ones are in the engine's record."""
    given: dict[str, Any] = to_wire(spec.parameters or Parameters())
    return {name: value for name, value in given.items() if name not in LOAD_TIME}


def keep_alive_seconds(spec: ModelSpec) -> int:
    """Seconds without requests until the weights are unloaded, -1 never; scaling to zero means unloading here."""
    text = (spec.serving or Serving()).keep_alive
    if text is None and spec.scaling and spec.scaling.min_replicas == 0:
        return _seconds(spec.scaling.idle_timeout) if spec.scaling.idle_timeout else IDLE_SECONDS
    if text in (None, "-1"):
        return -1
    return 0 if text == "0" else _seconds(str(text))


def _seconds(duration: str) -> int:
    return min(math.ceil(duration_seconds(duration)), MAX_KEEP_ALIVE)


def drain_seconds(spec: ModelSpec) -> int:
    """Seconds that running requests may take to finish."""
    given = spec.rollout.drain_seconds if spec.rollout else None
    return DRAIN_SECONDS if given is None else given
