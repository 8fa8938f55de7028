"""Who may call a runner: holders of an Endpoint's backend credential. Called by `app` before a body is read.

The front knows only SHA-256 sums. Every known sum is compared, in constant time, so that neither position nor prefix
shows in the time.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers

from paddock_runner.api.errors import ApiError

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
_MAX_CREDENTIAL = 1024


def check(headers: Headers, sums: Sequence[str]) -> None:
    """Raise ApiError 401 unless `Authorization: Bearer` shows a credential whose SHA-256 (hex) is in `sums`."""
    scheme, _, credential = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not credential or len(credential) > _MAX_CREDENTIAL:
        raise _refusal("a backend credential is required: send `Authorization: Bearer …` (clients call the gateway)")
    shown = hashlib.sha256(credential.strip().encode("latin-1")).hexdigest()
    matches = [hmac.compare_digest(shown, known) for known in sums]
    if True not in matches:
        raise _refusal("the backend credential is not valid here")


def _refusal(message: str) -> ApiError:
    return ApiError(401, message, reason="auth", code="invalid_api_key")
