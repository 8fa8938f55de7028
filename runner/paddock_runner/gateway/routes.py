"""The gateway's routes: exact paths, the dialect that each speaks and who answers it. Called by `gateway.app`.

Paths are matched as the server decoded them, once, character by character: `//v1//models` and `/v1/../metrics` match
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from paddock_runner.core.gateway_config import Dialect
from paddock_runner.gateway.errors import Refusal

Action = Literal[
    "health", "ready", "metrics", "banner", "version", "tags", "models", "model", "ps", "proxy", "management"
]

MODEL_PREFIX = "/v1/models/"
_BLOB_PREFIX = "/api/blobs/"
_READ = frozenset({"GET", "HEAD"})
_GET = frozenset({"GET"})
_POST = frozenset({"POST"})


@dataclass(frozen=True, slots=True)
class Route:
    """One route. `path` labels metrics and is the path at the runner; `open` routes need no key."""

    path: str
    methods: frozenset[str]
    action: Action
    dialect: Dialect
    open: bool = False


_ROUTES = (
    Route("/healthz", _READ, "health", "ollama", open=True),
    Route("/readyz", _READ, "ready", "ollama", open=True),
    Route("/metrics", _READ, "metrics", "ollama", open=True),
    # Clients ask these two before they know a key; they tell nothing that a port scan would not.
    Route("/", _READ, "banner", "ollama", open=True),
    Route("/api/version", _READ, "version", "ollama", open=True),
    Route("/api/tags", _READ, "tags", "ollama"),
    Route("/api/ps", _GET, "ps", "ollama"),
    Route("/v1/models", _GET, "models", "openai"),
    *(Route(f"/api/{verb}", _POST, "proxy", "ollama") for verb in ("generate", "chat", "show", "embed", "embeddings")),
    *(
        Route(f"/v1/{verb}", _POST, "proxy", "openai")
        for verb in ("chat/completions", "completions", "embeddings", "rerank", "responses")
    ),
    Route("/v1/messages", _POST, "proxy", "anthropic"),
    *(Route(f"/api/{verb}", _POST, "management", "ollama") for verb in ("pull", "push", "create", "copy")),
    Route("/api/delete", frozenset({"DELETE"}), "management", "ollama"),
)
_BY_PATH = {route.path: route for route in _ROUTES}
_MODEL = Route("/v1/models/{id}", _GET, "model", "openai")
_BLOB = Route("/api/blobs/{digest}", frozenset({"POST", "HEAD"}), "management", "ollama")

PATHS = (*_BY_PATH, _MODEL.path, _BLOB.path)


def find(path: str) -> Route | None:
    """The route of a decoded path, whatever the method."""
    if route := _BY_PATH.get(path):
        return route
    if path.startswith(MODEL_PREFIX):
        return _MODEL
    return _BLOB if path.startswith(_BLOB_PREFIX) else None


def check_method(route: Route, method: str) -> None:
    """Raises the refusal (405) when the route does not know the method."""
    if method not in route.methods:
        allowed = ", ".join(sorted(route.methods))
        raise Refusal("method_not_allowed", f"{route.path} answers {allowed} only", headers={"Allow": allowed})


def not_found() -> Refusal:
    """The answer to a path that is no route, or whose dialect is switched off: the two look the same."""
    return Refusal("route_not_found", "404 page not found")


def dialect_of(path: str) -> Dialect:
    """In whose error form an unknown path is answered."""
    if path.startswith("/v1/messages"):
        return "anthropic"
    return "openai" if path.startswith("/v1/") else "ollama"
