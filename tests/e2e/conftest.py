"""What the end-to-end tests share: a cache with a tiny model, and homes that use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.gguf_maker import make_gguf
from tests.support.up import Up, create


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder starts programs."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 0.4 MB whose context is long enough for streams of many seconds."""
    return make_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", context_length=65536)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory, tiny_gguf: Path) -> Path:
    """A model folder that holds `tiny` and `other`."""
    home = tmp_path_factory.mktemp("cache") / "home"
    create(home, "tiny", tiny_gguf)
    create(home, "other", tiny_gguf, "SYSTEM another")
    return home / "models"


@pytest.fixture
def up(tmp_path: Path, cache: Path) -> Iterator[Callable[..., Up]]:
    """Start `paddock up` on tmp_path/manifests with tmp_path/home; all are ended after the test."""
    with ExitStack() as stack:

        def start(*arguments: str, **options: object) -> Up:
            home, folder = tmp_path / "home", tmp_path / "manifests"
            folder.mkdir(exist_ok=True)
            models = [] if "--models" in arguments else ["--models", str(cache)]
            return stack.enter_context(Up(home, folder, *models, *arguments, **options))  # type: ignore[arg-type]

        yield start
