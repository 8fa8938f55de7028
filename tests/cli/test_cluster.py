"""The command on a real API server: get, describe, apply, keys, and what it says when it may not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.apiserver import ApiServer

from paddock_operator.cli import kubectl_main, main
from paddock_operator.core.identity import child_name
from paddock_operator.core.resources import Ref

Object = dict[str, Any]
MODEL: Object = {
    "apiVersion": "paddock.dev/v1alpha1",
    "kind": "Model",
    "metadata": {"name": "smollm2"},
    "spec": {"source": {"ollama": {"name": "smollm2:135m"}}},
}
ENDPOINT: Object = {
    "apiVersion": "paddock.dev/v1alpha1",
    "kind": "Endpoint",
    "metadata": {"name": "main"},
    "spec": {"models": [{"name": "smollm2"}]},
}


class Ran:
    """What a command did."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


Paddock = Callable[..., Ran]


@pytest.fixture(autouse=True)
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apiserver: ApiServer) -> None:
    """A user whose kubeconfig is the administrator's, without anything else."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PADDOCK_HOME", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(apiserver.kubeconfig))


@pytest.fixture
def paddock(capsys: pytest.CaptureFixture[str], namespace: str) -> Paddock:
    """The command in the test's namespace."""

    def run(*arguments: str, program: Callable[[list[str]], int] = main) -> Ran:
        words = [*arguments] if "-A" in arguments or "-n" in arguments else [*arguments, "-n", namespace]
        try:
            code = program(words)
        except SystemExit as error:
            code = int(error.code or 0)
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., str]:
    def write(*documents: Object) -> str:
        path = tmp_path / "manifests.yaml"
        path.write_text(yaml.safe_dump_all(documents))
        return str(path)

    return write


def put(server: ApiServer, namespace: str, document: Object) -> Object:
    text = json.dumps({**document, "metadata": {**document["metadata"], "namespace": namespace}})
    done = server.kubectl("apply", "--server-side", "-o", "json", "-f", "-", input=text)
    found: Object = json.loads(done.stdout)
    return found


def set_status(server: ApiServer, namespace: str, status: Object) -> None:
    patch = ["patch", "model", "smollm2", "-n", namespace, "--subresource=status", "--type=merge", "-p"]
    server.kubectl(*patch, json.dumps({"status": status}))


# get and describe


def test_get_shows_the_columns_of_kubectl(paddock: Paddock, apiserver: ApiServer, namespace: str) -> None:
    put(apiserver, namespace, MODEL)
    ready = {"type": "Ready", "status": "True", "reason": "Serving", "message": "it serves"}
    ready["lastTransitionTime"] = "2026-01-01T00:00:00Z"
    set_status(apiserver, namespace, {"conditions": [ready], "readyReplicas": 1})
    ours = paddock("get", "models").out.splitlines()
    theirs = apiserver.kubectl("get", "models", "-n", namespace).stdout.splitlines()
    assert ours[0].split() == theirs[0].split()
    assert ours[1].split()[:-1] == theirs[1].split()[:-1] == ["smollm2", "True", "Serving", "1"]


def test_get_all_and_all_namespaces(paddock: Paddock, apiserver: ApiServer, namespace: str) -> None:
    assert paddock("get", "all").err.startswith(f"no Models and no Endpoints in namespace {namespace} of context ")
    put(apiserver, namespace, MODEL)
    put(apiserver, namespace, ENDPOINT)
    lines = paddock("get", "all").out.splitlines()
    assert [line.split()[0] for line in lines if line] == ["NAME", "model/smollm2", "NAME", "endpoint/main"]
    spread = paddock("get", "endpoints", "-A").out.splitlines()
    assert spread[0].split()[0] == "NAMESPACE"
    assert [namespace, "main"] in [line.split()[:2] for line in spread]
    assert len(json.loads(paddock("get", "all", "-o", "json").out)["items"]) == 2


def test_get_yaml_is_what_apply_takes(paddock: Paddock, apiserver: ApiServer, namespace: str) -> None:
    put(apiserver, namespace, MODEL)
    found = yaml.safe_load(paddock("get", "model", "smollm2", "-o", "yaml").out)
    assert (found["kind"], found["spec"]) == ("Model", MODEL["spec"])
    assert "managedFields" not in found["metadata"]
    listed = json.loads(paddock("get", "models", "-o", "json").out)
    assert [item["kind"] for item in listed["items"]] == ["Model"]


