"""Is this document acceptable on this machine? The CRD schemas, what one machine refuses, and Secrets.

Called by `watch` for every document, through the function that `checker` makes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from paddock_operator.core import fields, schema
from paddock_operator.executors.local.crdfiles import crds


def checker() -> Callable[[dict[str, Any]], Sequence[str]]:
    """A function that lists what is wrong with a document, one line each."""
    schemas = schema.load_crds(crds())

    def check(document: dict[str, Any]) -> list[str]:
        found = schema.problems(document, schemas)
        if found:
            return [str(problem) for problem in found]
        return [str(problem) for problem in fields.local_problems(document)]

    return check
