"""API keys as key Secrets in files: make, list, revoke, read, and compile into records for gateways.

Called by `up` (all keys, at every change) and the CLI (`paddock key …`). A clear key exists only in the return value of
`create`; files hold its SHA-256 and a policy.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from paddock_operator.executors.local import atomic
from paddock_operator.executors.local.files import MAX_FILE_BYTES
from paddock_operator.executors.local.yamlread import ManifestError, parse

TYPE = "paddock.dev/api-key"
VERBS = ("infer", "manage")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class KeyFault(ValueError):  # noqa: N818 - a fault of a key, not KeyError
    """A key Secret or a request for one that cannot be honoured; the message names the field and the fix."""


@dataclass(frozen=True, slots=True)
class Previous:
    """The hash that is still honoured until `until` (seconds since 1970) after a rotation."""

    sha256: str
    until: int


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One key as gateways see it. `expires` in seconds since 1970, None: never."""

    namespace: str
    name: str
    sha256: str
    models: tuple[str, ...] = ("*",)
    verbs: tuple[str, ...] = ("infer",)
    expires: int | None = None
    previous: Previous | None = None

    def gateway(self) -> dict[str, Any]:
        """The entry of `keys` in a gateway configuration."""
        entry: dict[str, Any] = {
            "id": f"{self.namespace}/{self.name}",
            "sha256": self.sha256,
            "models": list(self.models),
            "verbs": list(self.verbs),
            "expires": self.expires,
        }
        if self.previous is not None:
            entry["previous"] = {"sha256": self.previous.sha256, "until": self.previous.until}
        return entry


def sha256(secret: str) -> str:
    """What is stored of a clear key or credential: SHA-256 of the whole string, hex."""
    return hashlib.sha256(secret.encode()).hexdigest()


def new_secret() -> str:
    """A fresh clear key: a public id and 256 random bits."""
    return f"pdk_{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}"


def parse_secret(document: Mapping[str, Any]) -> KeyRecord:
    """The record of a key Secret. Raises KeyFault naming what is wrong."""
    if document.get("type") != TYPE:
        raise KeyFault(f"type: only Secrets of type {TYPE} are read, this one is {document.get('type')!r}")
    metadata = document.get("metadata") or {}
    name, namespace = metadata.get("name"), metadata.get("namespace") or "default"
    _check_name("metadata.name", name)
    _check_name("metadata.namespace", namespace)
    values = _values(document)
    digest = _digest("sha256", values.get("sha256"))
    return _with_policy(KeyRecord(str(namespace), str(name), digest), values.get("policy") or "{}")


def _values(document: Mapping[str, Any]) -> dict[str, str]:
    """`data` decoded, `stringData` over it, as the API server would merge them."""
    values: dict[str, str] = {}
    for key, value in (document.get("data") or {}).items():
        try:
            values[key] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, ValueError, TypeError):
            raise KeyFault(f"data.{key}: not base64 of text; use stringData for plain text") from None
    return values | {key: str(value) for key, value in (document.get("stringData") or {}).items()}


def _with_policy(record: KeyRecord, text: str) -> KeyRecord:
    try:
        policy = json.loads(text)
    except (ValueError, RecursionError):
        raise KeyFault("policy: not JSON") from None
    if not isinstance(policy, dict):
        raise KeyFault("policy: must be a JSON object with models, verbs, expires")
    return KeyRecord(
        record.namespace,
        record.name,
        record.sha256,
        _strings("policy.models", policy.get("models", ["*"])),
        _strings("policy.verbs", policy.get("verbs", ["infer"])),
        _instant("policy.expires", policy.get("expires")),
        _previous(policy.get("previous")),
    )


def _previous(value: Any) -> Previous | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise KeyFault("policy.previous: must be an object with sha256 and until")
    until = _instant("policy.previous.until", value.get("until"))
    if until is None:
        raise KeyFault("policy.previous.until: missing; a previous key needs an end")
    return Previous(_digest("policy.previous.sha256", value.get("sha256")), until)


def _digest(field: str, value: Any) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise KeyFault(f"{field}: must be 64 lower-case hex digits, the SHA-256 of the whole key")
    return value


def _strings(field: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise KeyFault(f"{field}: must be a list of names")
    return tuple(value)


def _instant(field: str, value: Any) -> int | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        raise KeyFault(f"{field}: {value!r} is not RFC 3339, for example 2030-01-31T00:00:00Z") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _check_name(field: str, value: Any) -> None:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise KeyFault(f"{field}: {value!r} must be lower-case letters, digits, '-' and '.'")


def create(
    folder: Path,
    namespace: str,
    name: str,
    *,
    models: Sequence[str] = ("*",),
    verbs: Sequence[str] = ("infer",),
    expires: datetime | None = None,
) -> str:
    """Write a new key Secret under `folder`; the clear key. Raises KeyFault for a bad name or one that exists."""
    _check_name("name", name)
    _check_name("namespace", namespace)
    clear = new_secret()
    policy = {"models": list(models), "verbs": list(verbs), "expires": _rfc3339(expires)}
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": TYPE,
        "metadata": {"name": name, "namespace": namespace},
        "stringData": {"sha256": sha256(clear), "policy": json.dumps(policy)},
    }
    _write_new(folder / namespace / f"{name}.yaml", yaml.safe_dump(body, sort_keys=False).encode())
    return clear


def _rfc3339(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z") if moment else None


def _write_new(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        # The name is taken before the content is there, so that two `key create` cannot both print a key.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        raise KeyFault(f"a key {path.stem!r} exists in namespace {path.parent.name!r}; revoke it first") from None
    atomic.write(path, data)


def revoke(folder: Path, namespace: str, name: str) -> None:
    """Delete a key's file. Raises KeyFault when there is none."""
    _check_name("name", name)
    _check_name("namespace", namespace)
    try:
        (folder / namespace / f"{name}.yaml").unlink()
    except FileNotFoundError:
        raise KeyFault(f"no key {name!r} in namespace {namespace!r}") from None


def stored(folder: Path) -> tuple[tuple[KeyRecord, ...], tuple[str, ...]]:
    """All keys under `folder`, and one line for every file that is no good."""
    records: list[KeyRecord] = []
    problems: list[str] = []
    for path in sorted(folder.glob("*/*.yaml")):
        try:
            records.extend(_read(path))
        except (KeyFault, ManifestError) as error:
            problems.append(f"{path}: {error}")
        except FileNotFoundError:
            continue
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
    return tuple(records), tuple(problems)


def _read(path: Path) -> Iterator[KeyRecord]:
    with path.open("rb") as file:
        text = file.read(MAX_FILE_BYTES + 1).decode("utf-8", "replace")
    for document in parse(text, str(path)):
        record = parse_secret(document.body)
        # The folder decides: a file copied to another namespace opens that one.
        yield KeyRecord(
            path.parent.name, record.name, record.sha256, record.models, record.verbs, record.expires, record.previous
        )


def fingerprint(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Changes whenever a key file is added, changed or removed."""
    found = []
    for path in sorted(folder.glob("*/*.yaml")):
        with contextlib.suppress(OSError):
            stat = path.stat()
            found.append((str(path), stat.st_mtime_ns, stat.st_ino))
    return tuple(found)
