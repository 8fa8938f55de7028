"""`paddock-runner serve-blobs` as another node and a stock client meet it: a real process, asked over HTTP."""

from __future__ import annotations

import http.client
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.authority import Authority
from tests.support.gguf_maker import make_gguf
from tests.support.waiting import Lines, until_sync

from paddock_runner.core.digest import Digest
from paddock_runner.core.manifest import CONFIG_TYPE, Layer, build_manifest, layer
from paddock_runner.core.names import ModelName
from paddock_runner.sources.fetch import fetch
from paddock_runner.sources.network import Network
from paddock_runner.sources.ollama import OllamaSource
from paddock_runner.sources.transport import Transport
from paddock_runner.store.store import Store

BYTES = os.urandom(3 << 20)
BLOB = Digest.of(BYTES)
CONFIG = b'{"model_format":"gguf"}'
MANIFEST = build_manifest(
    Layer(CONFIG_TYPE, Digest.of(CONFIG), len(CONFIG)),
    [layer("model", BLOB, len(BYTES)), layer("system", BLOB, len(BYTES))],
)
TAG = "/v2/library/tiny/manifests/1b"
AT = f"/v2/library/tiny/blobs/{BLOB}"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Running:
    """One mirror process."""

    address: str
    process: subprocess.Popen[str]

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        with closing(http.client.HTTPConnection(self.address, timeout=20)) as connection:
            connection.request(method, path, headers={key.replace("_", "-"): value for key, value in headers.items()})
            answer = connection.getresponse()
            return Answer(answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read())


@contextmanager
def mirroring(models: Path, *arguments: str | Path) -> Iterator[Running]:
    command = [sys.executable, "-m", "paddock_runner", "serve-blobs", "--models", models, "--listen", "127.0.0.1:0"]
    command += arguments
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            said = json.loads(Lines(process.stdout).find(lambda line: '"listening"' in line))
            yield Running(said["address"], process)
        finally:
            process.kill()


def fill(folder: Path) -> Store:
    store = Store(folder)
    with store.writing():
        store.write_blob(io.BytesIO(BYTES))
        store.write_blob(io.BytesIO(CONFIG))
        store.write_manifest(ModelName("tiny", "1b"), MANIFEST)
        store.write_manifest(ModelName("tiny", "1b", "team", "h.example"), MANIFEST)
    return store


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mirror") / "models"
    fill(folder)
    (folder.parent / "secret").write_text("outside")
    (folder / "blobs" / f"sha256-{'1' * 64}").symlink_to(folder.parent / "secret")
    (folder / "blobs" / f"sha256-{'2' * 64}").write_bytes(b"other bytes than the name says")
    os.mkfifo(folder / "blobs" / f"sha256-{'3' * 64}")
    return folder


@pytest.fixture(scope="module")
def mirror(models: Path) -> Iterator[Running]:
    with mirroring(models) as running:
        yield running


@pytest.mark.parametrize("reference", ["1b", str(Digest.of(MANIFEST))])
def test_a_manifest_by_tag_and_digest(mirror: Running, reference: str) -> None:
    answer = mirror.ask(f"/v2/library/tiny/manifests/{reference}")
    assert (answer.status, answer.body) == (200, MANIFEST)
    assert answer.headers["content-type"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert answer.headers["docker-content-digest"] == str(Digest.of(MANIFEST))
    head = mirror.ask(f"/v2/library/tiny/manifests/{reference}", "HEAD")
    assert (head.status, head.body, head.headers) == (200, b"", answer.headers)
    assert mirror.ask(TAG, If_None_Match=answer.headers["etag"]).status == 304


def test_names_of_every_host_and_case(mirror: Running) -> None:
    assert mirror.ask("/v2/team/tiny/manifests/1b").status == 200
    assert mirror.ask("/v2/Library/TINY/manifests/1B").status == 200
    assert mirror.ask("/v2/team/tiny/manifests/2b").status == 404


def test_a_blob_whole_and_in_parts(mirror: Running) -> None:
    whole = mirror.ask(AT)
    assert (whole.status, whole.body) == (200, BYTES)
    assert whole.headers["location"] == AT
    assert whole.headers["accept-ranges"] == "bytes"
    head = mirror.ask(AT, "HEAD")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(BYTES)))
    part = mirror.ask(AT, Range="bytes=1000000-2999999")
    assert (part.status, part.body) == (206, BYTES[1000000:3000000])
    assert part.headers["content-range"] == f"bytes 1000000-2999999/{len(BYTES)}"
    assert mirror.ask(AT, Range="bytes=-5").body == BYTES[-5:]
    gone = mirror.ask(AT, Range=f"bytes={len(BYTES)}-")
    assert (gone.status, gone.headers["content-range"]) == (416, f"bytes */{len(BYTES)}")
    assert mirror.ask(AT, Range="bytes=0-1", If_Range='"other"').status == 200
    assert mirror.ask(AT, If_None_Match=whole.headers["etag"]).status == 304


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        (f"/v2/library/tiny/blobs/sha256:{'0' * 64}", 404, "BLOB_UNKNOWN"),
        (f"/v2/library/tiny/blobs/sha256:{'1' * 64}", 500, "UNKNOWN"),
        (f"/v2/library/tiny/blobs/sha256:{'2' * 64}", 404, "BLOB_UNKNOWN"),
        (f"/v2/library/tiny/blobs/sha256:{'3' * 64}", 500, "UNKNOWN"),
        ("/v2/library/tiny/blobs/sha256:../../../secret", 404, "NAME_UNKNOWN"),
        ("/v2/library/tiny/blobs/..%2f..%2f..%2fsecret", 404, "NAME_UNKNOWN"),
        ("/v2/library/tiny/blobs/%2e%2e", 400, "DIGEST_INVALID"),
        (f"/v2/../tiny/blobs/{BLOB}", 400, "DIGEST_INVALID"),
        ("/v2/library/tiny/manifests/%2e%2e", 404, "MANIFEST_UNKNOWN"),
        ("/v2/library/tiny/manifests/" + "t" * 129, 404, "MANIFEST_UNKNOWN"),
        ("/v2/library/tiny/manifests/sha256:" + "0" * 64, 404, "MANIFEST_UNKNOWN"),
        ("/v2/library/tiny/manifests/sha256:x", 404, "MANIFEST_UNKNOWN"),
        ("/v2/..%00/tiny/manifests/1b", 404, "MANIFEST_UNKNOWN"),
        ("/v2/_catalog", 404, "NAME_UNKNOWN"),
        ("/etc/passwd", 404, "NAME_UNKNOWN"),
    ],
)
def test_what_is_not_there_is_refused(mirror: Running, path: str, status: int, code: str) -> None:
    answer = mirror.ask(path)
    assert (answer.status, json.loads(answer.body)["errors"][0]["code"]) == (status, code)
    assert b"outside" not in answer.body
    assert b"blobs/sha256-" not in answer.body, "no path of the machine"


