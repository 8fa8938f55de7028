"""OCI artifacts from and to a real registry, and what a hostile one may answer."""

from __future__ import annotations

import base64
import json
import platform
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.docker_registry import PASSWORD, USER, Registry, docker_registry
from tests.support.gguf_maker import make_gguf

from paddock_runner.core.digest import Digest
from paddock_runner.core.manifest import MANIFEST_TYPE, OCI_MANIFEST_TYPE
from paddock_runner.core.modelfile import parse_modelfile
from paddock_runner.core.names import ModelName
from paddock_runner.core.oci import INDEX_TYPES, Artifact, ArtifactError, kind_of, parse_document, used_layers
from paddock_runner.core.oci_reference import InvalidReferenceError, OciReference, repository_of
from paddock_runner.sources import push_oci
from paddock_runner.sources.addresses import HostRules
from paddock_runner.sources.auth import access_for
from paddock_runner.sources.errors import InsecureSourceError, NetworkError, SourceUnsupportedError, UnauthorizedError
from paddock_runner.sources.fetch import fetch
from paddock_runner.sources.network import Network
from paddock_runner.sources.oci import OciSource
from paddock_runner.sources.plan import FetchPlan, Remote
from paddock_runner.sources.push_oci import push
from paddock_runner.sources.transport import Transport
from paddock_runner.store.create import create
from paddock_runner.store.errors import DigestMismatchError, InvalidModelError, NotFoundError, SizeMismatchError
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.model import load_model
from paddock_runner.store.store import Store

OCI_INDEX, DOCKER_LIST = INDEX_TYPES
TITLE = "org.opencontainers.image.title"
EMPTY = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": str(Digest.of(b"{}")), "size": 2}
HEX = "ab" * 32


def silent(digest: Digest, done: int, total: int) -> None:
    pass


# References


@pytest.mark.parametrize(
    ("text", "host", "repository", "word", "name"),
    [
        ("ghcr.io/me/tiny:q4", "ghcr.io", "me/tiny", "q4", "ghcr.io/me/tiny:q4"),
        ("localhost/tiny", "localhost", "tiny", "latest", "localhost/_/tiny:latest"),
        ("10.0.0.1:5000/a/b:1", "10.0.0.1:5000", "a/b", "1", "10.0.0.1:5000/a/b:1"),
        ("registry:443/a/b", "registry:443", "a/b", "latest", "registry:443/a/b:latest"),
        ("docker.io/ai/smollm2:360M", "registry-1.docker.io", "ai/smollm2", "360M", None),
        ("docker.io/tiny", "registry-1.docker.io", "library/tiny", "latest", None),
        (f"ghcr.io/me/tiny@sha256:{HEX}", "ghcr.io", "me/tiny", f"sha256:{HEX}", f"ghcr.io/me/tiny:sha256-{HEX}"),
        (f"ghcr.io/me/tiny:q4@sha256:{HEX}", "ghcr.io", "me/tiny", f"sha256:{HEX}", "ghcr.io/me/tiny:q4"),
        ("GHCR.io/me/tiny", "ghcr.io", "me/tiny", "latest", None),
    ],
)
def test_references(text: str, host: str, repository: str, word: str, name: str | None) -> None:
    reference = OciReference.parse(text)
    assert (reference.host, reference.repository, reference.word) == (host, repository, word)
    assert reference.origin == f"https://{host}"
    if name is not None:
        assert reference.name.full == name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "registry host"),
        ("ai/smollm2", "docker.io/smollm2"),
        ("tiny:latest", "registry host|no DNS name"),
        ("ghcr.io", "part '' must be"),
        ("ghcr.io/", "part '' must be"),
        ("ghcr.io/Me/tiny", "lower-case"),
        ("ghcr.io/../tiny", "lower-case"),
        ("ghcr.io/me//tiny", "lower-case"),
        ("ghcr.io/me/tiny:" + "x" * 129, "1 to 128"),
        ("ghcr.io/me/tiny:-x", "1 to 128"),
        ("ghcr.io/me/tiny@sha256:abc", "64 lower-case"),
        ("ghcr.io/me/tiny@sha512:" + "a" * 128, "sha256"),
        ("ghcr.io/" + "a" * 300, "255 characters"),
        ("ghcr.io/" + "a" * 600, "512"),
        ("gh cr.io/a", "no DNS name"),
        ("user:password@ghcr.io/a", "digest|host"),
        ("ghcr.io/é", "lower-case"),
        ("ftp://ghcr.io/a", "registry host|no DNS name|part '' must be"),
    ],
)
def test_references_that_are_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidReferenceError, match=words):
        OciReference.parse(text)
    with pytest.raises(SourceUnsupportedError, match=r"source\.oci\.reference"):
        OciSource.parse({"reference": text})


