"""A read-only mirror: the registry protocol over a model folder, for other nodes and for a stock `ollama pull`.

Started by `commands.serve_blobs`. A name is looked for at every host, Ollama's own registry first: a mirror of
`registry.ollama.ai/library/x` and of `hf.co/a/b` answers `/v2/library/x` and `/v2/a/b`. Nothing can be written.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from paddock_runner.core.digest import Digest, InvalidDigestError
from paddock_runner.core.manifest import MANIFEST_TYPE
from paddock_runner.core.names import DEFAULT_HOST, InvalidNameError, ModelName
from paddock_runner.registry.blobs import HashingError, OpenBlob, VerifiedBlobs
from paddock_runner.registry.ranges import UnsatisfiableError, is_current, wanted
from paddock_runner.store.errors import NotFoundError, StoreError
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.store import Store

CHUNK_BYTES = 1 << 20
RETRY_SECONDS = 5
_VERSION = {"Docker-Distribution-API-Version": "registry/2.0"}
_FOR_EVER = "public, max-age=31536000, immutable"

log = logging.getLogger(__name__)


class BlobResponse(StreamingResponse):
    """Bytes of an open blob; closes it, however the transfer ends."""

    def __init__(self, blob: OpenBlob, part: range, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(_pieces(blob, part), status, {**headers, "Content-Length": str(len(part))})
        self._blob = blob

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._blob.file.close()


async def _pieces(blob: OpenBlob, part: range) -> AsyncIterator[bytes]:
    await asyncio.to_thread(blob.file.seek, part.start)
    left = len(part)
    while left:
        piece = await asyncio.to_thread(blob.file.read, min(CHUNK_BYTES, left))
        if not piece:
            # A short body ends the connection before its declared length: the client notices.
            return
        left -= len(piece)
        yield piece


class Mirror:
    """The handlers over one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._blobs = VerifiedBlobs(store)

    async def base(self, request: Request) -> Response:
        """`GET /v2/`: tells that this is a registry and that no credentials are needed."""
        return Response(b"{}", headers=_VERSION, media_type="application/json")

    async def manifest(self, request: Request) -> Response:
        """`GET` or `HEAD` of a manifest by tag or digest."""
        try:
            found = await asyncio.to_thread(self._find, **request.path_params)
        except (NotFoundError, InvalidNameError, InvalidDigestError) as error:
            return _refusal(404, "MANIFEST_UNKNOWN", str(error))
        except StoreError as error:
            return _broken(error)
        tag = f'"{found.digest}"'
        headers = {**_VERSION, "Docker-Content-Digest": str(found.digest), "ETag": tag, "Cache-Control": "no-cache"}
        if is_current(request.headers, tag):
            return Response(status_code=304, headers=headers)
        return Response(found.data, headers=headers, media_type=_media_type(found.data))

    def _find(self, namespace: str, model: str, reference: str) -> StoredManifest:
        if ":" in reference:
            return self._store.manifest_by_digest(Digest.parse(reference))
        name = ModelName(model, reference, namespace, DEFAULT_HOST)
        try:
            return self._store.manifest(name)
        except NotFoundError:
            others = [item for item in self._store.list() if item.name.key[1:] == name.key[1:]]
            if not others:
                raise
            return min(others, key=lambda item: item.name.host)

    async def blob(self, request: Request) -> Response:
        """`GET` or `HEAD` of a blob, whole or one range."""
        try:
            digest = Digest.parse(request.path_params["digest"])
            ModelName(request.path_params["model"], namespace=request.path_params["namespace"])
            blob = await self._blobs.open(digest)
        except (InvalidDigestError, InvalidNameError) as error:
            return _refusal(400, "DIGEST_INVALID", str(error))
        except NotFoundError:
            return _refusal(404, "BLOB_UNKNOWN", f"the mirror does not have {digest} intact")
        except HashingError:
            return _busy()
        except StoreError as error:
            return _broken(error)
        try:
            return _blob_answer(request, digest, blob)
        except BaseException:
            blob.file.close()
            raise


def _blob_answer(request: Request, digest: Digest, blob: OpenBlob) -> Response:
    tag = f'"{digest}"'
    headers = {
        **_VERSION,
        "Docker-Content-Digest": str(digest),
        "ETag": tag,
        "Cache-Control": _FOR_EVER,
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
    }
    if is_current(request.headers, tag):
        return _closing(blob, Response(status_code=304, headers=headers))
    if request.method == "HEAD":
        return _closing(blob, Response(headers={**headers, "Content-Length": str(blob.size)}))
    try:
        part = wanted(request.headers, blob.size, tag)
    except UnsatisfiableError:
        gone = {**headers, "Content-Range": f"bytes */{blob.size}"}
        return _closing(blob, Response(status_code=416, headers=gone))
    if part is not None:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{blob.size}"
        return BlobResponse(blob, part, 206, headers)
    # Ollama takes the address of the bytes from Location, also of a 200, and asks there for its ranges.
    return BlobResponse(blob, range(blob.size), 200, {**headers, "Location": request.url.path})


def _closing(blob: OpenBlob, response: Response) -> Response:
    blob.file.close()
    return response


def _media_type(data: bytes) -> str:
    found = json.loads(data).get("mediaType")
    return found if isinstance(found, str) else MANIFEST_TYPE


def _refusal(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    return Response(body, status, {**_VERSION, **(headers or {})}, media_type="application/json")


def _broken(error: StoreError) -> Response:
    # The message names paths of this machine: for its log alone.
    log.error("the model folder cannot be read", extra={"problem": str(error)})
    return _refusal(500, "UNKNOWN", "the mirror cannot read this")


def _busy() -> Response:
    message = "the blob's bytes are being verified; ask again"
    return _refusal(503, "UNAVAILABLE", message, {"Retry-After": str(RETRY_SECONDS)})


async def _health(request: Request) -> Response:
    return Response(b"ok", media_type="text/plain")


async def _failed(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    code = "UNSUPPORTED" if status == 405 else "NAME_UNKNOWN"
    headers = error.headers if isinstance(error, HTTPException) else None
    return _refusal(status, code, "this is a read-only mirror: GET and HEAD of manifests and blobs", headers)


def mirror_app(store: Store) -> Starlette:
    """The ASGI application over `store`, which should be opened read-only."""
    mirror = Mirror(store)
    below = "/v2/{namespace}/{model}"
    return Starlette(
        routes=[
            Route("/healthz", _health),
            Route("/v2/", mirror.base),
            Route(below + "/manifests/{reference}", mirror.manifest),
            Route(below + "/blobs/{digest}", mirror.blob),
        ],
        exception_handlers={HTTPException: _failed},
    )
