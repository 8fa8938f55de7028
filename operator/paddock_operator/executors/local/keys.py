"""API keys as key Secrets in files: make, list, revoke, read, and compile into records for gateways.

Called by `up` (all keys, at every change) and the CLI (`paddock key …`). A clear key exists only in the return value of
`create`; files hold its SHA-256 and a policy.
"""

from __future__ import annotations

import contextlib
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

from paddock_operator.core.identity import secret_hash
from paddock_operator.core.resources import (
    API_KEY_TYPE,
    KeyRecord,
    is_api_key,
    parse,
)
from paddock_operator.core.schema_metadata import metadata_problems
from paddock_operator.core.schema_secret import key_problems
from paddock_operator.executors.local import atomic
from paddock_operator.executors.local.files import MAX_FILE_BYTES
from paddock_operator.executors.local.yamlread import ManifestError
from paddock_operator.executors.local.yamlread import parse as parse_yaml

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


class KeyFault(ValueError):  # noqa: N818 - a fault of a key, not KeyError
    """A key Secret or a request for one that cannot be honoured; the message names the field and the fix."""


def new_secret() -> str:
    """A fresh clear key: a public id and 256 random bits."""
    return f"pdk_{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}"


def record_of(document: Mapping[str, Any]) -> KeyRecord:
    """The record of a key Secret. Raises KeyFault naming what is wrong."""
    if not is_api_key(document):
        raise KeyFault(f"only Secrets of type {API_KEY_TYPE} are read, this one is of type {document.get('type')!r}")
    found = [*metadata_problems(document.get("metadata")), *key_problems(document)]
    if found:
        raise KeyFault("; ".join(str(problem) for problem in found))
    record = parse(document)
    if not isinstance(record, KeyRecord):
        raise KeyFault("not a key Secret")
    return record


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
    body = document(namespace, name, clear, models=models, verbs=verbs, expires=expires)
    _write_new(folder / namespace / f"{name}.yaml", yaml.safe_dump(body, sort_keys=False).encode())
    return clear


def document(
    namespace: str, name: str, clear: str, *, models: Sequence[str], verbs: Sequence[str], expires: datetime | None
) -> dict[str, Any]:
    """The key Secret of a clear key: its SHA-256 and a policy."""
    policy = {"models": list(models), "verbs": list(verbs), "expires": _rfc3339(expires)}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": API_KEY_TYPE,
        "metadata": {"name": name, "namespace": namespace},
        "stringData": {"sha256": secret_hash(clear), "policy": json.dumps(policy)},
    }


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
        record = record_of(document.body)
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
