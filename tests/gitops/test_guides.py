"""The guides: every reason has its cure, every manifest is accepted, every command exists with its flags."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.apiserver import ApiServer
from tests.support.helm import ROOT, helm, render

from e2e.cluster import build
from paddock_operator.cli.parser import build as paddock_parser
from paddock_operator.core.conditions import REASONS

GUIDES = ROOT / "docs" / "guides"
PAGES = sorted(path.name for path in GUIDES.glob("*.md"))


def rows(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if line.startswith("| `"):
            yield [cell.strip().strip("`") for cell in line.strip("|").split("|")]


def test_every_condition_and_reason_has_its_row() -> None:
    """Nothing is missing, nothing is invented, and the conditions that a reason stands on are the code's."""
    text = (GUIDES / "conditions.md").read_text()
    types, _, reasons = text.partition("## Reasons")
    assert {row[0] for row in rows(types)} == set(REASONS)
    wanted: dict[str, set[str]] = defaultdict(set)
    for kind, names in REASONS.items():
        for name in names:
            wanted[name].add(kind)
    found = [(row[0], set(row[1].split(", "))) for row in rows(reasons)]
    assert len(found) == len(dict(found))
    assert dict(found) == wanted
    assert all(len(row) == 4 and row[2] and row[3] for row in rows(reasons))


def blocks(page: str, language: str) -> list[str]:
    text = (GUIDES / page).read_text()
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", body, flags=re.MULTILINE) for indent, body in found]


def test_there_are_manifests_and_commands_to_check() -> None:
    assert set(PAGES) >= {"install.md", "caches.md", "gitops.md", "conditions.md"}
    assert sum(len(blocks(page, "yaml")) for page in PAGES) >= 9
    assert sum(len(list(commands(page))) for page in PAGES) >= 20


@pytest.mark.parametrize("page", PAGES)
def test_values_of_the_guides_are_accepted(page: str) -> None:
    for body in blocks(page, "yaml"):
        if body.startswith("# values.yaml"):
            assert render(yaml.safe_load(body))


@pytest.mark.parametrize("page", PAGES)
def test_manifests_of_the_guides_are_accepted(apiserver: ApiServer, page: str) -> None:
    """What a plain API server knows; objects of Argo CD and Flux are only parsed."""
    for body in blocks(page, "yaml"):
        for document in yaml.safe_load_all(body):
            foreign = re.search(r"argoproj|fluxcd", str(document.get("apiVersion")))
            if "kind" in document and not foreign:
                text = yaml.safe_dump(document)
                apiserver.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", input=text)


def commands(page: str) -> Iterator[list[str]]:
    for body in blocks(page, "console"):
        for line in body.splitlines():
            if line.startswith("$ "):
                yield shlex.split(line[2:], comments=True)


@cache
def help_of(*words: str) -> str:
    if words[0] == "helm":
        return helm(*words[1:], "--help")
    done = subprocess.run(
        [str(build.bin_dir() / words[0]), *words[1:], "--help"], capture_output=True, text=True, check=True
    )
    return (
        done.stdout
        + subprocess.run(
            [str(build.bin_dir() / words[0]), "options"], capture_output=True, text=True, check=False
        ).stdout
    )


def flags(words: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in words if word.startswith("--")}


SUBCOMMANDS = {("create", "namespace"), ("create", "rolebinding"), ("create", "configmap")}


@pytest.mark.usefixtures("apiserver")
@pytest.mark.parametrize("page", PAGES)
def test_flags_of_kubectl_and_helm_exist(page: str) -> None:
    for words in commands(page):
        if words[0] in ("kubectl", "helm"):
            verb = words[1:3] if tuple(words[1:3]) in SUBCOMMANDS else words[1:2]
            known = help_of(words[0], *verb)
            unknown = {flag for flag in flags(words) if not re.search(rf"{flag}\b", known)}
            assert not unknown, f"{' '.join(words)}: {unknown}"
            # The plural without its group is a kind of Kubernetes itself.
            assert not re.search(r"\bendpoints(?!\.paddock\.dev|\w)", " ".join(words)), words


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_paddock_are_understood(page: str) -> None:
    for words in commands(page):
        if words[0] == "paddock":
            assert paddock_parser().parse_args(words[1:]).verb


@pytest.mark.parametrize("page", PAGES)
def test_links_and_paths_exist(page: str) -> None:
    text = (GUIDES / page).read_text()
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    assert [link for link in links if not (GUIDES / link).exists()] == []
    paths = re.findall(r"(?:charts|examples|docs)/[a-z/]+(?:\.[a-z]+)?", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_examples_are_an_endpoint_of_the_model() -> None:
    model, endpoint = (
        yaml.safe_load((ROOT / "examples" / "cluster" / f"{kind}.yaml").read_text()) for kind in ("model", "endpoint")
    )
    assert [entry["name"] for entry in endpoint["spec"]["models"]] == [model["metadata"]["name"]]
    host = model["spec"]["source"]["http"]["url"].split("/")[2]
    allow: list[Any] = [
        entry
        for body in blocks("install.md", "yaml")
        for entry in ((yaml.safe_load(body).get("sources") or {}).get("allow") or ())
    ]
    assert host in [entry["host"] for entry in allow]


def test_the_files_that_argo_cd_gets_are_those_of_the_folder() -> None:
    text = (GUIDES / "gitops.md").read_text()
    given = set(re.findall(r"health\.paddock\.dev_(\w+)=(\S+)", text))
    assert given == {("Model", "docs/gitops/argocd/model.lua"), ("Endpoint", "docs/gitops/argocd/endpoint.lua")}
    assert all(Path(ROOT / path).exists() for _, path in given)