_PARTS = st.lists(st.from_regex(r"[a-z0-9]{1,4}([._-][a-z0-9]{1,100})?", fullmatch=True), min_size=1, max_size=4)


@given(_PARTS, _PARTS)
def test_different_repositories_have_different_names(one: list[str], two: list[str]) -> None:
    names = []
    for parts in (one, two):
        repository = "/".join(parts)[:255].rstrip("/._-")
        name = OciReference.parse(f"ghcr.io/{repository}").name
        assert repository_of(name) in (None, repository)
        names.append((repository, name.key))
    assert (names[0][0] == names[1][0]) == (names[0][1] == names[1][1])


# Documents


def manifest(*layers: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": OCI_MANIFEST_TYPE, "config": EMPTY, "layers": list(layers), **more}


def descriptor(media_type: str, title: str = "", data: bytes = b"x") -> dict[str, Any]:
    known = {"mediaType": media_type, "digest": str(Digest.of(data)), "size": len(data)}
    return {**known, "annotations": {TITLE: title}} if title else known


@pytest.mark.parametrize(
    ("media_type", "title", "kind"),
    [
        ("application/vnd.ollama.image.model", "", "model"),
        ("application/vnd.ollama.image.params", "", "params"),
        ("application/vnd.ollama.image.prompt", "", "template"),
        ("application/vnd.ollama.image.tensor", "", ""),
        ("application/vnd.docker.ai.gguf.v3", "", "model"),
        ("application/vnd.docker.ai.mmproj", "", "projector"),
        ("application/vnd.docker.ai.license", "", "license"),
        ("application/vnd.docker.ai.chat.template.jinja", "", "template"),
        ("application/vnd.docker.ai.safetensors", "model.safetensors", ""),
        ("application/vnd.cncf.model.weight.v1.raw", "", "model"),
        ("application/vnd.cncf.model.weight.v1.raw", "a/b.gguf", "model"),
        ("application/vnd.cncf.model.weight.v1.raw", "mmproj-b.gguf", "projector"),
        ("application/vnd.cncf.model.weight.v1.raw", "b.safetensors", ""),
        ("application/vnd.cncf.model.weight.v1.gguf", "", "model"),
        ("application/vnd.cncf.model.weight.v1.tar", "b.gguf", ""),
        ("application/vnd.cncf.model.weight.v1.tar+zstd", "b.gguf", ""),
        ("application/vnd.cncf.model.doc.v1.raw", "LICENSE.txt", "license"),
        ("application/vnd.cncf.model.doc.v1.raw", "README.md", ""),
        ("application/vnd.cncf.model.weight.config.v1.raw", "chat_template.jinja", "template"),
        ("application/vnd.cncf.model.dataset.v1.raw", "", ""),
        ("application/octet-stream", "Model.GGUF", "model"),
        ("application/octet-stream", "", ""),
        ("application/vnd.oci.image.layer.v1.tar", "x.gguf", ""),
        ("application/vnd.acme.thing", "x.gguf", "model"),
    ],
)
def test_kinds_of_layers(media_type: str, title: str, kind: str) -> None:
    assert kind_of(media_type, title) == kind


def test_parts_of_a_split_model_are_ordered_and_several_models_refused() -> None:
    def titles(*names: str) -> list[str]:
        layers = [descriptor("application/octet-stream", name, name.encode()) for name in names]
        parsed = parse_document(json.dumps(manifest(*layers)).encode())
        assert isinstance(parsed, Artifact)
        return [item.title for item in used_layers(parsed)]

    parts = [f"m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    assert titles(parts[2], parts[0], "mmproj.gguf", parts[1]) == [*parts, "mmproj.gguf"]
    for bad in (["a.gguf", "b.gguf"], parts[:2], [*parts, "other.gguf"], [parts[0], parts[0], parts[2]]):
        with pytest.raises(ArtifactError, match="not the parts of one split model"):
            titles(*bad)


BAD_DOCUMENTS: list[tuple[Any, str]] = [
    ([], "JSON object"),
    ({"schemaVersion": 1, "manifests": []}, "schemaVersion"),
    (manifest(schemaVersion=1), "schemaVersion"),
    (manifest(), "layers must be"),
    (manifest(descriptor("x"), manifests=[]), "manifests"),
    ({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "layers": []}, "both"),
    ({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}, "1 to 64"),
    ({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [descriptor(OCI_MANIFEST_TYPE)] * 65}, "1 to 64"),
    ({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{"size": 5}]}, "digest"),
    ({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{"size": 1 << 40}]}, "size"),
    ({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [7]}, "object"),
    (manifest({"mediaType": "x", "size": -1, "digest": f"sha256:{HEX}"}), "size"),
    (manifest({"mediaType": "x", "size": 1 << 63, "digest": f"sha256:{HEX}"}), "size"),
    (manifest({"mediaType": "x", "size": 1, "digest": "sha256:../../../../etc/passwd"}), "digest"),
    (manifest({"mediaType": "x", "size": 1, "digest": f"sha512:{HEX}{HEX}"}), "digest"),
    (manifest(*[descriptor("x")] * 100_000), "layers must be"),
    (manifest({**descriptor("x"), "annotations": {TITLE: 7}}), "printable"),
    (manifest({**descriptor("x"), "annotations": []}), "annotations must be an object"),
    (manifest({**descriptor("x"), "annotations": {TITLE: "a\nb"}}), "printable"),
    (manifest(descriptor("x"), artifactType=["x"]), "artifactType"),
]


