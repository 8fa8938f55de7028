"""What an API server says of a manifest, in the form in which `schema.problems` says it."""

from __future__ import annotations

import http.client
import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.support.apiserver import ApiServer

GROUP = "/apis/paddock.dev/v1alpha1"
PLURALS = {"Model": "models", "Endpoint": "endpoints"}
UNKNOWN = re.compile(r'unknown field "((?:[^"\\]|\\.)*)"')
UNREADABLE = re.compile(r"json: cannot unmarshal .* into Go (?:struct field ObjectMeta\.(\w+)|value) .*")


@dataclass(frozen=True)
class Verdict:
    """`complaints` are pairs of field and message; `stopped` says that the object was not even decoded."""

    accepted: bool
    complaints: frozenset[tuple[str, str]]
    stopped: bool = False


class Kube:
    """The administrator on one connection that stays open: a handshake for each of a thousand requests takes long."""

    def __init__(self, server: ApiServer) -> None:
        address = urlsplit(server.url)
        self._connection = http.client.HTTPSConnection(
            address.hostname or "", address.port, timeout=10, context=server.api.context()
        )

    def request(self, method: str, path: str, body: object = None, kind: str = "application/json") -> tuple[int, Any]:
        data = None if body is None else json.dumps(body)
        self._connection.request(method, path, body=data, headers={"Content-Type": kind, "Accept": "application/json"})
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())

    def close(self) -> None:
        self._connection.close()


def path_of(document: Any, namespace: str, name: str = "") -> str:
    kind = document.get("kind") if isinstance(document, dict) else None
    plural = PLURALS.get(kind if isinstance(kind, str) else "", "models")
    return f"{GROUP}/namespaces/{namespace}/{plural}" + (f"/{name}" if name else "")


def verdict(kube: Kube, document: Any, namespace: str) -> Verdict:
    """The API server's opinion on creating an object, which is not stored."""
    address = f"{path_of(document, namespace)}?dryRun=All&fieldValidation=Strict"
    return read(*kube.request("POST", address, document))


def read(status: int, answer: Any) -> Verdict:
    """Take an answer apart. Raises AssertionError if it is neither a yes nor a no."""
    assert status in (200, 201, 400, 404, 422), answer
    if status in (200, 201):
        return Verdict(True, frozenset())
    if status == 422:
        return Verdict(False, frozenset(_causes(answer)))
    message = answer["message"]
    found = {(field, f'unknown field "{field}"') for field in UNKNOWN.findall(message)}
    wrong = UNREADABLE.search(message)
    if wrong:
        found.add((f"metadata.{wrong[1]}" if wrong[1] else "metadata", wrong[0]))
    return Verdict(False, frozenset(found), stopped=True)


def _causes(answer: Any) -> list[tuple[str, str]]:
    causes = [(str(cause.get("field")), cause["message"]) for cause in answer["details"]["causes"]]
    # "<nil>" announces that rules were not looked at; a leading dot is the scale subresource's second opinion
    return [cause for cause in causes if cause[0] != "<nil>" and not cause[0].startswith(".")]
