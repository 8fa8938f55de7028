"""What to do about a failure of `paddock-runner`, by its reason. Called by `child`."""

from __future__ import annotations

CREDENTIALS = "give the registry's credentials with --credentials DIR (docs/sources.md says what DIR holds)"

_NETWORK = {
    "Unauthorized": f"if the model is private, {CREDENTIALS}",
    "InsecureSource": "for a registry without TLS there is --insecure",
    "ForbiddenAddress": "or, for a registry without TLS, use --insecure",
    "Offline": "unset PADDOCK_OFFLINE to ask the registry",
}
_EVERYWHERE = {
    "NoSpace": "paddock gc removes what nothing needs, paddock rm a model",
    "DigestMismatch": "paddock verify --repair looks at everything and fetches again what is damaged",
}
_BY_COMMAND = {
    "pull": {"NotFound": "see that the name and its tag are spelled as on the registry's page"},
    "push": {
        "Unauthorized": CREDENTIALS,
        "NotFound": "paddock list shows the models that can be pushed",
        "InvalidName": "a destination is host/namespace/model:tag, or oci:host/repository:tag",
    },
    "export": {"NotFound": "paddock list shows the models of the cache"},
    "store show": {"NotFound": "paddock list shows the models of the cache, paddock pull gets others"},
}
_AGAIN = {
    "pull": "the same command goes on where this one stopped",
    "push": "the same command sends only what is missing",
}


def advice(command: str, reason: str, *, retry: bool) -> str:
    """`; what to do`, empty if the message says it all. `retry`: the same command may work later."""
    of_network = _NETWORK if command in ("pull", "push") else {}
    words = {**_EVERYWHERE, **of_network, **_BY_COMMAND.get(command, {})}.get(reason, "")
    if not words and retry:
        words = _AGAIN.get(command, "try again")
    return f"; {words}" if words else ""
