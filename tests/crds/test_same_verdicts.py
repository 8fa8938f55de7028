"""The API server and `paddock up` refuse the same manifests with the same messages, and accept the same ones."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import yaml
from tests.crds.conftest import ROOT
from tests.crds.invalid_endpoints import ENDPOINTS
from tests.crds.invalid_models import MODELS, ROUTED, Case
from tests.crds.kube import Kube, Verdict, verdict
from tests.crds.manifests import endpoint, model
from tests.crds.test_invalid_manifests import VALID
from tests.crds.walk import nodes, schema_of
from tests.support.apiserver import ApiServer

from paddock_operator.core.schema import Schemas, problems

TABLE = [*MODELS, *ENDPOINTS]


@pytest.fixture(scope="module")
def answers(kube: Kube) -> list[tuple[Case, Verdict]]:
    return [(case, verdict(kube, case[0], "default")) for case in TABLE]


def ours(document: Any, schemas: Schemas) -> frozenset[tuple[str, str]]:
    return frozenset((problem.path, problem.message) for problem in problems(document, schemas))


def brief(document: Any) -> str:
    return json.dumps(document.get("spec", document))[:200]


def test_the_table_is_large_and_covers_both_kinds() -> None:
    assert len(TABLE) >= 80
    assert len({json.dumps(document, sort_keys=True) for document, _, _ in TABLE}) == len(TABLE)


def test_each_is_refused_by_the_api_server_naming_the_field(answers: list[tuple[Case, Verdict]]) -> None:
    wrong = [brief(document) for (document, _, _), answer in answers if answer.accepted]
    assert wrong == []
    unnamed = [brief(document) for (document, field, _), answer in answers if field not in dict(answer.complaints)]
    assert unnamed == []


def test_paddock_up_says_the_same(answers: list[tuple[Case, Verdict]], schemas: Schemas) -> None:
    different = {}
    for (document, _, _), answer in answers:
        mine = ours(document, schemas)
        # an API server stops at unknown fields; `paddock up` goes on and says all that is wrong
        same = answer.complaints <= mine if answer.stopped else answer.complaints == mine
        if not same or not answer.complaints:
            different[brief(document)] = (sorted(answer.complaints - mine), sorted(mine - answer.complaints))
    assert different == {}


def test_what_is_routed_elsewhere_is_refused_by_both(kube: Kube, schemas: Schemas) -> None:
    for document, _, _ in ROUTED:
        assert not verdict(kube, document, "default").accepted
        assert problems(document, schemas)


@pytest.mark.parametrize("kind", ["Model", "Endpoint"])
def test_every_rule_is_broken_by_the_table(
    crds: dict[str, dict[str, Any]], answers: list[tuple[Case, Verdict]], kind: str
) -> None:
    said = "\n".join(message for _, answer in answers for _, message in answer.complaints)
    walked = nodes(schema_of(crds[kind]))
    rules = {rule["message"] for _, node in walked for rule in node.get("x-kubernetes-validations", ())}
    assert {rule for rule in rules if rule not in said} == set()
    assert "evaluating rule" not in said


def test_valid_manifests_and_examples_are_accepted(kube: Kube, namespace: str, schemas: Schemas) -> None:
    files = sorted((ROOT / "examples").rglob("*.yaml"))
    examples = [document for file in files for document in yaml.safe_load_all(file.read_text())]
    documents = [document for document in [*VALID, *examples] if document["kind"] in ("Model", "Endpoint")]
    assert len(documents) > 25
    for document in documents:
        here = copy.deepcopy(document)
        here["metadata"]["namespace"] = namespace
        assert verdict(kube, here, namespace) == Verdict(True, frozenset())
        assert problems(document, schemas) == ()


def test_kubectl_sends_whole_numbers_as_integers(apiserver: ApiServer, namespace: str, schemas: Schemas) -> None:
    manifest = model(replicas=1.0, serving={"contextLength": 2048.0}, parameters={"num_ctx": 2048.0})
    text = yaml.safe_dump(manifest)
    assert "2048.0" in text
    done = apiserver.kubectl("create", "-n", namespace, "--dry-run=server", "-o", "json", "-f", "-", input=text)
    assert json.loads(done.stdout)["spec"]["serving"]["contextLength"] == 2048
    assert problems(manifest, schemas) == ()


def test_kubectl_prints_the_line_that_paddock_up_prints(apiserver: ApiServer, namespace: str, schemas: Schemas) -> None:
    manifest = endpoint(replicas=65)
    (problem,) = problems(manifest, schemas)
    done = apiserver.kubectl("apply", "-n", namespace, "-f", "-", input=yaml.safe_dump(manifest), check=False)
    assert done.returncode != 0
    assert f"{problem.path}: {problem.message}" in done.stderr
    assert str(problem) == f"{problem.path}: {problem.message}; lower it"
