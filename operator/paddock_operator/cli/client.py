"""A small client of an Endpoint, on the standard library: an HTTP framework would cost more to import than to use.

Called by `run`, `chat` and `server`. Addresses and the key of this run come from the home unless they are given.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, Self
from urllib.parse import urlsplit

from paddock_operator.cli.errors import BAD_USAGE, CliError
from paddock_operator.cli.home import home_of
from paddock_operator.executors.local.home import owner

Reply = dict[str, Any]
TIMEOUT_SECONDS = 600.0
"""Between two pieces of an answer; a long prompt on a slow machine takes minutes."""
_MAX_LINE = 16 * 1024 * 1024


class Answer:
    """The lines of a running answer. Closing it tells the server that nobody listens any more."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response

    def __iter__(self) -> Iterator[Reply]:
        while line := self._response.readline(_MAX_LINE):
            reply = _parse(line)
            if "error" in reply:
                raise CliError(_message(reply))
            yield reply

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._response.close()
        self._connection.close()


class Client:
    """Requests to one Endpoint. Raises CliError with the server's own message for every refusal."""

    def __init__(self, url: str, key: str) -> None:
        self._parts = urlsplit(url if "//" in url else f"http://{url}")
        self._key = key
        if self._parts.scheme not in ("http", "https") or not self._parts.hostname:
            raise CliError(f"--url: {url!r} is not an http or https address", BAD_USAGE)

    def get(self, path: str) -> Reply:
        with self._open("GET", path, None) as answer:
            return next(iter(answer), {})

    def post(self, path: str, body: Mapping[str, Any]) -> Answer:
        """Start a request; its reply comes line by line."""
        return self._open("POST", path, json.dumps(body).encode())

    def _open(self, method: str, path: str, body: bytes | None) -> Answer:
        connection = self._connection()
        try:
            connection.request(method, self._parts.path.rstrip("/") + path, body, self._headers(body))
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise CliError(f"{self._parts.netloc} does not answer: {error}") from None
        if response.status >= 400:
            with contextlib.closing(connection):
                raise CliError(_refusal(response))
        return Answer(connection, response)

    def _connection(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        try:
            return kind(self._parts.hostname or "", self._parts.port, timeout=TIMEOUT_SECONDS)
        except ValueError:
            raise CliError(f"--url: {self._parts.netloc!r} has no valid port", BAD_USAGE) from None

    def _headers(self, body: bytes | None) -> dict[str, str]:
        headers = {"Content-Type": "application/json"} if body else {}
        return headers | ({"Authorization": f"Bearer {self._key}"} if self._key else {})


def _parse(line: bytes) -> Reply:
    try:
        found = json.loads(line)
    except ValueError:
        raise CliError("the server answered with something that is no JSON; is this an Endpoint of paddock?") from None
    return found if isinstance(found, dict) else {}


def _message(reply: Reply) -> str:
    error = reply["error"]
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


def _refusal(response: http.client.HTTPResponse) -> str:
    body = response.read(_MAX_LINE)
    with contextlib.suppress(CliError, KeyError):
        return f"{_message(_parse(body))} ({response.status})"
    return f"the server answered {response.status} {response.reason}"


def clients(arguments: argparse.Namespace) -> list[Client]:
    """The Endpoint at --url, or all of the running `paddock up`. Raises CliError when there is none."""
    key = os.environ.get("PADDOCK_API_KEY", "")
    if arguments.url:
        # The key of this run is for the gateways of this run, not for whoever answers at a given address.
        return [Client(arguments.url, key)]
    home = home_of(arguments)
    running = owner(home)
    if running is None:
        raise CliError(f"no paddock up runs for {home.root}; start one, or give --url and PADDOCK_API_KEY")
    if not running.endpoints:
        raise CliError("the running paddock up has no Endpoint that answers yet; see: paddock get endpoints")
    with contextlib.suppress(OSError):
        key = key or home.local_key.read_text().strip()
    return [Client(url, key) for url in running.endpoints.values()]


def client_for(arguments: argparse.Namespace, model: str) -> Client:
    """The Endpoint that knows a model: the first that shows it, or the first one for its own error message."""
    found = clients(arguments)
    for client in found if len(found) > 1 else ():
        with contextlib.suppress(CliError), client.post("/api/show", {"model": model}):
            return client
    return found[0]
