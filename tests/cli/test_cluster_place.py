"""Which place a verb is for: this machine or a cluster, from arguments, a running `up` and kubeconfigs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from paddock_operator.cli.errors import CliError
from paddock_operator.cli.parser import build
from paddock_operator.cli.place import Target, target_of
from paddock_operator.executors.local.home import Home, Ownership

Where = Callable[..., Target | None]


def kubeconfig(path: Path, current: str = "one", **contexts: dict[str, Any]) -> Path:
    listed = [{"name": name, "context": {"cluster": "c", "user": "u", **more}} for name, more in contexts.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"current-context": current, "contexts": listed}))
    return path


@pytest.fixture(autouse=True)
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without kubeconfig and without a running up."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("PADDOCK_HOME", raising=False)
    return tmp_path


@pytest.fixture
def where() -> Where:
    def find(*arguments: str, cluster: bool = False) -> Target | None:
        parsed = build().parse_args(arguments or ("get", "models"))
        parsed.cluster = cluster
        return target_of(parsed)

    return find


@pytest.fixture
def config(person: Path) -> Path:
    return kubeconfig(person / ".kube/config", one={}, two={"namespace": "chat"})


@pytest.fixture
def up(person: Path) -> Iterator[None]:
    home = Home.at()
    home.prepare()
    owned = Ownership.take(home)
    yield
    owned.release()


def test_nothing_at_all_is_this_machine(where: Where) -> None:
    assert where() is None
    assert where("get", "models", "-n", "chat") is None


def test_a_kubeconfig_is_a_cluster(where: Where, config: Path) -> None:
    assert where() == Target(str(config), "one", "default")
    assert where("key", "create", "k") == Target(str(config), "one", "default")


@pytest.mark.usefixtures("config", "up")
def test_a_running_up_is_this_machine(where: Where) -> None:
    assert where() is None


@pytest.mark.usefixtures("up")
def test_a_namespace_or_a_context_is_a_cluster_all_the_same(where: Where, config: Path) -> None:
    assert where("get", "models", "-n", "x") == Target(str(config), "one", "x")
    assert where("get", "models", "-A") == Target(str(config), "one", "default")
    assert where("get", "models", "--context", "two") == Target(str(config), "two", "chat")
    assert where(cluster=True) == Target(str(config), "one", "default")


@pytest.mark.usefixtures("config")
@pytest.mark.parametrize("words", [["--local"], ["--home", "/tmp/x"], ["--local", "-n", "chat"], ["--models", "/m"]])
def test_local_words_win_over_a_kubeconfig(where: Where, words: list[str]) -> None:
    assert where("get", "models", *words) is None


def test_files_of_the_variable_are_joined_and_the_first_current_context_counts(
    where: Where, person: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = kubeconfig(person / "a", "", one={})
    second, third = kubeconfig(person / "b", "two", two={}), kubeconfig(person / "c", "three", three={})
    paths = [str(path) for path in (first, person / "absent", second, third)]
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join(paths))
    joined = os.pathsep.join(str(path) for path in (first, second, third))
    assert where() == Target(joined, "two", "default")
    assert where("get", "models", "--context", "three") == Target(joined, "three", "default")


def refused(where: Where, *arguments: str, cluster: bool = False) -> tuple[int, str]:
    with pytest.raises(CliError) as caught:
        where(*arguments, cluster=cluster)
    return caught.value.code, str(caught.value)


def test_what_is_asked_for_and_is_not_there(where: Where, person: Path) -> None:
    code, message = refused(where, cluster=True)
    assert (code, message) == (
        1,
        "no kubeconfig: ~/.kube/config does not exist; give --kubeconfig FILE, or set KUBECONFIG",
    )
    assert refused(where, "get", "models", "--kubeconfig", "/no/file") == (
        2,
        "--kubeconfig: there is no file /no/file",
    )
    config = kubeconfig(person / ".kube/config", "", one={}, two={})
    assert refused(where, cluster=True)[1].startswith(f"{config} has no current context; choose one")
    assert refused(where, "get", "models", "--context", "three") == (
        2,
        f"no context 'three' in {config}; known are: one, two",
    )
    assert where() is None


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "\x00"])
def test_a_broken_kubeconfig_is_no_cluster_and_an_error_if_asked_for(where: Where, person: Path, text: str) -> None:
    (person / "broken").write_text(text)
    assert refused(where, "get", "models", "--kubeconfig", str(person / "broken"))[1].startswith(str(person / "broken"))
    (person / ".kube").mkdir()
    (person / ".kube/config").write_text(text)
    assert where() is None


@pytest.mark.usefixtures("config")
def test_words_for_both_places_contradict(where: Where) -> None:
    assert refused(where, "get", "models", "--local", "--context", "one") == (
        2,
        "--local is for this machine and --context for a cluster; leave one out",
    )
    assert "kubectl paddock for a cluster" in refused(where, "get", "models", "--home", "/x", cluster=True)[1]
