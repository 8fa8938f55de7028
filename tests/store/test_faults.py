"""Every command that writes, while one of its system calls fails or is its last: the store stays true, and says why.

Calls are counted in a clean run. The suite takes a sample of them; `FAULT_POINTS=150` (make kill-matrix) meets up to so
many of each command with each fault.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.fault_commands import COMMANDS, Command, World, age
from tests.support.fault_server import serving
from tests.support.faults import FAULTS, KILL, SPACE, Ended, Fault, compiler, zygote
from tests.support.gguf_maker import make_gguf
from tests.support.ollama_registry_http import serving_registry

from paddock_runner.core.names import PIN_HOST
from paddock_runner.store.collect import collect
from paddock_runner.store.errors import StoreError
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.store import Store
from paddock_runner.store.usage import every_manifest
from paddock_runner.store.verify import verify

POINTS = int(os.environ.get("FAULT_POINTS", "1"))
CHOSEN = FAULTS if POINTS > 1 else FAULTS[:5]
SEED = 5
FIXES = ("another folder", "paddock verify", "try again", "pull it again", "pull its model again", "move it away")

pytestmark = pytest.mark.skipif(compiler() is None, reason="needs a C compiler")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("faults")
    gguf = make_gguf(folder / "tiny.gguf", embedding=128)
    with (
        zygote(folder) as running,
        serving_registry(folder / "registry") as registry,
        serving(gguf.read_bytes()) as server,
    ):
        registry.add_model("library/tiny", "latest", {"model": gguf.read_bytes(), "system": b"Be kind."})
        yield World(folder, running, registry, server, gguf)


def check_valid(folder: Path, begins_damaged: bool) -> None:
    """Every name has all its blobs, and every blob the bytes of its name."""
    store = Store(folder / "models", read_only=True)
    assert all(isinstance(item, StoredManifest) for item in every_manifest(store))
    problems = [item for item in verify(store) if item.problem]
    assert len(problems) <= int(begins_damaged), problems


def check_words(ended: Ended, folder: Path) -> None:
    """A typed error that names the place or the model, and what to do."""
    assert "Traceback" not in ended.stderr
    told = [line for line in ended.lines if "reason" in line]
    if not told and any(line.get("status") == "damaged" for line in ended.lines):
        return
    assert told, ended.stdout
    messages = [str(line.get("message") or line.get("error")) for line in told]
    places = (str(folder), PIN_HOST)
    assert any(any(place in text for place in places) and any(fix in text for fix in FIXES) for text in messages)


def check_clean(folder: Path) -> None:
    """Nothing temporary outlives a collection."""
    age(folder / "models")
    collect(Store(folder / "models"), None, 0)
    left = [path for name in ("blobs", ".paddock/tmp", ".paddock/locks") for path in folder.glob(f"models/{name}/*")]
    assert [path.name for path in left if not path.name.startswith("sha256-")] == []


def template(world: World, command: Command) -> Path:
    if command.name not in world.templates:
        folder = world.folder / f"template-{command.name}"
        folder.mkdir()
        command.prepare(world, folder)
        world.templates[command.name] = folder
    return world.templates[command.name]


def fresh(world: World, command: Command) -> Path:
    folder = world.folder / "case"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template(world, command), folder, symlinks=True)
    return folder


def count(world: World, command: Command, fault: Fault) -> int:
    """Calls of the fault's class in a clean run."""
    key = command.name, fault.classes
    if key not in world.calls:
        folder = fresh(world, command)
        ended = world.run(folder, command.arguments(world, folder), fault, 0)
        assert ended.code == 0, (ended.stdout, ended.stderr)
        assert command.done(world, folder)
        check_valid(folder, False)
        world.calls[key] = ended.calls
    return world.calls[key]


def case(world: World, command: Command, fault: Fault, at: int) -> None:
    folder = fresh(world, command)
    arguments = command.arguments(world, folder)
    ended = world.run(folder, arguments, fault, at)
    check_end(world, command, fault, ended, folder)
    if folder.joinpath("models").exists():
        check_valid(folder, command.begins_damaged)
        if at % 2 and not command.begins_damaged:
            check_clean(folder)
    # Disturbed by nothing, the same command does it.
    again = world.run(folder, arguments)
    gone = command.name == "rm" and "not found" in again.stdout
    assert again.code == 0 or gone, (again.stdout, again.stderr)
    assert command.done(world, folder)
    check_valid(folder, False)
    check_clean(folder)


def check_end(world: World, command: Command, fault: Fault, ended: Ended, folder: Path) -> None:
    if fault.error == KILL and ended.fired:
        assert ended.code == -9
    elif ended.code == 0:
        assert "Traceback" not in ended.stderr
        assert command.done(world, folder), f"it says success and is not done: {ended.where}"
    else:
        assert ended.code in (1, 75), (ended.code, ended.stderr)
        check_words(ended, folder)
        # What cannot be changed any more cannot be tidied up.
        assert fault.classes != SPACE or not list(folder.glob(".out.tar.*")), "half a bundle stays"


@pytest.mark.parametrize("fault", CHOSEN, ids=lambda fault: fault.name)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_fault_at_any_call(world: World, command: Command, fault: Fault) -> None:
    calls = count(world, command, fault)
    luck = random.Random(f"{SEED} {command.name} {fault.name}")
    points = sorted(luck.sample(range(1, calls + 1), min(calls, POINTS, command.most)))
    failures = []
    for at in points:
        try:
            case(world, command, fault, at)
        except (AssertionError, StoreError, OSError) as error:
            failures.append(f"{at} of {calls}: {type(error).__name__}: {str(error)[:1500]}")
    assert not failures, "\n".join(failures[:20])
