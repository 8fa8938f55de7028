"""Credentials of one origin and the ways to show them: fixed ones, registry tokens, Ollama's signed tokens.

`access_for` picks one for a source; `transport` asks it for a header and sends that to its origin alone. No value of a
credential stands in a `repr`, a message or a log line.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from paddock_runner.core.manifest import InvalidManifestError, strict_json
from paddock_runner.sources.challenge import Challenge
from paddock_runner.sources.credentials import authorization, hosts_of, private_key
from paddock_runner.sources.errors import UnauthorizedError
from paddock_runner.sources.ollama_key import KEY_VARIABLE, key_file, obtain_key, parse_key
from paddock_runner.store.errors import NotFoundError

if TYPE_CHECKING:
    from paddock_runner.sources.transport import Transport

MAX_TOKEN_BYTES = 64 * 1024
MIN_EXPIRY_SECONDS = 60.0
MAX_EXPIRY_SECONDS = 24 * 3600.0
_MARGIN_SECONDS = 10.0
_WORD = re.compile(r"[!-~]+")
_OLLAMA_HOSTS = ("registry.ollama.ai", "ollama.com")
_DOCKER_HUB, _DOCKER_HUB_REALM = "registry-1.docker.io", "auth.docker.io"
_NO_SUM = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()

Query = list[tuple[str, str]]


class Access(Protocol):
    """Credentials for `origin` (scheme://host[:port]) and nobody else."""

    @property
    def origin(self) -> str: ...

    def ready(self) -> str | None:
        """The header to send without being asked, None before there is one or once it is too old."""
        ...

    async def header(self, transport: Transport, challenges: Sequence[Challenge], scope: str) -> str | None:
        """The header that answers a 401, None if there is none. `scope` is used when the challenge names none.

        Raises UnauthorizedError and what the transport raises.
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

    `basic` is the value of Authorization for it, "" to ask as nobody. It goes to a realm on the registry's own host or
    on one of `realms`, never elsewhere. A Basic challenge is answered with it as well.
    """

    origin: str
    basic: str = field(default="", repr=False)
    realms: Collection[str] = ()
    _value: str = field(default="", repr=False)
    _until: float = 0.0

    def ready(self) -> str | None:
        return self._value if self._value and time.monotonic() < self._until else None

    async def header(self, transport: Transport, challenges: Sequence[Challenge], scope: str) -> str | None:
        bearer = _bearer(challenges)
        if bearer is not None:
            realm, headers = _realm(bearer), {}
            if self.basic:
                _check_realm(realm, self.origin, self.realms)
                headers = {"Authorization": self.basic}
            token, seconds = await _token(transport, _with_query(realm, _query(bearer, scope)), headers)
            self._value, self._until = f"Bearer {token}", time.monotonic() + seconds - _MARGIN_SECONDS
        elif self.basic and (not challenges or any(item.scheme == "basic" for item in challenges)):
            # Some servers refuse without a word of how: the credentials are all there is to try.
            self._value, self._until = self.basic, float("inf")
        return self.ready()


@dataclass(slots=True)
class OllamaAccess:
    """Ollama's flow: the request for a token is signed with an ed25519 key, at a realm on the registry's own host.

    `key` is used if given, else that of `key_file`, which is made when it is needed and not there.
    """

    origin: str
    key_file: Path | None = None
    key: Ed25519PrivateKey | None = field(default=None, repr=False)
    _value: str = field(default="", repr=False)

    def ready(self) -> str | None:
        return self._value or None

    async def header(self, transport: Transport, challenges: Sequence[Challenge], scope: str) -> str | None:
        challenge = _bearer(challenges)
        if challenge is None:
            return None
        realm = _realm(challenge)
        _check_realm(realm, self.origin, ())
        if self.key is None:
            self.key = obtain_key(self.key_file or key_file())
        nonce = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
        url = _with_query(realm, [*_query(challenge, scope), ("nonce", nonce), ("ts", str(int(time.time())))])
        token, _ = await _token(transport, url, {"Authorization": sign(self.key, "GET", url)})
        self._value = f"Bearer {token}"
        return self._value


@dataclass(slots=True)
class EitherAccess:
    """Answers in the first of several ways that the token server takes."""

    origin: str
    ways: tuple[Access, ...]
    _chosen: Access | None = None

    def ready(self) -> str | None:
        return None if self._chosen is None else self._chosen.ready()

    async def header(self, transport: Transport, challenges: Sequence[Challenge], scope: str) -> str | None:
        if self._chosen is not None:
            return await self._chosen.header(transport, challenges, scope)
        refusal: UnauthorizedError | NotFoundError | None = None
        for way in self.ways:
            try:
                value = await way.header(transport, challenges, scope)
            except (UnauthorizedError, NotFoundError) as error:
                refusal = refusal or error
                continue
            self._chosen = way
            return value
        raise refusal or UnauthorizedError(f"nothing answers the challenge of {self.origin}")


def access_for(credentials: Path | None, origin: str, environment: Mapping[str, str] = os.environ) -> Access:
    """What to show to `origin`: the mounted Secret at `credentials`, else nobody's tokens or Ollama's key.

    Raises UnauthorizedError, retryable, if the Secret cannot be used.
    """
    host = urlsplit(origin).netloc.lower()
    if credentials is None:
        return _without_secret(origin, host, environment)
    if (text := private_key(credentials)) is not None:
        return OllamaAccess(origin, key=parse_key(text, "the Secret's ssh-privatekey"))
    value = authorization(credentials, host)
    if value.startswith("Bearer "):
        return FixedAccess(origin, value)
    return TokenAccess(origin, value, hosts_of(credentials) | ({_DOCKER_HUB_REALM} if host == _DOCKER_HUB else set()))


def _without_secret(origin: str, host: str, environment: Mapping[str, str]) -> Access:
    anonymous, path = TokenAccess(origin), key_file(environment)
    own = OllamaAccess(origin, path)
    if environment.get(KEY_VARIABLE) or (host in _OLLAMA_HOSTS and path.is_file()):
        return EitherAccess(origin, (own, anonymous))
    return EitherAccess(origin, (anonymous, own)) if path.is_file() else anonymous


def sign(key: Ed25519PrivateKey, method: str, url: str) -> str:
    """The value of Authorization for a request without a body: public key blob and signature, both base64."""
    blob = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1].decode()
    return f"{blob}:{base64.b64encode(key.sign(f'{method},{url},{_NO_SUM}'.encode())).decode()}"


