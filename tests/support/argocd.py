"""Argo CD's health of an object by the scripts of docs/gitops, run with Lua 5.1, the version that Argo CD speaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lupa.lua51 import LuaRuntime

SCRIPTS = Path(__file__).resolve().parents[2] / "docs" / "gitops" / "argocd"


def health(kind: str, document: dict[str, Any]) -> tuple[str, str]:
    """(status, message) as Argo CD would show them; `kind` is `model` or `endpoint`."""
    lua = LuaRuntime(register_eval=False, register_builtins=False)
    lua.globals().obj = lua.table_from(document, recursive=True)
    found = lua.execute((SCRIPTS / f"{kind}.lua").read_text())
    return found.status, found.message
