"""The gateway's configuration file, version 1: a strict reading into frozen records. Called by `gateway`.

Its form is in docs/reference/contracts.md. Every problem names the field by its path and says what is allowed; an
unknown field is a problem too, so that a misspelt limit never means "no limit".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from paddock_runner.core import public_names, strict_json
from paddock_runner.core.config_fields import ConfigProblem, Fields, kind_of, one_of, text_of

VERSION = 1
ANY_MODEL = "*"
MAX_BODY_BYTES = 32 * 1024 * 1024

Dialect = Literal["ollama", "openai", "anthropic"]
Auth = Literal["apiKey", "none"]
DIALECTS: tuple[Dialect, ...] = get_args(Dialect)

_SHA256 = re.compile(r"[0-9a-f]{64}")
_BACKEND = re.compile(r"http://(?:[A-Za-z0-9._-]{1,253}|\[[0-9a-fA-F:.]{2,45}\])(?::[0-9]{1,5})?")
_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_PRINTABLE = re.compile(r"[\x21-\x7e]{1,512}")


@dataclass(frozen=True, slots=True)
class Previous:
    """The hash that a rotated key had before; good until `until` (seconds since 1970)."""

    sha256: str
    until: float


@dataclass(frozen=True, slots=True)
class Key:
    """One API key: never its text. `models` are Model names or public names (normalised), or everything."""

    id: str
    sha256: str
    models: frozenset[str]
    verbs: frozenset[str]
    previous: Previous | None = None
    expires: float | None = None

    def may_use(self, model: Model) -> bool:
        """Whether the key's policy names this model, by any of its names, or all models."""
        return ANY_MODEL in self.models or not self.models.isdisjoint(model.keys)


