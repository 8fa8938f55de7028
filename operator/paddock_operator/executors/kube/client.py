"""A small port to the API server over kubernetes.aio: JSON in, JSON out, typed errors, counted requests.

Used by everything of this package that talks to a cluster. Raw paths instead of generated models: a response is parsed
once, by json, and stays a dict.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from time import monotonic
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio.client import ApiClient
from kubernetes.aio.client.rest import RESTResponse

from paddock_operator.core.cluster.labels import FIELD_MANAGER
from paddock_operator.executors.kube.errors import ApiError
from paddock_operator.executors.kube.kinds import POD, Kind
from paddock_operator.executors.kube.login import Login

Body = dict[str, Any]
Count = Callable[[str, int], None]
"""Told of each answer: verb and HTTP status (0: nobody answered)."""

REQUEST = aiohttp.ClientTimeout(total=30, sock_connect=5)
INACTIVITY_SECONDS = 150
"""A watch without a byte for this long is dead: the server sends bookmarks, about one a minute when it is not busy."""
PAGE = 200
RELOAD_SECONDS = 10.0
CLOSE_SECONDS = 0.1
"""TLS connections say goodbye in the background."""
MAX_LOG_BYTES = 256 * 1024
JSON, APPLY, MERGE = "application/json", "application/apply-patch+yaml", "application/merge-patch+json"
METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


class Client:
    """Requests to one API server. Use `await Client.connect(login)`; every method raises ApiError."""

    def __init__(self, api: ApiClient, login: Login, count: Count, concurrency: int) -> None:
        self._api, self._login, self._count = api, login, count
        self._places = asyncio.Semaphore(concurrency)
        self._reloaded = monotonic()

    @classmethod
    async def connect(cls, login: Login, count: Count = lambda verb, code: None, concurrency: int = 16) -> Client:
        """A client that has read its credentials; at most `concurrency` requests run at once, watches excepted."""
        return cls(ApiClient(await login.configuration()), login, count, concurrency)

    async def close(self) -> None:
        """Close all connections."""
        await self._api.close()
        await asyncio.sleep(CLOSE_SECONDS)

    async def get(self, kind: Kind, namespace: str, name: str, *, metadata_only: bool = False) -> Body:
        """One object, or only its metadata (for Secrets whose content is nobody's business)."""
        accept = METADATA_ONLY if metadata_only else JSON
        return await self._json("get", "GET", kind.path(namespace, name), accept=accept)

    async def get_path(self, path: str) -> Body:
        """Any JSON of the API server, such as the list of an API group's kinds."""
        return await self._json("get", "GET", path)

    async def list_page(self, kind: Kind, namespace: str = "", **query: str) -> Body:
        """One page of a collection. `query`: labelSelector, fieldSelector, limit, continue, resourceVersion."""
        return await self._json("list", "GET", kind.path(namespace), {"limit": str(PAGE), **_given(query)})

    async def pages(self, kind: Kind, namespace: str = "", **query: str) -> AsyncIterator[tuple[list[Body], str]]:
        """A whole collection: the items of each page, and the resource version that all pages have in common."""
        token = ""
        while True:
            page = await self.list_page(kind, namespace, **query, **({"continue": token} if token else {}))
            yield page.get("items") or [], str(page["metadata"]["resourceVersion"])
            token = page["metadata"].get("continue") or ""
            if not token:
                return

    async def watch(
        self, kind: Kind, namespace: str, version: str, seconds: int, opened: Callable[[], None], **query: str
    ) -> AsyncIterator[tuple[str, Body]]:
        """(type, object) of each change after `version`, bookmarks included; ends after `seconds`.

        `opened` is called when the server has agreed to tell.

        An ERROR in the stream is raised as the ApiError that it is (410: list again).
        """
        asked = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version, **_given(query)}
        asked["timeoutSeconds"] = str(seconds)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=INACTIVITY_SECONDS)
        answer = await self._open("watch", "GET", kind.path(namespace), asked, timeout=timeout)
        opened()
        try:
            async for line in answer.response.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise _status_error(event["object"])
                yield event["type"], event["object"]
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise ApiError(0, "WatchBroken", f"{kind.plural}: {error or type(error).__name__}") from error
        finally:
            answer.response.close()

    async def apply(self, kind: Kind, manifest: Mapping[str, Any], sub: str = "") -> Body:
        """Server-side apply with our field manager, by force; returns the object as it is now."""
        metadata = manifest["metadata"]
        path = kind.path(metadata["namespace"], metadata["name"], sub)
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._json("apply", "PATCH", path, query, manifest, APPLY)

    async def merge_patch(self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any]) -> Body:
        """Merge patch of one object."""
        query = {"fieldManager": FIELD_MANAGER}
        return await self._json("patch", "PATCH", kind.path(namespace, name), query, patch, MERGE)

    async def create(self, kind: Kind, manifest: Mapping[str, Any]) -> Body:
        """Create an object; a 409 if it exists."""
        path = kind.path(manifest["metadata"]["namespace"])
        return await self._json("create", "POST", path, {"fieldManager": FIELD_MANAGER}, manifest)

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        """Delete exactly the object with this uid, its dependents in the background. One that is gone is no error."""
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }
        try:
            await self._json("delete", "DELETE", kind.path(namespace, name), {}, options)
        except ApiError as error:
            if not (error.absent or error.conflict):
                raise

    async def pod_log(self, namespace: str, pod: str, container: str, tail: int) -> str:
        """The last `tail` lines of a container's log, at most 256 KiB."""
        query = {"container": container, "tailLines": str(tail), "limitBytes": str(MAX_LOG_BYTES)}
        async with self._places:
            answer = await self._open("log", "GET", POD.path(namespace, pod, "log"), query, accept="*/*")
            return (await _read(answer)).decode("utf-8", "replace")

    async def _json(
        self,
        verb: str,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content: str = JSON,
        accept: str = JSON,
    ) -> Body:
        async with self._places:
            answer = await self._open(verb, method, path, query or {}, body, content, accept)
            parsed: Body = json.loads(await _read(answer))
            return parsed

    async def _open(
        self,
        verb: str,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None = None,
        content: str = JSON,
        accept: str = JSON,
        timeout: aiohttp.ClientTimeout = REQUEST,
    ) -> RESTResponse:
        """Send a request and return its good answer, body unread; a 401 reads the credentials again, once."""
        url = f"{path}?{urlencode(query)}" if query else path
        for last in (False, True):
            answer = await self._send(verb, method, url, body, content, accept, timeout)
            if answer.status == 401 and not last and await self._reload():
                answer.response.close()
                continue
            break
        self._count(verb, answer.status)
        if answer.status >= 400:
            raise _error(answer, await _read(answer))
        return answer

    async def _send(
        self,
        verb: str,
        method: str,
        url: str,
        body: Mapping[str, Any] | None,
        content: str,
        accept: str,
        timeout: aiohttp.ClientTimeout,
    ) -> RESTResponse:
        configuration = self._api.configuration
        headers = {"Accept": accept, "Content-Type": content, "User-Agent": "paddock-operator"}
        try:
            for auth in (await configuration.auth_settings()).values():
                headers[auth["key"]] = auth["value"]
            answer: RESTResponse = await self._api.rest_client.request(
                method, configuration.host + url, headers=headers, body=body, _request_timeout=timeout
            )
            return answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._count(verb, 0)
            raise ApiError(0, "Unreachable", str(error) or type(error).__name__) from error

    async def _reload(self) -> bool:
        """Read rotated credentials; False if that was done a moment ago, so that a refusal cannot loop."""
        if monotonic() - self._reloaded < RELOAD_SECONDS:
            return False
        self._reloaded = monotonic()
        self._api.configuration.api_key = (await self._login.configuration()).api_key
        return True


def _given(query: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in query.items() if value}


async def _read(answer: RESTResponse) -> bytes:
    try:
        data: bytes = await answer.read()
        return data
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise ApiError(0, "Unreachable", f"the answer broke off: {error or type(error).__name__}") from error


def _error(answer: RESTResponse, data: bytes) -> ApiError:
    try:
        status = json.loads(data)
    except ValueError:
        status = {}
    if not isinstance(status, dict):
        status = {}
    error = _status_error({"code": answer.status, "message": data[:200].decode("utf-8", "replace"), **status})
    after = answer.headers.get("Retry-After", "")
    return ApiError(answer.status, error.reason, error.message, float(after) if after.isdigit() else error.retry_after)


def _status_error(status: Mapping[str, Any]) -> ApiError:
    after = (status.get("details") or {}).get("retryAfterSeconds")
    return ApiError(
        int(status.get("code") or 500),
        str(status.get("reason") or ""),
        str(status.get("message") or "")[:1000],
        None if after is None else float(after),
    )
