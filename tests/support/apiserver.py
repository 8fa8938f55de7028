"""A real API server with etcd for one test run: the fixtures `apiserver` and `namespace`.

Registered by `tests/conftest.py`. Nothing else runs: no controllers (so no garbage collection, no default
ServiceAccounts, no pods) and no nodes; what a test needs of those it writes itself.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster import build, pki
from e2e.cluster.api import Api, wait, write_kubeconfig
from e2e.cluster.servers import ApiServerOptions, apiserver_command, etcd_command, free_port

CRDS = Path(__file__).resolve().parents[2] / "crds"
START_SECONDS = 60.0


class ApiServer:
    """etcd and kube-apiserver on loopback, in a folder of their own."""

    def __init__(self, folder: Path, programs: Path) -> None:
        """Make the certificates; nothing runs before `start()`."""
        self.folder, self.programs = folder, programs
        self.pki = folder / "pki"
        pki.make(self.pki, [pki.server(["localhost", "127.0.0.1"]), pki.ADMIN, pki.FRONT_PROXY, pki.KUBELET_CLIENT])
        self.port, self._etcd_port = free_port(), free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.ca = self.pki / "ca.crt"
        self.audit_log = folder / "audit.log"
        self.kubeconfig = write_kubeconfig(folder / "kubeconfig", self.url, self.pki)
        self.api = Api(self.url, self.pki)
        self._etcd: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start both and wait until the API server is ready."""
        command = etcd_command(self.programs, self.folder / "etcd", self._etcd_port, free_port())
        self._etcd = self._spawn("etcd", command)
        self.start_server()

    def start_server(self) -> None:
        """Start the API server and wait until it is ready; raises RuntimeError with its log when it ends by itself."""
        options = ApiServerOptions(
            self.programs, self.pki, self.folder, f"http://127.0.0.1:{self._etcd_port}", "127.0.0.1", self.port
        )
        # A loopback address is not allowed in the endpoints of the Service kubernetes, which nobody uses here.
        command = [*apiserver_command(options), "--endpoint-reconciler-type=none"]
        self._server = self._spawn("kube-apiserver", command)
        wait("the API server is ready", self._ready, START_SECONDS)

    def kill_server(self) -> None:
        """SIGKILL to the API server; etcd and the data stay."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()

    def restart(self) -> None:
        """SIGKILL to the API server, then start it again on the same data and port."""
        self.kill_server()
        self.start_server()

    def stop(self) -> None:
        """Stop both."""
        for process in (self._server, self._etcd):
            if process is not None:
                process.kill()
                process.wait()

    def kubectl(self, *args: str, input: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the administrator. With `check` a failure is a RuntimeError that holds kubectl's complaint."""
        env = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "KUBECONFIG": str(self.kubeconfig)}
        command = [str(self.programs / "kubectl"), *args]
        done = subprocess.run(command, input=input, text=True, capture_output=True, env=env, check=False)
        if check and done.returncode != 0:
            raise RuntimeError(f"kubectl {' '.join(args)} failed: {done.stderr.strip()}")
        return done

    def token_for(self, namespace: str, name: str) -> str:
        """A bearer token of an existing ServiceAccount, valid for an hour."""
        return self.kubectl("create", "token", name, "-n", namespace).stdout.strip()

    def _ready(self) -> bool:
        for process in (self._etcd, self._server):
            if process is not None and process.poll() is not None:
                logs = [f"{path}:\n{path.read_text()[-2000:]}" for path in sorted(self.folder.glob("*.err"))]
                raise RuntimeError("it ended by itself; " + "\n".join(logs))
        return self.api.ready()

    def _spawn(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        # setpriv makes the kernel kill the child when this process dies, whatever the reason.
        with (self.folder / f"{name}.err").open("ab") as log:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def install_crds(server: ApiServer) -> None:
    """Apply the project's CustomResourceDefinitions and wait until they are served."""
    server.kubectl("apply", "--server-side", "-f", str(CRDS))
    server.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", str(CRDS))


@contextlib.contextmanager
def running(folder: Path) -> Iterator[ApiServer]:
    """An API server that serves the project's kinds, built first if need be."""
    server = ApiServer(folder, build.ensure("apiserver"))
    try:
        server.start()
        install_crds(server)
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def apiserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """One API server for the whole test run; work in a namespace of your own."""
    with running(tmp_path_factory.mktemp("apiserver")) as server:
        yield server


@pytest.fixture
def namespace(apiserver: ApiServer) -> Iterator[str]:
    """A fresh namespace. Models and Endpoints in it are deleted afterwards, so that no later operator sees them."""
    name = f"test-{secrets.token_hex(4)}"
    apiserver.api.apply(
        f"/api/v1/namespaces/{name}", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    )
    yield name
    for plural in ("models", "endpoints"):
        apiserver.api.request("DELETE", f"/apis/paddock.dev/v1alpha1/namespaces/{name}/{plural}")