def test_what_is_not_there(paddock: Paddock, namespace: str) -> None:
    ran = paddock("get", "model", "x")
    assert ran.code == 1
    assert ran.err.startswith(f"paddock: no Model 'x' in namespace {namespace} of context")


def pod(child: str) -> Object:
    labels = {"paddock.dev/child": child, "paddock.dev/component": "runner"}
    spec = {"containers": [{"name": "runner", "image": "runner:1"}], "automountServiceAccountToken": False}
    metadata = {"name": f"{child}-0", "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def event(namespace: str, name: str, kind: str, subject: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": {"kind": kind, "name": subject, "namespace": namespace},
        "type": "Warning",
        "reason": "BackOff",
        "message": f"about {subject}",
        "lastTimestamp": "2026-01-01T00:00:00Z",
    }


def test_describe_shows_pods_with_their_failures_and_events(
    paddock: Paddock, apiserver: ApiServer, namespace: str
) -> None:
    put(apiserver, namespace, MODEL)
    pin = {"digest": "sha256:" + "a" * 64, "shortDigest": "a" * 12, "sourceHash": "0" * 16, "size": 5}
    set_status(apiserver, namespace, {"resolved": pin})
    child = child_name(Ref("Model", namespace, "smollm2"))
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
    for document in (account, pod(child)):
        put(apiserver, namespace, document)
    waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
    state = {"name": "runner", "image": "x", "imageID": "", "ready": False, "restartCount": 2}
    status = {"phase": "Pending", "containerStatuses": [{**state, "state": {"waiting": waiting}}]}
    patch = ["patch", "pod", f"{child}-0", "-n", namespace, "--subresource=status", "--type=merge", "-p"]
    apiserver.kubectl(*patch, json.dumps({"status": status}))
    for name, kind, subject in (("a", "Model", "smollm2"), ("b", "Pod", f"{child}-0"), ("c", "Model", "other")):
        put(apiserver, namespace, event(namespace, name, kind, subject))
    shown = paddock("describe", "model", "smollm2").out
    assert f"shortDigest: {'a' * 12}" in shown
    pods = shown.partition("Pods:")[2].partition("Events:")[0].split("\n")[2].split(maxsplit=5)
    assert pods[:4] == [f"{child}-0", "runner", "ImagePullBackOff", "2"]
    assert pods[5].strip() == "no such image"
    events = shown.partition("Events:")[2]
    assert "model/smollm2" in events
    assert f"about {child}-0" in events
    assert "other" not in events


# apply


def test_apply_creates_then_leaves_then_configures(
    paddock: Paddock, written: Callable[..., str], apiserver: ApiServer, namespace: str
) -> None:
    path = written(MODEL, ENDPOINT)
    dry = paddock("apply", "-f", path, "--dry-run")
    assert dry.out.splitlines()[0] == f"model/smollm2 in {namespace} created (dry run)"
    assert paddock("get", "all").out == ""
    assert paddock("apply", "-f", path).out.splitlines() == [
        f"model/smollm2 in {namespace} created",
        f"endpoint/main in {namespace} created",
    ]
    set_status(apiserver, namespace, {"readyReplicas": 1})
    assert "unchanged" in paddock("apply", "-f", path).out.splitlines()[0]
    changed = written({**MODEL, "spec": {**MODEL["spec"], "system": "Be brief."}})
    assert paddock("apply", "-f", changed, "--dry-run").out == f"model/smollm2 in {namespace} configured (dry run)\n"
    assert paddock("apply", "-f", changed).out == f"model/smollm2 in {namespace} configured\n"
    shown = ["get", "model", "smollm2", "-n", namespace, "-o", "json", "--show-managed-fields"]
    managers = json.loads(apiserver.kubectl(*shown).stdout)["metadata"]["managedFields"]
    assert {entry["manager"] for entry in managers if "subresource" not in entry} == {"paddock-cli"}


def test_apply_sends_nothing_when_something_is_wrong(
    paddock: Paddock, written: Callable[..., str], namespace: str
) -> None:
    both = {**MODEL["spec"], "replicas": 1, "scaling": {"maxReplicas": 2}}
    wrong = {**MODEL, "metadata": {"name": "wrong"}, "spec": both}
    ran = paddock("apply", "-f", written(MODEL, wrong))
    assert ran.code == 2
    assert ran.err.startswith("paddock: nothing was applied:\n")
    assert "exclude each other" in ran.err
    assert paddock("get", "models").out.splitlines()[1:] == []


