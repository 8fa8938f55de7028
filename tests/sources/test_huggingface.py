"""Models of Hugging Face from a hub on loopback: commits, choices, credentials, refusals, and whole pulls."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.support.gguf_maker import make_gguf
from tests.support.hub import Hub, commit_of, serving_hub, sibling

from paddock_runner.core.digest import Digest
from paddock_runner.core.manifest import parse_manifest
from paddock_runner.core.names import ModelName
from paddock_runner.sources.addresses import VARIABLE
from paddock_runner.sources.errors import NetworkError, SourceUnsupportedError, UnauthorizedError
from paddock_runner.sources.fetch import fetch
from paddock_runner.sources.huggingface import HuggingFaceSource
from paddock_runner.sources.network import Network
from paddock_runner.sources.ollama import OllamaSource
from paddock_runner.sources.plan import FetchPlan, Inline, Remote
from paddock_runner.sources.transport import Transport
from paddock_runner.store.errors import DigestMismatchError, NotFoundError, StoreError
from paddock_runner.store.model import load_model
from paddock_runner.store.store import Store

REPO = "org/tiny-GGUF"


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_gguf(tmp_path_factory.mktemp("gguf") / "x.gguf").read_bytes()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def source(token: Path | None = None, /, **spec: object) -> HuggingFaceSource:
    return HuggingFaceSource.parse({"repo": REPO, **spec}, token)


def new_store(folder: Path) -> Store:
    (folder / "models").mkdir()
    return Store(folder / "models")


def secret(folder: Path, token: str) -> Path:
    (folder / "token").write_text(token)
    return folder


def transport(hub: Hub, source: HuggingFaceSource) -> Transport:
    return Transport(Network.from_environment({VARIABLE: ",".join(hub.hosts)}), source.access)


async def planned(hub: Hub, source: HuggingFaceSource) -> FetchPlan:
    async with transport(hub, source) as opened:
        return await source.plan(opened)


async def test_a_branch_becomes_a_commit_and_its_files_a_plan(hub: Hub) -> None:
    commit = hub.repo(REPO, {"x-Q4_K_M.gguf": b"GGUF4", "x-Q8_0.gguf": b"GGUF8"}).refs["main"]

    plan = await planned(hub, source())

    assert (plan.revision, plan.validator, plan.manifest) == (commit, commit, None)
    [file] = plan.files
    assert (file.kind, file.name, file.size, file.digest) == ("model", "x-Q4_K_M.gguf", 5, Digest.of(b"GGUF4"))
    assert file.where == Remote(f"{hub.url}/{REPO}/resolve/{commit}/x-Q4_K_M.gguf")
    assert plan.name == ModelName.parse(f"huggingface.co/{REPO}")


async def test_a_revision_s_files_stay_when_the_branch_moves(hub: Hub) -> None:
    repo = hub.repo(REPO, {"x.gguf": b"GGUF-old"})
    old = repo.refs["main"]
    repo.push({"x.gguf": b"GGUF-dev"}, "feature/one")
    new = repo.push({"x.gguf": b"GGUF-new"})

    plans = {revision: await planned(hub, source(revision=revision)) for revision in ("main", old, "feature/one")}

    assert [plan.files[0].digest for plan in plans.values()] == [
        Digest.of(b"GGUF-new"),
        Digest.of(b"GGUF-old"),
        Digest.of(b"GGUF-dev"),
    ]
    assert (plans["main"].validator, plans[old].validator) == (new, old)
    assert len({plan.name for plan in plans.values()}) == 3


async def test_parts_projector_and_texts_come_along(hub: Hub) -> None:
    params = {"temperature": 0.1, "stop": ["<|im_end|>"]}
    files = {f"big/x-Q4_K_M-{number:05}-of-00003.gguf": b"GGUF%d" % number for number in (3, 1, 2)}
    files |= {"mmproj-F16.gguf": b"GGUFp", "template": b"{{ .Prompt }}", "params": json.dumps(params).encode()}
    hub.repo(REPO, {**files, "system": b"", "folder/system": b"not this one", "README.md": b"#"})

    plan = await planned(hub, source(quantization="q4_k_m"))

    assert [file.kind for file in plan.files] == ["model"] * 3 + ["projector", "template", "params"]
    assert [file.digest for file in plan.files] == [
        Digest.of(data) for data in (b"GGUF1", b"GGUF2", b"GGUF3", b"GGUFp", files["template"], files["params"])
    ]
    assert plan.files[4].where == Inline(b"{{ .Prompt }}")
    assert plan.size == sum(len(data) for data in files.values())


async def test_a_wanted_type_that_can_be_made_takes_the_unquantized_file(hub: Hub) -> None:
    hub.repo(REPO, {"x-F16.gguf": b"GGUF16", "x-Q8_0.gguf": b"GGUF8"})

    for wanted in ("Q4_K_M", "Q4_K"):
        assert (await planned(hub, source(quantization=wanted))).files[0].name == "x-F16.gguf"
    with pytest.raises(NotFoundError, match=r"x-F16\.gguf, x-Q8_0\.gguf"):
        await planned(hub, source(quantization="IQ2_XXS"))
    with pytest.raises(NotFoundError, match=r"x-F16\.gguf, x-Q8_0\.gguf"):
        await planned(hub, HuggingFaceSource.from_ollama_name(ModelName.parse(f"hf.co/{REPO}:Q4_K_M")))


@pytest.mark.parametrize(
    ("tag", "file"),
    [
        ("", "x-Q4_K_M.gguf"),
        (":latest", "x-Q4_K_M.gguf"),
        (":q8_0", "x-Q8_0.gguf"),
        (":UD-Q4_K_XL", "x-UD-Q4_K_XL.gguf"),
        (":x-Q8_0.gguf", "x-Q8_0.gguf"),
    ],
)
@pytest.mark.parametrize("host", ["hf.co", "huggingface.co"])
async def test_ollama_s_names_mean_the_same_files(hub: Hub, host: str, tag: str, file: str) -> None:
    hub.repo(REPO, {"x-Q4_K_M.gguf": b"GGUF4", "x-Q8_0.gguf": b"GGUF8", "x-UD-Q4_K_XL.gguf": b"GGUFX"})
    name = ModelName.parse(f"{host}/{REPO}{tag}")

    plan = await planned(hub, HuggingFaceSource.from_ollama_name(name))

    assert [item.name for item in plan.files] == [file]
    assert plan.name == name


async def test_a_name_of_ollama_s_is_pulled_by_the_source_of_such_names(hub: Hub, tmp_path: Path, gguf: bytes) -> None:
    hub.repo(REPO, {f"x-Q4_K_M-0000{part}-of-00002.gguf": gguf for part in (1, 2)} | {"x-Q8_0.gguf": gguf})
    asked = OllamaSource.parse({"name": f"hf.co/{REPO}:Q8_0"})
    network = Network.from_environment({VARIABLE: ",".join(hub.hosts)})

    async with Transport(network, asked.access) as opened:
        stored = (await fetch(new_store(tmp_path), asked, opened, lambda digest, done, total: None)).stored

    assert stored.name == ModelName.parse(f"hf.co/{REPO}:Q8_0")
    assert [item.digest for item in stored.manifest.of_kind("model")] == [Digest.of(gguf)]


def test_other_hosts_are_not_hugging_face() -> None:
    with pytest.raises(SourceUnsupportedError, match=r"hf\.co"):
        HuggingFaceSource.from_ollama_name(ModelName.parse("smollm2:135m"))


@pytest.mark.parametrize(
    ("files", "spec", "error", "words"),
    [
        ({"x-Q8_0.gguf": b"GGUF"}, {"quantization": "IQ3_M"}, NotFoundError, "IQ3_M.*x-Q8_0.gguf"),
        ({"x-Q8_0.gguf": b"GGUF"}, {"file": "y.gguf"}, NotFoundError, "y.gguf.*x-Q8_0.gguf"),
        ({"a-Q2_K.gguf": b"GGUF", "b-Q3_K_M.gguf": b"GGUF"}, {}, SourceUnsupportedError, "a-Q2_K.gguf, b-Q3_K_M"),
        ({"model.safetensors": b"{}"}, {}, SourceUnsupportedError, "converted"),
        ({"x-00001-of-00002.gguf": b"GGUF"}, {}, NotFoundError, "x-00002-of-00002.gguf' is missing"),
        ({"x.gguf": b"GGUF", "params": b"[1]"}, {}, SourceUnsupportedError, "params must be a JSON object"),
        ({"x.gguf": b"GGUF", "params": b"{,}"}, {}, SourceUnsupportedError, "params: invalid JSON"),
        ({"x.gguf": b"GGUF", "system": b"x" * (1 << 20 | 1)}, {}, SourceUnsupportedError, "system has 1048577 bytes"),
        ({"x.gguf": b"GGUF"}, {"revision": "v9"}, NotFoundError, "at revision 'v9' was not found"),
    ],
)
async def test_a_choice_that_cannot_be_made_is_explained(
    hub: Hub, files: dict[str, bytes], spec: dict[str, str], error: type[StoreError], words: str
) -> None:
    hub.repo(REPO, files)

    with pytest.raises(error, match=words) as caught:
        await planned(hub, source(**spec))

    assert not caught.value.retryable
    assert REPO in str(caught.value)


@pytest.mark.parametrize(
    ("repo", "token", "error", "words"),
    [
        ("org/gated", "", UnauthorizedError, "not for everybody, or does not exist, or is private or gated"),
        ("org/gated", "hf_other", UnauthorizedError, "not for this token, or does not exist, or is private or gated"),
        ("org/private", "", UnauthorizedError, "not for everybody"),
        ("org/none", "", UnauthorizedError, "not for everybody, or does not exist"),
        ("org/none", "hf_other", NotFoundError, "the repository does not exist, or is private or gated"),
        ("org/private", "hf_other", NotFoundError, "the repository does not exist, or is private or gated"),
        ("org/private", "hf_nobody", UnauthorizedError, "not for this token"),
    ],
)
async def test_what_a_caller_may_not_see_is_explained_both_ways(
    hub: Hub, tmp_path: Path, repo: str, token: str, error: type[StoreError], words: str
) -> None:
    hub.repo("org/private", {"x.gguf": b"GGUF"}).tokens = {"hf_good"}
    hub.repo("org/gated", {"x.gguf": b"GGUF"}).tokens = {"hf_good"}
    hub.repos["org/gated"].gated = True
    hub.repo("org/mine", {}).tokens = {"hf_other"}
    asked = source(secret(tmp_path, token) if token else None, repo=repo)

    with pytest.raises(error, match=words) as caught:
        await planned(hub, asked)

    assert "accept the licence on the repository's page and name a Secret" in str(caught.value)
    assert "hf_" not in str(caught.value)


async def test_a_pull_is_verified_and_the_token_stays_with_the_hub(hub: Hub, tmp_path: Path, gguf: bytes) -> None:
    repo = hub.repo(REPO, {"x-F32.gguf": gguf, "system": b"Be brief.", "params": b'{"temperature":0}'})
    repo.tokens = {"hf_good"}
    asked, store = source(secret(tmp_path, "hf_good")), new_store(tmp_path)

    async with transport(hub, asked) as opened:
        stored = (await fetch(store, asked, opened, lambda digest, done, total: None)).stored

    model = load_model(store, stored)
    assert model.model_path.read_bytes() == gguf
    assert (model.system, model.parameters) == ("Be brief.", {"temperature": 0})
    assert {seen.headers.get("authorization") for seen in hub.requests("hub")} == {"Bearer hf_good"}
    assert [seen.headers.get("authorization") for seen in hub.requests("storage")] == [None] * len(
        hub.requests("storage")
    )
    assert hub.requests("storage")


async def test_a_commit_that_is_known_already_brings_nothing_new(hub: Hub, tmp_path: Path, gguf: bytes) -> None:
    repo, store, asked = hub.repo(REPO, {"x.gguf": gguf}), new_store(tmp_path), source()

    async with transport(hub, asked) as opened:
        first = await fetch(store, asked, opened, lambda digest, done, total: None)
        fetched = len(hub.requests("storage"))
        second = await fetch(store, asked, opened, lambda digest, done, total: None, first.validator)

    assert second.stored.digest == first.stored.digest
    assert (first.revision, second.revision) == (repo.refs["main"],) * 2
    assert len(hub.requests("storage")) == fetched > 0


async def test_two_commits_of_a_branch_are_two_manifests(hub: Hub, tmp_path: Path, gguf: bytes) -> None:
    repo, store = hub.repo(REPO, {"x.gguf": gguf}), new_store(tmp_path)
    digests = []
    for text in (b"One.", b"Two."):
        repo.push({"x.gguf": gguf, "system": text})
        async with transport(hub, source()) as opened:
            stored = (await fetch(store, source(), opened, lambda digest, done, total: None)).stored
        store.pin(stored.digest, stored.data)
        digests.append(stored.digest)

    assert store.manifest(source().name).digest == digests[1]
    assert load_model(store, store.manifest_by_digest(digests[0])).system == "One."
    weights = {parse_manifest(store.manifest_by_digest(digest).data).of_kind("model")[0].digest for digest in digests}
    assert weights == {Digest.of(gguf)}


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>sign in</html>",
        json.dumps({"sha": "f" * 40, "siblings": [sibling("../x.gguf", b"GGUF")]}).encode(),
        json.dumps({"sha": "f" * 40, "siblings": [{"rfilename": "x.gguf", "size": -1, "blobId": "0" * 40}]}).encode(),
        json.dumps({"sha": "f" * 40, "siblings": [{}] * 100_000}).encode(),
        b'{"siblings":"' + b"x" * (9 << 20) + b'"}',
    ],
)
async def test_a_hostile_answer_is_refused(hub: Hub, answer: bytes) -> None:
    hub.repo(REPO, {"x.gguf": b"GGUF"})
    hub.answer = answer

    with pytest.raises(NetworkError) as caught:
        await planned(hub, source())

    assert not caught.value.retryable
    assert len(str(caught.value)) < 1000


async def test_another_commit_than_the_one_asked_for_is_refused(hub: Hub) -> None:
    commit = hub.repo(REPO, {"x.gguf": b"GGUF"}).refs["main"]
    hub.answer = json.dumps({"sha": "f" * 40, "siblings": [sibling("x.gguf", b"GGUF")]}).encode()

    with pytest.raises(NetworkError, match="f" * 40):
        await planned(hub, source(revision=commit))


async def test_a_gguf_file_without_a_digest_is_refused(hub: Hub) -> None:
    hub.repo(REPO, {"x.gguf": b"GGUF"})
    blob = {"rfilename": "x.gguf", "size": 4, "blobId": "0" * 40}
    hub.answer = json.dumps({"sha": "f" * 40, "siblings": [blob]}).encode()

    with pytest.raises(SourceUnsupportedError, match=r"no SHA-256 of 'x\.gguf'"):
        await planned(hub, source())


async def test_a_text_that_is_not_the_commit_s_is_refused(hub: Hub) -> None:
    files = {"x.gguf": b"GGUF", "system": b"Be brief."}
    hub.repo(REPO).commits[commit_of(files)] = {**files, "system": b"Be evil.."}
    listed = [sibling(path, data) for path, data in files.items()]
    hub.answer = json.dumps({"sha": commit_of(files), "siblings": listed}).encode()
    hub.repos[REPO].refs["main"] = commit_of(files)

    with pytest.raises(DigestMismatchError, match="system"):
        await planned(hub, source())


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"repo": None}, "repo is missing"),
        ({"repo": "one"}, "huggingFace.repo"),
        ({"repo": "../../x"}, "huggingFace.repo"),
        ({"repo": "org/x/y"}, "huggingFace.repo"),
        ({"repo": 5}, "huggingFace.repo"),
        ({"revision": "-x"}, "huggingFace.revision"),
        ({"revision": "x" * 201}, "huggingFace.revision"),
        ({"file": "model.bin"}, "huggingFace.file"),
        ({"file": "x" * 300 + ".gguf"}, "huggingFace.file"),
        ({"quantization": "Q4 K M"}, "huggingFace.quantization"),
        ({"quantization": 4}, "huggingFace.quantization"),
    ],
)
def test_a_bad_value_names_its_field(spec: dict[str, object], words: str) -> None:
    with pytest.raises(SourceUnsupportedError, match=words):
        source(**spec)


@pytest.mark.parametrize("endpoint", ["ftp://hub", "https://u:p@hub", "https://hub?x=1", "hub", "https://[::"])
def test_a_bad_endpoint_is_refused(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)

    with pytest.raises(SourceUnsupportedError, match="HF_ENDPOINT"):
        source()


def test_the_token_belongs_to_the_endpoint_s_origin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/hf/")
    asked = source(secret(tmp_path, "hf_good"))

    assert asked.endpoint == "https://mirror.example/hf"
    assert asked.access is not None
    assert asked.access.origin == "https://mirror.example"
    assert source().access is None


def test_a_secret_without_a_token_is_told(tmp_path: Path) -> None:
    (tmp_path / "username").write_text("someone")
    (tmp_path / "password").write_text("secret")

    with pytest.raises(UnauthorizedError, match="must hold the key token") as caught:
        _ = source(tmp_path).access

    assert caught.value.retryable


async def test_a_mirror_is_asked_first_and_gets_no_token(hub: Hub, tmp_path: Path) -> None:
    files = {"x.gguf": b"GGUF", "system": b"Be brief."}
    hub.repo(REPO, files).tokens = {"hf_good"}
    asked = source(secret(tmp_path, "hf_good"))
    with serving_hub() as mirror:
        settings = {
            VARIABLE: ",".join(hub.hosts | mirror.hosts),
            "PADDOCK_MIRRORS": f"{urlsplit(hub.url).netloc}={mirror.url}",
        }
        async with Transport(Network.from_environment(settings), asked.access) as opened:
            from_origin = await asked.plan(opened)
            mirror.repo(REPO, files)
            before = len(hub.seen)
            from_mirror = await asked.plan(opened)

    assert from_mirror == from_origin
    assert len(hub.seen) == before
    assert {seen.headers.get("authorization") for seen in mirror.seen} == {None}
