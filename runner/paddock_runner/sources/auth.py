"""Credentials of one origin and the ways to show them: basic, bearer, registry tokens, Ollama's signed tokens.

`access_for` picks one for a source; `transport` asks it for a header and sends that to its origin alone. No value of a
credential stands in a `repr`, a message or a log line.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key
from yarl import URL

from paddock_runner.sources.challenge import Challenge
from paddock_runner.sources.credentials import authorization
from paddock_runner.sources.errors import UnauthorizedError

if TYPE_CHECKING:
    from paddock_runner.sources.transport import Transport

KEY_VARIABLE = "PADDOCK_OLLAMA_KEY"
MAX_TOKEN_BYTES = 64 * 1024
MAX_KEY_BYTES = 16 * 1024
DEFAULT_EXPIRY_SECONDS = 60.0
_MARGIN_SECONDS = 10.0


class Access(Protocol):
    """Credentials for `origin` (scheme://host[:port]) and nobody else."""

    @property
    def origin(self) -> str: ...

    def ready(self) -> str | None:
        """The header to send without being asked, None before there is one."""
        ...

    async def header(self, transport: Transport, challenges: Sequence[Challenge], scope: str) -> str | None:
        """The header that answers a 401, None if there is none. `scope` is used when the challenge names none.

        Raises UnauthorizedError, NetworkError.
        """
        ...


@dataclass(frozen=True, slots=True)
class FixedAccess:
    """One value that is always sent: a bearer token, or user name and password."""

    origin: str
    value: str = field(repr=False)

    def ready(self) -> str | None:
        return self.value

    async def header(self, transport: Transport, challenges: Sequence[Challenge], scope: str) -> str | None:
        return None


@dataclass(slots=True)
class TokenAccess:
    """The token flow of the distribution specification: GET realm?service&scope gives a short-lived bearer token.

    `basic` is the header for the realm, "" to ask as nobody. It is sent to a realm on the registry's own host or a
    parent domain's sibling named in `realms`, never elsewhere.
    """

    origin: str
    basic: str = field(default="", repr=False)
    realms: tuple[str, ...] = ()
    _token: str = field(default="", repr=False)
    _until: float = 0.0
    _plain: bool = False

    def ready(self) -> str | None:
        if self._plain:
            return self.basic
        return f"Bearer {self._token}" if self._token and time.monotonic() < self._until else None

    async def header(self, transport: Transport, challenges: Sequence[Challenge], scope: str) -> str | None:
        for challenge in challenges:
            if challenge.scheme == "bearer" and "realm" in challenge.parameters:
                await self._fetch(transport, challenge, scope)
                return self.ready()
            if challenge.scheme == "basic" and self.basic:
                self._plain = True
                return self.basic
        return None

    async def _fetch(self, transport: Transport, challenge: Challenge, scope: str) -> None:
        realm = _realm(challenge)
        query = [("service", challenge.parameters.get("service", ""))]
        query += [("scope", part) for part in (challenge.parameters.get("scope") or scope).split()]
        url = realm.extend_query([(name, value) for name, value in query if value])
        own = realm.host in (URL(self.origin).host, *self.realms)
        headers = {"Authorization": self.basic} if self.basic and own else {}
        self._token, seconds = _token_of((await transport.read(str(url), limit=MAX_TOKEN_BYTES, headers=headers)).body)
        self._until = time.monotonic() + max(seconds - _MARGIN_SECONDS, 1.0)


@dataclass(slots=True)
class OllamaAccess:
    """Ollama's flow: the request for a token is signed with an ed25519 key (server/auth.go of ollama)."""

    origin: str
    key_file: Path
    _token: str = field(default="", repr=False)

    def ready(self) -> str | None:
        return f"Bearer {self._token}" if self._token else None

    async def header(self, transport: Transport, challenges: Sequence[Challenge], scope: str) -> str | None:
        challenge = next((item for item in challenges if item.scheme == "bearer"), None)
        if challenge is None or "realm" not in challenge.parameters:
            return None
        realm = _realm(challenge)
        if realm.host != URL(self.origin).host:
            raise UnauthorizedError(f"the registry sends to the realm {realm.host}, which is another host than its own")
        url = str(realm.with_query(_signed_query(challenge, scope)))
        headers = {"Authorization": sign(_read_key(self.key_file), "GET", url)}
        self._token, _ = _token_of((await transport.read(url, limit=MAX_TOKEN_BYTES, headers=headers)).body)
        return self.ready()


def _signed_query(challenge: Challenge, scope: str) -> list[tuple[str, str]]:
    scopes = (challenge.parameters.get("scope") or scope).split()
    query = [("nonce", secrets.token_urlsafe(16)), *(("scope", part) for part in scopes)]
    return sorted([*query, ("service", challenge.parameters.get("service", "")), ("ts", str(int(time.time())))])


def sign(key: Ed25519PrivateKey, method: str, url: str) -> str:
    """The value of Authorization for a request without a body: public key blob and signature, both base64."""
    digest = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()
    signature = key.sign(f"{method},{url},{digest}".encode())
    blob = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1].decode()
    return f"{blob}:{base64.b64encode(signature).decode()}"


def _read_key(path: Path) -> Ed25519PrivateKey:
    try:
        with path.open("rb") as file:
            key = load_ssh_private_key(file.read(MAX_KEY_BYTES), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        raise UnauthorizedError(
            f"the registry asks for a signature, and {path.name} is no readable ed25519 key without a passphrase; "
            f"name one in {KEY_VARIABLE}, or give the source a secretRef"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UnauthorizedError(f"{path.name} must be an ed25519 key")
    return key


def _realm(challenge: Challenge) -> URL:
    try:
        return URL(challenge.parameters["realm"])
    except ValueError:
        raise UnauthorizedError("the registry names a realm that is no URL") from None


def _token_of(body: bytes) -> tuple[str, float]:
    """(token, seconds of life) of the answer. Raises UnauthorizedError."""
    try:
        value = json.loads(body)
        token = value.get("token") or value.get("access_token")
        seconds = float(value.get("expires_in") or DEFAULT_EXPIRY_SECONDS)
    except (ValueError, AttributeError, TypeError):
        raise UnauthorizedError("the registry's token service answers with something that is no token") from None
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or " " in token or not token:
        raise UnauthorizedError("the registry's token service answers with something that is no token")
    return token, seconds


def key_file(environment: Mapping[str, str] = os.environ) -> Path:
    """The private key that signs for registries of Ollama's kind."""
    named = environment.get(KEY_VARIABLE)
    return Path(named) if named else Path(environment.get("HOME", "/")) / ".ollama" / "id_ed25519"


def access_for(credentials: Path | None, origin: str, environment: Mapping[str, str] = os.environ) -> Access:
    """What to show to `origin`: the mounted Secret at `credentials`, else nobody's tokens.

    Raises UnauthorizedError, retryable, if the Secret cannot be used.
    """
    if credentials is None:
        return TokenAccess(origin)
    url = URL(origin)
    port = f":{url.explicit_port}" if url.explicit_port else ""
    value = authorization(credentials, f"{url.host}{port}")
    return FixedAccess(origin, value) if value.startswith("Bearer ") else TokenAccess(origin, value)
