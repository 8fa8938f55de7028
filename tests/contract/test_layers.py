"""The import contracts hold, and each of them fails when it is violated."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

VIOLATIONS = [
    ("runner/paddock_runner/core/zz.py", "import asyncio", "runner core is pure"),
    ("runner/paddock_runner/core/zz.py", "import paddock_runner.api", "runner layers"),
    ("runner/paddock_runner/store/zz.py", "import paddock_runner.engine", "runner layers"),
    ("runner/paddock_runner/api/zz.py", "import paddock_runner.gateway", "runner layers"),
    ("runner/paddock_runner/api/zz.py", "import llama_cpp", "only engine.llama and the engine child know llama.cpp"),
    ("runner/paddock_runner/api/zz.py", "import paddock_operator.core", "operator and runner never import each other"),
    ("operator/paddock_operator/core/zz.py", "import time", "operator core is pure"),
    ("operator/paddock_operator/core/zz.py", "import paddock_operator.cli", "operator layers"),
    (
        "operator/paddock_operator/cli/zz.py",
        "import paddock_runner.store",
        "operator and runner never import each other",
    ),
]


COMMAND = """
import sys
sys.path[:0] = ["operator", "runner"]
from importlinter.cli import lint_imports_command
lint_imports_command(["--no-cache"])
"""


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", COMMAND], cwd=tree, capture_output=True, text=True, check=False)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("operator", "runner"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_tree_keeps_its_contracts(tree: Path) -> None:
    result = lint(tree)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(("module", "statement", "contract"), VIOLATIONS)
def test_a_violation_is_refused(tree: Path, module: str, statement: str, contract: str) -> None:
    (tree / module).write_text(f"{statement}\n")
    result = lint(tree)
    assert result.returncode == 1
    assert f"{contract} BROKEN" in result.stdout