def _bearer(challenges: Sequence[Challenge]) -> Challenge | None:
    return next((item for item in challenges if item.scheme == "bearer" and item.parameters.get("realm")), None)


def _realm(challenge: Challenge) -> str:
    realm = challenge.parameters["realm"]
    try:
        parts = urlsplit(realm)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        good = False
    if not good or not _WORD.fullmatch(realm):
        raise UnauthorizedError("the registry names a token server (realm) that is no URL")
    return realm


def _check_realm(realm: str, origin: str, others: Collection[str]) -> None:
    """Credentials stay on the host that they were given for."""
    host, own = urlsplit(realm).netloc.lower(), urlsplit(origin).netloc.lower()
    # The same words, but without a port they mean another one.
    if host == own and urlsplit(realm).scheme != urlsplit(origin).scheme:
        raise UnauthorizedError(f"the registry {own} names a token server by another scheme, which gets no credentials")
    if host != own and host not in others:
        raise UnauthorizedError(
            f"the registry {own} sends to a token server on another host ({host[:255]}), which gets no credentials; if "
            f"that is right, give them in a .dockerconfigjson that has an entry for {host[:255]} too"
        )


def _query(challenge: Challenge, scope: str) -> Query:
    scopes = (challenge.parameters.get("scope") or scope).split()
    return [("service", challenge.parameters.get("service", "")), *(("scope", item) for item in scopes)]


def _with_query(realm: str, query: Query) -> str:
    """The realm with its own parameters and these, sorted by name, as Ollama's servers check the signature."""
    parts = urlsplit(realm)
    pairs = [*parse_qsl(parts.query, keep_blank_values=True), *((name, value) for name, value in query if value)]
    return urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode(sorted(pairs, key=lambda item: item[0])), ""))


async def _token(transport: Transport, url: str, headers: Mapping[str, str]) -> tuple[str, float]:
    """(token, seconds of life). Raises UnauthorizedError, also for an answer that holds no token."""
    answer = await transport.read(url, limit=MAX_TOKEN_BYTES, accept="application/json", headers=headers, alone=True)
    try:
        value = strict_json(answer.body, MAX_TOKEN_BYTES)
    except InvalidManifestError:
        value = None
    fields = value if isinstance(value, dict) else {}
    token, seconds = fields.get("token") or fields.get("access_token"), fields.get("expires_in")
    if not isinstance(token, str) or not _WORD.fullmatch(token):
        raise UnauthorizedError(f"the token server {urlsplit(url).hostname} answers with something that is no token")
    known = seconds if isinstance(seconds, int | float) else 0.0
    return token, min(max(known, MIN_EXPIRY_SECONDS), MAX_EXPIRY_SECONDS)
