"""The straight line: Helm install, two manifests, an authenticated answer, and nothing for anyone else."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import ollama
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from e2e.conftest import Line, address, make_key
from e2e.support.cluster import ROOT, Cluster, eventually
from e2e.support.load import chat
from e2e.support.objects import FILES

EXAMPLE_HOST = "files.models.svc.cluster.local"


def test_openai_client_streams_through_the_service(line: Line) -> None:
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say hello."}]
    with openai.OpenAI(base_url=f"{line.url}/v1", api_key=line.key, timeout=60, max_retries=0) as client:
        stream = client.chat.completions.create(model="smollm2", messages=messages, stream=True, max_tokens=16)
        parts = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(parts).strip()
    assert len(parts) > 3


def test_ollama_client_streams_through_the_service(line: Line) -> None:
    messages = [{"role": "user", "content": "Say hello."}]
    with ollama.Client(host=line.url, headers={"Authorization": f"Bearer {line.key}"}, timeout=60) as client:
        parts = client.chat(model="smollm2", messages=messages, stream=True, options={"num_predict": 16})
        assert "".join(part["message"]["content"] for part in parts).strip()
        assert [model["model"] for model in client.list()["models"]] == ["smollm2:latest"]


@pytest.mark.parametrize("key", ["", "pdk_00000000_" + "A" * 43])
def test_without_a_good_key_everything_is_401(line: Line, key: str) -> None:
    for path in ("/api/tags", "/v1/models", "/api/chat", "/v1/chat/completions"):
        assert _status(f"{line.url}{path}", key) == 401


def test_the_runner_answers_nobody_but_the_gateway(cluster: Cluster, line: Line) -> None:
    pod = cluster.pods(line.namespace, "model", "smollm2", "runner")[0]
    base = f"http://{pod['status']['podIP']}:8080"
    assert _status(f"{base}/api/tags", "") == 401
    assert _status(f"{base}/v1/chat/completions", line.key) == 401
    assert _status(f"{base}/healthz", "") == 200


def test_a_pod_of_the_namespace_gets_an_answer_by_name(cluster: Cluster, line: Line) -> None:
    """The URL of the status, from inside, with the key from a Secret: what an application does."""
    url = (cluster.get(line.namespace, "endpoint", "main") or {})["status"]["url"]
    script = (
        "import json, os, urllib.request as r; "
        "q = r.Request(os.environ['URL'] + '/api/chat', json.dumps({'model': 'smollm2', 'stream': False, "
        "'messages': [{'role': 'user', 'content': 'Say hello.'}], 'options': {'num_predict': 8}}).encode(), "
        "{'Authorization': 'Bearer ' + os.environ['KEY']}); print(r.urlopen(q, timeout=60).read().decode())"
    )
    image = cluster.get("paddock-e2e-files", "pod", "files")["spec"]["containers"][0]["image"]  # type: ignore[index]
    cluster.apply(line.namespace, _client_pod("caller", image, script, {"URL": url, "KEY": line.key}))
    eventually(lambda: (cluster.get(line.namespace, "pod", "caller") or {})["status"]["phase"] == "Succeeded", "caller")
    answer = json.loads(cluster.kubectl("logs", "caller", "-n", line.namespace).stdout)
    assert answer["message"]["content"]
    cluster.delete(line.namespace, "pod", "caller", "--now")


def test_kubectl_shows_what_is_there(cluster: Cluster, line: Line) -> None:
    table = cluster.kubectl("get", "models", "-n", line.namespace).stdout.splitlines()
    assert table[0].split() == ["NAME", "READY", "REASON", "DIGEST", "SIZE", "REPLICAS", "AGE"]
    assert table[1].split()[:3] == ["smollm2", "True", "Serving"]
    cluster.kubectl("wait", "model/smollm2", "-n", line.namespace, "--for=condition=Ready", "--timeout=5s")
    status = (cluster.get(line.namespace, "model", "smollm2") or {})["status"]
    assert status["details"]["architecture"] == "llama"
    assert status["resolved"]["files"][0]["size"] == 98362432


def test_every_pod_passed_restricted_admission(cluster: Cluster, line: Line) -> None:
    labels = (cluster.get("default", "namespace", line.namespace) or {})["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    components = {pod["metadata"]["labels"]["paddock.dev/component"] for pod in cluster.all_of(line.namespace, "pods")}
    assert components >= {"puller", "runner", "gateway"}


def test_children_hold_no_token_but_the_gateway(cluster: Cluster, line: Line) -> None:
    for pod in cluster.all_of(line.namespace, "pods"):
        mounted = any("serviceAccountToken" in str(volume) for volume in pod["spec"]["volumes"])
        assert mounted == (pod["metadata"]["labels"]["paddock.dev/component"] == "gateway"), pod["metadata"]["name"]


def test_the_examples_for_a_cluster_serve(cluster: Cluster, fresh: str) -> None:
    """`kubectl apply -f examples/cluster` as it is, but for the address of the file server."""
    key = make_key(cluster, fresh)
    text = "\n---\n".join(path.read_text() for path in sorted((ROOT / "examples" / "cluster").glob("*.yaml")))
    assert EXAMPLE_HOST in text
    cluster.kubectl("apply", "-n", fresh, "-f", "-", stdin=text.replace(EXAMPLE_HOST, FILES))
    cluster.wait(fresh, "model", "smollm2")
    found = cluster.wait(fresh, "endpoint", "main")
    cluster.wait(fresh, "endpoint", "main", of="ModelsReady")
    answer = chat(address(cluster, found), key, "smollm2:135m")
    assert (answer.error, answer.status) == ("", 200)
    assert answer.text.strip()


def _status(url: str, key: str) -> int:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    data = None if url.endswith(("tags", "models", "healthz")) else b'{"model": "smollm2", "messages": []}'
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=10) as response:
            status: int = response.status
            return status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def _client_pod(name: str, image: str, script: str, environment: dict[str, str]) -> dict[str, object]:
    container = {
        "name": "call",
        "image": image,
        "command": ["/opt/paddock/bin/python", "-c", script],
        "env": [{"name": key, "value": value} for key, value in environment.items()],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {"containers": [container], "restartPolicy": "Never", "securityContext": security}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