# A registry of the tests' own making, for what a real one would never say


class Liar:
    """Answers each path with a fixed body; `asked` are the paths."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[str, bytes]] = {}
        self.asked: list[str] = []
        self.host = ""

    def say(self, word: str, value: Any, media_type: str = OCI_MANIFEST_TYPE) -> Digest:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.answers[f"/v2/me/tiny/manifests/{word}"] = (media_type, data)
        return Digest.of(data)


@pytest.fixture
def liar() -> Iterator[Liar]:
    state = Liar()

    class Handling(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            media_type, body = state.answers.get(self.path, ("text/plain", b""))
            self.send_response(200 if self.path in state.answers else 404)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Docker-Content-Digest", f"sha256:{HEX}")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with serving(Handling) as host:
        state.host = host
        yield state


@contextmanager
def serving(handling: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handling) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(10)


def network(host: str, ca_file: Path | None = None) -> Network:
    return Network(rules=HostRules(frozenset({host, "127.0.0.1"})), ca_file=ca_file)


async def planned(host: str, rest: str = "me/tiny") -> FetchPlan:
    source = OciSource.parse({"reference": f"http://{host}/{rest}"})
    async with Transport(network(host), source.access) as transport:
        return await source.plan(transport)


@pytest.mark.parametrize(("value", "words"), BAD_DOCUMENTS)
async def test_hostile_documents_are_refused(liar: Liar, value: Any, words: str) -> None:
    media_type = value.get("mediaType", "") if isinstance(value, dict) else ""
    liar.say("latest", value, media_type)
    with pytest.raises((InvalidModelError, NetworkError), match=f"{words}|more than"):
        await planned(liar.host)
    assert liar.asked == ["/v2/me/tiny/manifests/latest"]


async def test_a_body_that_is_another_type_than_it_was_sent_as_is_refused(liar: Liar) -> None:
    liar.say("latest", manifest(descriptor("x", "a.gguf")), OCI_INDEX)
    with pytest.raises(InvalidModelError, match="was sent as"):
        await planned(liar.host)


async def test_indexes_nest_twice_at_most(liar: Liar) -> None:
    digest = liar.say("deep", manifest(descriptor("application/octet-stream", "a.gguf")))
    size = len(liar.answers["/v2/me/tiny/manifests/deep"][1])
    words: list[str] = []
    for word in ("one", "two", "three"):
        liar.answers[f"/v2/me/tiny/manifests/{digest}"] = liar.answers[
            f"/v2/me/tiny/manifests/{words[-1] if words else 'deep'}"
        ]
        entry = {"mediaType": OCI_INDEX if words else OCI_MANIFEST_TYPE, "digest": str(digest), "size": size}
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
        digest, size = liar.say(word, index, OCI_INDEX), len(json.dumps(index))
        words.append(word)
    assert [item.name for item in (await planned(liar.host, "me/tiny:two")).files] == ["a.gguf"]
    with pytest.raises(InvalidModelError, match="nested deeper than 2"):
        await planned(liar.host, "me/tiny:three")


async def test_an_index_that_names_itself_is_refused_by_its_digest(liar: Liar) -> None:
    entry = {"mediaType": OCI_INDEX, "digest": f"sha256:{HEX}", "size": 100}
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
    liar.say("latest", index, OCI_INDEX)
    liar.say(f"sha256:{HEX}", index, OCI_INDEX)
    with pytest.raises(DigestMismatchError):
        await planned(liar.host)
    right = liar.say("inner", manifest(descriptor("application/octet-stream", "a.gguf")))
    liar.say(str(right), liar.answers["/v2/me/tiny/manifests/inner"][1])
    liar.say("latest", {**index, "manifests": [{**entry, "digest": str(right), "size": 7}]}, OCI_INDEX)
    with pytest.raises(SizeMismatchError):
        await planned(liar.host)


async def test_a_pinned_digest_is_demanded_whatever_the_header_says(liar: Liar) -> None:
    liar.say(f"sha256:{HEX}", manifest(descriptor("application/octet-stream", "a.gguf")))
    with pytest.raises(DigestMismatchError):
        await planned(liar.host, f"me/tiny@sha256:{HEX}")


async def test_plain_http_needs_a_listed_host(liar: Liar) -> None:
    source = OciSource.parse({"reference": f"http://{liar.host}/me/tiny"})
    async with Transport(Network(), source.access) as transport:
        with pytest.raises(InsecureSourceError):
            await source.plan(transport)


# A real registry


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf").read_bytes()


def new_store(folder: Path) -> Store:
    folder.mkdir()
    return Store(folder)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return new_store(tmp_path / "models")


async def pulled(
    store: Store, registry: Registry, rest: str, credentials: Path | None = None
) -> tuple[FetchPlan, StoredManifest]:
    source = OciSource.parse({"reference": registry.reference(rest)}, credentials)
    async with Transport(network(registry.host, registry.ca_file), source.access) as transport:
        plan = await source.plan(transport)
        return plan, (await fetch(store, source, transport, silent)).stored


def layer(registry: Registry, repository: str, media_type: str, data: bytes, title: str = "") -> dict[str, Any]:
    annotations = {"annotations": {TITLE: title}} if title else {}
    return {"mediaType": media_type, **registry.put_blob(repository, data), **annotations}


async def test_docker_models(registry: Registry, store: Store, weights: bytes) -> None:
    prefix, repository = "application/vnd.docker.ai.", "ai/tiny"
    config = layer(registry, repository, f"{prefix}model.config.v0.1+json", b'{"config":{"format":"gguf"}}')
    layers = [
        layer(registry, repository, f"{prefix}license", b"Free."),
        layer(registry, repository, f"{prefix}gguf.v3", weights),
        layer(registry, repository, f"{prefix}chat.template.jinja", b"{{ messages[0]['content'] }}"),
    ]
    told = registry.put_manifest(repository, "q4", OCI_MANIFEST_TYPE, manifest(*layers, config=config))
    plan, stored = await pulled(store, registry, "ai/tiny:q4")
    assert (plan.revision, plan.manifest) == (told["digest"], None)
    assert plan.size == sum(item["size"] for item in layers)
    assert plan.validator
    files = load_model(store, stored)
    assert (files.license, files.template) == ("Free.", "{{ messages[0]['content'] }}")
    assert files.model_path.read_bytes() == weights
    assert stored.name.full == f"{registry.host}/ai/tiny:q4"


async def test_modelpack_models_behind_an_index(registry: Registry, store: Store, weights: bytes) -> None:
    prefix, repository = "application/vnd.cncf.model.", "team/packs/tiny"
    config = layer(registry, repository, f"{prefix}config.v1+json", b"{}")
    path = {"annotations": {"org.cncf.model.filepath": "weights/tiny.gguf"}}
    layers = [
        layer(registry, repository, f"{prefix}doc.v1.tar", b"not a tar, and not read"),
        {**layer(registry, repository, f"{prefix}weight.v1.raw", weights), **path},
        layer(registry, repository, f"{prefix}doc.v1.raw", b"Free.", "LICENSE"),
    ]
    kind = f"{prefix}manifest.v1+json"
    whole = manifest(*layers, config=config, artifactType=kind)
    inner = registry.put_manifest(repository, "inner", OCI_MANIFEST_TYPE, whole)
    other = registry.put_manifest(
        repository, "other", OCI_MANIFEST_TYPE, manifest(layer(registry, repository, "application/vnd.acme", b"x"))
    )
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [other, {**inner, "artifactType": kind}]}
    top = registry.put_manifest(repository, "latest", OCI_INDEX, index)
    for rest in ("team/packs/tiny", f"team/packs/tiny@{top['digest']}", f"team/packs/tiny@{inner['digest']}"):
        plan, stored = await pulled(store, registry, rest)
        assert plan.revision == inner["digest"]
        assert [item.name for item in plan.files] == ["tiny.gguf", "LICENSE"]
        assert load_model(store, stored).license == "Free."
    assert [item.name.model for item in store.list()] == ["tiny"] * 3


async def test_plain_files_by_title(registry: Registry, store: Store, weights: bytes) -> None:
    item = layer(registry, "plain", "application/octet-stream", weights, "Tiny-Q4_K_M.gguf")
    registry.put_blob("plain", b"{}")
    registry.put_manifest("plain", "latest", OCI_MANIFEST_TYPE, manifest(item, artifactType="application/x-model"))
    plan, stored = await pulled(store, registry, "plain")
    assert [(file.kind, file.name) for file in plan.files] == [("model", "Tiny-Q4_K_M.gguf")]
    assert isinstance(plan.files[0].where, Remote)
    assert load_model(store, stored).model_path.read_bytes() == weights


async def test_split_files(registry: Registry, store: Store, tmp_path: Path) -> None:
    first = make_gguf(tmp_path / "tiny.gguf", split_tensors=8)
    parts = sorted(first.parent.glob("tiny-*.gguf"))
    assert len(parts) > 1
    layers = [
        layer(registry, "split", "application/octet-stream", part.read_bytes(), part.name) for part in reversed(parts)
    ]
    registry.put_blob("split", b"{}")
    registry.put_manifest("split", "latest", OCI_MANIFEST_TYPE, manifest(*layers))
    _, stored = await pulled(store, registry, "split")
    files = load_model(store, stored)
    assert [Digest.of(path.read_bytes()) for path in files.split_paths] == [
        Digest.of(part.read_bytes()) for part in parts
    ]


async def test_an_index_is_chosen_from_by_platform_or_refused_with_a_list(registry: Registry, store: Store) -> None:
    entries: list[dict[str, Any]] = []
    for architecture in ("amd64", "arm64", "s390x"):
        item = layer(registry, "multi", "application/octet-stream", architecture.encode(), f"{architecture}.gguf")
        registry.put_blob("multi", b"{}")
        told = registry.put_manifest("multi", architecture, OCI_MANIFEST_TYPE, manifest(item))
        entries.append({**told, "platform": {"os": "linux", "architecture": architecture}})
    index: dict[str, Any] = {"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": entries}
    registry.put_manifest("multi", "latest", DOCKER_LIST, index)
    mine = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    assert (await planned(registry.host, "multi")).files[0].name == f"{mine}.gguf"
    index["manifests"] = [entry for entry in entries if entry["platform"]["architecture"] != mine]
    registry.put_manifest("multi", "others", DOCKER_LIST, index)
    with pytest.raises(SourceUnsupportedError, match=r"name one by its digest: sha256:\w{12} linux/"):
        await planned(registry.host, "multi:others")


async def test_archives_and_other_artifacts_are_refused_with_what_to_do(registry: Registry) -> None:
    for repository, media_type, title, words in (
        ("tars", "application/vnd.cncf.model.weight.v1.tar+gzip", "tiny.gguf", r"push the GGUF file raw.*tar\+gzip"),
        (
            "tensors",
            "application/vnd.docker.ai.safetensors",
            "m.safetensors",
            r"title ending in \.gguf.*m\.safetensors",
        ),
    ):
        registry.put_blob(repository, b"{}")
        item = layer(registry, repository, media_type, b"x", title)
        registry.put_manifest(repository, "latest", OCI_MANIFEST_TYPE, manifest(item))
        with pytest.raises(SourceUnsupportedError, match=words):
            await planned(registry.host, repository)


async def test_what_is_not_there(registry: Registry) -> None:
    with pytest.raises(NotFoundError):
        await planned(registry.host, "no/such:thing")


# Pushes


def made(store: Store, weights: bytes, folder: Path, name: ModelName) -> StoredManifest:
    (folder / "tiny.gguf").write_bytes(weights)
    return create(store, name, parse_modelfile(b"FROM ./tiny.gguf\nSYSTEM Be kind.\nPARAMETER top_k 3\n"), folder)


async def pushed(store: Store, name: ModelName, registry: Registry, rest: str, secret: Path | None = None) -> str:
    reference = registry.reference(rest)
    access = access_for(secret, OciReference.parse(reference).origin, {})
    async with Transport(network(registry.host, registry.ca_file), access) as transport:
        return await push(store, name, reference, transport, silent)


NAME = ModelName("tiny", "1b")


async def test_a_pushed_model_has_the_same_digest_when_it_is_pulled(
    registry: Registry, store: Store, weights: bytes, tmp_path: Path
) -> None:
    stored = made(store, weights, tmp_path, NAME)
    assert await pushed(store, NAME, registry, "same/tiny:1b") == str(stored.digest)
    other = new_store(tmp_path / "other")
    plan, again = await pulled(other, registry, "same/tiny:1b")
    assert (again.digest, again.data, plan.revision) == (stored.digest, stored.data, str(stored.digest))
    assert load_model(other, again).system == "Be kind."
    status, headers, body = registry.request("/v2/same/tiny/manifests/1b", Accept=MANIFEST_TYPE)
    assert (status, headers["content-type"], Digest.of(body)) == (200, MANIFEST_TYPE, stored.digest)


async def test_a_second_push_sends_nothing_and_another_repository_is_mounted(
    registry: Registry, store: Store, weights: bytes, tmp_path: Path
) -> None:
    made(store, weights, tmp_path, NAME)
    await pushed(store, NAME, registry, "first/tiny")
    _, stored = await pulled(store, registry, "first/tiny")
    sent: list[int] = []
    for rest in ("first/tiny:again", "second/tiny"):
        reference = registry.reference(rest)
        async with Transport(network(registry.host)) as transport:
            await push(store, stored.name, reference, transport, lambda digest, done, total: sent.append(done))
    assert sent == [item.size for item in stored.manifest.blobs] * 2
    assert (await pulled(new_store(tmp_path / "other"), registry, "second/tiny"))[1].digest == stored.digest


async def test_pushes_that_are_refused(registry: Registry, store: Store, weights: bytes, tmp_path: Path) -> None:
    stored = made(store, weights, tmp_path, NAME)
    with pytest.raises(NotFoundError):
        await pushed(store, ModelName("nobody"), registry, "a/b")
    with pytest.raises(DigestMismatchError):
        await pushed(store, NAME, registry, f"a/b@sha256:{HEX}")
    assert await pushed(store, NAME, registry, f"a/b@{stored.digest}") == str(stored.digest)
    with pytest.raises(SourceUnsupportedError, match="registry host"):
        async with Transport(network(registry.host)) as transport:
            await push(store, NAME, "me/tiny", transport, silent)
    path = store.blob_path(stored.manifest.of_kind("system")[0].digest)
    path.write_bytes(b"Be evil.")
    with pytest.raises(DigestMismatchError):
        await pushed(store, NAME, registry, "a/damaged")
    assert registry.request("/v2/a/damaged/manifests/latest")[0] == 404


@contextmanager
def in_front_of(registry: Registry, refuse: list[int], largest: int) -> Iterator[Registry]:
    """A reverse proxy that takes bodies of `largest` bytes, and answers blobs with the statuses of `refuse` first."""

    class Handling(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            if self.command == "PUT" and "digest=" in self.path and body and refuse:
                return self.reply(refuse.pop(0), {}, b"")
            if len(body) > largest:
                return self.reply(413, {}, b"")
            wanted = {key: value for key, value in self.headers.items() if key.lower() != "connection"}
            url = f"http://{registry.host}{self.path}"
            request = urllib.request.Request(url, body or None, wanted, method=self.command)
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:
                    self.reply(answer.status, dict(answer.headers), answer.read())
            except urllib.error.HTTPError as error:
                with error:
                    self.reply(error.code, dict(error.headers), error.read())

        do_HEAD = do_POST = do_PUT = do_PATCH = do_GET  # noqa: N815

        def reply(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
            self.send_response(status)
            for key, value in headers.items():
                if key.lower() not in ("connection", "date", "content-length"):
                    self.send_header(key, value)
            self.send_header("Content-Length", headers.get("Content-Length", str(len(body))))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with serving(Handling) as host:
        yield Registry(host, registry.storage, "none", None, registry.log)


async def test_a_failed_upload_begins_again(
    registry: Registry, store: Store, weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push_oci, "PAUSE_SECONDS", 0.0)
    stored = made(store, weights, tmp_path, NAME)
    statuses = [500, 404]
    with in_front_of(registry, statuses, 1 << 30) as proxy:
        assert await pushed(store, NAME, proxy, "faulty/tiny") == str(stored.digest)
        assert statuses == []
        statuses += [500] * push_oci.ATTEMPTS
        with pytest.raises(NetworkError):
            await pushed(store, NAME, proxy, "faulty/other")


async def test_a_registry_that_takes_no_large_bodies_gets_pieces(
    registry: Registry, store: Store, weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push_oci, "PIECE_BYTES", 50_000)
    stored = made(store, weights, tmp_path, NAME)
    with in_front_of(registry, [], 60_000) as proxy:
        assert await pushed(store, NAME, proxy, "pieces/tiny") == str(stored.digest)
    assert (await pulled(new_store(tmp_path / "other"), registry, "pieces/tiny"))[1].digest == stored.digest


# Authentication


def secret(folder: Path, **values: str) -> Path:
    folder.mkdir()
    for key, value in values.items():
        (folder / key.replace("_", ".")).write_text(value)
    return folder


def docker_config(registry: Registry, password: str) -> dict[str, str]:
    """The Secret for the registry and its token service, which has an address of its own."""
    entry = {"auth": base64.b64encode(f"{USER}:{password}".encode()).decode()}
    hosts = [registry.host, *([registry.token_host] if registry.token_host else [])]
    return {"_dockerconfigjson": json.dumps({"auths": dict.fromkeys(hosts, entry)})}


@pytest.mark.parametrize(("auth", "tls"), [("basic", False), ("basic", True), ("token", False), ("token", True)])
async def test_credentials(auth: Any, tls: bool, store: Store, weights: bytes, tmp_path: Path) -> None:
    stored = made(store, weights, tmp_path, NAME)
    with docker_registry(tmp_path / "registry", auth, tls) as registry:
        good = secret(tmp_path / "good", **docker_config(registry, PASSWORD))
        with pytest.raises(UnauthorizedError):
            await pushed(store, NAME, registry, "me/tiny")
        with pytest.raises(UnauthorizedError):
            await pushed(store, NAME, registry, "me/tiny", secret(tmp_path / "bad", **docker_config(registry, "guess")))
        assert await pushed(store, NAME, registry, "me/tiny", good) == str(stored.digest)
        folders = [good]
        if auth == "basic":
            folders.append(secret(tmp_path / "plain", username=USER, password=PASSWORD))
        for folder in folders:
            _, again = await pulled(new_store(tmp_path / f"from-{folder.name}"), registry, "me/tiny", folder)
            assert again.digest == stored.digest
        with pytest.raises(UnauthorizedError):
            await pulled(store, registry, "me/tiny")


async def test_a_certificate_of_nobody_is_refused(tmp_path: Path) -> None:
    with docker_registry(tmp_path / "registry", tls=True) as registry:
        source = OciSource.parse({"reference": registry.reference("me/tiny")})
        async with Transport(network(registry.host), source.access) as transport:
            with pytest.raises(NetworkError, match="PADDOCK_CA_FILE"):
                await source.plan(transport)
