"""`paddock fit` and `paddock show --memory`: numbers of the cache's models beside the machine's free memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.support.gguf_maker import make_gguf

from paddock_operator.cli import fit, main
from paddock_operator.executors.local.machine import free_memory


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fit")
    make_gguf(folder / "tiny.gguf")
    (folder / "Modelfile").write_text("FROM ./tiny.gguf\n")
    for name in ("one", "two"):
        assert main(["create", name, "-f", str(folder / "Modelfile"), "--home", str(folder / "home")]) == 0
    return folder / "home"


def test_table_of_all_models(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--home", str(home), "--context", "1024"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["NAME", "CONTEXT", "SLOTS", "WEIGHTS", "CACHE", "STEP", "TOTAL", "FITS"]
    assert {line.split()[0] for line in lines[1:3]} == {"one:latest", "two:latest"}
    assert all(line.split()[1] == "1024" and line.endswith("yes") for line in lines[1:3])
    assert lines[3].startswith("free on this machine: ")


def test_json_of_one_that_does_not_fit(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "free_memory", lambda: 1000)
    assert main(["fit", "one", "--home", str(home), "-o", "json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["free"], len(document["models"])) == (1000, 1)
    assert document["models"][0]["fits"] is False


def test_parts_of_one_model(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["show", "one", "--memory", "--context", "8192", "--slots", "1", "--home", str(home)]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "1 sequences with 8192 tokens" in out
    assert "keys and values" in out
    assert main([*arguments, "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["engine"]["context"] == 8192
    assert main(["show", "one", "--home", str(home)]) == 0
    assert "architecture" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["fit", "nowhere"], ["show", "nowhere", "--memory"], ["fit", "-x"]])
def test_failures(home: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main([*arguments, "--home", str(home)])
    except SystemExit as error:
        code = int(error.code or 0)
    assert code in (1, 2)
    assert capsys.readouterr().err


MEMINFO = "MemTotal:  100 kB\nMemAvailable:   50 kB\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 0),
        ({"proc/meminfo": MEMINFO}, 51200),
        ({"proc/meminfo": MEMINFO, "sys/fs/cgroup/memory.max": "max\n"}, 51200),
        ({"proc/meminfo": MEMINFO, "sys/fs/cgroup/memory.max": "9000", "sys/fs/cgroup/memory.current": "5000",
          "sys/fs/cgroup/memory.stat": "anon 1\ninactive_file 500\n"}, 4500),
        ({"proc/meminfo": MEMINFO, "sys/fs/cgroup/memory/memory.limit_in_bytes": "9000",
          "sys/fs/cgroup/memory/memory.usage_in_bytes": "9900"}, 1),
    ],
)  # fmt: skip
def test_free_memory(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert free_memory(tmp_path) == expected
