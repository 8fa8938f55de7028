"""The `paddock` command without a running `up`: grammar, keys, objects, texts, the cache."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.gguf_maker import make_gguf

from paddock_operator.__main__ import main as operator_main
from paddock_operator.cli import main
from paddock_operator.cli.columns import columns, lookup
from paddock_operator.cli.store import full_name
from paddock_operator.cli.text import age, ago, size, span
from paddock_operator.core.identity import secret_hash
from paddock_operator.core.resources import Ref
from paddock_operator.executors.local import keys, state
from paddock_operator.executors.local.crdfiles import crds
from paddock_operator.executors.local.home import Home, Ownership
from paddock_operator.executors.local.plain import safe

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = Home.at(tmp_path / "home")
    found.prepare()
    return found


class Ran:
    """What a command did."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def paddock(home: Home, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def run(*arguments: str) -> Ran:
        try:
            code = main([*arguments, "--home", str(home.root)])
        except SystemExit as error:
            code = int(error.code or 0)
        return Ran(code, *capsys.readouterr())

    return run


def put(home: Home, name: str, namespace: str = "default", kind: str = "Model", **status: Any) -> dict[str, Any]:
    document = {
        "apiVersion": "paddock.dev/v1alpha1",
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": namespace,
            "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"source": {"ollama": {"name": f"{name}:1b"}}},
    }
    ready = {"type": "Ready", "status": "True", "reason": "Serving", "message": "it serves"}
    ready["lastTransitionTime"] = "2026-01-01T00:00:00Z"
    state.write(home, document, {"conditions": [ready], **status})
    found = state.read(home, Ref(kind, namespace, name))
    assert found is not None
    return found


# Grammar


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["get"],
        ["up"],
        ["up", "-f", "x", "--output", "xml"],
        ["key"],
        ["key", "create"],
        ["rm"],
        ["get", "models", "-o", "table"],
    ],
)
def test_bad_usage_is_exit_code_2(paddock: Callable[..., Ran], arguments: list[str]) -> None:
    ran = paddock(*arguments)
    assert ran.code == 2
    assert ran.err.startswith("usage: paddock")
    assert ran.out == ""


def test_version(paddock: Callable[..., Ran]) -> None:
    assert paddock("version").out.startswith("paddock 0.")


def test_importing_the_command_is_light() -> None:
    code = "import sys, paddock_operator.cli; print(*[m for m in sys.modules if m.split('.')[0] in " + (
        "('yaml','rich','jsonschema','cel','httpx','asyncio')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_global_options_stand_before_or_after_the_verb(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    keys.create(home.keys, "default", "k")
    for arguments in (["--home", str(home.root), "key", "list"], ["key", "list", "--home", str(home.root)]):
        assert main(arguments) == 0
        assert "default" in capsys.readouterr().out


def test_listen_must_be_an_address(paddock: Callable[..., Ran]) -> None:
    ran = paddock("up", "-f", "x", "--listen", "here")
    assert (ran.code, ran.err) == (2, "paddock: --listen: 'here' is not HOST:PORT, for example 127.0.0.1:11434\n")


def test_the_operator_program_needs_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        operator_main(["run"])
    assert ended.value.code == 2
    assert "required: --config" in capsys.readouterr().err


# Keys


def test_key_create_list_revoke(paddock: Callable[..., Ran], home: Home) -> None:
    made = paddock("key", "create", "laptop", "--models", "a,b", "--expires", "30d", "-n", "team")
    assert made.code == 0
    assert made.out.startswith("pdk_")
    record = keys.stored(home.keys)[0][0]
    assert (record.id, record.sha256, record.models) == ("team/laptop", secret_hash(made.out.strip()), ("a", "b"))
    until = datetime.fromisoformat(record.expires or "")
    assert abs(until - datetime.now(UTC) - timedelta(days=30)) < timedelta(minutes=1)
    listed = paddock("key", "list")
    assert made.out.strip() not in listed.out
    assert listed.out.splitlines()[1].split()[:4] == ["team", "laptop", "a,b", "infer"]
    assert paddock("key", "list", "-n", "other").out.splitlines()[1:] == []
    assert paddock("key", "create", "laptop", "-n", "team").err.startswith("paddock: a key 'laptop' exists")
    assert paddock("key", "revoke", "laptop", "-n", "team").code == 0
    again = paddock("key", "revoke", "laptop", "-n", "team")
    assert (again.code, again.err) == (1, "paddock: no key 'laptop' in namespace 'team'\n")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["k", "--expires", "soon"], 2, "neither a duration such as 30d nor"),
        (["k", "--expires", "2020-01-01T00:00:00Z"], 2, "has passed already"),
        (["k", "--models", ","], 2, "--models"),
        (["k", "--verbs", "rule"], 2, "--verbs must be of infer, manage"),
        (["K"], 1, "lower-case"),
        (["../k"], 1, "lower-case"),
    ],
)
def test_bad_keys(paddock: Callable[..., Ran], home: Home, arguments: list[str], code: int, words: str) -> None:
    ran = paddock("key", "create", *arguments)
    assert ran.code == code
    assert words in ran.err
    assert ran.out == ""
    assert not list(home.keys.rglob("*.yaml"))


