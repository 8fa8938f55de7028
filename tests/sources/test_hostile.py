"""Servers that answer with what is no address, what a terminal obeys, or what is no text; names that are no servers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.web import Reply, Web, serving_web

from paddock_runner.commands.pull import Request, pull
from paddock_runner.core.collection import OWN_HOSTS
from paddock_runner.core.digest import Digest
from paddock_runner.core.manifest import CONFIG_TYPE, Layer, build_manifest, layer
from paddock_runner.core.names import ModelName, Reference
from paddock_runner.sources.addresses import HostRules
from paddock_runner.sources.auth import TokenAccess
from paddock_runner.sources.challenge import Challenge
from paddock_runner.sources.errors import NetworkError, SourceUnsupportedError, UnauthorizedError
from paddock_runner.sources.http import HttpSource
from paddock_runner.sources.messages import parse_url
from paddock_runner.sources.network import Network, Timeouts
from paddock_runner.sources.push_oci import push as push_oci
from paddock_runner.sources.push_ollama import Push
from paddock_runner.sources.remote_header import read_remote_header
from paddock_runner.sources.select import source_for
from paddock_runner.sources.transport import Transport
from paddock_runner.store.errors import NotFoundError, StoreError
from paddock_runner.store.store import Store

NOBODY: Any = None
NO_ADDRESSES = [
    "https://host.invalid:99999/x",
    "https://host.invalid:abc/",
    "https://[::1/",
    "https://[zz]/x",
    "https://xn--/",
    "https://xn--a-ecp.ru/",
    "https://host\\@evil/",
    "https://:@host.invalid/",
    "https:///x",
    "https://",
    "https://a..b/",
    "https://%zz/",
    "https://1.2.3.4.5/",
    "file:///etc/passwd",
    "//[::1",
    "?",
    "",
]


@pytest.fixture
def web() -> Iterator[Web]:
    with serving_web() as running:
        yield running


def network(web: Web) -> Network:
    quick = Timeouts(connect=2, silence=2, small=5, pause=0.01, attempts=2)
    return Network(rules=HostRules(frozenset({web.host})), timeouts=quick)


@pytest.mark.parametrize("location", NO_ADDRESSES)
async def test_a_redirect_to_what_is_no_address(web: Web, location: str) -> None:
    url = web.on("/a", Reply(302, headers={"Location": location}))
    async with Transport(network(web)) as transport:
        with pytest.raises(StoreError) as caught:
            await transport.read(url, limit=10)
    assert not caught.value.retryable


@pytest.mark.parametrize("text", NO_ADDRESSES)
def test_a_url_that_is_no_address(text: str) -> None:
    with pytest.raises((ValueError, StoreError)):
        HostRules().check(parse_url(text))


@pytest.mark.parametrize(
    "source",
    [
        {"ollama": {"name": "host.invalid:99999/x/y"}},
        {"ollama": {"name": "host.invalid:b:c/x/y"}},
        {"ollama": {"name": "a..b/x/y"}},
        {"ollama": {"name": "xn--a-ecp.ru/x/y"}},
        {"oci": {"reference": "host.invalid:99999/x/y:1"}},
        {"http": {"url": "https://host.invalid:99999/", "sha256": "0" * 64}},
    ],
)
def test_names_of_no_server(tmp_path: Path, source: object) -> None:
    with pytest.raises(SourceUnsupportedError):
        pull(Store(tmp_path / "models"), Request(source_for(source)), Network(), lambda digest, done, total: None)


async def test_no_message_holds_what_a_terminal_obeys(web: Web) -> None:
    url = web.on("/a", Reply(302, headers={"Location": "/%1b[31mred%0d%0anew%e2%80%ae"}))
    async with Transport(network(web)) as transport:
        with pytest.raises(NotFoundError) as caught:
            await transport.read(url, limit=10)
    assert str(caught.value).isprintable()
    assert "red" in str(caught.value)


def test_a_header_that_is_no_text_ends_in_a_verdict(web: Web, tmp_path: Path) -> None:
    # Sent as the bytes ff 1b.
    url = web.on("/a", Reply(200, b"<html>", headers={"Content-Type": "\xff\x1b[2J"}))
    request = {"source": {"http": {"url": url, "sha256": "0" * 64}}}
    done = subprocess.run(
        [sys.executable, "-m", "paddock_runner", "pull", "--models", tmp_path / "models", "--request", "-"],
        input=json.dumps(request).encode(),
        env=os.environ | {"PADDOCK_ALLOW_INSECURE_HOSTS": web.host},
        capture_output=True,
        timeout=60,
        check=False,
    )
    verdict = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, verdict["reason"]) == (1, "NotGGUF")
    assert verdict["message"].isprintable()


def test_names_that_are_no_text_are_told(tmp_path: Path) -> None:
    (tmp_path / "Modelfile").write_text("FROM ./none\n")
    folder = os.fsencode(tmp_path) + b"/\xff"
    command = [sys.executable, "-m", "paddock_runner", "import-ollama", "--models", tmp_path / "models", folder]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert (done.returncode, json.loads(done.stdout)["reason"]) == (1, "NotFound")


async def test_credentials_do_not_go_to_a_token_server_without_tls() -> None:
    access = TokenAccess("https://registry.invalid", "Basic bWU6aHVzaA==")
    with pytest.raises(UnauthorizedError, match="another scheme"):
        await access.header(NOBODY, [Challenge("bearer", {"realm": "http://registry.invalid/token"})], "")


async def test_another_part_than_asked_for_is_no_header(web: Web) -> None:
    url = web.on("/a", Reply(206, b"GGUF" + bytes(60), headers={"Content-Range": "bytes 1-64/1000"}))
    async with Transport(network(web)) as transport:
        with pytest.raises(NetworkError, match="from 1 on instead of 0"):
            await read_remote_header(url, 1000, transport)


@pytest.fixture
def stored(tmp_path: Path) -> Store:
    store = Store(tmp_path / "models")
    data, config = b"weights", b"{}"
    for item in (data, config):
        (tmp_path / "blob").write_bytes(item)
        store.write_blob(tmp_path / "blob")
    config_layer = Layer(CONFIG_TYPE, Digest.of(config), len(config))
    manifest = build_manifest(config_layer, [layer("model", Digest.of(data), len(data))])
    store.write_manifest(ModelName.parse("me/x:1"), manifest)
    return store


@pytest.mark.parametrize("location", ["https://[::1", "https://host.invalid:99999/", "//xn--/"])
async def test_an_upload_to_what_is_no_address(web: Web, stored: Store, location: str) -> None:
    web.on("/v2/me/x/blobs/uploads/", Reply(202, headers={"Location": location}))
    name = ModelName.parse("me/x:1")
    async with Transport(network(web)) as transport:
        with pytest.raises(NetworkError, match="no URL"):
            await push_oci(stored, name, f"http://{web.host}/me/x:1", transport, lambda digest, done, total: None)
        with pytest.raises(NetworkError, match="no URL"):
            await Push(stored, Reference.parse(f"http://{web.host}/me/x:1"), transport, Silent()).run(name)


class Silent:
    """Progress that nobody reads."""

    def status(self, text: str) -> None:
        pass

    def __call__(self, digest: Digest, completed: int, total: int) -> None:
        pass


def test_a_name_alone_does_not_stand_for_bytes(web: Web, stored: Store) -> None:
    """Somebody wrote a manifest under the name that a URL's SHA-256 has."""
    wanted = Digest("1" * 64)
    source = HttpSource.parse({"url": web.on("/a", Reply(404)), "sha256": wanted.hex})
    stored.write_manifest(source.name, stored.manifest(ModelName.parse("me/x:1")).data)
    with pytest.raises(NotFoundError, match="HTTP 404"):
        pull(stored, Request(source), network(web), lambda digest, done, total: None)


@pytest.mark.parametrize("host", OWN_HOSTS)
def test_names_of_paddock_s_own_are_asked_of_no_registry(host: str) -> None:
    with pytest.raises(SourceUnsupportedError, match="reserved"):
        source_for({"ollama": {"name": f"{host}/sha256/{'1' * 64}"}})
    with pytest.raises(SourceUnsupportedError, match="reserved"):
        source_for({"oci": {"reference": f"{host}/sha256/{'1' * 64}:latest"}})


@pytest.mark.parametrize("host", OWN_HOSTS)
def test_names_of_paddock_s_own_are_not_written_by_people(stored: Store, host: str) -> None:
    name = f"{host}/sha256/{'1' * 64}"
    for words in (["cp", "me/x:1", name], ["create", name, "-f", "/dev/null"]):
        command = [sys.executable, "-m", "paddock_runner", "store", "--models", stored.path, *words]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        assert (done.returncode, json.loads(done.stdout)["reason"]) == (1, "InvalidName")
