"""The ed25519 key by which Ollama's registries know a machine: found, read, or made. Called by `auth`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from paddock_runner.sources.errors import UnauthorizedError
from paddock_runner.store.errors import NotFoundError, StoreError
from paddock_runner.store.files import open_regular

KEY_VARIABLE = "PADDOCK_OLLAMA_KEY"
MAX_KEY_BYTES = 16 * 1024


def key_file(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the private key is: at PADDOCK_OLLAMA_KEY, else where Ollama keeps it."""
    named = environment.get(KEY_VARIABLE)
    return Path(named) if named else Path(environment.get("HOME", "/")) / ".ollama" / "id_ed25519"


def obtain_key(path: Path) -> Ed25519PrivateKey:
    """Read the key, or make it as Ollama does (with its public half beside it). Raises UnauthorizedError."""
    try:
        with open(open_regular(path, follow=True), "rb") as file:
            return parse_key(file.read(MAX_KEY_BYTES + 1), str(path))
    except NotFoundError:
        return _made(path)
    except (StoreError, OSError):
        raise UnauthorizedError(f"the key {path} cannot be read; name another one in {KEY_VARIABLE}") from None


def parse_key(data: bytes, where: str) -> Ed25519PrivateKey:
    """An OpenSSH private key. Raises UnauthorizedError that shows no byte of it."""
    try:
        key = load_ssh_private_key(data, None) if len(data) <= MAX_KEY_BYTES else None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise UnauthorizedError(f"{where} must be an OpenSSH ed25519 private key without a passphrase")
    return key


def _made(path: Path) -> Ed25519PrivateKey:
    key = Ed25519PrivateKey.generate()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    except FileExistsError:
        return obtain_key(path)
    except OSError as error:
        raise UnauthorizedError(
            f"the registry asks for a signature, and there is no key at {path}, nor can one be made there "
            f"({error.strerror}); name one in {KEY_VARIABLE}, or give the source a secretRef"
        ) from None
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    with contextlib.suppress(OSError):
        path.with_name(f"{path.name}.pub").write_bytes(public + b"\n")
    return key
