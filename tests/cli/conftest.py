"""The `paddock` command in this process, on a home of its own; the runner is a real child of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.gguf_maker import make_gguf

from paddock_operator.cli import main
from paddock_operator.executors.local.home import Home


@dataclass(frozen=True)
class Done:
    """What a command did."""

    code: int
    out: str
    err: str


class Command:
    """Runs verbs on `home`."""

    def __init__(self, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
        self.home = home
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Done:
        try:
            code = main(["--home", str(self.home.root), *arguments])
        except SystemExit as error:
            code = int(error.code or 0)
        return Done(code, *self._capsys.readouterr())

    @property
    def names(self) -> list[str]:
        """The models of the cache."""
        return [line.split()[0] for line in self("list").out.splitlines()[1:]]


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(Home.at(tmp_path / "home"), capsys)


@pytest.fixture(scope="session")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf").read_bytes()


@pytest.fixture
def modelfile(tmp_path: Path, gguf: bytes) -> Path:
    (tmp_path / "tiny.gguf").write_bytes(gguf)
    path = tmp_path / "Modelfile"
    path.write_text("FROM ./tiny.gguf\nSYSTEM Be kind.\n")
    return path