# Objects


def test_get_has_the_columns_of_the_crd(paddock: Callable[..., Ran], home: Home) -> None:
    put(home, "smollm2", resolved={"shortDigest": "abc", "sizeText": "98.4 MB"}, readyReplicas=1)
    lines = paddock("get", "models").out.splitlines()
    assert lines[0].split() == ["NAME", "READY", "REASON", "DIGEST", "SIZE", "REPLICAS", "AGE"]
    assert lines[1].split()[:4] == ["smollm2", "Unknown", "NotRunning", "abc"]
    assert "MESSAGE" in paddock("get", "model", "smollm2", "-o", "wide").out


def test_a_status_is_believed_while_up_runs(paddock: Callable[..., Ran], home: Home) -> None:
    put(home, "smollm2")
    owned = Ownership.take(home)
    assert "True" in paddock("get", "models").out
    owned.release()
    assert "Unknown" in paddock("get", "models").out


def test_get_json_and_yaml(paddock: Callable[..., Ran], home: Home) -> None:
    put(home, "a")
    put(home, "b", "team")
    found = json.loads(paddock("get", "models", "-o", "json").out)
    assert [item["metadata"]["name"] for item in found["items"]] == ["a", "b"]
    one = yaml.safe_load(paddock("get", "model", "b", "-o", "yaml").out)
    assert (one["kind"], one["metadata"]["namespace"]) == ("Model", "team")
    assert one["status"]["conditions"][0]["status"] == "Unknown"


def test_namespaces_show_when_there_are_several(paddock: Callable[..., Ran], home: Home) -> None:
    put(home, "a")
    put(home, "b", "team")
    assert paddock("get", "models").out.splitlines()[2].split()[:2] == ["team", "b"]
    assert len(paddock("get", "models", "-n", "team").out.splitlines()) == 2


def test_what_is_not_there(paddock: Callable[..., Ran], home: Home) -> None:
    ran = paddock("get", "model", "x", "-n", "y")
    assert (ran.code, ran.err) == (1, f"paddock: no Model 'x' in namespace y in {home.root}\n")
    assert paddock("get", "pods").code == 2
    assert paddock("describe", "model", "x").code == 1
    assert paddock("get", "endpoints").out.split()[0] == "NAME"


def test_describe(paddock: Callable[..., Ran], home: Home) -> None:
    put(home, "smollm2", resolved={"digest": "sha256:abc"})
    shown = paddock("describe", "model", "smollm2").out
    for words in ("Name:        smollm2", "digest: sha256:abc", "name: smollm2:1b", "NotRunning", "Conditions:"):
        assert words in shown
    put(home, "smollm2", "team")
    assert paddock("describe", "model", "smollm2").code == 2
    assert "Namespace:   team" in paddock("describe", "model", "smollm2", "-n", "team").out


def test_printer_columns_are_all_understood() -> None:
    for crd in crds():
        for column in columns(crd):
            assert column.cell({}, NOW) == ""


def test_lookup() -> None:
    document = {"a": {"b": 1}, "list": [{"k": "x", "v": 1}, {"k": "y", "v": 2}]}
    assert lookup(document, ".a.b") == 1
    assert lookup(document, '.list[?(@.k=="y")].v') == 2
    assert lookup(document, '.list[?(@.k=="z")].v') is None
    assert lookup(document, ".a.b.c") is None
    with pytest.raises(ValueError, match="not a path"):
        lookup(document, ".a[0]")


