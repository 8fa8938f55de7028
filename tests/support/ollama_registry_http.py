"""The HTTP face of the tests' registry of Ollama's protocol: routes, challenges, redirects, uploads.

Used through `serving_registry`; what it serves and which faults it meets is the state in `ollama_registry`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.support.ollama_registry import Auth, OllamaRegistry, Seen, Upload, Uploads, digest_of

NO_HEADERS: Mapping[str, str] = {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry: OllamaRegistry

    def do_GET(self) -> None:
        self._route()

    do_HEAD = do_POST = do_PATCH = do_PUT = do_GET  # noqa: N815

    def log_message(self, *arguments: object) -> None:
        pass

    def _route(self) -> None:
        try:
            self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._answer()
        except ConnectionError:
            self.close_connection = True

    def _answer(self) -> None:
        url = urlsplit(self.path)
        self._query = {key: values[0] for key, values in parse_qs(url.query).items()}
        parts = url.path.strip("/").split("/")
        if parts[0] == "token":
            return self._token()
        if parts[0] == "data" and self.registry.is_signed(url.path, self._query.get("sig", "")):
            return self._data(parts[1]) if self.command == "GET" else self._part(parts[1], int(parts[2]))
        if parts[0] != "v2" or len(parts) < 5:
            return self._send("other", 404)
        return self._repository("/".join(parts[1:3]), parts[3], parts[4:])

    def _repository(self, repository: str, kind: str, rest: list[str]) -> None:
        step = self._step(kind, rest)
        # Judged before the token: a fault of the registry comes whoever asks.
        if self._faulty(step):
            return None
        if not self.registry.allows(self.headers.get("Authorization", "")):
            return self._challenge(step, repository)
        if kind == "manifests":
            return self._publish(repository, rest[0]) if self.command == "PUT" else self._manifest(repository, rest[0])
        if rest[0] == "uploads":
            return self._uploading(step, repository, rest[1] if len(rest) > 1 else "")
        return self._blob(step, rest[0])

    def _step(self, kind: str, rest: list[str]) -> str:
        if kind == "manifests":
            return {"PUT": "publish", "HEAD": "manifest-head"}.get(self.command, "manifest")
        if rest[0] == "uploads":
            return {"POST": "upload", "PATCH": "part", "PUT": "commit"}.get(self.command, "upload-status")
        return "head" if self.command == "HEAD" else "blob"

    def _faulty(self, step: str) -> bool:
        fault = self.registry.fault(step)
        if fault is not None:
            self._send(step, fault.status, fault.body, fault.headers)
        return fault is not None

    def _send(self, step: str, status: int, body: bytes = b"", headers: Mapping[str, str] = NO_HEADERS) -> None:
        shown = dict(self.headers.items())
        self.registry.seen.append(Seen(step, self.command, self.path, shown, status))
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _challenge(self, step: str, repository: str) -> None:
        registry = self.registry
        if registry.auth == "basic":
            return self._send(step, 401, headers={"WWW-Authenticate": 'Basic realm="registry"'})
        actions = "pull" if self.command in ("GET", "HEAD") else "pull,push"
        value = f'Bearer realm="{registry.origin}/token",service="tests",scope="repository:{repository}:{actions}"'
        return self._send(step, 401, headers={"WWW-Authenticate": value})

    def _token(self) -> None:
        if self._faulty("token"):
            return
        url = f"http://{self.headers['Host']}{self.path}"
        if not self.registry.may_have_token(url, self.headers.get("Authorization", "")):
            self._send("token", 401, b'{"errors":[{"code":"UNAUTHORIZED","message":"unknown key"}]}')
            return
        self._send("token", 200, json.dumps({"token": self.registry.token()}).encode())

    def _manifest(self, repository: str, reference: str) -> None:
        step = "manifest-head" if self.command == "HEAD" else "manifest"
        data = self.registry.manifest(repository, reference)
        if data is None:
            return self._send(step, 404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')
        found = {"Content-Type": json.loads(data)["mediaType"], "Docker-Content-Digest": digest_of(data)}
        return self._send(step, 200, data, found)

    def _blob(self, step: str, digest: str) -> None:
        data = self.registry.blob(digest)
        if data is None:
            return self._send(step, 404)
        if self.command == "HEAD":
            return self._send(step, 200, headers={"Content-Length": str(len(data))})
        if self.registry.direct:
            return self._bytes(step, data)
        return self._send(step, 307, headers={"Location": self.registry.signed(f"/data/{digest}")})

    def _data(self, digest: str) -> None:
        data = self.registry.blob(digest)
        if data is None:
            self._send("data", 404)
        elif not self._faulty("data"):
            self._bytes("data", data)

    def _bytes(self, step: str, data: bytes) -> None:
        wanted = self.headers.get("Range")
        if wanted is None:
            return self._send(step, 200, data)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last or len(data) - 1), len(data) - 1)
        if start > end:
            return self._send(step, 416, headers={"Content-Range": f"bytes */{len(data)}"})
        return self._send(step, 206, data[start : end + 1], {"Content-Range": f"bytes {start}-{end}/{len(data)}"})

    def _uploading(self, step: str, repository: str, name: str) -> None:
        upload = self.registry.upload(name)
        if self.command == "POST":
            return self._begin(step, repository)
        if upload is None:
            return self._send(step, 404)
        if self.command == "PATCH":
            return self._chunk(step, repository, name, upload)
        if self.command == "PUT":
            return self._commit(step, name, upload)
        return self._send(step, 204, headers={**_range(upload), "Location": self._at(repository, name)})

    def _at(self, repository: str, name: str) -> str:
        return f"/v2/{repository}/blobs/uploads/{name}"

    def _begin(self, step: str, repository: str) -> None:
        if self.registry.blob(self._query["mount"]) is not None if "mount" in self._query else False:
            return self._send(step, 201, headers={"Location": f"/v2/{repository}/blobs/{self._query['mount']}"})
        location = self.registry.origin + self._at(repository, self.registry.start_upload())
        return self._send(step, 202, headers={"Location": location, "Docker-Upload-Location": location})

    def _chunk(self, step: str, repository: str, name: str, upload: Upload) -> None:
        location = self.registry.origin + self._at(repository, name)
        if self.registry.uploads == "whole":
            return self._send(step, 405)
        if self.registry.uploads == "redirect" and self.headers.get("X-Redirect-Uploads") == "1":
            number = int(self._query.get("part", 0))
            following = {"Docker-Upload-Location": f"{location}?part={number + 1}"}
            return self._send(
                step, 307, headers={"Location": self.registry.signed(f"/data/{name}/{number}"), **following}
            )
        first, _, last = self.headers["Content-Range"].partition("-")
        if int(first) != len(upload.data) or int(last) - int(first) + 1 != len(self._body):
            return self._send(step, 416, headers={**_range(upload), "Location": location})
        upload.parts[len(upload.parts)] = self._body
        return self._send(step, 202, headers={**_range(upload), "Location": location})

    def _part(self, name: str, number: int) -> None:
        upload = self.registry.upload(name)
        if upload is None:
            self._send("put", 404)
        elif not self._faulty("put"):
            upload.parts[number] = self._body
            self._send("put", 200)

    def _commit(self, step: str, name: str, upload: Upload) -> None:
        if self._body:
            upload.parts[len(upload.parts)] = self._body
        etag = self._query.get("etag") if self.registry.uploads == "redirect" else None
        good = self.registry.finish(name, self._query["digest"], etag)
        return self._send(step, 201 if good else 400, b"" if good else b'{"errors":[{"code":"DIGEST_INVALID"}]}')

    def _publish(self, repository: str, reference: str) -> None:
        manifest = json.loads(self._body)
        wanted = [item["digest"] for item in (*manifest["layers"], manifest["config"])]
        if any(self.registry.blob(digest) is None for digest in wanted):
            return self._send("publish", 400, b'{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"}]}')
        self.registry.manifests[repository, reference] = self._body
        return self._send("publish", 201, headers={"Docker-Content-Digest": digest_of(self._body)})


def _range(upload: Upload) -> dict[str, str]:
    return {"Range": f"0-{max(len(upload.data) - 1, 0)}"}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False


@contextmanager
def serving_registry(folder: Path, auth: Auth = "", uploads: Uploads = "redirect") -> Iterator[OllamaRegistry]:
    """A registry on a free port of 127.0.0.1, whose bytes are at the same port of localhost."""
    registry = OllamaRegistry(folder, auth, uploads)
    handler = type("Handler", (Handler,), {"registry": registry})
    with _Server(("127.0.0.1", 0), handler) as server:
        registry.host = f"127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield registry
        finally:
            server.shutdown()
            thread.join(10)
