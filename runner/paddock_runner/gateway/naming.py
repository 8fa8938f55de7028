"""Which model a body asks for, and how each route says that there is none. Called by `gateway.inference` and `answers`.

The texts are Ollama's where clients read them.
"""

from __future__ import annotations

from paddock_runner.core import public_names
from paddock_runner.gateway.errors import Refusal
from paddock_runner.gateway.routes import Route

MAX_SHOWN = 128

_EMPTY_IS_NOT_FOUND = ("/api/generate", "/api/embed")


def model_of(route: Route, document: object) -> str:
    """The name in the body's `model` (`name` does as well for /api/show). Raises `Refusal`."""
    if not isinstance(document, dict):
        raise Refusal("bad_json", "the body must be a JSON object")
    name = document.get("model")
    if not name and route.path == "/api/show":
        name = document.get("name")
    if name is not None and not isinstance(name, str):
        raise Refusal("bad_request", "model must be a string")
    if name:
        return name
    if route.path in _EMPTY_IS_NOT_FOUND:
        raise not_found(route, "")
    raise Refusal("bad_request", "model is required")


def not_found(route: Route, name: str) -> Refusal:
    """The same answer for a model that does not exist and for one that the key may not use."""
    shown = name if len(name) <= MAX_SHOWN else f"{name[:MAX_SHOWN]}…"
    if route.path in ("/api/embed", "/api/embeddings") and name:
        return Refusal("model_not_found", f'model "{shown}" not found, try pulling it first')
    if route.path == "/api/show":
        shown = public_names.tagged(shown)
    return Refusal("model_not_found", f"model '{shown}' not found")
