"""The words between the front and its template worker: JSON with a 4-byte big-endian length before each. Pure bytes.

Used by `client` and `worker`; the worker's memory matters, so this imports json alone.
"""

from __future__ import annotations

import json
from typing import Any

MAX_REQUEST = 16 * 1024 * 1024
MAX_OUTPUT = 4 * 1024 * 1024
MAX_REPLY = MAX_OUTPUT * 2
LENGTH_BYTES = 4
DEADLINE_SECONDS = 2.0


def pack(message: dict[str, Any], limit: int) -> bytes:
    """One frame. Raises ValueError beyond `limit` bytes (and for lone surrogates, which UTF-8 does not have)."""
    payload = json.dumps(message, ensure_ascii=False).encode()
    if len(payload) > limit:
        raise ValueError(f"a frame of {len(payload)} bytes exceeds the limit of {limit} bytes")
    return len(payload).to_bytes(LENGTH_BYTES, "big") + payload


def unpack(payload: bytes) -> dict[str, Any]:
    """The message of one frame's payload. Raises ValueError."""
    message = json.loads(payload)
    if not isinstance(message, dict):
        raise ValueError("a frame must hold an object")
    return message
