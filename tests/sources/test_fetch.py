"""Plans carried out: files of every kind into the store, failures at every step, and plans that are refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf as gguf_library
import numpy as np
import pytest
from tests.support.fault_server import FaultServer, cut, send, serving
from tests.support.gguf_maker import make_gguf
from tests.support.ollama_registry import Fault, OllamaRegistry
from tests.support.ollama_registry_http import serving_registry
from yarl import URL

from paddock_runner.core.digest import Digest
from paddock_runner.core.manifest import CONFIG_TYPE, MAX_BLOB_BYTES, MAX_LAYERS, Layer, build_manifest, layer
from paddock_runner.core.names import ModelName
from paddock_runner.sources import fetch as module
from paddock_runner.sources.addresses import HostRules
from paddock_runner.sources.auth import Access
from paddock_runner.sources.errors import NetworkError, UnauthorizedError
from paddock_runner.sources.fetch import Fetched, check_plan, fetch
from paddock_runner.sources.network import Network, Timeouts
from paddock_runner.sources.ollama import OllamaSource
from paddock_runner.sources.plan import FetchPlan, Inline, Local, PlannedFile, Remote
from paddock_runner.sources.transport import Transport
from paddock_runner.store.errors import (
    DigestMismatchError,
    InvalidModelError,
    NoSpaceError,
    NotFoundError,
    NotGGUFError,
    SizeMismatchError,
    StoreError,
)
from paddock_runner.store.model import load_model
from paddock_runner.store.store import Store

NAME = ModelName.parse("tests.example/me/x:1")
PARAMS = {"temperature": 0}


@dataclass(frozen=True)
class Planned:
    """A source that has its plan already."""

    planned: FetchPlan
    name: ModelName = NAME
    digest: Digest | None = None
    access: Access | None = None

    async def plan(self, transport: Transport) -> FetchPlan:
        return self.planned


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_gguf(tmp_path_factory.mktemp("fetch") / "tiny.gguf").read_bytes()


@pytest.fixture
def server(gguf: bytes) -> Iterator[FaultServer]:
    with serving(gguf) as state:
        yield state


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


def make_adapter(path: Path) -> Path:
    writer = gguf_library.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.ones((4, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


async def carry_out(
    store: Store, source: Any, *hosts: str, validator: str = "", mirrors: dict[str, tuple[URL, ...]] | None = None
) -> Fetched:
    timeouts = Timeouts(silence=5, pause=0.01)
    network = Network(rules=HostRules(frozenset(hosts)), timeouts=timeouts, mirrors=mirrors or {})
    async with asyncio.timeout(30), Transport(network, source.access) as transport:
        return await fetch(store, source, transport, lambda digest, done, total: None, validator)


def remote(server: FaultServer, **changes: Any) -> PlannedFile:
    file = PlannedFile("model", "x/tiny.gguf", Remote(server.url), len(server.data), server.digest)
    return replace(file, **changes)


def inline(kind: str, data: bytes, **changes: Any) -> PlannedFile:
    return replace(PlannedFile(kind, kind, Inline(data), len(data), Digest.of(data)), **changes)


def plan(*files: PlannedFile, **changes: Any) -> FetchPlan:
    return replace(FetchPlan(NAME, files), **changes)


def nothing_has_the_name(store: Store) -> bool:
    return not any(item.name == NAME for item in store.list())


async def test_files_of_every_kind_become_one_model(server: FaultServer, store: Store, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "lora.gguf")
    files = (
        inline("license", b"Be fair."),
        inline("license", b"And kind."),
        inline("system", b"Be brief."),
        inline("template", b"{{ .Prompt }}"),
        inline("params", json.dumps(PARAMS).encode()),
        inline("messages", b'[{"role":"user","content":"Hi"}]'),
        PlannedFile("adapter", "lora.gguf", Local(adapter), adapter.stat().st_size),
        remote(server),
    )
    found = await carry_out(store, Planned(plan(*files, revision="r", validator="v")), server.host)
    assert (found.revision, found.validator, found.stored.name) == ("r", "v", NAME)
    model = load_model(store, found.stored)
    assert model.model_path.read_bytes() == server.data
    assert [path.read_bytes() for path in model.adapter_paths] == [adapter.read_bytes()]
    assert (model.system, model.template, model.parameters) == ("Be brief.", "{{ .Prompt }}", PARAMS)
    assert (model.license, model.messages) == ("Be fair.\nAnd kind.", ({"role": "user", "content": "Hi"},))
    assert model.config["model_family"] == model.header.architecture


async def test_a_local_model_is_linked_and_known_again(store: Store, tmp_path: Path) -> None:
    path = make_gguf(tmp_path / "tiny.gguf")
    file = PlannedFile("model", "tiny.gguf", Local(path), path.stat().st_size)
    first = await carry_out(store, Planned(plan(file)))
    assert load_model(store, first.stored).model_path.samefile(path)
    assert (await carry_out(store, Planned(plan(file)))).stored.digest == first.stored.digest


async def test_what_the_store_has_is_not_asked_for(server: FaultServer, store: Store) -> None:
    await carry_out(store, Planned(plan(remote(server))), server.host)
    before = len(server.heads)
    again = plan(remote(server), inline("system", b"New."))
    assert load_model(store, (await carry_out(store, Planned(again), server.host)).stored).system == "New."
    assert len(server.heads) == before


async def test_a_validator_that_holds_is_the_end(server: FaultServer, store: Store) -> None:
    wanted = Planned(plan(remote(server), validator="v1"))
    first = await carry_out(store, wanted, server.host, validator="v1")
    changed = Planned(plan(remote(server), inline("system", b"New."), validator="v1"))
    held = await carry_out(store, changed, validator="v1")
    assert held == replace(first, stored=held.stored, written=False)
    assert held.stored.digest == first.stored.digest
    moved = await carry_out(store, changed, server.host, validator="v0")
    assert moved.stored.digest != first.stored.digest


async def test_a_validator_does_not_hold_for_another_manifest_of_that_name(server: FaultServer, store: Store) -> None:
    config = inline("config", b"{}", media_type=CONFIG_TYPE)
    manifest = build_manifest(
        Layer(CONFIG_TYPE, Digest.of(b"{}"), 2), [layer("model", server.digest, len(server.data))]
    )
    wanted = Planned(plan(remote(server), config, manifest=manifest, validator="v1"))
    first = await carry_out(store, wanted, server.host, validator="")
    await carry_out(store, Planned(plan(remote(server), inline("system", b"Another."))), server.host)
    again = await carry_out(store, wanted, validator="v1")
    assert again.stored.data == first.stored.data == manifest
    assert store.manifest(NAME).digest == first.stored.digest


async def test_files_come_beside_each_other_but_not_all(server: FaultServer, store: Store, gguf: bytes) -> None:
    server.rate = 400_000
    with serving(gguf[:-1] + b"\1") as second:
        second.rate = server.rate
        files = [remote(server), replace(remote(second), kind="", media_type="x/y")]
        server.script = second.script = [cut(None)]
        task = asyncio.create_task(carry_out(store, Planned(plan(*files)), server.host, second.host))
        async with asyncio.timeout(10):
            while not (server.heads and second.heads):
                await asyncio.sleep(0.01)
            both = server.sent < len(gguf) and second.sent < len(gguf)
        server.go.set()
        second.go.set()
        await task
    assert both, "neither was finished when both were asked for"
    assert module.FILES_AT_ONCE < 8


async def test_the_disk_must_hold_all_of_it(server: FaultServer, store: Store) -> None:
    huge = PlannedFile("projector", "huge", Remote(server.url), 1 << 49, Digest("0" * 64))
    with pytest.raises(NoSpaceError, match=r"the model tests\.example/me/x:1 needs"):
        await carry_out(store, Planned(plan(remote(server), huge)), server.host)
    assert server.heads == []


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"digest": Digest("0" * 64)}, DigestMismatchError),
        ({"size": 10}, SizeMismatchError),
        ({"where": Inline(b"no model at all"), "size": None, "digest": None}, NotGGUFError),
        ({"where": Local(Path("/nonexistent/x.gguf")), "size": None, "digest": None}, NotFoundError),
    ],
)
async def test_bytes_that_are_not_as_planned(
    server: FaultServer, store: Store, change: dict[str, Any], error: type[StoreError]
) -> None:
    with pytest.raises(error):
        await carry_out(store, Planned(plan(remote(server, **change))), server.host)
    assert nothing_has_the_name(store)


async def test_the_first_failure_ends_the_others(server: FaultServer, store: Store) -> None:
    server.pause_at = 1000
    bad = PlannedFile("projector", "bad", Inline(b"no model at all"))
    with pytest.raises(NotGGUFError):
        await carry_out(store, Planned(plan(remote(server), bad)), server.host)
    assert nothing_has_the_name(store)


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ([inline("license", b"x")] * (MAX_LAYERS + 2), "4098 files, the limit is 4096"),
        ([inline("system", b"x", name="../x")], r"files\[0\].*relative path"),
        ([inline("system", b"x", name="/etc/passwd")], "relative path"),
        ([inline("system", b"x", name="a//b")], "relative path"),
        ([inline("system", b"x", name="a\0b")], "relative path"),
        ([inline("system", b"x", name="a\nb")], "relative path"),
        ([inline("system", b"x", name="a\\b")], "backslash"),
        ([inline("system", b"x", name="")], "relative path"),
        ([inline("system", b"x", name="x" * 1025)], "1024"),
        ([inline("system", b"x", size=2)], "has 1"),
        ([inline("system", b"x"), inline("", b"x", name="y")], r"files\[1\].*no known kind"),
        ([PlannedFile("model", "x", Remote("https://h/"), -1)], "size is -1"),
        ([PlannedFile("model", "x", Remote("https://h/"), MAX_BLOB_BYTES + 1)], "from 0 to"),
        ([PlannedFile("model", "x", Remote("https://h/"), MAX_BLOB_BYTES)] * 2, "bytes together"),
        ([PlannedFile("model", "x", Remote("https://h/"), n, Digest("0" * 64)) for n in (5, 6)], "sizes 5 and 6"),
    ],
)  # fmt: skip
def test_plan_bombs(files: list[PlannedFile], match: str) -> None:
    with pytest.raises(InvalidModelError, match=match) as caught:
        check_plan(plan(*files))
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


async def test_a_plan_without_a_model_is_none(store: Store) -> None:
    with pytest.raises(InvalidModelError, match="no GGUF model"):
        await carry_out(store, Planned(plan(inline("system", b"x"))))


# A whole protocol


LAYERS = {"system": b"Be brief.", "params": b'{"temperature":0}', "application/x-other": b"carried"}


@pytest.fixture
def registry(tmp_path: Path, gguf: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[OllamaRegistry]:
    monkeypatch.setenv("PADDOCK_OLLAMA_KEY", str(tmp_path / "key"))
    with serving_registry(tmp_path / "registry", "ollama") as state:
        state.add_model("me/x", "1", {"model": gguf, **LAYERS})
        yield state


def ollama(registry: OllamaRegistry) -> OllamaSource:
    return OllamaSource.parse({"name": registry.name("me/x:1")})


def hosts(registry: OllamaRegistry) -> tuple[str, ...]:
    return tuple(registry.listed.split(","))


async def test_a_manifest_is_kept_byte_for_byte(registry: OllamaRegistry, store: Store, gguf: bytes) -> None:
    found = await carry_out(store, ollama(registry), *hosts(registry))
    assert found.stored.data == registry.manifests["me/x", "1"]
    model = load_model(store, found.stored)
    assert (model.model_path.read_bytes(), model.system) == (gguf, "Be brief.")
    store.require_blobs(found.stored.manifest.blobs)
    assert all("Authorization" not in seen.headers for seen in registry.steps("data"))


async def test_a_token_that_comes_of_age_on_the_way(registry: OllamaRegistry, store: Store) -> None:
    registry.token_uses = 2
    await carry_out(store, ollama(registry), *hosts(registry))
    assert len(registry.steps("token")) > 1


@pytest.mark.parametrize(
    ("step", "status", "error"),
    [
        *[(step, status, error) for step in ("manifest", "token", "blob", "data")
          for status, error in ((401, UnauthorizedError), (403, UnauthorizedError), (404, NotFoundError))],
        ("manifest", 400, NetworkError),
        ("data", 400, NetworkError),
    ],
)  # fmt: skip
async def test_a_refusal_at_every_step(
    registry: OllamaRegistry, store: Store, step: str, status: int, error: type[StoreError]
) -> None:
    registry.faults[step] = Fault(status)
    with pytest.raises(error) as caught:
        await carry_out(store, ollama(registry), *hosts(registry))
    assert not caught.value.retryable
    assert not store.list()
    assert "sig=" not in str(caught.value)


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("step", ["manifest", "token", "blob", "data"])
async def test_what_passes_at_every_step(registry: OllamaRegistry, store: Store, step: str, status: int) -> None:
    registry.faults[step] = Fault(status, times=1, headers={"Retry-After": "0"})
    found = await carry_out(store, ollama(registry), *hosts(registry))
    assert found.stored.data == registry.manifests["me/x", "1"]


def manifest_of(*files: PlannedFile, **changes: int) -> bytes:
    layers = [
        {"mediaType": "application/vnd.ollama.image.model", "digest": str(item.digest),
         "size": changes.get("size", item.size)}
        for item in files
    ]  # fmt: skip
    return json.dumps({"schemaVersion": 2, "config": layers[-1], "layers": layers}).encode()


def test_a_manifest_and_its_plan_agree() -> None:
    one, two = (PlannedFile("model", "x", Remote("https://h/"), n, Digest(str(n) * 64)) for n in (1, 2))
    check_plan(plan(one, two, manifest=manifest_of(one, two)))
    for files, manifest, match in (
        ((one,), manifest_of(one, two), "not among its files"),
        ((one, two), manifest_of(one), "has None bytes"),
        ((one,), manifest_of(one, size=3), "has 3 bytes"),
        ((replace(one, size=None),), manifest_of(one), "None are planned"),
        ((one,), b"{}", "schemaVersion"),
    ):
        with pytest.raises(InvalidModelError, match=match):
            check_plan(plan(*files, manifest=manifest))


@pytest.mark.parametrize("length", ["the same", "another"])
async def test_a_mirror_with_wrong_bytes_does_no_harm(server: FaultServer, store: Store, length: str) -> None:
    wrong = server.data[:-1] + b"\xff" + (b"" if length == "the same" else b"more")
    with serving(wrong) as mirror:
        mirrors = {server.host: (URL(f"http://{mirror.host}"),)}
        found = await carry_out(store, Planned(plan(remote(server))), server.host, mirror.host, mirrors=mirrors)
        assert mirror.heads
    assert load_model(store, found.stored).model_path.read_bytes() == server.data


async def test_a_server_that_sends_less_than_it_was_asked_for(server: FaultServer, store: Store) -> None:
    server.script = [lambda state, request: send(state, request, 200, state.data[:-10])]
    with pytest.raises(StoreError):
        await carry_out(store, Planned(plan(remote(server))), server.host)
    assert nothing_has_the_name(store)
