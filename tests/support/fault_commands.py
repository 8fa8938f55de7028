"""The commands that write to a model folder, each with a folder to work on. For tests of what faults do to them."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.fault_server import FaultServer
from tests.support.faults import Ended, Fault, Zygote
from tests.support.ollama_registry import OllamaRegistry

from paddock_runner.core.digest import Digest
from paddock_runner.core.names import HTTP_HOST, ModelName
from paddock_runner.core.quantization import CONVERTED_HOST
from paddock_runner.sources.claim import CLAIMS
from paddock_runner.store.errors import StoreError
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.model import load_model
from paddock_runner.store.store import Store
from paddock_runner.store.usage import every_manifest
from paddock_runner.store.verify import verify

LONG_AGO = 30 * 24 * 3600


@dataclass
class World:
    """What all cases share. `templates` are prepared folders by command, `calls` the counts of clean runs."""

    folder: Path
    zygote: Zygote
    registry: OllamaRegistry
    server: FaultServer
    gguf: Path
    templates: dict[str, Path] = field(default_factory=dict)
    calls: dict[tuple[str, int], int] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PADDOCK_ALLOW_INSECURE_HOSTS": f"{self.registry.listed},{self.server.host}",
            "PADDOCK_DOWNLOAD_CONNECTIONS": "2",
            "HOME": str(self.folder),
        }

    def run(self, folder: Path, arguments: list[str], fault: Fault | None = None, at: int = 0) -> Ended:
        environment = self.environment | {CLAIMS: str(folder / "claims")}
        return self.zygote.run(folder, arguments, environment, fault, at)

    def must(self, folder: Path, arguments: list[str]) -> None:
        ended = self.run(folder, arguments)
        assert ended.code == 0, (ended.stdout, ended.stderr)


def age(folder: Path) -> None:
    """Make all files old, so that nothing is spared because it may be in use."""
    then = time.time() - LONG_AGO
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


@dataclass(frozen=True)
class Command:
    """`prepare` fills a folder, `arguments` work on it, `done` says whether they did."""

    name: str
    prepare: Callable[[World, Path], None]
    arguments: Callable[[World, Path], list[str]]
    done: Callable[[World, Path], bool]
    begins_damaged: bool = False
    most: int = 1000
    """Points that are worth its time."""


def models(folder: Path) -> str:
    return str(folder / "models")


def nothing(world: World, folder: Path) -> None:
    pass


def pull(world: World, folder: Path, source: dict[str, object]) -> list[str]:
    request = world.folder / "request.json"
    request.write_text(json.dumps({"source": source, "digest": None}))
    return ["pull", "--models", models(folder), "--request", str(request)]


def registry_name(world: World) -> ModelName:
    return ModelName("tiny", "latest", "library", world.registry.host)


def pull_ollama(world: World, folder: Path) -> list[str]:
    return pull(world, folder, {"ollama": {"name": world.registry.name("library/tiny")}})


def pull_http(world: World, folder: Path) -> list[str]:
    return pull(world, folder, {"http": {"url": world.server.url, "sha256": world.server.digest.hex}})


def pull_claim(world: World, folder: Path) -> list[str]:
    return pull(world, folder, {"claim": {"claimName": "weights", "path": "tiny.gguf"}})


def made(world: World, folder: Path) -> None:
    modelfile = folder / "Modelfile"
    modelfile.write_text(f"FROM {world.gguf}\nSYSTEM Be kind.\nPARAMETER top_k 3\n")
    world.must(folder, create(world, folder))


def with_modelfile(world: World, folder: Path) -> None:
    (folder / "Modelfile").write_text(f"FROM {world.gguf}\nSYSTEM Be kind.\nPARAMETER top_k 3\n")


def create(world: World, folder: Path) -> list[str]:
    return ["store", "--models", models(folder), "create", "made", "-f", str(folder / "Modelfile")]


def with_claim(world: World, folder: Path) -> None:
    (folder / "claims" / "weights").mkdir(parents=True)
    shutil.copy(world.gguf, folder / "claims" / "weights" / "tiny.gguf")


def with_garbage(world: World, folder: Path) -> None:
    made(world, folder)
    store = Store(folder / "models")
    world.must(folder, pull_http(world, folder))
    store.unpin(store.manifest(ModelName.parse("made")).digest)
    store.remove_root(ModelName(host=HTTP_HOST, namespace="sha256", model=world.server.digest.hex))
    with (folder / "Modelfile").open("rb") as stream:
        store.write_blob(stream)
    (folder / "models" / "blobs" / f"partial-{'0' * 64}").write_bytes(b"long ago")
    journals = folder / "models" / ".paddock" / "journals"
    journals.mkdir()
    (journals / ("1" * 64)).write_bytes(b"of nothing")
    age(folder / "models")


def with_bundle(world: World, folder: Path) -> None:
    made(world, folder)
    world.must(folder, ["export", "--models", models(folder), "made", "-o", str(folder / "in.tar")])
    shutil.rmtree(folder / "models")


def convert(world: World, folder: Path) -> list[str]:
    request = world.folder / "conversion.json"
    digest = store_of(folder).manifest(MADE).digest
    request.write_text(json.dumps({"digest": str(digest), "type": "Q8_0"}))
    return ["convert", "--models", models(folder), "--request", str(request)]


def converted(world: World, folder: Path) -> bool:
    return any(item.name.host == CONVERTED_HOST for item in loaded(folder))


def with_other_store(world: World, folder: Path) -> None:
    made(world, folder)
    (folder / "models").rename(folder / "ollama")
    shutil.rmtree(folder / "ollama" / ".paddock")


def with_damage(world: World, folder: Path) -> None:
    world.must(folder, pull_ollama(world, folder))
    blob = Store(folder / "models").blob_path(Digest.of(world.gguf.read_bytes()))
    data = bytearray(blob.read_bytes())
    data[-100] ^= 1
    blob.write_bytes(data)


def has(name: ModelName) -> Callable[[World, Path], bool]:
    return lambda world, folder: loads(Store(folder / "models"), name)


def loads(store: Store, name: ModelName) -> bool:
    try:
        load_model(store, store.manifest(name))
    except StoreError:
        return False
    return True


def store_of(folder: Path) -> Store:
    return Store(folder / "models")


def collected(world: World, folder: Path) -> bool:
    store = store_of(folder)
    needed = {item.digest for found in every_manifest(store) if isinstance(found, StoredManifest)
              for item in found.manifest.blobs}  # fmt: skip
    held = {path.name for path in (store.path / "blobs").glob("sha256-*")}
    return loads(store, ModelName.parse("made")) and held == {digest.file_name for digest in needed}


def exported(world: World, folder: Path) -> bool:
    output, clean = folder / "out.tar", world.templates["export"] / "clean.tar"
    return output.exists() and output.read_bytes() == clean.read_bytes()


def with_clean_export(world: World, folder: Path) -> None:
    made(world, folder)
    world.must(folder, ["export", "--models", models(folder), "made", "-o", str(folder / "clean.tar")])


def removed(world: World, folder: Path) -> bool:
    return store_of(folder).list() == ()


def sound(world: World, folder: Path) -> bool:
    return all(not item.problem for item in verify(Store(folder / "models", read_only=True)))


MADE = ModelName.parse("made")
COMMANDS = (
    Command("pull-ollama", nothing, pull_ollama, lambda world, folder: has(registry_name(world))(world, folder)),
    Command(
        "pull-http",
        nothing,
        pull_http,
        lambda world, folder: has(ModelName(world.server.digest.hex, "latest", "sha256", HTTP_HOST))(world, folder),
    ),
    Command("pull-claim", with_claim, pull_claim, lambda world, folder: bool(loaded(folder))),
    Command("create", with_modelfile, create, has(MADE)),
    Command("convert", made, convert, converted, most=20),
    Command(
        "import",
        with_bundle,
        lambda world, folder: ["import", "--models", models(folder), str(folder / "in.tar")],
        has(MADE),
    ),
    Command(
        "import-ollama",
        with_other_store,
        lambda world, folder: ["import-ollama", "--models", models(folder), str(folder / "ollama")],
        has(MADE),
    ),
    Command(
        "cp",
        made,
        lambda world, folder: ["store", "--models", models(folder), "cp", "made", "second"],
        has(ModelName.parse("second")),
    ),
    Command("rm", made, lambda world, folder: ["store", "--models", models(folder), "rm", "made"], removed),
    Command(
        "gc",
        with_garbage,
        lambda world, folder: ["collect", "--models", models(folder), "--all-names", "--min-age", "0"],
        collected,
    ),
    Command(
        "verify",
        with_damage,
        lambda world, folder: ["store", "--models", models(folder), "verify", "--repair"],
        sound,
        begins_damaged=True,
    ),
    Command(
        "export",
        with_clean_export,
        lambda world, folder: ["export", "--models", models(folder), "made", "-o", str(folder / "out.tar")],
        exported,
    ),
)


def loaded(folder: Path) -> list[StoredManifest]:
    store = store_of(folder)
    found = [item for item in every_manifest(store) if isinstance(item, StoredManifest)]
    return [item for item in found if loads(store, item.name)]
