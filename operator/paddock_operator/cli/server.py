"""`paddock ps` and `paddock stop`: what runs behind the Endpoints."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime

from paddock_operator.cli.client import Reply, client_for, clients
from paddock_operator.cli.text import ago, moment, size, table

_NEVER_YEAR = 2200
"""Ollama's form of "for ever" is a time centuries ahead."""


def ps(arguments: argparse.Namespace) -> int:
    """Print the loaded models of all Endpoints, each once."""
    found: dict[str, Reply] = {}
    for client in clients(arguments):
        for model in client.get("/api/ps").get("models") or []:
            found.setdefault(model["name"], model)
    now = datetime.now(UTC)
    rows = [_row(model, now) for model in found.values()]
    table(("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"), rows)
    return 0


def _row(model: Reply, now: datetime) -> tuple[str, ...]:
    total, on_device = int(model.get("size", 0)), int(model.get("size_vram", 0))
    identity = str(model.get("digest", "")).removeprefix("sha256:")[:12]
    context = str(model.get("context_length") or "")
    until = _until(str(model.get("expires_at") or ""), now)
    return (model["name"], identity, size(total), _processor(total, on_device), context, until)


def _processor(total: int, on_device: int) -> str:
    if not on_device:
        return "100% CPU"
    share = round(100 * on_device / max(total, on_device))
    return "100% GPU" if share == 100 else f"{100 - share}%/{share}% CPU/GPU"


def _until(text: str, now: datetime) -> str:
    when = moment(text)
    if when is None or when.year >= _NEVER_YEAR or when.year <= 1:
        return "Forever"
    return ago(text, now)


def stop(arguments: argparse.Namespace) -> int:
    """Unload a model: its memory is free, the next request loads it again."""
    client = client_for(arguments, arguments.name)
    with client.post("/api/generate", {"model": arguments.name, "keep_alive": 0, "stream": False}) as answer:
        for _ in answer:
            pass
    sys.stderr.write(f"stopped '{arguments.name}'\n")
    return 0
