"""Secrets of sources on one machine: what is accepted, what a puller gets, and that nothing of it stays."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.waiting import until

from paddock_operator.core.model_spec import Source
from paddock_operator.core.resources import Ref
from paddock_operator.core.wire import build
from paddock_operator.executors.local.context import Context
from paddock_operator.executors.local.credentials import Credentials, find, mounted
from paddock_operator.executors.local.home import Home
from paddock_operator.executors.local.manifests import checker
from paddock_operator.executors.local.puller import Puller
from paddock_operator.executors.local.report import JsonReporter
from paddock_operator.executors.local.yamlread import Document

HIDDEN = "hunter2-hunter2"
# Tells what it was given, in the shape of a result or of an error.
PULLER = """
import json, os, pathlib, sys
out, words = pathlib.Path(sys.argv[1]), sys.argv[2:]
folder = pathlib.Path(words[words.index("--credentials") + 1]) if "--credentials" in words else None
seen = {path.name: [path.read_text(), path.stat().st_mode & 0o777] for path in folder.iterdir()} if folder else {}
mode = folder.stat().st_mode & 0o777 if folder else 0
asked = {"files": seen, "mode": mode, "argv": words, "offline": os.environ.get("PADDOCK_OFFLINE", "")}
with out.open("a") as file:
    file.write(json.dumps(asked) + "\\n")
if not folder:
    end = {"event": "error", "reason": "Offline", "message": "nothing is sent", "retryable": False}
elif seen.get("token", [""])[0] == "wrong":
    end = {"event": "error", "reason": "Unauthorized", "message": "401 from the registry", "retryable": False}
else:
    end = {"event": "result", "result": {"digest": "sha256:ab", "name": "n", "size": 1}}
print(json.dumps(end), flush=True)
"""


def secret(**members: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "registry"}} | members


@pytest.mark.parametrize(
    "members",
    [
        {"stringData": {"token": HIDDEN}},
        {"type": "Opaque", "data": {"token": base64.b64encode(HIDDEN.encode()).decode()}, "immutable": True},
        {"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": "{}"}},
        {"data": None},
    ],
)
def test_secrets_that_are_accepted(members: dict[str, Any]) -> None:
    assert checker()(secret(**members)) == []


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"token": HIDDEN}, "token: unknown field"),
        ({"stringData": [HIDDEN]}, "stringData: must be an object"),
        ({"stringData": {"token": 1234567}}, "stringData.token: must be a string"),
        ({"stringData": {f"../{HIDDEN}": "x"}}, "key number 1"),
        ({"stringData": {"..data": "x"}}, "key number 1"),
        ({"stringData": {".": "x"}}, "key number 1"),
        ({"stringData": {"a" * 254: "x"}}, "at most 253"),
        ({"data": {"token": f"{HIDDEN}!"}}, "data: must hold base64"),
        ({"stringData": {"token": HIDDEN * 100_000}}, "limit of 1048576"),
        ({"stringData": {f"k{number}": "x" for number in range(257)}}, "257 keys"),
        ({"type": 7}, "type: must be a string"),
    ],
)
def test_secrets_that_are_refused_in_words_without_their_values(members: dict[str, Any], words: str) -> None:
    (problem,) = checker()(secret(**members))
    assert words in problem
    assert HIDDEN not in problem
    assert "1234567" not in problem


def test_a_source_finds_its_secret_in_its_namespace_only() -> None:
    source = build(Source, {"ollama": {"name": "a", "secretRef": {"name": "registry"}}})
    body = secret(data={"password": base64.b64encode(b"\xff\n").decode()}, stringData={"username": "me"})
    declared = {Ref("Secret", "team", "registry"): Document("f", 1, body)}
    found = find(source, "team", declared)
    assert found == Credentials("registry", {"password": b"\xff\n", "username": b"me"})
    assert "me'" not in repr(found)
    assert find(source, "default", declared) == Credentials("registry", None)
    assert find(build(Source, {"http": {"url": "https://a/b", "sha256": "0" * 64}}), "team", declared) is None


def test_files_are_private_and_gone_afterwards(tmp_path: Path) -> None:
    with mounted(Credentials("a", {"token": b"x"}), tmp_path) as folder:
        assert folder is not None
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600
    with mounted(Credentials("a", None), tmp_path) as folder:
        assert folder is None
    assert list(tmp_path.iterdir()) == []


class Pulls:
    """A puller whose child writes down what it was given."""

    def __init__(self, tmp_path: Path) -> None:
        self.home = Home.at(tmp_path / "home")
        self.home.prepare()
        self._asked = tmp_path / "asked"
        runner = (sys.executable, "-c", PULLER, str(self._asked))
        context = Context(self.home, JsonReporter(io.StringIO(), io.StringIO()), runner=runner)
        self.puller = Puller(context, "p-pull", lambda: None, lambda *_: None)

    async def end(self, state: str) -> dict[str, Any]:
        await until(lambda: self.puller.observed.state == state)
        asked: dict[str, Any] = json.loads(self._asked.read_text().splitlines()[-1])
        return asked


async def test_a_secret_that_comes_later_and_is_wrong_at_first(tmp_path: Path) -> None:
    pulls = Pulls(tmp_path)
    pulls.puller.credentials = Credentials("registry")
    pulls.puller.ensure({"source": {}, "digest": None}, "k")
    asked = await pulls.end("failed")
    assert (asked["offline"], asked["files"]) == ("1", {}), "only the cache may answer"
    seen = pulls.puller.observed
    assert (seen.reason, seen.retryable) == ("SecretNotFound", True)
    assert seen.message == "Secret registry does not exist in this namespace; create it"

    pulls.puller.credentials = Credentials("registry", {"token": b"wrong"})
    pulls.puller.retry_now()
    await until(lambda: pulls.puller.observed.reason == "Unauthorized")
    assert pulls.puller.observed.retryable
    assert pulls.puller.observed.message == "401 from the registry; correct the Secret of secretRef"

    pulls.puller.credentials = Credentials("registry", {"token": HIDDEN.encode()})
    pulls.puller.retry_now()
    asked = await pulls.end("succeeded")
    assert asked["files"] == {"token": [HIDDEN, 0o600]}
    assert (asked["mode"], asked["offline"]) == (0o700, "")
    assert HIDDEN not in " ".join(asked["argv"])
    assert list(pulls.home.run.glob("credentials-*")) == []
    await pulls.puller.stop()


async def test_a_pull_that_is_cancelled_leaves_no_files(tmp_path: Path) -> None:
    pulls = Pulls(tmp_path)
    pulls.puller._context.runner = (sys.executable, "-c", "import time; time.sleep(60)")
    pulls.puller.credentials = Credentials("registry", {"token": b"x"})
    pulls.puller.ensure({"source": {}, "digest": None}, "k")
    await until(lambda: list(pulls.home.run.glob("credentials-*/token")))
    await asyncio.wait_for(pulls.puller.stop(), 10)
    assert list(pulls.home.run.glob("credentials-*")) == []