@pytest.mark.parametrize(
    ("document", "word"),
    [
        ({**MODEL, "metadata": {"name": "a", "namespace": "elsewhere"}}, "elsewhere is not the namespace of -n"),
        ({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}, "only Secrets of type paddock.dev/api-key"),
        ({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}, "kind"),
    ],
)
def test_apply_refuses_what_is_not_its_business(
    paddock: Paddock, written: Callable[..., str], document: Object, word: str
) -> None:
    ran = paddock("apply", "-f", written(document))
    assert ran.code == 2
    assert word in ran.err


def test_apply_without_a_cluster_only_checks(written: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["apply", "--local", "--dry-run", "-f", written(MODEL)]) == 0
    assert capsys.readouterr().out == "model/smollm2 in default is valid (no cluster was asked)\n"
    assert main(["apply", "--local", "-f", written(MODEL)]) == 2
    assert "on one machine use: paddock up -f PATH" in capsys.readouterr().err
    assert main(["apply", "--local", "--dry-run", "-f", "/no/such/file"]) == 2
    assert main(["apply", "--local", "--dry-run", "-f", written(MODEL, MODEL)]) == 2
    assert "declared 2 times" in capsys.readouterr().err


def test_fields_of_others_are_a_conflict(
    paddock: Paddock, written: Callable[..., str], apiserver: ApiServer, namespace: str
) -> None:
    put(apiserver, namespace, MODEL)
    path = written({**MODEL, "spec": {"source": {"ollama": {"name": "other:1b"}}}})
    ran = paddock("apply", "-f", path)
    assert ran.code == 1
    assert "conflict" in ran.err
    assert "--force-conflicts" in ran.err
    assert paddock("apply", "-f", path, "--force-conflicts").out.strip().endswith("configured")


# keys


def test_a_key_is_a_secret_with_a_hash(paddock: Paddock, apiserver: ApiServer, namespace: str) -> None:
    made = paddock("key", "create", "laptop", "--models", "a,b", "--expires", "30d")
    clear = made.out.strip()
    assert clear.startswith("pdk_")
    assert made.err.startswith(f"key laptop of namespace {namespace} (context ")
    stored = apiserver.kubectl("get", "secret", "laptop", "-n", namespace, "-o", "json").stdout
    assert clear not in stored
    secret = json.loads(stored)
    assert (secret["type"], set(secret["data"])) == ("paddock.dev/api-key", {"sha256", "policy"})
    listed = paddock("key", "list")
    assert (listed.code, listed.err) == (0, "")
    assert listed.out.splitlines()[1].split()[:4] == [namespace, "laptop", "a,b", "infer"]
    assert hashlib.sha256(clear.encode()).hexdigest() not in listed.out
    again = paddock("key", "create", "laptop")
    assert (again.code, again.out) == (1, "")
    assert "revoke that key first" in again.err
    assert paddock("key", "revoke", "laptop").code == 0
    assert paddock("key", "list").out.splitlines()[1:] == []
    gone = paddock("key", "revoke", "laptop")
    assert (gone.code, gone.err) == (1, f"paddock: no key 'laptop' in namespace '{namespace}'\n")


def test_other_secrets_are_left_alone(paddock: Paddock, apiserver: ApiServer, namespace: str) -> None:
    apiserver.kubectl("create", "secret", "generic", "mine", "-n", namespace, "--from-literal=a=b")
    ran = paddock("key", "revoke", "mine")
    assert (ran.code, ran.err) == (1, "paddock: Secret 'mine' is of type Opaque, not a key; it stays\n")
    broken = {"apiVersion": "v1", "kind": "Secret", "type": "paddock.dev/api-key", "metadata": {"name": "bad"}}
    put(apiserver, namespace, broken)
    listed = paddock("key", "list")
    assert listed.code == 1
    assert f"Secret {namespace}/bad: sha256" in listed.err


def test_a_name_that_is_none(paddock: Paddock) -> None:
    ran = paddock("key", "create", "Not_A_Name")
    assert ran.code == 1
    assert "metadata.name" in ran.err


# The plug-in, and refusals


def test_kubectl_plugin(paddock: Paddock, apiserver: ApiServer, namespace: str) -> None:
    put(apiserver, namespace, MODEL)
    assert "smollm2" in paddock("get", "models", program=kubectl_main).out
    assert paddock("get", "models", "--local", program=kubectl_main).code == 2
    assert paddock("get", "nothing", "--help", program=kubectl_main).out.startswith("usage: kubectl paddock get")


