"""API keys as key Secrets in files: make, list, revoke, read, and compile into records for gateways.

Called by `up` (all keys, at every change) and the CLI (`paddock key …`). A clear key exists only in the return value of
`create`; files hold its SHA-256 and a policy.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from paddock_operator.core.resources import (
    API_KEY_TYPE,
    DEFAULT_NAMESPACE,
    KeyRecord,
    is_api_key,
    parse,
    secret_text,
)
from paddock_operator.executors.local import atomic
from paddock_operator.executors.local.files import MAX_FILE_BYTES
from paddock_operator.executors.local.yamlread import ManifestError
from paddock_operator.executors.local.yamlread import parse as parse_yaml

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class KeyFault(ValueError):  # noqa: N818 - a fault of a key, not KeyError
    """A key Secret or a request for one that cannot be honoured; the message names the field and the fix."""


def sha256(secret: str) -> str:
    """What is stored of a clear key or credential: SHA-256 of the whole string, hex."""
    return hashlib.sha256(secret.encode()).hexdigest()


def new_secret() -> str:
    """A fresh clear key: a public id and 256 random bits."""
    return f"pdk_{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}"


def parse_secret(document: Mapping[str, Any]) -> KeyRecord:
    """The record of a key Secret. Raises KeyFault naming what is wrong."""
    if not is_api_key(document):
        raise KeyFault(f"type: only Secrets of type {API_KEY_TYPE} are read, this one is {document.get('type')!r}")
    metadata = document.get("metadata") or {}
    _check_name("metadata.name", metadata.get("name"))
    _check_name("metadata.namespace", metadata.get("namespace") or DEFAULT_NAMESPACE)
    _digest("sha256", _text(document, "sha256"))
    _check_policy(_text(document, "policy") or "{}")
    record = parse(document)
    if not isinstance(record, KeyRecord):
        raise KeyFault("not a key Secret")
    return record


def _text(document: Mapping[str, Any], field: str) -> str | None:
    try:
        return secret_text(document, field)
    except (ValueError, TypeError, AttributeError):
        raise KeyFault(f"data.{field}: not base64 of text; use stringData for plain text") from None


def _check_policy(text: str) -> None:
    try:
        policy = json.loads(text)
    except (ValueError, RecursionError):
        raise KeyFault("policy: not JSON") from None
    if not isinstance(policy, dict):
        raise KeyFault("policy: must be a JSON object with models, verbs, expires")
    _strings("policy.models", policy.get("models", ["*"]))
    _strings("policy.verbs", policy.get("verbs", ["infer"]))
    _instant("policy.expires", policy.get("expires"))
    if policy.get("previous") is not None:
        _check_previous(policy["previous"])


def _check_previous(value: Any) -> None:
    if not isinstance(value, dict):
        raise KeyFault("policy.previous: must be an object with sha256 and until")
    _digest("policy.previous.sha256", value.get("sha256"))
    if value.get("until") is None:
        raise KeyFault("policy.previous.until: missing; a previous key needs an end")
    _instant("policy.previous.until", value["until"])


def _digest(field: str, value: Any) -> None:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise KeyFault(f"{field}: must be 64 lower-case hex digits, the SHA-256 of the whole key")


def _strings(field: str, value: Any) -> None:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise KeyFault(f"{field}: must be a list of names")


def _instant(field: str, value: Any) -> None:
    if value is None:
        return
    try:
        datetime.fromisoformat(str(value))
    except ValueError:
        raise KeyFault(f"{field}: {value!r} is not RFC 3339, for example 2030-01-31T00:00:00Z") from None


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
        "type": API_KEY_TYPE,
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
    for document in parse_yaml(text, str(path)):
        record = parse_secret(document.body)
        # The folder decides: a file copied to another namespace opens that one.
        yield replace(record, id=f"{path.parent.name}/{record.id.partition('/')[2]}")


def fingerprint(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Changes whenever a key file is added, changed or removed."""
    found = []
    for path in sorted(folder.glob("*/*.yaml")):
        with contextlib.suppress(OSError):
            stat = path.stat()
            found.append((str(path), stat.st_mtime_ns, stat.st_ino))
    return tuple(found)
