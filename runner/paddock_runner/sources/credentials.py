"""The credentials of a registry from a mounted Secret: a folder with one file per key. Called by `auth`.

Four shapes are known: `token`; `username` and `password`; `.dockerconfigjson`; `ssh-privatekey`. Values go into one
header for one host and nowhere else: no message, log line or `repr` holds them.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paddock_runner.core.manifest import InvalidManifestError, strict_json
from paddock_runner.sources.errors import UnauthorizedError
from paddock_runner.store.errors import NotFoundError, StoreError
from paddock_runner.store.files import open_regular

MAX_VALUE_BYTES = 64 * 1024
DOCKER = ".dockerconfigjson"
PRIVATE_KEY = "ssh-privatekey"
_NEEDED = f"the Secret of secretRef must hold token, or username and password, or {DOCKER}, or {PRIVATE_KEY}"
_DOCKER_HUB = "registry-1.docker.io"
_DOCKER_HUB_NAMES = ("index.docker.io", "docker.io")
_TOKEN = re.compile(r"[!-~]+")
_SCHEME = re.compile(r"\A[a-z][a-z0-9+.-]*://")


def authorization(folder: Path, host: str) -> str:
    """The value of the header `Authorization` for `host`, from the Secret mounted at `folder`.

    Raises UnauthorizedError (retryable: a kubelet refreshes the mount once the Secret is cured) that names the keys.
    """
    found = {
        key: value for key in ("token", "username", "password", DOCKER) if (value := _read(folder, key)) is not None
    }
    if set(found) == {"token"}:
        return _bearer(found["token"], "token")
    if set(found) == {"username", "password"}:
        return _basic(found["username"], found["password"], "username and password")
    if set(found) == {DOCKER}:
        return _from_docker(found[DOCKER], host)
    has = f"it has {' and '.join(found)}" if found else "it has none of them"
    raise _unusable(f"{_NEEDED}; {has}")


def private_key(folder: Path) -> bytes | None:
    """The Secret's `ssh-privatekey` (with which Ollama's registries are asked), None without one.

    Raises UnauthorizedError (retryable) for one that cannot be read.
    """
    text = _read(folder, PRIVATE_KEY)
    return None if text is None else f"{text}\n".encode()


def hosts_of(folder: Path) -> frozenset[str]:
    """The hosts of the Secret's `.dockerconfigjson`, in lower case; none without one. Raises UnauthorizedError."""
    text = _read(folder, DOCKER)
    return frozenset() if text is None else frozenset(_host_of(name) for name in _auths(text))


def user_and_password(folder: Path, whose: str) -> tuple[str, str]:
    """The Secret's `username` and `password`. Raises UnauthorizedError (retryable) that names `whose` Secret it is."""
    username, password = _read(folder, "username"), _read(folder, "password")
    if username is None or password is None:
        raise _unusable(f"the Secret {whose} must hold username and password")
    return username, password


def _unusable(message: str) -> UnauthorizedError:
    return UnauthorizedError(message, retryable=True)


def _read(folder: Path, key: str) -> str | None:
    try:
        # Keys of a mounted Secret are links into a folder that a kubelet swaps.
        handle = open_regular(folder / key, follow=True)
    except NotFoundError:
        return None
    except StoreError:
        raise _unusable(f"the Secret's key {key} cannot be read") from None
    with open(handle, "rb") as file:
        data = file.read(MAX_VALUE_BYTES + 1)
    if len(data) > MAX_VALUE_BYTES:
        raise _unusable(f"the Secret's key {key} has more than {MAX_VALUE_BYTES} bytes")
    try:
        text = data.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise _unusable(f"the Secret's key {key} is not UTF-8 text") from None
    if not text:
        raise _unusable(f"the Secret's key {key} is empty")
    return text


def _bearer(token: str, where: str) -> str:
    if not _TOKEN.fullmatch(token):
        raise _unusable(f"the Secret's {where} must be one word of printable ASCII characters")
    return f"Bearer {token}"


def _basic(username: str, password: str, where: str) -> str:
    if ":" in username or not (username + password).isprintable():
        raise _unusable(f"the Secret's {where} must be printable, and a user name holds no ':'")
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def _auths(text: str) -> dict[str, Any]:
    try:
        value = strict_json(text.encode(), MAX_VALUE_BYTES)
    except InvalidManifestError:
        raise _unusable(f"the Secret's key {DOCKER} is not JSON") from None
    hosts = value.get("auths") if isinstance(value, dict) else None
    if not isinstance(hosts, dict):
        raise _unusable(f"the Secret's key {DOCKER} must be a JSON object with auths")
    return hosts


def _from_docker(text: str, host: str) -> str:
    wanted = (host.lower(), *(_DOCKER_HUB_NAMES if host.lower() == _DOCKER_HUB else ()))
    entry = next((entry for name, entry in _auths(text).items() if _host_of(name) in wanted), None)
    if not isinstance(entry, dict):
        raise _unusable(f"the Secret's key {DOCKER} has no entry for {host}")
    return _from_entry(entry, f"entry for {host} in {DOCKER}")


def _host_of(name: str) -> str:
    return _SCHEME.sub("", name.lower()).partition("/")[0]


def _from_entry(entry: Mapping[str, Any], where: str) -> str:
    token = entry.get("registrytoken")
    if isinstance(token, str) and token:
        return _bearer(token, where)
    username, password = entry.get("username"), entry.get("password")
    if not isinstance(username, str) or not isinstance(password, str):
        username, password = _decoded(entry.get("auth"), where)
    if not username or not password:
        raise _unusable(f"the Secret's {where} needs a user name and a password")
    return _basic(username, password, where)


def _decoded(auth: object, where: str) -> tuple[str, str]:
    try:
        username, _, password = (
            base64.b64decode(auth if isinstance(auth, str) else "", validate=True).decode().partition(":")
        )
    except (binascii.Error, ValueError):
        raise _unusable(f"the Secret's {where} has an auth that is not base64 of user:password") from None
    return username, password