@dataclass(frozen=True, slots=True)
class Info:
    """What the lists show of a model. `details` has the puller's names (contracts.md, R)."""

    digest: str = ""
    size: int = 0
    modified_at: str = "1970-01-01T00:00:00Z"
    details: Mapping[str, object] | None = None
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Model:
    """One route: a Model, the public names that lead to it and the runners that serve it.

    With a `service` the runners are the ready endpoints of that Service, and `backends` are names of it in DNS.
    """

    name: str
    names: tuple[str, ...]
    backends: tuple[str, ...]
    ready: bool
    info: Info
    keys: frozenset[str]
    """Every normalised spelling by which a key's policy may mean this model."""
    service: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the Endpoint. Zero means none: no bound, and for the queue no waiting."""

    body_bytes: int = 4 * 1024 * 1024
    concurrency: int = 64
    queue_depth: int = 64
    queue_seconds: float = 30
    requests_per_minute: int = 0
    tokens_per_minute: int = 0


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """All that a gateway knows. `routes` leads from a normalised public name to its model."""

    namespace: str
    name: str
    auth: Auth
    keys: tuple[Key, ...]
    models: tuple[Model, ...]
    routes: Mapping[str, Model]
    backend_credential: str
    limits: Limits
    apis: frozenset[Dialect]
    drain_seconds: float

    @property
    def endpoint(self) -> str:
        """NAMESPACE/NAME of the Endpoint."""
        return f"{self.namespace}/{self.name}"


def parse(body: bytes) -> GatewayConfig:
    """The configuration in `body`. Raises `ConfigProblem`, or `JSONProblem` when it is not JSON."""
    top = Fields(strict_json.loads(body), "")
    if (version := top.integer("version")) != VERSION:
        raise ConfigProblem("version", f"must be {VERSION}, not {version}")
    models = tuple(top.each("models", _model))
    config = GatewayConfig(
        namespace=top.text("namespace"),
        name=top.text("name"),
        auth=top.choice("auth", get_args(Auth)),
        keys=_unique_keys(top.each("keys", _key)),
        models=models,
        routes=_routes(models),
        backend_credential=top.matching("backendCredential", _PRINTABLE, "1 to 512 printable characters"),
        limits=_limits(top.child("limits")),
        apis=frozenset(top.each("apis", lambda value, path: one_of(value, DIALECTS, path))),
        drain_seconds=top.number("drainSeconds", 30),
    )
    top.done()
    return config


def _model(value: object, path: str) -> Model:
    fields = Fields(value, path)
    name, names = fields.text("name"), tuple(fields.each("names", text_of))
    model = Model(
        name=name,
        names=names,
        backends=tuple(fields.each("backends", _backend)),
        ready=fields.boolean("ready"),
        info=_info(fields.child("info")),
        keys=frozenset(map(public_names.normal, (name, *names))),
        service=None if fields.get("service", None) is None else fields.matching("service", _LABEL, "a DNS label"),
    )
    if not names:
        raise ConfigProblem(fields.path("names"), "must hold at least one public name")
    fields.done()
    return model


def _info(fields: Fields) -> Info:
    empty = Info()
    info = Info(
        digest=fields.text("digest", empty.digest),
        size=fields.integer("size", empty.size),
        modified_at=fields.text("modifiedAt", empty.modified_at),
        details=fields.get("details", None),
        capabilities=tuple(fields.each("capabilities", text_of)),
    )
    if info.details is not None and not isinstance(info.details, dict):
        raise ConfigProblem(fields.path("details"), f"must be an object, not {kind_of(info.details)}")
    fields.done()
    return info


def _key(value: object, path: str) -> Key:
    fields = Fields(value, path)
    previous = fields.get("previous", None)
    key = Key(
        id=fields.text("id"),
        sha256=fields.matching("sha256", _SHA256, "64 lower-case hexadecimal digits"),
        models=frozenset(_key_model(name) for name in fields.each("models", text_of)),
        verbs=frozenset(fields.each("verbs", text_of)),
        previous=None if previous is None else _previous(Fields(previous, fields.path("previous"))),
        expires=None if fields.get("expires", None) is None else fields.number("expires"),
    )
    fields.done()
    return key


def _key_model(name: str) -> str:
    return name if name == ANY_MODEL else public_names.normal(name)


def _previous(fields: Fields) -> Previous:
    sha256 = fields.matching("sha256", _SHA256, "64 lower-case hexadecimal digits")
    previous = Previous(sha256, fields.number("until"))
    fields.done()
    return previous


def _limits(fields: Fields) -> Limits:
    default = Limits()
    limits = Limits(
        body_bytes=min(fields.integer("bodyBytes", default.body_bytes) or MAX_BODY_BYTES, MAX_BODY_BYTES),
        concurrency=fields.integer("concurrency", default.concurrency),
        queue_depth=fields.integer("queueDepth", default.queue_depth),
        queue_seconds=fields.number("queueSeconds", default.queue_seconds),
        requests_per_minute=fields.integer("requestsPerMinute", default.requests_per_minute),
        tokens_per_minute=fields.integer("tokensPerMinute", default.tokens_per_minute),
    )
    fields.done()
    return limits


def _unique_keys(keys: list[Key]) -> tuple[Key, ...]:
    seen: dict[str, int] = {}
    for index, key in enumerate(keys):
        if (other := seen.setdefault(key.sha256, index)) != index:
            raise ConfigProblem(f"keys[{index}].sha256", f"equals keys[{other}].sha256; every key needs its own")
    return tuple(keys)


def _routes(models: tuple[Model, ...]) -> dict[str, Model]:
    routes: dict[str, Model] = {}
    for index, model in enumerate(models):
        for name in model.names:
            other = routes.setdefault(public_names.normal(name), model)
            if other is not model:
                raise ConfigProblem(f"models[{index}].names", f"{name!r} leads to Model {other.name!r} already")
    return routes


def _backend(value: object, path: str) -> str:
    text = text_of(value, path)
    if not _BACKEND.fullmatch(text):
        raise ConfigProblem(path, "must be http://HOST:PORT without a path")
    return text
