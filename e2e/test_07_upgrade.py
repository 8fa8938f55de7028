"""A new version with another pod template: everything rolls, few at a time, and nobody who chats notices."""

from __future__ import annotations

import pytest

from e2e.conftest import Line
from e2e.support.cluster import Cluster, eventually
from e2e.support.helm import Release
from e2e.support.load import Load


@pytest.mark.own_cluster
def test_other_images_roll_gateways_and_runners_without_a_failed_request(
    cluster: Cluster, line: Line, release: Release
) -> None:
    """The same images under the tag of the next version: the pod templates of all children change."""
    for name in ("gateway", "runner"):
        retag(f"{release.prefix}{name}:dev", f"{release.prefix}{name}:next")
    with Load(line.url, line.key, "smollm2") as load:
        eventually(lambda: load.served() >= 4, "the load runs")
        images = {name: {"tag": "next"} for name in ("gateway", "runner")}
        release.install(images=images)
        eventually(lambda: _images(cluster, line) == {":next"}, "all pods have the new images", timeout=240)
        cluster.wait(line.namespace, "model", "smollm2", timeout=120)
        cluster.wait(line.namespace, "endpoint", "main", timeout=120)
    load.assert_clean(least=12)


def retag(name: str, other: str) -> None:
    """A second name for an image of the node."""
    from e2e.cluster import components

    components.ctr("images", "tag", "--force", name, other)


def _images(cluster: Cluster, line: Line) -> set[str]:
    found = cluster.all_of(line.namespace, "pods", "paddock.dev/component in (gateway,runner)")
    return {":" + item["spec"]["containers"][0]["image"].rpartition(":")[2] for item in found}
