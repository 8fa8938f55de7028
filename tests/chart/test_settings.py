"""The settings file: strict, and every message names the field."""

from __future__ import annotations

import re
from typing import Any

import pytest

from paddock_operator.core.cluster.settings import Settings, parse_settings
from paddock_operator.core.cluster.source_settings import AllowedSource
from paddock_operator.core.wire import to_wire


def test_nothing_is_the_defaults() -> None:
    assert parse_settings({}) == Settings()


def test_the_wire_form_of_settings_is_parsed_again() -> None:
    wanted = Settings(namespaces=("a", "b"), max_rolling=5, leader_election=True)
    assert parse_settings(to_wire(wanted)) == wanted


def test_lists_of_objects_keep_their_defaults() -> None:
    found = parse_settings({"sources": {"allow": [{"host": "files:8000", "cidr": "10.0.0.0/8"}]}})
    assert found.sources.allow == (AllowedSource("files:8000", "10.0.0.0/8", 443),)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"maxRoling": 3}, "maxRoling is not a setting; did you mean maxRolling?"),
        ({"max_rolling": 3}, "max_rolling is not a setting"),
        ({"cache": {"sizes": "1Gi"}}, "cache.sizes is not a setting; did you mean cache.size?"),
        ({"cache": "big"}, "cache must be a mapping, not 'big'"),
        ({"cache": {"mode": "shared"}}, "cache.mode must be one of Shared, Node, not 'shared'"),
        ({"cache": {"size": "1 GB"}}, "cache.size: '1 GB' is not a quantity"),
        ({"apiServer": {"cidr": "10.0.0.1/8"}}, "apiServer.cidr: 10.0.0.1/8 has host bits set"),
        ({"maxRolling": "3"}, "maxRolling must be a whole number, not '3'"),
        ({"maxRolling": True}, "maxRolling must be a whole number, not True"),
        ({"maxRolling": 0}, "maxRolling must be at least 1, not 0"),
        ({"leaderElection": 1}, "leaderElection must be true or false, not 1"),
        ({"namespaces": "a"}, "namespaces must be a list, not 'a'"),
        ({"namespaces": [1]}, "namespaces[0] must be text, not 1"),
        ({"healthPort": 70000}, "healthPort must be a port, 1 to 65535, not 70000"),
        ({"apiServer": {"ports": [443, 0]}}, "apiServer.ports[1] must be a port"),
        ({"sources": {"allow": [{"host": "a"}]}}, "sources.allow[0].cidr is required"),
        ({"sources": {"connections": 65}}, "sources.connections must be at most 64, not 65"),
        ({"sources": {"rate": "fast"}}, "sources.rate: must be bytes per second such as 50M, not 'fast'"),
        ({"sources": {"caConfigMap": "Big"}}, "sources.caConfigMap: must be the name of a ConfigMap or Secret"),
        ({"sources": {"mirrors": [{"host": "a"}]}}, "sources.mirrors[0].url is required"),
        (
            {"sources": {"mirrors": [{"host": "a", "url": "ftp://m"}]}},
            "sources.mirrors[0].url: must be http(s)://host[:port][/path] without user",
        ),
        (
            {"sources": {"mirrors": [{"host": "a", "url": "http://m:5000"}]}},
            "sources.mirrors[0].cidr is required for another port than 443",
        ),
        (
            {"sources": {"proxy": {"https": "http://u:p@proxy:3128", "cidr": "10.0.0.0/8"}}},
            "sources.proxy.https: must be http(s)://host[:port][/path] without user",
        ),
        ({"sources": {"proxy": {"https": "http://proxy:3128"}}}, "sources.proxy.cidr is required"),
        ({"sources": {"proxy": {"noProxy": ["a b"]}}}, "sources.proxy.noProxy[0]: must be a host"),
        ({"sources": {"huggingFaceEndpoint": "hub"}}, "sources.huggingFaceEndpoint: must be http(s)://host"),
        (
            {"sources": {"allow": [{"host": "a", "cidr": "10.0.0.0/8", "ports": 1}]}},
            "sources.allow[0].ports is not a setting; did you mean sources.allow[0].port?",
        ),
    ],
)
def test_a_wrong_field_is_named(document: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_settings(document)


def test_all_problems_come_at_once() -> None:
    with pytest.raises(ValueError, match="workers must be at least 1, not 0; x is not a setting"):
        parse_settings({"workers": 0, "x": 1})
