"""The flow evaluator itself: the rules of networking.k8s.io/v1, one by one, on policies written by hand."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.flows import Peer, allows, matches, policy_types

WEB = Peer("10.0.0.1", "a", {"app": "web"}, {"team": "x"}, {("http", "TCP"): 8080})
DB = Peer("10.0.0.2", "a", {"app": "db"}, {"team": "x"}, {("sql", "TCP"): 5432})
FAR = Peer("10.0.1.1", "b", {"app": "web"}, {"team": "y"})
OUT = Peer("203.0.113.9")


def policy(selector: dict[str, Any] | None = None, namespace: str = "a", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"namespace": namespace}, "spec": {"podSelector": selector or {}, **spec}}


def test_without_a_policy_everything_is_allowed() -> None:
    assert allows([], OUT, DB, 1)
    assert allows([policy(namespace="b")], WEB, DB, 1), "a policy of another namespace"
    assert allows([policy({"matchLabels": {"app": "web"}})], OUT, DB, 1), "a policy that selects other pods"


def test_a_selected_pod_is_closed_in_the_named_directions_only() -> None:
    assert not allows([policy(policyTypes=["Ingress"])], WEB, DB, 1)
    assert allows([policy({"matchLabels": {"app": "db"}}, policyTypes=["Ingress"])], DB, OUT, 1)
    assert not allows([policy({"matchLabels": {"app": "web"}}, policyTypes=["Egress"])], WEB, DB, 1)
    assert allows([policy({"matchLabels": {"app": "web"}}, policyTypes=["Egress"])], OUT, WEB, 1)


def test_policy_types_have_defaults() -> None:
    assert policy_types(policy()) == ["Ingress"]
    assert policy_types(policy(egress=[{}])) == ["Ingress", "Egress"]
    assert policy_types(policy(egress=[])) == ["Ingress"]
    assert policy_types(policy(policyTypes=["Egress"])) == ["Egress"]


def test_both_ends_must_agree_and_rules_add_up() -> None:
    out = policy({"matchLabels": {"app": "web"}}, policyTypes=["Egress"], egress=[{"ports": [{"port": 5432}]}])
    into = policy({"matchLabels": {"app": "db"}}, ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "x"}}}]}])
    more = policy(
        {"matchLabels": {"app": "db"}}, ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}]
    )
    assert not allows([out, into], WEB, DB, 5432)
    assert allows([out, into, more], WEB, DB, 5432)
    assert not allows([out, into, more], WEB, DB, 5433)


PEERS: list[tuple[str, list[dict[str, Any]] | None, list[bool]]] = [
    # who of (web of a, web of b, outside) may come in to the database
    ("no list is everybody", None, [True, True, True]),
    ("an empty list, too", [], [True, True, True]),
    ("all pods of the namespace", [{"podSelector": {}}], [True, False, False]),
    ("all pods of all namespaces", [{"namespaceSelector": {}}], [True, True, False]),
    ("a namespace by its label", [{"namespaceSelector": {"matchLabels": {"team": "y"}}}], [False, True, False]),
    (
        "a namespace by its name",
        [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "b"}}}],
        [False, True, False],
    ),
    (
        "both selectors of one peer must match",
        [{"namespaceSelector": {"matchLabels": {"team": "y"}}, "podSelector": {"matchLabels": {"app": "db"}}}],
        [False, False, False],
    ),
    (
        "two peers are two ways",
        [{"namespaceSelector": {"matchLabels": {"team": "y"}}}, {"podSelector": {"matchLabels": {"app": "web"}}}],
        [True, True, False],
    ),
    ("a block", [{"ipBlock": {"cidr": "203.0.113.0/24"}}], [False, False, True]),
    ("a block but", [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["203.0.113.0/28"]}}], [True, True, False]),
    ("another family", [{"ipBlock": {"cidr": "::/0"}}], [False, False, False]),
]


@pytest.mark.parametrize(("peers", "expected"), [case[1:] for case in PEERS], ids=[case[0] for case in PEERS])
def test_peers(peers: list[dict[str, Any]] | None, expected: list[bool]) -> None:
    rule = {} if peers is None else {"from": peers}
    rules = [policy({"matchLabels": {"app": "db"}}, ingress=[rule])]
    assert [allows(rules, source, DB, 5432) for source in (WEB, FAR, OUT)] == expected


PORTS: list[tuple[list[dict[str, Any]], int, str, bool]] = [
    ([], 1, "TCP", True),
    ([{"port": 5432}], 5432, "TCP", True),
    ([{"port": 5432}], 5432, "UDP", False),
    ([{"protocol": "UDP", "port": 53}], 53, "UDP", True),
    ([{"protocol": "UDP"}], 7, "UDP", True),
    ([{"port": 5000, "endPort": 6000}], 5432, "TCP", True),
    ([{"port": 5000, "endPort": 5431}], 5432, "TCP", False),
    ([{"port": "sql"}], 5432, "TCP", True),
    ([{"port": "http"}], 5432, "TCP", False),
    ([{"port": "sql"}], 5433, "TCP", False),
    ([{"port": 1}, {"port": 2}], 2, "TCP", True),
]


@pytest.mark.parametrize(("ports", "port", "protocol", "expected"), PORTS)
def test_ports(ports: list[dict[str, Any]], port: int, protocol: str, expected: bool) -> None:
    rules = [policy({"matchLabels": {"app": "db"}}, ingress=[{"ports": ports}])]
    assert allows(rules, WEB, DB, port, protocol) is expected


def test_a_named_port_is_the_targets() -> None:
    rules = [policy({"matchLabels": {"app": "web"}}, policyTypes=["Egress"], egress=[{"ports": [{"port": "sql"}]}])]
    assert allows(rules, WEB, DB, 5432)
    assert not allows(rules, WEB, OUT, 5432)


EXPRESSIONS = [
    ("In", ["x"], True),
    ("In", ["y"], False),
    ("NotIn", ["x"], False),
    ("NotIn", ["y"], True),
    ("Exists", [], True),
    ("DoesNotExist", [], False),
]


@pytest.mark.parametrize(("operator", "values", "expected"), EXPRESSIONS)
def test_expressions(operator: str, values: list[str], expected: bool) -> None:
    selector = {"matchExpressions": [{"key": "team", "operator": operator, "values": values}]}
    assert matches(selector, {"team": "x"}) is expected
    assert matches({"matchLabels": {"a": "b"}, **selector}, {"team": "x"}) is False