# Texts


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1500, "1.5 KB"),
        (98_362_432, "98 MB"),
        (4_700_000_000, "4.7 GB"),
        (2 * 10**12, "2.0 TB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (3600, "1 hour"),
        (86400 * 8, "1 week"),
        (86400 * 800, "2 years"),
    ],
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_times() -> None:
    assert ago("2026-01-02T11:58:00Z", NOW) == "2 minutes ago"
    assert ago("2026-01-02T12:05:00.123456789Z", NOW) == "5 minutes from now"
    assert ago("never", NOW) == "never"
    assert [
        age(text, NOW) for text in ("2026-01-02T11:59:53Z", "2026-01-02T09:00:00Z", "2025-12-30T12:00:00Z", "x")
    ] == [
        "7s",
        "3h",
        "3d",
        "",
    ]


def test_names_do_not_steer_the_terminal() -> None:
    assert safe("a\x1b[31mb\nc") == "a [31mb c"


# The cache


@pytest.fixture
def modelfile(tmp_path: Path) -> Path:
    make_gguf(tmp_path / "tiny.gguf")
    path = tmp_path / "Modelfile"
    path.write_text("FROM ./tiny.gguf\nPARAMETER temperature 0.5\nSYSTEM Be kind.\nLICENSE MIT\n")
    return path


def test_the_life_of_a_model_in_the_cache(paddock: Callable[..., Ran], modelfile: Path) -> None:
    assert paddock("list").out.split() == ["NAME", "ID", "SIZE", "MODIFIED"]
    made = paddock("create", "tiny", "-f", str(modelfile))
    assert made.code == 0, made.err
    assert made.err.splitlines()[-1] == "success"
    assert made.out == ""
    row = paddock("ls").out.splitlines()[1].split()
    assert row[0] == "tiny:latest"
    assert len(row[1]) == 12
    assert row[3] == "KB"
    shown = paddock("show", "tiny").out
    for words in ("architecture        llama", "temperature", "0.5", "Be kind.", "MIT", "completion"):
        assert words in shown
    assert paddock("cp", "tiny", "twin").out == "copied 'tiny' to 'twin'\n"
    assert paddock("rm", "tiny").out.startswith("deleted 'tiny")
    assert [line.split()[0] for line in paddock("list").out.splitlines()[1:]] == ["twin:latest"]


def test_errors_of_the_cache_are_one_line(paddock: Callable[..., Ran], tmp_path: Path) -> None:
    for arguments in (["show", "none"], ["rm", "none"], ["cp", "none", "x"], ["show", "///"]):
        ran = paddock(*arguments)
        assert ran.code == 1, arguments
        assert ran.err.startswith("paddock: ")
        assert ran.err.count("\n") == 1
    (tmp_path / "bad.gguf").write_text("this is no GGUF")
    (tmp_path / "Bad").write_text("FROM ./bad.gguf\n")
    ran = paddock("create", "bad", "-f", str(tmp_path / "Bad"))
    assert ran.code == 1
    assert "GGUF" in ran.err.splitlines()[-1]
    assert paddock("create", "x", "-f", str(tmp_path / "Nothing")).code == 2


def test_a_model_that_is_served_is_not_removed(paddock: Callable[..., Ran], home: Home, modelfile: Path) -> None:
    paddock("create", "tiny:1b", "-f", str(modelfile))
    put(home, "tiny")
    owned = Ownership.take(home)
    ran = paddock("rm", "TINY:1b")
    owned.release()
    assert ran.code == 1
    assert "is served by Model default/tiny of the running paddock up (process" in ran.err
    assert paddock("rm", "tiny:1b").code == 0


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("smollm2", "registry.ollama.ai/library/smollm2:latest"),
        ("SmolLM2:135m", "registry.ollama.ai/library/smollm2:135m"),
        ("me/x:y", "registry.ollama.ai/me/x:y"),
        ("h:5000/me/x", "h:5000/me/x:latest"),
    ],
)
def test_full_names(name: str, full: str) -> None:
    assert full_name(name) == full
