"""Every source on the cluster: registries and hubs with credentials, conversions, claims, variants, shared bytes."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.docker_registry import PASSWORD
from tests.support.gguf_maker import make_gguf

from e2e.cluster import layout, volume
from e2e.conftest import address, make_key, tiny
from e2e.support import objects
from e2e.support.cluster import Cluster, eventually
from e2e.support.helm import Release
from e2e.support.load import Answer, chat
from e2e.support.places import TOKEN, Places, secret, serving

pytestmark = pytest.mark.own_cluster

HOURLY = {"type": "Track", "interval": "1h"}
SERVING = {"contextLength": 256, "slots": 1}
WRONG = "not-the-password"


@pytest.fixture(scope="module")
def places(release: Release, files: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """A registry and a hub that pullers may ask."""
    with serving(tmp_path_factory.mktemp("places")) as found:
        allow = release.values["sources"]["allow"]
        with release.changed(sources=found.settings(allow)):
            yield found


def sourced(name: str, source: dict[str, Any], **spec: Any) -> dict[str, Any]:
    document = objects.model(name, serving=SERVING, **spec)
    document["spec"]["source"] = source
    return document


def other(folder: Path) -> bytes:
    """Another model than `tiny`, of F32 as it is."""
    return make_gguf(folder / "other.gguf", seed=2).read_bytes()


def resolved(cluster: Cluster, namespace: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = (cluster.get(namespace, "model", name) or {})["status"].get("resolved") or {}
    return found


def jobs(cluster: Cluster, namespace: str, component: str) -> list[dict[str, Any]]:
    return cluster.all_of(namespace, "jobs", f"paddock.dev/component={component}")


def answered(cluster: Cluster, namespace: str, key: str, model: str) -> Answer:
    """A whole answer of the Endpoint `main`. Raises ValueError while there is none."""
    endpoint = cluster.get(namespace, "endpoint", "main") or {}
    answer = chat(address(cluster, endpoint), key, model, tokens=4)
    if answer.error:
        raise ValueError(answer.error)
    return answer


def test_an_artifact_behind_a_password(cluster: Cluster, fresh: str, places: Places, tmp_path: Path) -> None:
    """No Secret, a wrong one, the right one; then the tag moves: Pinned stays, Track would follow at its interval."""
    was = places.push("1", tiny())
    key = make_key(cluster, fresh)
    source = {"oci": {"reference": places.reference("1"), "secretRef": {"name": "registry"}}}
    cluster.apply(fresh, sourced("art", source), objects.endpoint(models=("art",)))
    told = cluster.wait_reason(fresh, "model", "art", ["SecretNotFound"])
    assert "registry" in told["message"]
    cluster.apply(fresh, places.login("registry", WRONG))
    told = cluster.wait_reason(fresh, "model", "art", ["Unauthorized"], timeout=90)
    assert WRONG not in str(cluster.get(fresh, "model", "art"))
    cluster.apply(fresh, places.login("registry"))
    cluster.patch(fresh, "model", "art", {"spec": {"source": {"resolve": "again"}}})
    cluster.wait(fresh, "model", "art", timeout=120)
    pin = resolved(cluster, fresh, "art")
    assert pin["revision"] == was
    eventually(lambda: answered(cluster, fresh, key, "art").status == 200, "the Endpoint answers", timeout=60)
    assert PASSWORD not in str(cluster.all_of(fresh, "jobs")) + str(cluster.all_of(fresh, "events"))

    now = places.push("1", other(tmp_path))
    cluster.apply(fresh, sourced("late", source))
    cluster.wait(fresh, "model", "late", timeout=120)
    assert resolved(cluster, fresh, "late")["revision"] == now
    assert resolved(cluster, fresh, "art") == pin, "a pinned tag does not move"


def test_a_gated_hub_and_one_conversion_for_two_models(
    cluster: Cluster, fresh: str, places: Places, tmp_path: Path
) -> None:
    """F32 weights of a gated repository become Q8_0 once; a variant shares them and follows."""
    repo = places.hub.repo("acme/gated", {"tiny-F32.gguf": tiny()})
    repo.gated, repo.tokens = True, {TOKEN}
    source = {"huggingFace": {"repo": "acme/gated", "secretRef": {"name": "hub"}}}
    cluster.apply(fresh, secret("hub", "Opaque", {"token": TOKEN}))
    cluster.apply(fresh, sourced("one", source, quantization="Q8_0"))
    cluster.wait(fresh, "model", "one", timeout=180)
    first = resolved(cluster, fresh, "one")
    assert (first["quantization"], first["revision"]) == ("Q8_0", repo.refs["main"])
    assert first["digest"] != first["sourceDigest"]
    assert len(jobs(cluster, fresh, "converter")) == 1
    downloads = places.downloads()

    calm = sourced("calm", {"model": {"name": "one"}}, system="Be calm.", updatePolicy=HOURLY)
    cluster.apply(fresh, sourced("two", source, quantization="Q8_0"), calm)
    cluster.wait(fresh, "model", "two", timeout=180)
    cluster.wait(fresh, "model", "calm", timeout=120)
    digests = {resolved(cluster, fresh, name)["digest"] for name in ("one", "two", "calm")}
    assert digests == {first["digest"]}
    assert places.downloads() == downloads, "bytes that the cache holds are not fetched again"

    repo.push({"tiny-F32.gguf": other(tmp_path)})
    cluster.patch(fresh, "model", "one", {"spec": {"source": {"resolve": "again"}}})
    eventually(lambda: resolved(cluster, fresh, "one")["revision"] == repo.refs["main"], "one moved", timeout=180)
    second = resolved(cluster, fresh, "one")["digest"]
    assert second != first["digest"]
    eventually(lambda: resolved(cluster, fresh, "calm")["digest"] == second, "the variant followed", timeout=120)
    assert resolved(cluster, fresh, "two")["digest"] == first["digest"], "Pinned stays until it is edited"


def test_bytes_of_two_models_come_once_and_go_with_the_last(
    cluster: Cluster, fresh: str, release: Release, places: Places, tmp_path: Path
) -> None:
    data = other(tmp_path)
    places.hub.repo("acme/open", {"open-F32.gguf": data})
    blob = f"sha256-{hashlib.sha256(data).hexdigest()}"
    source = {"huggingFace": {"repo": "acme/open", "file": "open-F32.gguf"}}
    downloads = places.downloads()
    cluster.apply(fresh, sourced("one", source), sourced("two", source), objects.model("keep", serving=SERVING))
    for name in ("one", "two", "keep"):
        cluster.wait(fresh, "model", name, timeout=180)
    assert places.downloads() == downloads + 1
    assert blob in blobs(fresh)
    with release.changed(collectSeconds=5, collectMinAgeSeconds=0):
        cluster.delete(fresh, "model", "one", "--timeout=30s")
        ran = collections(cluster, fresh)
        eventually(lambda: collections(cluster, fresh) - ran, "the collector ran after the first was deleted", 90)
        assert blob in blobs(fresh), "the second Model needs them"
        cluster.delete(fresh, "model", "two", "--timeout=30s")
        eventually(lambda: blob not in blobs(fresh), "the bytes went with the last Model", timeout=90)
        assert f"sha256-{objects.SHA256}" in blobs(fresh)


def test_a_cache_that_loses_bytes_gets_them_back(cluster: Cluster, fresh: str, places: Places) -> None:
    """Somebody empties the volume: a runner that has its weights serves on, the next one waits until they are back."""
    places.hub.repo("acme/lost", {"lost-F32.gguf": tiny()})
    cluster.apply(fresh, sourced("one", {"huggingFace": {"repo": "acme/lost", "file": "lost-F32.gguf"}}))
    cluster.wait(fresh, "model", "one", timeout=120)
    downloads = places.downloads()
    for part in ("manifests", "blobs"):
        shutil.rmtree(layout.VOLUMES / volume.volume_name(fresh, "paddock-cache") / part)
    (runner,) = cluster.pods(fresh, "model", "one", "runner")
    cluster.delete(fresh, "pod", runner["metadata"]["name"], "--wait=false")
    cluster.wait_reason(fresh, "model", "one", ["Verifying", "Pulling"], timeout=120)
    cluster.wait(fresh, "model", "one", timeout=180)
    assert places.downloads() == downloads + 1


def collections(cluster: Cluster, namespace: str) -> set[str]:
    """Collector Jobs that ended well."""
    done = [job for job in jobs(cluster, namespace, "collector") if job.get("status", {}).get("succeeded")]
    return {job["metadata"]["uid"] for job in done}


def blobs(namespace: str) -> set[str]:
    folder = layout.VOLUMES / volume.volume_name(namespace, "paddock-cache") / "blobs"
    return {path.name for path in folder.iterdir()}


def test_a_file_of_a_volume(cluster: Cluster, fresh: str, places: Places) -> None:
    """A claim of the user's own, read-only beside the cache; a file that is not there is named."""
    volume.prepare(fresh, "weights", "1Gi")
    try:
        folder = layout.VOLUMES / volume.volume_name(fresh, "weights") / "models"
        folder.mkdir()
        (folder / "tiny.gguf").write_bytes(tiny())
        cluster.apply(fresh, claim("weights"))
        source = {"claim": {"claimName": "weights", "path": "models/tiny.gguf"}}
        missing = {"claim": {"claimName": "weights", "path": "models/absent.gguf"}}
        cluster.apply(fresh, sourced("here", source), sourced("gone", missing))
        cluster.wait(fresh, "model", "here", timeout=120)
        told = cluster.wait_reason(fresh, "model", "gone", ["NotFound"], timeout=60)
        assert "models/absent.gguf" in told["message"]
        assert f"sha256-{hashlib.sha256(tiny()).hexdigest()}" in blobs(fresh)
        assert (folder / "tiny.gguf").read_bytes() == tiny()
    finally:
        cluster.delete(fresh, "model", "here", "gone", "--timeout=60s")
        cluster.delete(fresh, "persistentvolumeclaim", "weights", "--timeout=60s")
        volume.remove(fresh, "weights")


def claim(name: str) -> dict[str, Any]:
    spec = {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": layout.STORAGE_CLASS,
        "resources": {"requests": {"storage": "1Gi"}},
    }
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def test_addresses_that_nobody_allowed(cluster: Cluster, fresh: str, places: Places) -> None:
    """The API server and the metadata service are private addresses: nothing is sent there."""
    sha256 = "0" * 64
    urls = {"metadata": "https://169.254.169.254/x.gguf", "inside": f"https://{layout.NODE_IP}:10250/x.gguf"}
    cluster.apply(fresh, *(sourced(name, {"http": {"url": url, "sha256": sha256}}) for name, url in urls.items()))
    for name in urls:
        cluster.wait_reason(fresh, "model", name, ["ForbiddenAddress"], timeout=60)
