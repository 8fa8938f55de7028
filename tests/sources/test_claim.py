"""Claims and other Models as sources: what they plan, and what they refuse."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.support.gguf_maker import make_gguf

from paddock_runner.commands.pull import Request, pull
from paddock_runner.core.digest import Digest
from paddock_runner.sources.claim import CLAIMS, ClaimSource
from paddock_runner.sources.errors import SourceUnsupportedError
from paddock_runner.sources.model import ModelSource
from paddock_runner.sources.network import Network
from paddock_runner.sources.plan import FetchPlan, Local
from paddock_runner.sources.select import source_for
from paddock_runner.store.errors import (
    CacheUnusableError,
    InvalidModelError,
    NotFoundError,
    NotGGUFError,
    StoreError,
    TruncatedGGUFError,
)
from paddock_runner.store.manifests import pin_name
from paddock_runner.store.model import load_model
from paddock_runner.store.place import place
from paddock_runner.store.store import Store

NOBODY: Any = None


@pytest.fixture
def claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the claim `weights`, as it is mounted for a puller."""
    folder = tmp_path / "claims" / "weights"
    folder.mkdir(parents=True)
    monkeypatch.setenv(CLAIMS, str(tmp_path / "claims"))
    make_gguf(folder / "tiny.gguf")
    return folder


async def plan(path: str, claim: str = "weights") -> FetchPlan:
    return await ClaimSource.parse({"claimName": claim, "path": path}).plan(NOBODY)


def paths(plan: FetchPlan) -> list[Path]:
    return [item.where.path for item in plan.files if isinstance(item.where, Local)]


async def test_a_file(claim: Path, store: Store) -> None:
    found = await plan("tiny.gguf")
    (file,) = found.files
    assert (file.kind, file.name, file.size) == ("model", "tiny.gguf", (claim / "tiny.gguf").stat().st_size)
    assert file.where == Local(claim / "tiny.gguf", "Link")
    assert found.name == (await plan("tiny.gguf")).name
    (claim / "b.gguf").write_bytes((claim / "tiny.gguf").read_bytes())
    assert found.name != (await plan("b.gguf")).name


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


async def test_the_parts_of_a_split_model(claim: Path) -> None:
    (claim / "parts").mkdir()
    first = make_gguf(claim / "parts" / "t.gguf", split_tensors=5)
    for path in (f"parts/{first.name}", "parts"):
        found = await plan(path)
        assert [file.kind for file in found.files] == ["model"] * 3
        assert paths(found) == sorted((claim / "parts").iterdir())
    with pytest.raises(InvalidModelError, match="give the first part"):
        await plan("parts/t-00002-of-00003.gguf")
    (claim / "parts" / "t-00002-of-00003.gguf").unlink()
    with pytest.raises(NotFoundError, match="missing: 2"):
        await plan("parts")


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/.", "x\0y", "a" * 1025, 5, None]
)
def test_paths_that_are_refused(claim: Path, path: object) -> None:
    with pytest.raises(SourceUnsupportedError, match=r"source\.claim\.path"):
        ClaimSource.parse({"claimName": "weights", "path": path})


@pytest.mark.parametrize("name", ["", "..", "a/b", "A", "a..b", "-", 5, None])
def test_claim_names_that_are_refused(claim: Path, name: object) -> None:
    with pytest.raises(SourceUnsupportedError, match=r"source\.claim\.claimName"):
        ClaimSource.parse({"claimName": name, "path": "x.gguf"})


def test_one_machine_has_no_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CLAIMS, raising=False)
    with pytest.raises(SourceUnsupportedError, match="paddock create"):
        ClaimSource.parse({"claimName": "weights", "path": "x.gguf"})


async def test_links_lead_only_inside(claim: Path, tmp_path: Path) -> None:
    (claim / "snapshots").mkdir()
    (claim / "snapshots" / "x.gguf").symlink_to("../tiny.gguf")
    assert paths(await plan("snapshots/x.gguf")) == [claim / "tiny.gguf"]
    make_gguf(tmp_path / "secret.gguf")
    (claim / "out.gguf").symlink_to(tmp_path / "secret.gguf")
    (claim / "etc").symlink_to("/etc")
    (claim / "up").symlink_to("..")
    (claim / "loop.gguf").symlink_to("loop.gguf")
    (tmp_path / "claims" / "other").mkdir()
    shutil.copy(tmp_path / "secret.gguf", tmp_path / "claims" / "other" / "o.gguf")
    for path in ("out.gguf", "etc/passwd", "up", "up/other/o.gguf"):
        with pytest.raises(CacheUnusableError, match="leads out of the claim"):
            await plan(path)
    with pytest.raises(CacheUnusableError):
        await plan("loop.gguf")


