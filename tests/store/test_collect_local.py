"""Collection on one machine: by quota and use, beside servers and pullers, under kills and clocks that jump."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.store.conftest import remount_read_only
from tests.support.waiting import until_sync

from paddock_runner.core.collection import CLAIM_HOST, HeldBlob, Root, plan_collection
from paddock_runner.core.digest import Digest
from paddock_runner.core.manifest import build_config, build_manifest, layer
from paddock_runner.core.names import HTTP_HOST, ModelName
from paddock_runner.store.collect import collect
from paddock_runner.store.errors import NotFoundError
from paddock_runner.store.hold import hold
from paddock_runner.store.known import known_digest
from paddock_runner.store.locks import LockTimeoutError
from paddock_runner.store.manifests import StoredManifest, pin_name
from paddock_runner.store.model import load_model
from paddock_runner.store.place import place
from paddock_runner.store.search import Search
from paddock_runner.store.store import Store
from paddock_runner.store.usage import every_manifest

HOUR = 3600.0


def digest_of(text: str) -> Digest:
    return Digest.of(text.encode())


def root(name: str, blobs: str, age: float, host: str | None = None, manifest: str = "") -> Root:
    """`blobs` is a word for each; a pin unless `host` is given."""
    digest = digest_of(manifest or name)
    named = pin_name(digest) if host is None else ModelName(name, host=host)
    return Root(named, digest, frozenset(map(digest_of, blobs.split())), age)


def blobs(**sizes: int) -> list[HeldBlob]:
    return [HeldBlob(digest_of(name), size, 1000.0) for name, size in sizes.items()]


def gone(roots: list[Root], held: list[HeldBlob], quota: int, live: set[Digest] | None = None) -> tuple[list[str], int]:
    """The names of the roots that go, and the bytes that stay."""
    found = plan_collection(roots, held, live or set(), 100.0, quota)
    names = {item.name: item for item in roots}
    return sorted(
        next(w for w in "abcdef" if digest_of(w) == names[name].digest) for name in found.names
    ), found.staying


@pytest.mark.parametrize(
    ("quota", "expected"),
    [(60, ([], 60)), (59, (["a"], 50)), (50, (["a"], 50)), (49, (["a", "b"], 30)), (0, (["a", "b", "c"], 0))],
)
def test_a_quota_takes_the_oldest_use_first(quota: int, expected: tuple[list[str], int]) -> None:
    roots = [root("b", "y", 500), root("a", "x", 900), root("c", "z", 200)]
    assert gone(roots, blobs(x=10, y=20, z=30), quota) == expected


def test_a_quota_spares_names_live_and_young_ones() -> None:
    roots = [
        root("a", "x", 900, host="registry.ollama.ai"),
        root("b", "y", 800),
        root("c", "z", 50),
        root("d", "w", 700),
    ]
    assert gone(roots, blobs(x=1, y=2, z=4, w=8), 0, {digest_of("b")}) == (["d"], 7)


def test_what_nobody_needs_goes_before_any_model() -> None:
    assert gone([root("a", "x", 900)], blobs(x=10, stray=90), 10) == ([], 10)


def test_shared_bytes_count_once_and_go_with_their_last_model() -> None:
    roots = [root("a", "big x", 900), root("b", "big y", 800), root("c", "z", 700)]
    held = blobs(big=100, x=1, y=1, z=1)
    assert gone(roots, held, 102) == (["a"], 102)
    assert gone(roots, held, 101) == (["a", "b"], 1)


def test_all_names_of_one_digest_go_together_or_not_at_all() -> None:
    both = [root("a", "x", 900), root("u", "x", 900, host=HTTP_HOST, manifest="a")]
    assert len(plan_collection(both, blobs(x=10), set(), 100, 0).names) == 2
    young = [both[0], root("u", "x", 5, host=CLAIM_HOST, manifest="a")]
    assert plan_collection(young, blobs(x=10), set(), 100, 0).names == ()


def add(store: Store, word: str, name: str | None = None, size: int = 1000) -> Digest:
    """A model of `size` bytes, pinned, and named if `name` is given."""
    with store.writing():
        model = store.write_blob(_bytes(store, word, size))
        config = store.write_blob(_bytes(store, f"config of {word}", 0))
        data = build_manifest(layer("config", config.digest, config.size), [layer("license", model.digest, model.size)])
        store.pin(Digest.of(data), data)
        if name is not None:
            store.write_manifest(ModelName.parse(name), data)
    return Digest.of(data)


def _bytes(store: Store, word: str, size: int) -> Path:
    path = store.path.parent / "bytes"
    path.write_bytes(word.encode().ljust(size, b"."))
    return path


def used(store: Store, digest: Digest, ago: float) -> None:
    path = store.path.joinpath("manifests", *pin_name(digest).path_parts)
    os.utime(path, (time.time() - ago,) * 2)


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only mtime tells the age: nobody can set back ctime for a test."""
    monkeypatch.setattr("paddock_runner.store.collect._age", lambda status, now: now - status.st_mtime)


