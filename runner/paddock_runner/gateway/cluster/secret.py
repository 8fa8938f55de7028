"""The Endpoint's Secret as the source of the configuration. Called by the reflector of `gateway.cluster.link`."""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Callable, Sequence

from paddock_runner.gateway.cluster.client import Json

KEY = "gateway.json"

log = logging.getLogger(__name__)


class SecretSource:
    """Hands the bytes of `gateway.json` on, whenever the Secret is seen; empty bytes when the Secret has none."""

    def __init__(self, take: Callable[[bytes], object]) -> None:
        self._take = take

    def replaced(self, objects: Sequence[Json]) -> None:
        """The Secret as it was read, or none."""
        if objects:
            self.changed("MODIFIED", objects[0])
        else:
            self._gone()

    def changed(self, kind: str, value: Json) -> None:
        """An event of the Secret. A deleted one changes nothing: gateways outlive what made them."""
        if kind == "DELETED":
            self._gone()
        else:
            self._take(_body(value))

    def _gone(self) -> None:
        log.warning("the Secret of this Endpoint does not exist, the last configuration stays in force")


def _body(secret: Json) -> bytes:
    try:
        return base64.b64decode((secret.get("data") or {}).get(KEY) or "", validate=True)
    except (binascii.Error, TypeError, AttributeError):
        return b""
