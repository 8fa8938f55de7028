"""The chart: lint, golden renderings, restricted pods, closed values, settings that the operator parses, CRDs."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.chart_values import EVERYTHING, INSTALLATIONS
from tests.support.helm import CHART, ROOT, SYSTEM, HelmError, Object, helm, render, template
from tests.support.restricted import violations

from paddock_operator.core.cluster.settings import Settings, parse_settings
from paddock_operator.core.cluster.source_settings import AllowedSource

GOLDEN = Path(__file__).parent / "golden"


def one(documents: list[Object], kind: str, name: str = "paddock-operator") -> Object:
    (found,) = (item for item in documents if item["kind"] == kind and item["metadata"]["name"] == name)
    return found


def settings(documents: list[Object]) -> Settings:
    return parse_settings(yaml.safe_load(one(documents, "ConfigMap")["data"]["settings.yaml"]))


def test_lint() -> None:
    said = helm("lint", "--strict", "--kube-version", "1.35.0", str(CHART))
    assert "0 chart(s) failed" in said


@pytest.mark.parametrize("name", INSTALLATIONS)
def test_golden_renderings(name: str) -> None:
    """UPDATE_GOLDEN=1 writes them anew; the CRDs have a test of their own."""
    found = template({**INSTALLATIONS[name], "crds": {"enabled": False}})
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(found)
    assert found == path.read_text()


@pytest.mark.parametrize("name", INSTALLATIONS)
def test_every_pod_is_restricted(name: str) -> None:
    specs = [item["spec"]["template"]["spec"] for item in render(INSTALLATIONS[name]) if item["kind"] == "Deployment"]
    assert [violations(spec) for spec in specs] == [[]]


def test_the_check_of_pods_sees_what_is_wrong() -> None:
    spec: Object = {
        "hostNetwork": True,
        "volumes": [{"name": "v", "hostPath": {}}],
        "containers": [{"name": "c", "ports": [{"hostPort": 1}]}],
    }
    assert len(violations(spec)) == 8


def test_crds_are_those_of_the_project() -> None:
    """With one annotation more: they stay when the release goes."""
    rendered = {item["metadata"]["name"]: item for item in render() if item["kind"] == "CustomResourceDefinition"}
    wanted = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "crds").glob("*.yaml"))]
    assert sorted(rendered) == [item["metadata"]["name"] for item in wanted]
    for item in wanted:
        found = rendered[item["metadata"]["name"]]
        assert found["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        assert found == item


def test_the_chart_holds_copies_of_the_crds() -> None:
    copies = {path.name: path.read_text() for path in (CHART / "files" / "crds").iterdir()}
    originals = {path.name: path.read_text() for path in (ROOT / "crds").iterdir()}
    assert copies == originals, "run: cp crds/*.yaml charts/paddock/files/crds/"


def test_no_crds_when_disabled() -> None:
    assert not [item for item in render({"crds": {"enabled": False}}) if item["kind"] == "CustomResourceDefinition"]


def test_versions_are_one() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert project is not None
    assert chart["appVersion"] == project[1]


# Settings


def test_settings_of_the_default_installation() -> None:
    """Chart and program agree on every default but the images' names."""
    found = settings(render())
    images = Settings().images.__class__(gateway="paddock-gateway:0.1.0", runner="paddock-runner:0.1.0")
    assert found == Settings(namespace=SYSTEM, images=images)


def test_settings_of_everything() -> None:
    found = settings(render(EVERYTHING))
    assert found.namespaces == ("chat", "lab")
    assert found.images.gateway == "registry.example:5000/paddock/gateway:v9"
    assert found.images.runner.startswith("registry.example:5000/paddock/runner@sha256:0123")
    assert (found.images.pull_policy, found.images.pull_secrets) == ("Always", ("registry",))
    assert found.sources.allow == (
        AllowedSource("files.example:8000", "10.1.0.0/16", 8000),
        AllowedSource("mirror.example", "192.0.2.7/32", 443),
    )
    assert (found.cache.mode, found.cache.size, found.cache.access_mode) == ("Node", "2Ti", "ReadWriteMany")
    assert (found.api_server.cidr, found.api_server.ports) == ("10.0.0.0/8", (6443,))
    assert (found.max_rolling, found.collect_seconds, found.resync_seconds, found.workers) == (10, 2000000, 60, 16)
    assert found.collect_min_age_seconds == 0
    assert found.leader_election


