"""What pullers may reach and what moves: addresses, no network at all, mirrors, tags that are tracked."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path

import pytest

from e2e.cluster import layout
from e2e.conftest import address, make_key, tiny
from e2e.support import objects
from e2e.support.cluster import Cluster, eventually
from e2e.support.helm import Release
from e2e.support.load import Load
from e2e.support.places import Places
from e2e.support.sourced import answered, blobs, other, resolved, sourced
from e2e.support.times import recorded

pytestmark = pytest.mark.own_cluster

METADATA = "https://169.254.169.254"
"""Where clouds tell a machine its secrets."""


def test_addresses_that_nobody_allowed(cluster: Cluster, fresh: str, places: Places) -> None:
    """Private addresses, by themselves and behind a redirect of a server that is allowed: nobody even connects."""
    places.hub.repo("acme/leads-away", {"tiny-F32.gguf": tiny()})
    storage = places.hub.storage_url
    with socket.create_server((layout.NODE_IP, 0)) as forbidden:
        forbidden.setblocking(False)
        inside = f"https://{layout.NODE_IP}:{forbidden.getsockname()[1]}"
        urls = {"metadata": f"{METADATA}/x.gguf", "inside": f"{inside}/x.gguf"}
        http = [{"http": {"url": url, "sha256": "0" * 64}} for url in urls.values()]
        places.hub.storage_url = inside
        try:
            cluster.apply(
                fresh,
                *(sourced(name, source) for name, source in zip(urls, http, strict=True)),
                sourced("redirected", {"huggingFace": {"repo": "acme/leads-away"}}),
            )
            for name in (*urls, "redirected"):
                told = cluster.wait_reason(fresh, "model", name, ["ForbiddenAddress"], timeout=60)
                assert "signature" not in told["message"], "the query of a URL may be a secret"
                assert cluster.condition(fresh, "model", name, "Stalled").get("status") == "True"
        finally:
            places.hub.storage_url = storage
        with pytest.raises(BlockingIOError):
            forbidden.accept()


def test_without_a_network_the_cache_is_enough(
    cluster: Cluster, fresh: str, release: Release, places: Places, tmp_path: Path
) -> None:
    """`sources.offline`: who serves serves on and starts anew; who needs bytes says so, and gets them afterwards."""
    places.hub.repo("acme/kept", {"kept-F32.gguf": tiny()})
    places.hub.repo("acme/wanted", {"wanted-F32.gguf": other(tmp_path)})
    key = make_key(cluster, fresh)
    cluster.apply(fresh, sourced("kept", {"huggingFace": {"repo": "acme/kept"}}), objects.endpoint(models=("kept",)))
    cluster.wait(fresh, "model", "kept", timeout=120)
    asked = len(places.hub.seen)
    with release.changed(sources={"offline": True}):
        variant = sourced("variant", {"model": {"name": "kept"}}, system="Be calm.")
        cluster.apply(fresh, sourced("wanted", {"huggingFace": {"repo": "acme/wanted"}}), variant)
        told = cluster.wait_reason(fresh, "model", "wanted", ["Offline"], timeout=60)
        assert "acme/wanted" in told["message"]
        cluster.wait(fresh, "model", "variant", timeout=60)
        (runner,) = cluster.pods(fresh, "model", "kept", "runner")
        cluster.delete(fresh, "pod", runner["metadata"]["name"], "--wait=true")
        cluster.wait(fresh, "model", "kept", timeout=60)
        eventually(lambda: answered(cluster, fresh, key, "kept").status == 200, "the Endpoint answers", timeout=60)
        assert len(places.hub.seen) == asked, "nothing is sent"
    cluster.wait(fresh, "model", "wanted", timeout=120)


def test_a_mirror_stands_in_for_a_registry(cluster: Cluster, fresh: str, places: Places) -> None:
    """`paddock serve-blobs` of a neighbour answers for Ollama's registry, which nobody can reach from here."""
    cluster.apply(fresh, sourced("one", {"ollama": {"name": "mirrored"}}))
    found = cluster.wait(fresh, "model", "one", timeout=120)
    assert found["status"]["resolved"]["name"] == "registry.ollama.ai/library/mirrored:latest"
    assert f"sha256-{hashlib.sha256(tiny()).hexdigest()}" in blobs(fresh)


def test_a_tag_that_moves(cluster: Cluster, fresh: str, places: Places, tmp_path: Path) -> None:
    """Track has the new digest within its interval and nobody who chats notices; Pinned stays where it is."""
    was = places.push("moving", tiny())
    key = make_key(cluster, fresh)
    source = {"oci": {"reference": places.reference("moving"), "secretRef": {"name": "registry"}}}
    follows = sourced("follows", source, updatePolicy={"type": "Track", "interval": "1m"})
    cluster.apply(fresh, places.login("registry"), follows, sourced("stays", source))
    cluster.apply(fresh, objects.endpoint(models=("follows", "stays")))
    for name in ("follows", "stays"):
        cluster.wait(fresh, "model", name, timeout=120)
        assert resolved(cluster, fresh, name)["revision"] == was
    pin = resolved(cluster, fresh, "stays")
    endpoint = cluster.wait(fresh, "endpoint", "main", timeout=60)
    eventually(lambda: answered(cluster, fresh, key, "follows"), "the Endpoint answers", timeout=60)
    now = places.push("moving", other(tmp_path, seed=3))
    with Load(address(cluster, endpoint), key, "follows", clients=2) as load, recorded("a tag moved: in force"):
        eventually(lambda: resolved(cluster, fresh, "follows")["revision"] == now, "the tag is followed", timeout=120)
        found = cluster.wait(fresh, "model", "follows", timeout=90)
    load.assert_clean(least=8)
    history = [entry["digest"] for entry in found["status"]["history"]]
    assert history == [found["status"]["resolved"]["digest"], pin["digest"]], "the way back is known"
    assert resolved(cluster, fresh, "stays") == pin
    cluster.wait(fresh, "model", "stays", timeout=10)
