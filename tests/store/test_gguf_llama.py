"""The check against the real llama.cpp: what ends it, hangs it or takes its memory is refused before it gets there."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tests.store.gguf_mutations import LETTERS, named, random_header, vocabulary
from tests.store.raw_gguf import SPM_KINDS, SPM_TOKENS, U32, BytesRange, Raw, whole

from paddock_runner.store.errors import StoreError
from paddock_runner.store.gguf import read_gguf_from

pytestmark = pytest.mark.model
RANDOM = 40
FINE = ("loaded", "refused", "no context", "decoded")


@contextlib.contextmanager
def trial(folder: Path) -> Iterator[subprocess.Popen[str]]:
    script = Path(__file__).with_name("llama_trial.py")
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            yield child
        finally:
            child.communicate(timeout=60)


def outcomes(folder: Path, files: Mapping[str, Raw]) -> dict[str, dict[str, str]]:
    """What llama.cpp did with each of these files."""
    found = {}
    path = folder / "file.gguf"
    with trial(folder) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for name, raw in files.items():
            path.write_bytes(raw.build())
            child.stdin.write(f"{path}\n")
            child.stdin.flush()
            found[name] = json.loads(child.stdout.readline())
    return found


def refusal(raw: Raw) -> str | None:
    try:
        read_gguf_from(BytesRange(raw.build()))
    except StoreError as error:
        return str(error)
    return None


def dies(outcome: Mapping[str, str]) -> bool:
    return not all(outcome[mode].startswith(FINE) for mode in ("vocabulary", "whole"))


def test_what_kills_llama_cpp_is_refused(tmp_path: Path) -> None:
    files = dict(named())
    found = outcomes(tmp_path, files)
    assert {name: outcome for name, outcome in found.items() if not dies(outcome)} == {}
    assert [name for name in files if refusal(files[name]) is None] == []


def test_random_headers_never_pass_and_kill(tmp_path: Path) -> None:
    files = {f"seed {seed}": random_header(seed) for seed in range(RANDOM)}
    found = outcomes(tmp_path, files)
    accepted = [name for name in files if refusal(files[name]) is None]
    assert 5 <= len(accepted) < RANDOM
    assert {name: found[name] for name in accepted if dies(found[name])} == {}


def test_what_llama_cpp_runs_is_accepted(tmp_path: Path) -> None:
    files = {
        "dense": whole(),
        "experts": whole(experts=4),
        "bert": vocabulary("bert", LETTERS, bos_token_id=(U32, 1), seperator_token_id=(U32, 2)),
        "t5": vocabulary("t5", SPM_TOKENS, SPM_KINDS),
        "gpt2": vocabulary("gpt2", LETTERS),
    }
    found = outcomes(tmp_path, files)
    assert {name: outcome["whole"] for name, outcome in found.items()} == dict.fromkeys(files, "decoded 0")
    assert {name: refusal(raw) for name, raw in files.items()} == dict.fromkeys(files)
