"""Is this document acceptable on this machine? The CRD schemas, what one machine refuses, and key Secrets.

Called by `watch` for every document, through the function that `checker` makes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import resources as package_files
from pathlib import Path
from typing import Any

import yaml

from paddock_operator.core import local_fields, schema
from paddock_operator.core.resources import API_KEY_TYPE, is_api_key

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def crd_folder() -> Path:
    """The folder of CRDs: inside an installed package, or at the top of a checkout. Raises FileNotFoundError."""
    packaged = Path(str(package_files.files("paddock_operator"))) / "crds"
    checkout = Path(__file__).resolve().parents[4] / "crds"
    for folder in (packaged, checkout):
        if folder.is_dir():
            return folder
    raise FileNotFoundError("the CRDs are missing; reinstall paddock-operator")


def crds() -> list[dict[str, Any]]:
    """All CRDs, parsed."""
    # Our own files: the safe loader of libyaml, many times faster than the one in Python.
    return [yaml.load(path.read_text(), Loader=_LOADER) for path in sorted(crd_folder().glob("*.yaml"))]  # noqa: S506


def checker() -> Callable[[dict[str, Any]], Sequence[str]]:
    """A function that lists what is wrong with a document, one line each."""
    schemas = schema.load_crds(crds())

    def check(document: dict[str, Any]) -> list[str]:
        found = schema.problems(document, schemas)
        if found:
            return [str(problem) for problem in found]
        if document["kind"] == "Secret" and not is_api_key(document):
            return [f"a Secret must be of type {API_KEY_TYPE} here; remove it from the files given with -f"]
        return [str(problem) for problem in local_fields.local_problems(document)]

    return check
