"""`paddock key create | list | revoke`: key Secrets in the home or on a cluster.

A running `up` sees a change within a second, an operator as soon as the API server tells it.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Protocol

from paddock_operator.cli.errors import BAD_USAGE, CliError
from paddock_operator.cli.home import home_of
from paddock_operator.cli.place import target_of
from paddock_operator.cli.text import moment, table
from paddock_operator.core.resources import KeyRecord
from paddock_operator.core.schema_secret import VERBS
from paddock_operator.executors.local import keys
from paddock_operator.executors.local.home import Home

_DURATION = re.compile(r"(\d{1,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def create(arguments: argparse.Namespace) -> int:
    """Make a key. The clear key alone goes to stdout, so that a script can take it."""
    allowed, verbs = _words(arguments.allowed), _words(arguments.verbs)
    if not allowed:
        raise CliError("--models must name at least one model, or be left out", BAD_USAGE)
    if not verbs or set(verbs) - set(VERBS):
        raise CliError(f"--verbs must be of {', '.join(VERBS)}, not {arguments.verbs!r}", BAD_USAGE)
    expires = _expiry(arguments.expires, datetime.now(UTC)) if arguments.expires else None
    ring = _ring(arguments)
    with _faults():
        clear = ring.create(arguments.name, allowed, verbs, expires)
    sys.stderr.write(f"key {arguments.name} of {ring.name}, shown only this once:\n")
    sys.stdout.write(clear + "\n")
    return 0


class Ring(Protocol):
    """Where keys are: the home of this machine, or a cluster. `name` says it to people. All may raise KeyFault."""

    name: str

    def create(self, name: str, models: tuple[str, ...], verbs: tuple[str, ...], expires: datetime | None) -> str:
        """Make a key; the clear key."""
        ...

    def stored(self) -> tuple[tuple[KeyRecord, ...], tuple[str, ...]]:
        """What is known of the keys, and a line for each that is no good."""
        ...

    def revoke(self, name: str) -> None:
        """Delete a key."""
        ...


class LocalRing:
    """Key files in a home; listed are those of one namespace if one is given, else all."""

    def __init__(self, home: Home, namespace: str | None) -> None:
        self._home, self._given = home, namespace
        self._namespace = namespace or "default"
        self.name = f"namespace {self._namespace}"

    def create(self, name: str, models: tuple[str, ...], verbs: tuple[str, ...], expires: datetime | None) -> str:
        self._home.prepare()
        return keys.create(self._home.keys, self._namespace, name, models=models, verbs=verbs, expires=expires)

    def stored(self) -> tuple[tuple[KeyRecord, ...], tuple[str, ...]]:
        records, problems = keys.stored(self._home.keys)
        wanted = (record for record in records if self._given in (None, record.id.partition("/")[0]))
        return tuple(wanted), problems

    def revoke(self, name: str) -> None:
        keys.revoke(self._home.keys, self._namespace, name)


def _ring(arguments: argparse.Namespace) -> Ring:
    target = target_of(arguments)
    if target is None:
        return LocalRing(home_of(arguments), arguments.namespace)
    from paddock_operator.cli.cluster.keys import ClusterRing

    return ClusterRing(target, all_namespaces=arguments.all_namespaces)


@contextlib.contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except keys.KeyFault as error:
        raise CliError(str(error)) from None


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _expiry(text: str, now: datetime) -> datetime:
    found = _DURATION.fullmatch(text)
    when = now + timedelta(seconds=int(found[1]) * _SECONDS[found[2]]) if found else moment(text)
    if when is None:
        raise CliError(f"--expires: {text!r} is neither a duration such as 30d nor an RFC 3339 time", BAD_USAGE)
    if when <= now:
        raise CliError(f"--expires: {text} has passed already", BAD_USAGE)
    return when


def list_keys(arguments: argparse.Namespace) -> int:
    """Print what is known of each key; the keys themselves are nowhere."""
    records, problems = _ring(arguments).stored()
    rows = []
    for record in records:
        namespace, _, name = record.id.partition("/")
        rows.append((namespace, name, ",".join(record.models), ",".join(record.verbs), record.expires or "never"))
    table(("NAMESPACE", "NAME", "MODELS", "VERBS", "EXPIRES"), rows)
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    return 1 if problems else 0


def revoke(arguments: argparse.Namespace) -> int:
    """Delete a key: answers that stream may finish, the next request is refused."""
    ring = _ring(arguments)
    with _faults():
        ring.revoke(arguments.name)
    sys.stderr.write(f"key {arguments.name} of {ring.name} is revoked\n")
    return 0
