"""The verbs of the CLI against a running `paddock up` with the real programs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from tests.support.up import Up, cli, create, endpoint, model, write
from tests.support.waiting import until_sync


def test_a_day_with_the_command(up: Callable[..., Up], tmp_path: Path, tiny_gguf: Path) -> None:
    home = tmp_path / "home"
    create(home, "tiny:1b", tiny_gguf)
    write(tmp_path / "manifests", model("tiny", "tiny:1b", parameters={"num_predict": 5}), endpoint("main", "tiny"))
    running = up("--models", str(home / "models")).ready()

    answer = cli(home, "run", "tiny", "hello", "--verbose")
    assert answer.returncode == 0, answer.stderr
    assert len(answer.stdout.strip()) > 0
    assert re.search(r"^eval count: +5 token\(s\)$", answer.stderr, re.MULTILINE)
    assert cli(home, "run", "tiny", stdin="from a pipe").returncode == 0
    assert "tiny" in cli(home, "ps").stdout

    row = cli(home, "get", "models").stdout.splitlines()[1].split()
    assert row[:3] == ["tiny", "True", "Serving"]
    found = json.loads(cli(home, "get", "endpoint", "main", "-o", "json").stdout)
    assert found["status"]["url"] == running.url
    described = cli(home, "describe", "model", "tiny").stdout
    assert re.search(r"^Ready +True +Serving", described, re.MULTILINE)
    assert "digest: sha256:" in described

    refused = cli(home, "rm", "tiny:1b")
    assert (refused.returncode, "is served by Model default/tiny" in refused.stderr) == (1, True)
    unknown = cli(home, "run", "ghost", "hello")
    assert unknown.returncode == 1
    assert "ghost" in unknown.stderr

    assert cli(home, "stop", "tiny").stderr == "stopped 'tiny'\n"
    until_sync(lambda: len(cli(home, "ps").stdout.splitlines()) == 1, 15)
    assert cli(home, "run", "tiny", "wake up").returncode == 0

    outsider = cli(home, "run", "tiny", "x", "--url", running.url, PADDOCK_API_KEY="pdk_00000000_wrong")
    assert outsider.returncode == 1
    assert "401" in outsider.stderr
    assert cli(home, "run", "tiny", "x", "--url", running.url, PADDOCK_API_KEY=running.key).returncode == 0

    running.stop()
    assert "Unknown" in cli(home, "get", "models").stdout
    assert cli(home, "ps").stderr.startswith("paddock: no paddock up runs")
    assert cli(home, "rm", "tiny:1b").returncode == 0
