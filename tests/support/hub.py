"""A small Hugging Face hub on loopback for tests: the API of one kind of repository, resolve URLs, and a storage host.

Held to the real protocol by running the official client against it (tests/sources/test_huggingface_client.py). Files in
large file storage are answered with a redirect to the storage host, a second port, whose URLs are signed; it notes
every header it gets, so that a test can see which credentials crossed over.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

LARGE = 4096
SIGNATURE = "signed-by-the-hub"


def commit_of(files: dict[str, bytes]) -> str:
    """A commit for a set of files: another set, another commit."""
    text = json.dumps({path: hashlib.sha256(data).hexdigest() for path, data in sorted(files.items())})
    return hashlib.sha1(text.encode()).hexdigest()


def blob_of(data: bytes) -> str:
    """Git's name for a file's bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_large(path: str, data: bytes) -> bool:
    """Whether the hub keeps the file in large file storage: every GGUF, and what is big."""
    return path.endswith((".gguf", ".safetensors")) or len(data) > LARGE


def sibling(path: str, data: bytes) -> dict[str, Any]:
    """One file as `GET /api/models/…?blobs=true` lists it."""
    entry: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": blob_of(data)}
    if is_large(path, data):
        entry["blobId"] = blob_of(b"pointer of " + path.encode())
        entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry


