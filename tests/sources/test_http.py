"""The HTTP source against a real server on loopback that misbehaves as told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.support.gguf_maker import make_gguf
from yarl import URL

from paddock_runner.core.digest import Digest
from paddock_runner.core.names import ModelName
from paddock_runner.sources.addresses import HostRules
from paddock_runner.sources.errors import (
    ForbiddenAddressError,
    InsecureSourceError,
    NetworkError,
    SourceUnsupportedError,
    UnauthorizedError,
)
from paddock_runner.sources.http import HttpLimits, HttpSource
from paddock_runner.sources.ollama import OllamaSource
from paddock_runner.sources.select import source_for
from paddock_runner.store.errors import (
    DigestMismatchError,
    NoSpaceError,
    NotFoundError,
    NotGGUFError,
    ReadOnlyError,
    StoreError,
    TruncatedGGUFError,
)
from paddock_runner.store.model import load_model
from paddock_runner.store.store import Store

FAST = HttpLimits(connect_seconds=5, stall_seconds=0.3, attempts=3, pause_seconds=0.01)

Handler = Callable[["Server", BaseHTTPRequestHandler], None]


@dataclass
class Server:
    """Serves `data`; `script` holds one behaviour per request, the last one stays."""

    data: bytes
    script: list[Handler] = field(default_factory=list)
    ranges: list[str | None] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        self.ranges.append(request.headers.get("Range"))
        self.headers.append(dict(request.headers))
        action = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        action(self, request)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/tiny.gguf"

    def source(self, sha256: str | None = None) -> HttpSource:
        rules = HostRules(frozenset({f"127.0.0.1:{self.port}"}))
        return HttpSource(URL(self.url), Digest(sha256 or Digest.of(self.data).hex), rules, FAST)


def send(request: BaseHTTPRequestHandler, status: int, body: bytes, length: int | None = None, **headers: str) -> None:
    request.send_response(status)
    request.send_header("Content-Length", str(len(body) if length is None else length))
    for key, value in headers.items():
        request.send_header(key.replace("_", "-"), value)
    request.end_headers()
    request.wfile.write(body)
    request.close_connection = True


def whole(server: Server, request: BaseHTTPRequestHandler) -> None:
    """A good server: whole bodies and right ranges."""
    wanted = request.headers.get("Range")
    if wanted is None:
        return send(request, 200, server.data)
    start = int(wanted.removeprefix("bytes=").removesuffix("-"))
    total = len(server.data)
    if start >= total:
        return send(request, 416, b"", Content_Range=f"bytes */{total}")
    return send(request, 206, server.data[start:], Content_Range=f"bytes {start}-{total - 1}/{total}")


def ignores_range(server: Server, request: BaseHTTPRequestHandler) -> None:
    send(request, 200, server.data)


def cut(count: int) -> Handler:
    return lambda server, request: send(request, 200, server.data[:count], length=len(server.data))


def stall(server: Server, request: BaseHTTPRequestHandler) -> None:
    send(request, 200, server.data[:5000], length=len(server.data))
    request.wfile.flush()
    server.released.wait(10)


def drip(server: Server, request: BaseHTTPRequestHandler) -> None:
    send(request, 200, server.data[:1000], length=len(server.data))
    for index in range(1000, 2000):
        if server.released.wait(0.02):
            return
        request.wfile.write(server.data[index : index + 1])


def status(code: int, **headers: str) -> Handler:
    return lambda server, request: send(request, code, b"nothing", None, **headers)


def shifted_range(server: Server, request: BaseHTTPRequestHandler) -> None:
    total = len(server.data)
    send(request, 206, server.data[7:], Content_Range=f"bytes 7-{total - 1}/{total}")


def body(content: bytes, content_type: str = "application/octet-stream") -> Handler:
    return lambda server, request: send(request, 200, content, Content_Type=content_type)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_gguf(tmp_path_factory.mktemp("http") / "tiny.gguf").read_bytes()


@pytest.fixture
def server(data: bytes) -> Iterator[Server]:
    state = Server(data, [whole])

    class Handling(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.handle(self)

        def log_message(self, *arguments: object) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handling)
    state.port = listener.server_port
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        state.released.set()
        listener.shutdown()
        thread.join(10)
        listener.server_close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


def quiet(digest: Digest, completed: int, total: int) -> None:
    pass


def blobs(store: Store) -> set[str]:
    folder = store.path / "blobs"
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_a_file_becomes_a_model(server: Server, store: Store) -> None:
    seen: list[tuple[int, int]] = []
    stored = server.source().fetch(store, lambda digest, done, total: seen.append((done, total)))
    sha256 = Digest.of(server.data)
    assert stored.name.full == f"http.paddock.dev/sha256/{sha256.hex}:latest"
    assert load_model(store, stored).model_path.read_bytes() == server.data
    assert seen[-1] == (len(server.data), len(server.data))
    assert server.headers[0]["Accept-Encoding"] == "identity"
    assert {"Authorization", "Cookie"} & server.headers[0].keys() == set()


def test_a_second_fetch_downloads_nothing_and_gives_the_same_digest(server: Server, store: Store) -> None:
    first = server.source().fetch(store, quiet)
    assert server.source().fetch(store, quiet).digest == first.digest
    store.delete(first.name)
    assert len(server.ranges) == 1
    assert server.source().fetch(store, quiet).digest == first.digest
    closed = Store(store.path, read_only=True)
    assert server.source().fetch(closed, quiet).digest == first.digest


def test_one_fetch_per_digest_and_cache(server: Server, store: Store) -> None:
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(server.source().fetch, Store(store.path), quiet) for _ in range(4)]
        digests = {future.result(30).digest for future in futures}
    assert len(digests) == 1
    assert server.ranges == [None]


def test_a_read_only_cache_is_not_written(server: Server, store: Store) -> None:
    with pytest.raises(ReadOnlyError):
        server.source().fetch(Store(store.path, read_only=True), quiet)


def test_a_cut_connection_is_resumed_by_range(server: Server, store: Store) -> None:
    server.script = [cut(100_000), whole]
    server.source().fetch(store, quiet)
    assert server.ranges == [None, "bytes=100000-"]


def test_the_next_process_resumes_too(server: Server, store: Store) -> None:
    server.script = [cut(100_000), status(503)]
    with pytest.raises(NetworkError, match="503"):
        server.source().fetch(store, quiet)
    assert blobs(store) == {f"partial-{Digest.of(server.data).hex}"}
    server.script, server.ranges = [whole], []
    server.source().fetch(store, quiet)
    assert server.ranges == ["bytes=100000-"]
    assert blobs(store) >= {Digest.of(server.data).file_name}


def test_a_complete_partial_needs_no_byte(server: Server, store: Store) -> None:
    with store.partial(Digest.of(server.data)) as writer:
        writer.write(server.data)
    server.source().fetch(store, quiet)
    assert server.ranges == [f"bytes={len(server.data)}-"]


@pytest.mark.parametrize("answer", [ignores_range, shifted_range, status(206), status(416)])
def test_a_wrong_answer_to_a_range_starts_again(server: Server, store: Store, answer: Handler) -> None:
    server.script = [cut(100_000), answer, whole]
    stored = server.source().fetch(store, quiet)
    assert load_model(store, stored).model_path.read_bytes() == server.data


def test_a_foreign_partial_costs_one_clean_retry(server: Server, store: Store) -> None:
    with store.partial(Digest.of(server.data)) as writer:
        writer.write(b"GGUF" + b"\0" * 1000)
    server.source().fetch(store, quiet)
    assert server.ranges == ["bytes=1004-", None]


@pytest.mark.parametrize(
    ("script", "error", "match", "requests"),
    [
        ([cut(100_000), cut(0)], NetworkError, "ended after|Payload|payload", None),
        ([status(500)], NetworkError, "500", 3),
        ([status(429)], NetworkError, "429", 3),
        ([status(400)], NetworkError, "400", 1),
        ([status(401)], UnauthorizedError, "401", 1),
        ([status(403)], UnauthorizedError, "403", 1),
        ([status(404)], NotFoundError, "404", 1),
        ([status(302)], NetworkError, "redirects", 6),
        ([status(302, Location="http://[")], NetworkError, "no URL", 1),
        ([status(200, Content_Encoding="gzip")], NetworkError, "Content-Encoding", 1),
        ([body(b"<html>please log in</html>", "text/html")], NotGGUFError, "text/html", 1),
    ],
)
def test_failures_are_typed_and_leave_no_blob(
    server: Server, store: Store, script: list[Handler], error: type[StoreError], match: str, requests: int | None
) -> None:
    server.script = script
    with pytest.raises(error, match=match):
        server.source().fetch(store, quiet)
    assert not {name for name in blobs(store) if name.startswith("sha256-")}
    assert requests is None or len(server.ranges) == requests


def test_wrong_bytes_are_fetched_twice_and_forgotten(server: Server, store: Store) -> None:
    with pytest.raises(DigestMismatchError):
        server.source("0" * 64).fetch(store, quiet)
    assert server.ranges == [None, None]
    assert blobs(store) == set()


def test_a_good_hash_of_a_bad_model_is_refused(server: Server, store: Store) -> None:
    server.data = server.data[:-100]
    with pytest.raises(TruncatedGGUFError):
        server.source().fetch(store, quiet)
    assert blobs(store) == set()


def test_a_stalled_server_is_left(server: Server, store: Store) -> None:
    server.script = [stall]
    with pytest.raises(NetworkError, match="sent nothing for") as caught:
        server.source().fetch(store, quiet)
    assert caught.value.retryable


def test_a_dripping_server_is_left(server: Server, store: Store) -> None:
    server.script = [drip]
    source = replace(server.source(), limits=replace(FAST, attempts=1, minimum_rate=100_000))
    with pytest.raises(NetworkError, match="slower than 100000 bytes/s"):
        source.fetch(store, quiet)
    server.released.set()


def test_a_promise_larger_than_the_disk_is_refused_at_once(server: Server, store: Store) -> None:
    server.script = [lambda state, request: send(request, 200, state.data, length=1 << 49)]
    with pytest.raises(NoSpaceError):
        server.source().fetch(store, quiet)
    assert blobs(store) == set()


def test_a_file_over_the_limit_is_refused(server: Server, store: Store) -> None:
    source = replace(server.source(), limits=replace(FAST, maximum_bytes=1000))
    with pytest.raises(NetworkError, match="the limit is 1000") as caught:
        source.fetch(store, quiet)
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("location", "error"),
    [
        ("https://127.0.0.1:1/x", ForbiddenAddressError),
        ("https://[::1]:1/x", ForbiddenAddressError),
        ("https://169.254.169.254/latest", ForbiddenAddressError),
        ("https://localhost:1/x", ForbiddenAddressError),
        ("http://localhost:1/x", InsecureSourceError),
        ("http://example.com/x", InsecureSourceError),
        ("file:///etc/passwd", SourceUnsupportedError),
        ("https://user:pw@example.com/x", SourceUnsupportedError),
    ],
)
def test_redirects_are_judged_like_the_first_url(
    server: Server, store: Store, location: str, error: type[StoreError]
) -> None:
    server.script = [status(302, Location=location)]
    with pytest.raises(error):
        server.source().fetch(store, quiet)
    assert len(server.ranges) == 1


def test_an_allowed_redirect_is_followed(server: Server, store: Store) -> None:
    server.script = [status(307, Location="/elsewhere"), whole]
    assert server.source().fetch(store, quiet).manifest.size == len(server.data)


def test_loopback_is_refused_unless_listed(server: Server, store: Store) -> None:
    with pytest.raises(InsecureSourceError, match="PADDOCK_ALLOW_INSECURE_HOSTS"):
        replace(server.source(), rules=HostRules()).fetch(store, quiet)
    https = URL(server.url.replace("http://127.0.0.1", "https://localhost"))
    with pytest.raises(ForbiddenAddressError):
        replace(server.source(), url=https, rules=HostRules()).fetch(store, quiet)
    assert server.ranges == []


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        (None, "exactly one"),
        ({}, "exactly one"),
        ({"resolve": "again"}, "exactly one"),
        ({"ollama": {"name": "x"}, "http": {}}, "exactly one"),
        ({"ollama": "x"}, "must be an object"),
        ({"ollama": {}}, "ollama.name"),
        ({"ollama": {"name": "a//b"}}, "source.ollama: model name"),
        ({"ollama": {"name": "x", "digest": "sha256:1"}}, "digest"),
        ({"http": {"url": "https://h/x"}}, "sha256"),
        ({"http": {"url": "https://h/x", "sha256": "0" * 63}}, "sha256"),
        ({"huggingFace": {"repo": "a/b"}}, "Hugging Face is not supported yet"),
        ({"oci": {"reference": "a/b"}}, "OCI"),
        ({"claim": {"claimName": "c", "path": "p"}}, "one machine"),
        ({"model": {"name": "m"}}, "another Model"),
        ({"torrent": {}}, "no such source"),
    ],
)
def test_sources_that_are_refused(spec: object, match: str) -> None:
    with pytest.raises(SourceUnsupportedError, match=match):
        source_for(spec)


def test_the_token_of_resolve_is_no_source() -> None:
    source = source_for({"ollama": {"name": "X:1"}, "resolve": "2026-01"})
    assert isinstance(source, OllamaSource)
    assert source.name == ModelName.parse("x:1")


def test_a_name_that_is_not_cached_says_how_to_seed(store: Store) -> None:
    with pytest.raises(NotFoundError, match="paddock create smollm2:135m -f Modelfile"):
        source_for({"ollama": {"name": "smollm2:135m"}}).fetch(store, quiet)
