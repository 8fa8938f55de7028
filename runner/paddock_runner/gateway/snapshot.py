"""One configuration in force, with what is computed from it once. A request keeps the snapshot that it began with."""

from __future__ import annotations

from dataclasses import dataclass

from paddock_runner.core import public_names
from paddock_runner.core.gateway_config import GatewayConfig, Key, Model, parse
from paddock_runner.gateway.auth import KeyRing

INFER = "infer"
MANAGE = "manage"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A configuration and the index of its keys."""

    config: GatewayConfig
    ring: KeyRing

    def visible(self, key: Key | None) -> list[Model]:
        """The models that a key may use, in the configuration's order; no key means an Endpoint without keys."""
        return [model for model in self.config.models if key is None or key.may_use(model)]

    def find(self, name: str, key: Key | None) -> Model | None:
        """The model behind a public name; None when it is missing or denied, which looks the same to the caller."""
        model = self.config.routes.get(public_names.normal(name))
        return model if model and (key is None or key.may_use(model)) else None


def load(body: bytes) -> Snapshot:
    """Read the configuration file's bytes. Raises ValueError with a message that names the field."""
    config = parse(body)
    return Snapshot(config, KeyRing(config.keys))
