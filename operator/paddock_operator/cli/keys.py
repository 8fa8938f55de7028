"""`paddock key create | list | revoke`: key Secrets in the home. A running `up` sees each change within a second."""

from __future__ import annotations

import argparse
import re
import sys
from datetime import UTC, datetime, timedelta

from paddock_operator.cli.errors import BAD_USAGE, CliError
from paddock_operator.cli.home import home_of
from paddock_operator.cli.text import moment, table
from paddock_operator.core.schema_secret import VERBS
from paddock_operator.executors.local import keys

_DURATION = re.compile(r"(\d{1,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def create(arguments: argparse.Namespace) -> int:
    """Make a key. The clear key alone goes to stdout, so that a script can take it."""
    allowed, verbs = _words(arguments.allowed), _words(arguments.verbs)
    if not allowed:
        raise CliError("--models must name at least one model, or be left out", BAD_USAGE)
    if not verbs or set(verbs) - set(VERBS):
        raise CliError(f"--verbs must be of {', '.join(VERBS)}, not {arguments.verbs!r}", BAD_USAGE)
    home, namespace = home_of(arguments), arguments.namespace or "default"
    expires = _expiry(arguments.expires, datetime.now(UTC)) if arguments.expires else None
    home.prepare()
    try:
        clear = keys.create(home.keys, namespace, arguments.name, models=allowed, verbs=verbs, expires=expires)
    except keys.KeyFault as error:
        raise CliError(str(error)) from None
    sys.stderr.write(f"key {arguments.name} of namespace {namespace}, shown only this once:\n")
    sys.stdout.write(clear + "\n")
    return 0


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
    records, problems = keys.stored(home_of(arguments).keys)
    rows = []
    for record in records:
        namespace, _, name = record.id.partition("/")
        if arguments.namespace in (None, namespace):
            expires = record.expires or "never"
            rows.append((namespace, name, ",".join(record.models), ",".join(record.verbs), expires))
    table(("NAMESPACE", "NAME", "MODELS", "VERBS", "EXPIRES"), rows)
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    return 1 if problems else 0


def revoke(arguments: argparse.Namespace) -> int:
    """Delete a key: answers that stream may finish, the next request is refused."""
    namespace = arguments.namespace or "default"
    try:
        keys.revoke(home_of(arguments).keys, namespace, arguments.name)
    except keys.KeyFault as error:
        raise CliError(str(error)) from None
    sys.stderr.write(f"key {arguments.name} of namespace {namespace} is revoked\n")
    return 0