def write_config(path: Path, server: ApiServer, *, url: str = "", token: str = "", ca: bool = True) -> str:
    cluster: Object = {"server": url or server.url}
    if ca:
        cluster["certificate-authority"] = str(server.ca)
    config = {
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "here",
    }
    path.write_text(yaml.safe_dump(config))
    return str(path)


def test_no_right(paddock: Paddock, apiserver: ApiServer, namespace: str, tmp_path: Path) -> None:
    put(apiserver, namespace, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "guest"}})
    config = write_config(tmp_path / "guest", apiserver, token=apiserver.token_for(namespace, "guest"))
    ran = paddock("get", "models", "--kubeconfig", config)
    assert ran.code == 1
    assert ran.err.startswith(f"paddock: you may not list models in namespace {namespace}; ask for a role")
    key = paddock("key", "create", "k", "--kubeconfig", config)
    assert (key.code, key.out) == (1, "")
    assert f"you may not create secrets in namespace {namespace}" in key.err


def test_no_credentials(paddock: Paddock, apiserver: ApiServer, tmp_path: Path) -> None:
    config = write_config(tmp_path / "stranger", apiserver, token="wrong")
    ran = paddock("get", "models", "--kubeconfig", config)
    assert (ran.code, ran.err) == (
        1,
        f"paddock: the cluster of context here does not accept the credentials of {config}; log in again\n",
    )


def test_nobody_answers(paddock: Paddock, apiserver: ApiServer, tmp_path: Path) -> None:
    ran = paddock("get", "models", "--kubeconfig", write_config(tmp_path / "c", apiserver, url="https://127.0.0.1:1"))
    assert ran.code == 1
    assert ran.err.startswith("paddock: https://127.0.0.1:1 (context here) does not answer: ")
    assert ran.err.count("\n") == 1


def test_an_authority_that_is_not_trusted(paddock: Paddock, apiserver: ApiServer, tmp_path: Path) -> None:
    ran = paddock("get", "models", "--kubeconfig", write_config(tmp_path / "c", apiserver, token="x", ca=False))
    assert ran.code == 1
    assert "certificate" in ran.err


def test_certificates_that_cannot_be_read(paddock: Paddock, apiserver: ApiServer, tmp_path: Path) -> None:
    config = Path(write_config(tmp_path / "c", apiserver))
    document = yaml.safe_load(config.read_text())
    document["clusters"][0]["cluster"]["certificate-authority"] = str(tmp_path / "absent.crt")
    config.write_text(yaml.safe_dump(document))
    ran = paddock("get", "models", "--kubeconfig", str(config))
    assert ran.code == 2
    assert "cannot be used" in ran.err


def test_a_cluster_without_the_crds(paddock: Paddock, apiserver: ApiServer, tmp_path: Path) -> None:
    """Another group's name in our own table of kinds: what an API server says to a kind that it does not know."""
    from paddock_operator.cli.cluster import client
    from paddock_operator.cli.place import Target
    from paddock_operator.executors.kube.kinds import Kind

    target = Target(str(apiserver.kubeconfig), "", "default")
    context = yaml.safe_load(apiserver.kubeconfig.read_text())["current-context"]
    with client.Cluster(Target(target.files, context, "default")) as cluster:
        for kind in (Kind("Model", "unknown.dev/v1", "models"), Kind("X", "paddock.dev/v1alpha1", "xs")):
            with pytest.raises(client.RefusedError, match="install the chart"):
                cluster.list(kind, "default")
            with pytest.raises(client.RefusedError, match="install the chart"):
                cluster.find(kind, "default", "x")


def test_a_namespace_that_is_not_there(paddock: Paddock, written: Callable[..., str]) -> None:
    ran = paddock("apply", "-f", written(MODEL), "-n", "nowhere")
    assert ran.code == 1
    assert 'namespaces "nowhere" not found' in ran.err


def test_long_lists_come_page_by_page(
    paddock: Paddock, apiserver: ApiServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paddock_operator.cli.cluster import client

    monkeypatch.setattr(client, "PAGE", 2)
    for name in "abcde":
        put(apiserver, namespace, {**MODEL, "metadata": {"name": name}})
    assert [line.split()[0] for line in paddock("get", "models").out.splitlines()] == ["NAME", *"abcde"]