def test_nothing_can_be_written(mirror: Running) -> None:
    for method, path in (("PUT", TAG), ("DELETE", AT), ("POST", "/v2/library/tiny/blobs/uploads"), ("PATCH", AT)):
        assert mirror.ask(path, method).status in (404, 405)
    assert (mirror.ask("/v2/").status, mirror.ask("/healthz").status) == (200, 200)


def test_a_store_without_markers_is_hashed_before_it_is_served(tmp_path: Path) -> None:
    store = fill(tmp_path / "models")
    shutil.rmtree(store.path / ".paddock")
    with mirroring(store.path) as mirror:
        assert mirror.ask(AT).body == BYTES
        store.blob_path(BLOB).write_bytes(BYTES[:-1] + b"?")
        assert mirror.ask(AT).status == 404
        store.blob_path(BLOB).write_bytes(BYTES)
        assert mirror.ask(AT, Range="bytes=0-3").body == BYTES[:4]
    assert not (store.path / ".paddock").exists()


async def test_paddock_pulls_through_a_mirror_over_tls(tmp_path: Path) -> None:
    authority = Authority.make()
    (tmp_path / "tls").mkdir()
    for name, data in zip(("tls.crt", "tls.key"), authority.issue("127.0.0.1"), strict=True):
        (tmp_path / "tls" / name).write_bytes(data)
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    gguf = make_gguf(tmp_path / "tiny.gguf").read_bytes()
    store, name = Store(tmp_path / "models"), ModelName("tiny", "1b")
    with store.writing():
        store.write_blob(io.BytesIO(gguf))
        store.write_blob(io.BytesIO(CONFIG))
        config = Layer(CONFIG_TYPE, Digest.of(CONFIG), len(CONFIG))
        held = store.write_manifest(name, build_manifest(config, [layer("model", Digest.of(gguf), len(gguf))]))
    with mirroring(store.path, "--tls", tmp_path / "tls") as mirror:
        # The origin itself does not exist: all that comes, comes from the mirror.
        environment = {
            "PADDOCK_MIRRORS": f"registry.invalid=https://{mirror.address}",
            "PADDOCK_ALLOW_INSECURE_HOSTS": mirror.address,
            "PADDOCK_CA_FILE": str(tmp_path / "ca.pem"),
        }
        source = OllamaSource.parse({"name": "registry.invalid/library/tiny:1b"})
        async with Transport(Network.from_environment(environment), source.access) as transport:
            fetched = await fetch(Store(tmp_path / "fresh"), source, transport, lambda *_: None)
    assert fetched.stored.digest == held.digest
    assert Store(tmp_path / "fresh").blob_path(Digest.of(gguf)).read_bytes() == gguf


def open_blobs(pid: int) -> list[str]:
    found = []
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(entry.path))
    return [path for path in found if "/blobs/" in path]


def test_files_are_closed_when_a_client_goes_away(mirror: Running) -> None:
    for _ in range(20):
        with closing(http.client.HTTPConnection(mirror.address, timeout=20)) as connection:
            connection.request("GET", AT)
            connection.getresponse().read(10)
    assert mirror.ask(AT).body == BYTES
    until_sync(lambda: not open_blobs(mirror.process.pid))


def test_a_folder_that_is_missing_is_told(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "paddock_runner", "serve-blobs", "--models", tmp_path / "no"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "there is no such folder" in done.stderr