async def test_a_link_that_is_planted_after_the_plan(claim: Path, store: Store, tmp_path: Path) -> None:
    (claim / "deep").mkdir()
    shutil.copy(claim / "tiny.gguf", claim / "deep" / "a.gguf")
    (path,) = paths(await plan("deep/a.gguf"))
    (tmp_path / "secrets").mkdir()
    shutil.copy(claim / "tiny.gguf", tmp_path / "secrets" / "a.gguf")
    (claim / "deep").rename(claim / "away")
    (claim / "deep").symlink_to(tmp_path / "secrets")
    with pytest.raises(CacheUnusableError, match="behind a symbolic link"):
        place(store, path, None, "Link", None, None)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("fifo.gguf", StoreError),
        ("text.gguf", NotGGUFError),
        ("nope.gguf", NotFoundError),
        ("empty", InvalidModelError),
    ],
)
async def test_what_is_no_model(claim: Path, name: str, error: type[StoreError]) -> None:
    os.mkfifo(claim / "fifo.gguf")
    (claim / "text.gguf").write_text("hello")
    (claim / "empty").mkdir()
    with pytest.raises(error):
        await plan(name)


async def test_a_folder_of_several_models(claim: Path) -> None:
    (claim / "some").mkdir()
    for name in ("a.gguf", "b.gguf"):
        shutil.copy(claim / "tiny.gguf", claim / "some" / name)
    with pytest.raises(InvalidModelError, match=r"several models \(a.gguf, b.gguf\)"):
        await plan("some")


async def test_a_claim_that_is_not_mounted(claim: Path) -> None:
    with pytest.raises(NotFoundError, match="not mounted"):
        await plan("tiny.gguf", "other")


async def test_another_model_is_found_or_waited_for() -> None:
    digest = Digest.of(b"manifest")
    source = ModelSource.parse({"name": "base", "digest": str(digest)})
    assert (source.digest, source.name) == (digest, pin_name(digest))
    with pytest.raises(NotFoundError, match="once the Model 'base' is pulled") as caught:
        await source.plan(NOBODY)
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": 5, "digest": "x"}, "name"),
        ({"name": "base"}, "digest"),
        ({"name": "base", "digest": "sha256:0"}, "digest"),
    ],
)
def test_requests_for_another_model_that_are_refused(spec: dict[str, object], field: str) -> None:
    with pytest.raises(SourceUnsupportedError, match=rf"source\.model\.{field}"):
        ModelSource.parse(spec)


def ignore(*_: object) -> None:
    pass


def bring(store: Store, spec: dict[str, object], digest: Digest | None = None) -> dict[str, Any]:
    source = source_for(spec)
    return pull(store, Request(source, digest or source.digest), Network.from_environment({}), ignore)


def test_a_claim_is_pulled_and_known_the_next_time(claim: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (claim / "parts").mkdir()
    first = make_gguf(claim / "parts" / "t.gguf", split_tensors=5)
    spec: dict[str, object] = {"claim": {"claimName": "weights", "path": f"parts/{first.name}"}}
    result = bring(store, spec)
    assert [item["role"] for item in result["files"]] == ["model"] * 3
    files = load_model(store, Digest.parse(result["digest"]))
    assert [path.read_bytes() for path in files.split_paths] == [
        path.read_bytes() for path in sorted(first.parent.iterdir())
    ]
    assert store.manifest(pin_name(files.digest)).digest == files.digest
    monkeypatch.setattr("paddock_runner.store.place._bring", None)
    monkeypatch.setattr("paddock_runner.store.blobs._hash", None)
    assert bring(Store(store.path), spec) == result, "nothing is hashed again"


def test_a_part_of_a_claim_that_is_damaged(claim: Path, store: Store) -> None:
    (claim / "tiny.gguf").write_bytes((claim / "tiny.gguf").read_bytes()[:-1])
    with pytest.raises(TruncatedGGUFError):
        bring(store, {"claim": {"claimName": "weights", "path": "tiny.gguf"}})
    assert store.list() == ()


def test_a_variant_shares_the_bytes_of_its_model(claim: Path, store: Store) -> None:
    base = bring(store, {"claim": {"claimName": "weights", "path": "tiny.gguf"}})
    before = sorted(path.name for path in (store.path / "blobs").iterdir())
    variant: dict[str, object] = {"model": {"name": "base", "digest": base["digest"]}}
    result = bring(store, variant)
    assert (result["digest"], result["files"]) == (base["digest"], base["files"])
    assert sorted(path.name for path in (store.path / "blobs").iterdir()) == before
    store.blob_path(Digest.parse(base["files"][0]["digest"])).unlink()
    with pytest.raises(NotFoundError, match="not in this cache yet, or not whole") as caught:
        bring(store, variant)
    assert caught.value.retryable
    assert bring(store, {"claim": {"claimName": "weights", "path": "tiny.gguf"}}) == base
    assert bring(store, variant)["digest"] == base["digest"]