def present(store: Store, digest: Digest) -> bool:
    try:
        stored = store.manifest_by_digest(digest)
    except NotFoundError:
        return False
    store.require_blobs(stored.manifest.blobs)
    return True


@pytest.mark.usefixtures("old")
def test_the_quota_of_a_real_folder(store: Store) -> None:
    named, first, second, third = (
        add(store, word, name) for word, name in [("n", "mine"), ("1", None), ("2", None), ("3", None)]
    )
    for ago, digest in [(9, named), (5, first), (7, second), (3, third)]:
        used(store, digest, ago * HOUR)
    for blob in (store.path / "blobs").iterdir():
        os.utime(blob, (1, 1))
    total = collect(store, None, HOUR, quota=1 << 30).staying
    planned = collect(store, None, HOUR, quota=total - 1, dry_run=True)
    assert planned.names == (pin_name(second),)
    done = collect(store, None, HOUR, quota=total - 1)
    assert (done.names, done.size, done.staying) == (planned.names, planned.size, planned.staying)
    assert [present(store, item) for item in (named, first, second, third)] == [True, True, False, True]
    found = collect(store, None, HOUR, quota=0)
    assert [present(store, item) for item in (named, first, third)] == [True, False, False]
    assert found.staying == sum(path.stat().st_size for path in (store.path / "blobs").iterdir()) > 0


def test_names_are_the_list_of_what_is_needed(store: Store) -> None:
    named, other = add(store, "n", "mine"), add(store, "o")
    collect(store, None, 0)
    assert present(store, named)
    assert store.manifest(pin_name(named)).digest == named, "the pin of a name stays with it"
    assert not present(store, other)


def test_what_is_served_stays(store: Store) -> None:
    digest = add(store, "served")
    held = hold(store, store.manifest_by_digest(digest))
    assert collect(store, set(), 0).names == ()
    assert present(store, digest)
    held.close()
    held.close()
    assert collect(store, set(), 0).names == (pin_name(digest),)
    with pytest.raises(NotFoundError):
        store.manifest_by_digest(digest)


def test_a_server_marks_its_pin_as_used_and_leaves_names_alone(store: Store) -> None:
    digest = add(store, "x", "mine")
    used(store, digest, 100 * HOUR)
    name = store.path.joinpath("manifests", *ModelName("mine").path_parts)
    os.utime(name, (5, 5))
    hold(store, store.manifest_by_digest(digest)).close()
    hold(store, store.manifest(ModelName("mine"))).close()
    assert time.time() - store.manifest(pin_name(digest)).modified_at < 60
    assert name.stat().st_mtime == 5


def test_a_server_on_a_read_only_folder_holds_its_model(small_disk: Path) -> None:
    store = Store(small_disk / "models")
    digest = add(store, "x")
    path = store.path.joinpath("manifests", *pin_name(digest).path_parts)
    remount_read_only(small_disk)
    held = hold(store, store.manifest_by_digest(digest))
    done = subprocess.run(["flock", "--nonblock", path, "true"], check=False)
    assert done.returncode == 1
    held.close()


