"""Every source on the cluster: registries and hubs with credentials, conversions, variants, claims, shared bytes."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest
from tests.support.docker_registry import PASSWORD

from e2e.cluster import volume
from e2e.conftest import make_key, tiny, weights
from e2e.support import objects
from e2e.support.cluster import Cluster, eventually
from e2e.support.helm import Release
from e2e.support.places import TOKEN, Places, secret
from e2e.support.sourced import (
    SERVING,
    again,
    answered,
    blobs,
    claim,
    in_memory,
    jobs,
    other,
    resolved,
    sourced,
    succeeded,
    volume_folder,
)
from e2e.support.times import recorded

pytestmark = pytest.mark.own_cluster

HOURLY = {"type": "Track", "interval": "1h"}
WRONG = "not-the-password"
HEADER_BYTES = 16 << 20
"""More than a header of the real weights and what is read ahead of it, and much less than the file."""


def test_an_artifact_behind_a_password(
    cluster: Cluster, fresh: str, release: Release, places: Places, tmp_path: Path
) -> None:
    """What `paddock push` pushed. No Secret, a wrong one, the right one: nobody touches the Model for any of them."""
    (file := tmp_path / "tiny.gguf").write_bytes(tiny())
    was = places.push_own("1", file, tmp_path)
    key = make_key(cluster, fresh)
    source = {"oci": {"reference": places.reference("1"), "secretRef": {"name": "registry"}}}
    cluster.apply(fresh, sourced("art", source), objects.endpoint(models=("art",)))
    told = cluster.wait_reason(fresh, "model", "art", ["SecretNotFound"])
    assert "registry" in told["message"]
    cluster.apply(fresh, places.login("registry", WRONG))
    told = cluster.wait_reason(fresh, "model", "art", ["Unauthorized"], timeout=90)
    assert "correct the Secret" in told["message"]
    assert places.registry.host.partition(":")[0] in told["message"]
    assert WRONG not in str(cluster.get(fresh, "model", "art")) + logs(cluster, fresh)
    cluster.apply(fresh, places.login("registry"))
    with recorded("a Secret corrected: the Model is ready"):
        cluster.wait(fresh, "model", "art", timeout=180)
    pin = resolved(cluster, fresh, "art")
    assert pin["revision"] == was
    eventually(lambda: answered(cluster, fresh, key, "art").status == 200, "the Endpoint answers", timeout=60)
    told_of_it = str(cluster.all_of(fresh, "models.paddock.dev,jobs,pods,events"))
    assert PASSWORD not in told_of_it + logs(cluster, fresh)

    now = places.push("1", other(tmp_path))
    basic = {"oci": {"reference": places.reference("1"), "secretRef": {"name": "basic"}}}
    cluster.apply(fresh, places.basic("basic"), sourced("late", basic))
    cluster.wait(fresh, "model", "late", timeout=120)
    assert resolved(cluster, fresh, "late")["revision"] == now
    assert resolved(cluster, fresh, "art") == pin, "a pinned tag does not move"
    with release.changed(driftSeconds=20), recorded("asked every 20 s: a tag that moved is told"):
        told = cluster.wait_reason(fresh, "model", "art", ["SourceMoved"], of="Drifted", timeout=120)
    assert now.removeprefix("sha256:")[:12] in told["message"]
    assert cluster.condition(fresh, "model", "art")["status"] == "True"
    assert resolved(cluster, fresh, "art") == pin, "it is told, and nothing follows"


def logs(cluster: Cluster, namespace: str, component: str = "puller") -> str:
    """What every puller (or another component) of a namespace logged, pod by pod."""
    selector = f"paddock.dev/component={component}"
    return cluster.kubectl("logs", "-n", namespace, "-l", selector, "--tail=-1", "--prefix").stdout


def test_a_file_is_chosen_by_its_quantization(cluster: Cluster, fresh: str, places: Places, tmp_path: Path) -> None:
    """The one of several files whose name has the word; nothing is converted, and nothing else is fetched."""
    files = {"small-F32.gguf": other(tmp_path), "small-Q4_1.gguf": weights().read_bytes()}
    repo = places.hub.repo("acme/several", files)
    repo.gated, repo.tokens = True, {TOKEN}
    key, downloads = make_key(cluster, fresh), places.fetched()
    source = {"huggingFace": {"repo": "acme/several", "secretRef": {"name": "hub"}}}
    cluster.apply(fresh, secret("hub", "Opaque", {"token": TOKEN}))
    cluster.apply(fresh, sourced("one", source, quantization="Q4_1"), sourced("none", source, quantization="IQ2_XXS"))
    cluster.apply(fresh, objects.endpoint(models=("one",)))
    told = cluster.wait_reason(fresh, "model", "none", ["NotFound", "InvalidModel"], timeout=90)
    assert "small-Q4_1.gguf" in told["message"], "what there is is listed"
    cluster.wait(fresh, "model", "one", timeout=180)
    assert resolved(cluster, fresh, "one")["revision"] == repo.refs["main"]
    assert blobs(fresh) >= {f"sha256-{objects.SHA256}"}
    assert not jobs(cluster, fresh, "converter")
    assert places.fetched() - downloads == {objects.SHA256}
    assert eventually(lambda: answered(cluster, fresh, key, "one"), "the Endpoint answers", timeout=60).text
    assert not [item for item in places.hub.requests("storage") if "authorization" in item.headers]


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
    made = {line.split()[0] for line in logs(cluster, fresh, "converter").splitlines() if '"progress"' in line}
    assert len(made) == 1, "the second asked and found it made"

    repo.push({"tiny-F32.gguf": other(tmp_path)})
    again(cluster, fresh, "one", "again")
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
        ran = succeeded(cluster, fresh, "collector")
        eventually(lambda: succeeded(cluster, fresh, "collector") - ran, "the collector ran after the deletion", 90)
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
        shutil.rmtree(volume_folder(fresh) / part)
    (runner,) = cluster.pods(fresh, "model", "one", "runner")
    cluster.delete(fresh, "pod", runner["metadata"]["name"], "--wait=false")
    cluster.wait_reason(fresh, "model", "one", ["Verifying", "Pulling"], timeout=120)
    cluster.wait(fresh, "model", "one", timeout=180)
    assert places.downloads() == downloads + 1


def test_a_file_of_a_volume(cluster: Cluster, fresh: str, places: Places) -> None:
    """A claim of the user's own, read-only beside the cache, hashed once; a file that is not there is named."""
    volume.prepare(fresh, "weights", "1Gi")
    try:
        file = volume_folder(fresh, "weights") / "models" / "real.gguf"
        file.parent.mkdir()
        shutil.copyfile(weights(), file)
        cluster.apply(fresh, claim("weights"))
        source = {"claim": {"claimName": "weights", "path": "models/real.gguf"}}
        missing = {"claim": {"claimName": "weights", "path": "models/absent.gguf"}}
        cluster.apply(fresh, sourced("here", source), sourced("gone", missing))
        cluster.wait(fresh, "model", "here", timeout=120)
        told = cluster.wait_reason(fresh, "model", "gone", ["NotFound"], timeout=60)
        assert "models/absent.gguf" in told["message"]
        assert f"sha256-{objects.SHA256}" in blobs(fresh)
        pin, ran = resolved(cluster, fresh, "here"), succeeded(cluster, fresh, "puller")
        forget(file)
        again(cluster, fresh, "here", "tomorrow")
        eventually(lambda: succeeded(cluster, fresh, "puller") - ran, "it was looked at again", timeout=60)
        cluster.wait(fresh, "model", "here", timeout=60)
        assert resolved(cluster, fresh, "here")["digest"] == pin["digest"]
        assert in_memory(file) < HEADER_BYTES, "the file was read again"
        assert hashlib.sha256(file.read_bytes()).hexdigest() == objects.SHA256
        assert in_memory(file) > file.stat().st_size // 2, "reading it would have been seen"
    finally:
        cluster.delete(fresh, "model", "here", "gone", "--ignore-not-found", "--timeout=60s")
        cluster.delete(fresh, "persistentvolumeclaim", "weights", "--ignore-not-found", "--timeout=60s")
        volume.remove(fresh, "weights")


def forget(file: Path) -> None:
    """Take a file out of the page cache."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert in_memory(file) == 0