def test_changed_settings_change_the_pod() -> None:
    before, after = (
        one(documents, "Deployment")["spec"]["template"]["metadata"]["annotations"]["checksum/settings"]
        for documents in (render(), render({"workers": 9}))
    )
    assert before != after
    text = one(render(), "ConfigMap")["data"]["settings.yaml"].rstrip("\n")
    assert before == hashlib.sha256(text.encode()).hexdigest()


# Values


def schemas(value: Any, path: str = "values") -> Iterator[tuple[str, Object]]:
    if isinstance(value, dict):
        if value.get("type") == "object":
            yield path, value
        for name, inner in value.items():
            yield from schemas(inner, f"{path}.{name}")


def test_the_schema_of_values_is_closed() -> None:
    """Open are only what a parent chart gives, and the types of Kubernetes that the API server checks."""
    document = json.loads((CHART / "values.schema.json").read_text())
    open_ones = {path.rpartition(".")[2] for path, item in schemas(document) if "additionalProperties" not in item}
    assert open_ones == {
        "global",
        "ipBlock",
        "namespaceSelector",
        "podSelector",
        "nodeAffinity",
        "podAffinity",
        "podAntiAffinity",
    }
    assert True not in [item.get("additionalProperties") for _, item in schemas(document)]


def test_the_schema_knows_every_value_and_no_other() -> None:
    def names(value: Any, path: str = "") -> Iterator[str]:
        for name, inner in value.items():
            yield f"{path}{name}"
            if isinstance(inner, dict):
                yield from names(inner, f"{path}{name}.")

    def known(value: Object, path: str = "") -> Iterator[str]:
        for name, inner in value.get("properties", {}).items():
            yield f"{path}{name}"
            yield from known(inner, f"{path}{name}.")

    given = set(names(yaml.safe_load((CHART / "values.yaml").read_text())))
    listed = set(known(json.loads((CHART / "values.schema.json").read_text())))
    below = {"global", "affinity.nodeAffinity", "affinity.podAffinity", "affinity.podAntiAffinity"}
    assert {name for name in given if not name.startswith("resources.")} == {
        name for name in listed - below if not name.startswith("resources.")
    }


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"imges": {}}, "imges"),
        ({"images": {"operator": {"name": "x"}}}, "name"),
        ({"images": {"runner": {"repository": "x", "digest": "sha256:12"}}}, "digest"),
        ({"replicas": 3}, "replicas"),
        ({"cache": {"mode": "shared"}}, "mode"),
        ({"cache": {"size": "ten"}}, "size"),
        ({"sources": {"allow": [{"host": "x"}]}}, "cidr"),
        ({"sources": {"allow": [{"host": "http://x", "cidr": "10.0.0.0/8"}]}}, "host"),
        ({"apiServer": {"ports": []}}, "ports"),
        ({"watch": {"namespaces": ["A"]}}, "namespaces"),
        ({"tolerations": [{"effect": "Never"}]}, "effect"),
        ({"logLevel": "debug"}, "logLevel"),
        (
            {"watch": {"namespaces": ["a"]}, "endpointNamespaces": ["b"]},
            "endpointNamespaces: b is not in watch.namespaces",
        ),
    ],
)
def test_wrong_values_are_refused_by_name(values: Object, word: str) -> None:
    with pytest.raises(HelmError, match=re.escape(word)):
        render(values)


def test_another_release_has_other_names() -> None:
    documents = render({"rbac": {"clusterRoles": False}, "crds": {"enabled": False}}, name="second")
    assert {item["metadata"]["name"] for item in documents} == {
        "second-operator",
        "second-operator-lease",
        "second-operator-metrics",
    }
