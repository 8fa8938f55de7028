"""Is this document acceptable on this machine? The CRD schemas, what one machine refuses, and key Secrets.

Called by `watch` for every document, through the function that `checker` makes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from paddock_operator.core import fields, schema
from paddock_operator.core.resources import API_KEY_TYPE, is_api_key
from paddock_operator.executors.local.crdfiles import crds


def checker() -> Callable[[dict[str, Any]], Sequence[str]]:
    """A function that lists what is wrong with a document, one line each."""
    schemas = schema.load_crds(crds())

    def check(document: dict[str, Any]) -> list[str]:
        found = schema.problems(document, schemas)
        if found:
            return [str(problem) for problem in found]
        if document["kind"] == "Secret" and not is_api_key(document):
            return [f"a Secret must be of type {API_KEY_TYPE} here; remove it from the files given with -f"]
        return [str(problem) for problem in fields.local_problems(document)]

    return check