@dataclass
class HubRepo:
    """A repository: its commits, and which one each branch or tag names. `tokens` may read it; empty is public."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    gated: bool = False

    def push(self, files: dict[str, bytes], ref: str = "main") -> str:
        """Move `ref` to a commit of exactly these files; returns the commit."""
        commit = commit_of(files)
        self.commits[commit] = dict(files)
        self.refs[ref] = commit
        return commit

    def resolve(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.refs.get(revision)


@dataclass
class Seen:
    """One request that arrived: `where` is hub or storage, `headers` have lower-case names."""

    where: str
    method: str
    path: str
    headers: dict[str, str]


class Hub:
    """`repos` by owner/name. `answer` replaces the body of the API; `page` is the length of the tree's pages."""

    def __init__(self) -> None:
        self.repos: dict[str, HubRepo] = {}
        self.seen: list[Seen] = []
        self.url = ""
        self.storage_url = ""
        self.answer: bytes | None = None
        self.page = 1000
        self._blobs: dict[str, bytes] = {}

    def repo(self, name: str, files: dict[str, bytes] | None = None) -> HubRepo:
        """A new repository, with `files` on main."""
        made = self.repos[name] = HubRepo()
        if files is not None:
            made.push(files)
        return made

    @property
    def hosts(self) -> frozenset[str]:
        """The two hosts with their ports, for a test's list of allowed ones."""
        return frozenset({urlsplit(self.url).netloc, urlsplit(self.storage_url).netloc})

    def requests(self, where: str) -> list[Seen]:
        return [item for item in self.seen if item.where == where]

    def on_hub(self, request: BaseHTTPRequestHandler) -> None:
        url = urlsplit(request.path)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            if repo := self._allowed(request, "/".join(parts[2:4])):
                self._api(request, repo, parts, parse_qs(url.query))
        elif len(parts) >= 5 and parts[2] == "resolve":
            if repo := self._allowed(request, "/".join(parts[:2])):
                self._file(request, repo, parts[3], "/".join(parts[4:]))
        else:
            send(request, 404)

    def _allowed(self, request: BaseHTTPRequestHandler, name: str) -> HubRepo | None:
        """The repository, unless the caller may not see it: a missing one and a private one look the same."""
        repo = self.repos.get(name)
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and not any(token in other.tokens for other in self.repos.values()):
            refuse(request, 401, "", "Invalid credentials in Authorization header")
        elif repo is not None and (not repo.tokens or token in repo.tokens):
            return repo
        elif repo is not None and repo.gated:
            refuse(request, 403 if token else 401, "GatedRepo", "Access to this model is restricted.")
        else:
            refuse(request, 404 if token else 401, "RepoNotFound", "Repository not found")
        return None

    def _api(self, request: BaseHTTPRequestHandler, repo: HubRepo, parts: list[str], query: dict[str, Any]) -> None:
        what, revision = (parts[4], parts[5]) if len(parts) > 5 else ("revision", "main")
        commit = repo.resolve(revision)
        if commit is None:
            refuse(request, 404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif what == "tree":
            self._tree(request, commit, repo.commits[commit], int(query.get("cursor", ["0"])[0]))
        else:
            body = {"id": "/".join(parts[2:4]), "sha": commit, "private": bool(repo.tokens), "gated": repo.gated}
            files = repo.commits[commit].items()
            body["siblings"] = [
                sibling(path, data) if "blobs" in query else {"rfilename": path} for path, data in files
            ]
            send(request, 200, json.dumps(body).encode() if self.answer is None else self.answer)

    def _tree(self, request: BaseHTTPRequestHandler, commit: str, files: dict[str, bytes], start: int) -> None:
        rows = [_row(path, data) for path, data in sorted(files.items())]
        following = start + self.page
        path = request.path.partition("?")[0]
        link = {"Link": f'<{self.url}{path}?recursive=true&cursor={following}>; rel="next"'}
        send(request, 200, json.dumps(rows[start:following]).encode(), link if following < len(rows) else {})

    def _file(self, request: BaseHTTPRequestHandler, repo: HubRepo, revision: str, path: str) -> None:
        commit = repo.resolve(revision)
        data = repo.commits.get(commit or "", {}).get(path)
        if commit is None or data is None:
            refuse(request, 404, "EntryNotFound" if commit else "RevisionNotFound", "Entry not found")
        elif not is_large(path, data):
            send(request, 200, data, {"X-Repo-Commit": commit, "ETag": f'"{blob_of(data)}"'})
        else:
            digest = hashlib.sha256(data).hexdigest()
            self._blobs[digest] = data
            headers = {
                "X-Repo-Commit": commit,
                "X-Linked-Size": str(len(data)),
                "X-Linked-Etag": f'"{digest}"',
                "Location": f"{self.storage_url}/{digest}?name={quote(path, safe='')}&signature={SIGNATURE}",
            }
            send(request, 302, b"Found", headers)

    def on_storage(self, request: BaseHTTPRequestHandler) -> None:
        url = urlsplit(request.path)
        data = self._blobs.get(url.path.strip("/"))
        if data is None or parse_qs(url.query).get("signature") != [SIGNATURE]:
            send(request, 403, b"<Error>AccessDenied</Error>")
            return
        wanted = request.headers.get("Range", "").removeprefix("bytes=")
        if not wanted:
            send(request, 200, data, {"Accept-Ranges": "bytes"})
            return
        first, _, last = wanted.partition("-")
        start, end = int(first), min(int(last or len(data)), len(data) - 1)
        send(request, 206, data[start : end + 1], {"Content-Range": f"bytes {start}-{end}/{len(data)}"})


def _row(path: str, data: bytes) -> dict[str, Any]:
    """One file as the tree API lists it, which words things otherwise than the list of siblings."""
    listed = sibling(path, data)
    row = {"type": "file", "path": path, "size": len(data), "oid": listed["blobId"]}
    if large := listed.get("lfs"):
        row["lfs"] = {"oid": large["sha256"], "size": large["size"], "pointerSize": large["pointerSize"]}
    return row


def send(
    request: BaseHTTPRequestHandler, status: int, body: bytes = b"", headers: dict[str, str] | None = None
) -> None:
    """Answer with a body (kept back for HEAD) and its length."""
    request.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
        request.send_header(name, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)


def refuse(request: BaseHTTPRequestHandler, status: int, code: str, message: str) -> None:
    """An error as the hub words it: code and message in headers, the message in the body too."""
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="Authentication required", charset="UTF-8"'
    send(request, status, json.dumps({"error": message}).encode(), headers)


@contextmanager
def _listening(hub: Hub, where: str, address: str) -> Iterator[str]:
    class Handling(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            hub.seen.append(Seen(where, self.command, self.path, headers))
            (hub.on_hub if where == "hub" else hub.on_storage)(self)

        def handle(self) -> None:
            # Clients of the tests leave in the middle of answers, and between them.
            with suppress(ConnectionError):
                super().handle()

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer((address, 0), Handling) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://{address}:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(10)


@contextmanager
def serving_hub(address: str = "127.0.0.1") -> Iterator[Hub]:
    """A hub and its storage host, each on a free port of an address of this machine."""
    hub = Hub()
    with ExitStack() as stack:
        hub.url = stack.enter_context(_listening(hub, "hub", address))
        hub.storage_url = stack.enter_context(_listening(hub, "storage", address))
        yield hub
