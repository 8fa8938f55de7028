"""Parts of the proving ground that need no cluster: certificates, pid files, firewall rules, build key, packages."""

from __future__ import annotations

import io
import json
import ssl
import subprocess
import tarfile
from pathlib import Path

import pytest
from tests.support.waiting import alive

from e2e.cluster import apt, build, delivery, leftovers, network, pause, pki, process, wheels
from e2e.cluster.api import DeadlineError, wait, write_kubeconfig


@pytest.fixture
def pids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(process, "PIDS", tmp_path / "pids")
    monkeypatch.setattr(process, "LOGS", tmp_path / "logs")
    return tmp_path / "pids"


def test_a_process_starts_once_and_is_killed(pids: Path) -> None:
    first = process.start("sleep", ["sleep", "600"])
    assert process.start("sleep", ["sleep", "600"]) == first
    assert alive(first)
    process.kill("sleep")
    assert not alive(first)
    assert process.pid_of("sleep") is None
    process.kill("sleep")


def test_a_pid_of_another_program_is_left_alone(pids: Path) -> None:
    other = process.start("sleep", ["sleep", "600"])
    (pids / "etcd").write_text(str(other))
    process.kill("etcd")
    assert alive(other)
    process.kill("sleep")


def test_output_goes_to_the_log(pids: Path) -> None:
    with pytest.raises(RuntimeError, match="ends-at-once ended at once: why"):
        process.start("ends-at-once", ["sh", "-c", "echo why >&2; exit 3"])


def test_waiting_names_what_did_not_happen() -> None:
    def refused() -> bool:
        raise ConnectionRefusedError("nobody is there")

    with pytest.raises(DeadlineError, match=r"the door opens: not within 0 s; last error: nobody is there"):
        wait("the door opens", refused, 0.1, pause=0.01)


def test_certificates_hold_under_strict_verification(tmp_path: Path) -> None:
    pki.make(tmp_path, [pki.server(["localhost", "127.0.0.1"]), pki.ADMIN, pki.FRONT_PROXY])
    strict = ["openssl", "verify", "-x509_strict", "-CAfile"]
    for authority, name in (("ca", "apiserver"), ("ca", "admin"), ("front-proxy-ca", "front-proxy-client")):
        subprocess.run([*strict, f"{authority}.crt", f"{name}.crt"], cwd=tmp_path, check=True, capture_output=True)
    wrong = subprocess.run(
        [*strict, "ca.crt", "front-proxy-client.crt"], cwd=tmp_path, check=False, capture_output=True
    )
    assert wrong.returncode != 0
    names = ssl._ssl._test_decode_cert(str(tmp_path / "apiserver.crt"))["subjectAltName"]  # type: ignore[attr-defined]
    assert ("IP Address", "127.0.0.1") in names
    assert ("DNS", "kubernetes.default.svc.cluster.local") in names


def test_a_kubeconfig_is_for_its_owner_alone(tmp_path: Path) -> None:
    pki.make(tmp_path, [pki.ADMIN])
    path = write_kubeconfig(tmp_path / "kubeconfig", "https://127.0.0.1:1", tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text())["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:1"


def test_the_build_key_covers_versions_and_checksums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = build.key()
    assert build.key() == before
    monkeypatch.setitem(build.TOOLS, "helm", "helm.sh/helm/v3/cmd/helm@v3.0.0")
    assert build.key() != before


def test_without_go_the_fix_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.BuildError, match=r"Go is missing; install Go 1\.25"):
        build.ensure("apiserver")


def test_missing_packages_are_named() -> None:
    programs = {"sh": "dash", "no-such-program": "package-b", "no-such-either": "package-b"}
    assert apt.missing(programs) == ["package-b"]


RULES = """*nat
:PREROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:DOCKER - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A POSTROUTING -s 10.244.0.0/24 ! -d 10.244.0.0/24 -j MASQUERADE
COMMIT
"""


def test_only_the_clusters_rules_are_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "saved", lambda firewall: RULES)
    ours = network.our_rules("iptables")
    assert [line.split()[-1] for line in ours] == ["[0:0]", "KUBE-SERVICES", "MASQUERADE"]
    assert not any("DOCKER" in line or "172.17" in line for line in ours)


def test_only_the_clusters_processes_are_taken_for_its_own() -> None:
    etcd = str(build.bin_dir() / "etcd")
    assert leftovers.mine([etcd, "--data-dir=/var/lib/paddock-cluster/etcd"])
    assert leftovers.mine(["/usr/bin/containerd-shim-runc-v2", "-address", "/run/paddock-cluster/containerd.sock"])
    assert not leftovers.mine([etcd, "--data-dir=/tmp/of-a-test/etcd"])
    assert not leftovers.mine(["less", "/var/lib/paddock-cluster/logs/kubelet.log"])
    assert not leftovers.mine([""])


def test_the_pause_image_is_what_containerd_reads(tmp_path: Path) -> None:
    (tmp_path / "pause").write_bytes(b"program")
    pause.write(tmp_path / "pause", tmp_path / "pause.tar", "x86_64")
    listed = subprocess.run(["tar", "tf", str(tmp_path / "pause.tar")], check=True, capture_output=True, text=True)
    assert listed.stdout.split() == ["config.json", "layer.tar", "manifest.json"]


def test_each_image_installs_its_extra(tmp_path: Path) -> None:
    wheels.write_requirements(tmp_path)
    lines = {extra: (tmp_path / f"{extra}.txt").read_text().split("\n") for extra in wheels.EXTRAS}
    assert any(line.startswith("kopf") for line in lines["operator"])
    assert not any(line.startswith("llama-cpp") for line in lines["gateway"])
    assert any(line.startswith("llama-cpp") for line in lines["runner"])
    assert set(filter(None, lines["gateway"])) <= set(lines["runner"])


def test_an_image_is_brought_without_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "LAYOUT", tmp_path)
    names = {"sha256:m": b"", "sha256:c": b"config", "sha256:base": b"base", "sha256:new": b"new"}
    layers = [{"digest": "sha256:base"}, {"digest": "sha256:new"}]
    names["sha256:m"] = json.dumps({"config": {"digest": "sha256:c"}, "layers": layers}).encode()
    for name, data in names.items():
        delivery.blob(name).parent.mkdir(parents=True, exist_ok=True)
        delivery.blob(name).write_bytes(data)
    entry = {"digest": "sha256:m", "annotations": {delivery.REFERENCE: "x:dev"}}
    (tmp_path / "index.json").write_text(json.dumps({"manifests": [entry]}))
    data = delivery.write_archive("localhost/x:dev", "x:dev", {"sha256:base"})
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["oci-layout", *(f"blobs/sha256/{n}" for n in ("m", "c", "new")), "index.json"]
        index = json.load(archive.extractfile("index.json") or io.BytesIO())
    assert index["manifests"][0]["annotations"] == {delivery.NAME: "localhost/x:dev"}
    with pytest.raises(RuntimeError, match="no image y:dev"):
        delivery.write_archive("localhost/y:dev", "y:dev", set())