def test_a_server_waits_for_a_collector_and_sees_that_its_model_is_gone(store: Store) -> None:
    stored = store.manifest_by_digest(add(store, "x"))
    path = store.path.joinpath("manifests", *stored.name.path_parts)
    other = subprocess.Popen(["flock", path, "sh", "-c", "echo; read x"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(LockTimeoutError):
            hold(store, stored, timeout=0.1)
        path.unlink()
        other.communicate(b"\n", timeout=10)
    with pytest.raises(NotFoundError):
        hold(store, stored)


SERVER = """
import asyncio, sys
from pathlib import Path
from paddock_runner.core.digest import Digest
from paddock_runner.store.search import Search

search = Search(Path(sys.argv[1]), Digest.parse(sys.argv[2]))
_, stored, files = asyncio.run(search.until_found(print))
print("serving", flush=True)
sys.stdin.readline()
names = [item.digest.file_name for item in stored.manifest.blobs]
print(files.model_path.is_file() and all(Path(sys.argv[1], "blobs", name).is_file() for name in names))
"""


def test_a_collector_never_takes_the_model_of_another_process(store: Store, gguf_file: Path) -> None:
    with store.writing():
        model = store.write_blob(gguf_file)
        config = store.write_blob(_bytes(store, "{}", 0))
        data = build_manifest(layer("config", config.digest, 2), [layer("model", model.digest, model.size)])
        store.pin(Digest.of(data), data)
    command = [sys.executable, "-c", SERVER, str(store.path), str(Digest.of(data))]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with server:
        assert server.stdout is not None
        assert server.stdout.readline() == "serving\n"
        for quota in (None, 0):
            assert collect(store, None, 0, quota=quota).names == ()
        assert server.communicate("\n", timeout=20)[0] == "True\n"
    assert len(collect(store, None, 0).names) == 1


def test_a_killed_server_holds_nothing(store: Store) -> None:
    digest = add(store, "x")
    path = store.path.joinpath("manifests", *pin_name(digest).path_parts)
    with subprocess.Popen(
        ["flock", "--shared", path, "sh", "-c", "echo; exec sleep 60"], stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        server.stdout.readline()
        assert collect(store, set(), 0).names == ()
        (child,) = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        os.kill(int(child), 9)
        server.kill()
    until_sync(lambda: collect(store, set(), 0).names == (pin_name(digest),))


class Race:
    """Pullers, collectors and servers in threads on one folder. `problems` are manifests without their bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stop = threading.Event()
        self.problems: list[str] = []
        self.loads = 0

    def pulling(self) -> None:
        turn = 0
        while not self.stop.is_set():
            turn += 1
            add(Store(self.path), f"model {turn % 3}")

    def collecting(self) -> None:
        while not self.stop.is_set():
            collect(Store(self.path), set(), 0, quota=500)

    def serving(self) -> None:
        while not self.stop.is_set():
            store = Store(self.path)
            for stored in every_manifest(store):
                if isinstance(stored, ModelName):
                    self.problems.append(f"{stored} cannot be read")
                else:
                    self._serve(store, stored)

    def _serve(self, store: Store, stored: StoredManifest) -> None:
        try:
            held = hold(store, stored)
        except NotFoundError:
            return
        for _ in range(3):
            missing = [item for item in stored.manifest.blobs if not store.blob_path(item.digest).is_file()]
            self.problems.extend(f"{stored.name} lacks {item.digest}" for item in missing)
            time.sleep(0.002)
        held.close()
        self.loads += 1


def test_collectors_race_pullers_and_servers(store: Store) -> None:
    """No age protects anything: whoever got hold of a model has all of it until it lets go."""
    add(store, "model 0")
    race = Race(store.path)
    threads = [threading.Thread(target=work) for work in (race.pulling, race.collecting, race.serving, race.serving)]
    for thread in threads:
        thread.start()
    until_sync(lambda: race.loads > 40 or bool(race.problems), 20)
    race.stop.set()
    for thread in threads:
        thread.join(20)
    assert race.problems == []
    assert race.loads > 40


def test_any_kill_leaves_every_manifest_whole(store: Store, tmp_path: Path) -> None:
    for word in ("1", "2", "3", "4"):
        add(store, word)
    add(store, "5", "mine")
    script = Path(__file__).with_name("collect_killed.py")
    (tmp_path / "scratch").mkdir()
    done = subprocess.run(
        [sys.executable, script, store.path, tmp_path / "scratch"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    lines: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) > 20
    assert [line["died"] for line in lines] == [True] * (len(lines) - 1) + [False]
    assert all(line["after"]["whole"] for line in lines)
    assert {line["after"]["roots"] for line in lines} >= {6, 5, 4, 3, 2, 1}
    assert {json.dumps(line["again"]) for line in lines} == {json.dumps(lines[-1]["after"])}
    assert lines[-1]["after"] == {"whole": True, "roots": 1, "names": 1, "blobs": 2}


@pytest.mark.parametrize("ahead", [10.0, 10 * 365 * 24 * HOUR])
def test_times_to_come_protect_nothing_for_ever(store: Store, ahead: float) -> None:
    """A copied mtime, or a clock that was set back."""
    digest = add(store, "x")
    for path in [*(store.path / "blobs").iterdir(), store.path.joinpath("manifests", *pin_name(digest).path_parts)]:
        os.utime(path, (time.time() + ahead,) * 2)
    assert collect(store, set(), 0.5).names == (), "its change of name is young"
    until_sync(lambda: len(collect(store, set(), 0.5).names) == 1)
    assert list((store.path / "blobs").iterdir()) == []


def test_leftovers_go_by_age_unless_somebody_writes_them(store: Store) -> None:
    folder = store.path / "blobs"
    folder.mkdir(parents=True)
    (store.path / "manifests").mkdir(exist_ok=True)
    names = ["partial-" + "1" * 64, "partial-" + "1" * 64 + ".journal", "partial-" + "2" * 64, "tmp-x"]
    for name in names:
        (folder / name).write_text("x")
        os.utime(folder / name, (1, 1))
    with subprocess.Popen(
        ["flock", folder / names[2], "sh", "-c", "echo; read x"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        collect(store, set(), 0)
        assert [path.name for path in folder.iterdir()] == [names[2]]
        writer.communicate(b"\n", timeout=10)


def test_links_that_somebody_planted_are_no_blobs(store: Store, tmp_path: Path) -> None:
    digest = add(store, "x")
    secret = tmp_path / "secret"
    secret.write_text("secret")
    planted = store.path / "blobs" / digest_of("planted").file_name
    planted.symlink_to(secret)
    hard = store.path / "blobs" / digest_of("hard").file_name
    os.link(secret, hard)
    collect(store, {digest}, 0)
    assert planted.is_symlink(), "nobody knows what it is for"
    assert not hard.exists()
    assert secret.read_text() == "secret"
    assert present(store, digest)


def test_what_is_known_of_files_goes_with_their_blobs(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"bytes")
    place(store, file, None, "Copy", None, None)
    assert known_digest(store, file.stat()) == Digest.of(b"bytes")
    (store.path / "manifests").mkdir(exist_ok=True)
    collect(store, set(), 0)
    assert list((store.path / ".paddock" / "known").iterdir()) == []


async def test_a_search_holds_what_it_found(store: Store, gguf_file: Path) -> None:
    with store.writing():
        model = store.write_blob(gguf_file)
        (store.path.parent / "c").write_bytes(build_config({}))
        config = store.write_blob(store.path.parent / "c")
        data = build_manifest(layer("config", config.digest, config.size), [layer("model", model.digest, model.size)])
        store.pin(Digest.of(data), data)
    search = Search(store.path, Digest.of(data))
    _, stored, _ = await search.until_found(lambda problem: None)
    assert collect(store, set(), 0).names == ()
    assert load_model(store, stored).digest == stored.digest
    search.close()
    assert len(collect(store, set(), 0).names) == 1


def run(models: Path, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    command = [sys.executable, "-m", "paddock_runner", "collect", "--models", str(models), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_the_program_on_one_machine(store: Store) -> None:
    add(store, "n", "mine"), add(store, "o")
    code, lines = run(store.path, "--all-names", "--quota", "10", "--min-age", "0", "--dry-run")
    assert code == 0
    assert [line["event"] for line in lines] == ["would-remove"] * 3 + ["collected"]
    code, (line,) = run(store.path, "--all-names", "--quota", "10", "--min-age", "0")
    staying = sum(path.stat().st_size for path in (store.path / "blobs").iterdir())
    assert line == {"event": "collected", "pins": 1, "blobs": 2, "bytes": lines[-1]["bytes"], "staying": staying,
                    "over": staying - 10}  # fmt: skip
    for wrong in (
        (),
        ("--all-names", "--live", "-"),
        ("--all-names", "--quota", "-1"),
        ("--all-names", "--quota", "x"),
    ):
        assert run(store.path, *wrong)[0] == 2
