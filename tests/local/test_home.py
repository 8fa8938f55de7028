"""The home: layout, modes, one owner, and who that is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from paddock_operator.executors.local import atomic
from paddock_operator.executors.local.home import Home, HomeOwnedError, Ownership, owner

OWN = """
import sys
from paddock_operator.executors.local.home import Home, Ownership
home = Home.at(sys.argv[1]); home.prepare()
owned = Ownership.take(home); owned.publish({"default/main": "http://127.0.0.1:1"})
print("owned", flush=True); sys.stdin.read()
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = Home.at(tmp_path / "home")
    found.prepare()
    return found


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PADDOCK_HOME", raising=False)
    assert Home.at().root == tmp_path / ".paddock"
    monkeypatch.setenv("PADDOCK_HOME", str(tmp_path / "other"))
    assert Home.at().models == tmp_path / "other" / "models"
    assert Home.at("~/x", "~/.ollama/models") == Home(tmp_path / "x", tmp_path / ".ollama/models")


def test_layout_is_private(home: Home) -> None:
    for folder in (home.root, home.keys, home.run, home.logs, home.state("Model"), home.state("Endpoint")):
        assert folder.stat().st_mode & 0o777 == 0o700, folder
    assert home.state("Endpoint") == home.root / "state" / "endpoints"


def test_an_open_home_is_closed(home: Home) -> None:
    home.root.chmod(0o755)
    home.prepare()
    assert home.root.stat().st_mode & 0o777 == 0o700


def test_nobody_owns_a_fresh_home(home: Home) -> None:
    assert owner(home) is None
    assert owner(Home.at(home.root / "nowhere")) is None


def test_the_second_owner_is_refused_and_told_who_the_first_is(home: Home) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWN, str(home.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"owned\n"
        found = owner(home)
        assert found is not None
        assert (found.pid, found.endpoints) == (first.pid, {"default/main": "http://127.0.0.1:1"})
        with pytest.raises(HomeOwnedError, match=f"process {first.pid}, started {found.started}"):
            Ownership.take(home)
        first.kill()
    assert owner(home) is None, "a killed owner owns nothing"
    taken = Ownership.take(home)
    assert owner(home) is not None
    taken.publish({"a/b": "http://x:1"})
    taken.publish({})
    seen = owner(home)
    assert seen is not None
    assert (seen.pid, seen.endpoints) == (os.getpid(), {})
    taken.release()
    assert owner(home) is None


def test_atomic_write(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    assert atomic.write(path, b"1")
    assert not atomic.write(path, b"1"), "equal bytes are not written again"
    assert atomic.write(path, b"2")
    assert path.read_bytes() == b"2"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert os.listdir(path.parent) == ["b.json"]


def test_atomic_write_leaves_nothing_when_it_fails(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        atomic.write(tmp_path / "taken", b"1")
    assert os.listdir(tmp_path) == ["taken"]
