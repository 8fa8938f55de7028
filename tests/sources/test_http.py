"""The HTTP source and what carries it out, against a real server on loopback. How bytes are fetched: `download`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.fault_server import Behaviour, FaultServer, body, send, serving, status, whole
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
from paddock_runner.sources.fetch import fetch
from paddock_runner.sources.http import HttpSource
from paddock_runner.sources.network import Network, Timeouts
from paddock_runner.sources.ollama import OllamaSource
from paddock_runner.sources.select import source_for
from paddock_runner.sources.transport import Transport
from paddock_runner.store.errors import (
    DigestMismatchError,
    NoSpaceError,
    NotFoundError,
    NotGGUFError,
    ReadOnlyError,
    StoreError,
    TruncatedGGUFError,
)
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.model import load_model
from paddock_runner.store.store import Store


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_gguf(tmp_path_factory.mktemp("http") / "tiny.gguf").read_bytes()


@pytest.fixture
def server(data: bytes) -> Iterator[FaultServer]:
    with serving(data) as state:
        yield state


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


def source(server: FaultServer, sha256: str | None = None) -> HttpSource:
    return HttpSource(URL(server.url), Digest(sha256 or server.digest.hex))


async def fetched(
    server: FaultServer, store: Store, wanted: HttpSource | None = None, rules: HostRules | None = None
) -> StoredManifest:
    network = Network(rules=rules or HostRules(frozenset({server.host})), timeouts=Timeouts(silence=5, pause=0.01))
    wanted = wanted or source(server)
    async with Transport(network, wanted.access) as transport:
        return (await fetch(store, wanted, transport, lambda digest, done, total: None)).stored


def blobs(store: Store) -> set[str]:
    folder = store.path / "blobs"
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


async def test_a_file_becomes_a_model(server: FaultServer, store: Store) -> None:
    stored = await fetched(server, store)
    assert stored.name.full == f"http.paddock.dev/sha256/{server.digest.hex}:latest"
    assert load_model(store, stored).model_path.read_bytes() == server.data
    assert server.heads[0]["Accept-Encoding"] == "identity"
    assert {"Authorization", "Cookie"} & server.heads[0].keys() == set()


async def test_a_second_fetch_downloads_nothing_and_gives_the_same_digest(server: FaultServer, store: Store) -> None:
    first = await fetched(server, store)
    before = len(server.heads)
    assert (await fetched(server, store)).digest == first.digest
    assert len(server.heads) == before


async def test_a_read_only_cache_is_not_written(server: FaultServer, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with pytest.raises(ReadOnlyError):
        await fetched(server, Store(tmp_path / "models", read_only=True))
    assert not list((tmp_path / "models").iterdir())


@pytest.mark.parametrize(
    ("script", "error", "match"),
    [
        ([status(400)], NetworkError, "400"),
        ([status(401)], UnauthorizedError, "401"),
        ([status(403)], UnauthorizedError, "403"),
        ([status(404)], NotFoundError, "404"),
        ([status(302)], NetworkError, "no URL"),
        ([status(302, Location="/model.gguf")], NetworkError, "redirects"),
        ([status(200, Content_Encoding="gzip")], NetworkError, "Content-Encoding"),
        ([body(b"<html>please log in</html>", "text/html")], NotGGUFError, "text/html"),
    ],
)
async def test_failures_are_typed_and_leave_no_blob(
    server: FaultServer, store: Store, script: list[Behaviour], error: type[StoreError], match: str
) -> None:
    server.script = script
    with pytest.raises(error, match=match) as caught:
        await fetched(server, store)
    assert not caught.value.retryable
    assert not {name for name in blobs(store) if name.startswith("sha256-")}


async def test_wrong_bytes_are_forgotten(server: FaultServer, store: Store) -> None:
    with pytest.raises(DigestMismatchError):
        await fetched(server, store, source(server, "0" * 64))
    assert blobs(store) == set()


async def test_a_good_hash_of_a_bad_model_is_refused(server: FaultServer, store: Store) -> None:
    server.data = server.data[:-100]
    with pytest.raises(TruncatedGGUFError):
        await fetched(server, store)
    assert blobs(store) == set()


async def test_a_promise_larger_than_the_disk_is_refused_at_once(server: FaultServer, store: Store) -> None:
    server.script = [lambda state, request: send(state, request, 200, state.data, length=1 << 49)]
    with pytest.raises(NoSpaceError):
        await fetched(server, store)
    assert not {name for name in blobs(store) if name.startswith("sha256-")}


@pytest.mark.parametrize(
    ("location", "error"),
    [
        ("https://127.0.0.1:1/x", ForbiddenAddressError),
        ("https://169.254.169.254/latest", ForbiddenAddressError),
        ("https://localhost:1/x", ForbiddenAddressError),
        ("http://example.com/x", InsecureSourceError),
        ("file:///etc/passwd", SourceUnsupportedError),
        ("https://user:pw@example.com/x", SourceUnsupportedError),
    ],
)
async def test_redirects_are_judged_like_the_first_url(
    server: FaultServer, store: Store, location: str, error: type[StoreError]
) -> None:
    server.script = [status(302, Location=location)]
    with pytest.raises(error):
        await fetched(server, store)
    assert len(server.heads) == 1


async def test_an_allowed_redirect_is_followed(server: FaultServer, store: Store) -> None:
    server.script = [status(307, Location="/elsewhere"), whole]
    assert (await fetched(server, store)).manifest.size == len(server.data)


async def test_loopback_is_refused_unless_listed(server: FaultServer, store: Store) -> None:
    with pytest.raises(InsecureSourceError, match="PADDOCK_ALLOW_INSECURE_HOSTS"):
        await fetched(server, store, rules=HostRules())
    https = URL(server.url.replace("http://127.0.0.1", "https://localhost"))
    with pytest.raises(ForbiddenAddressError):
        await fetched(server, store, replace(source(server), url=https), HostRules())
    assert server.heads == []


def test_a_signed_url_keeps_its_bytes() -> None:
    url = "https://h.example/a%7Eb/x.gguf?sig=%2f%7E+&b=%41"
    assert str(HttpSource.parse({"url": url, "sha256": "0" * 64}).url) == url


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
        ({"http": {"url": "http://[", "sha256": "0" * 64}}, "not a URL"),
        ({"huggingFace": {"repo": "a"}}, "huggingFace.repo"),
        ({"oci": {"reference": "a b"}}, "oci.reference"),
        ({"claim": {"claimName": "c", "path": "p"}}, "one machine"),
        ({"model": {"name": "m"}}, "not known yet"),
        ({"torrent": {}}, "no such source"),
    ],
)
def test_sources_that_are_refused(spec: object, match: str) -> None:
    with pytest.raises(SourceUnsupportedError, match=match):
        source_for(spec)


def test_the_token_of_resolve_is_no_source() -> None:
    found = source_for({"ollama": {"name": "X:1"}, "resolve": "2026-01"})
    assert isinstance(found, OllamaSource)
    assert found.name == ModelName.parse("x:1")
