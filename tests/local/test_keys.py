"""API keys in files: made once, never stored in clear, read with all their faults named."""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from paddock_operator.core.identity import secret_hash
from paddock_operator.core.resources import KeyRecord, PreviousKey
from paddock_operator.executors.local import keys

HASH = "a" * 64


def secret(**policy: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "paddock.dev/api-key",
        "metadata": {"name": "k", "namespace": "team"},
        "stringData": {"sha256": HASH, "policy": json.dumps(policy)},
    }


def test_a_key_has_its_form_and_only_its_hash_is_stored(tmp_path: Path) -> None:
    clear = keys.create(tmp_path, "default", "first")
    assert re.fullmatch(r"pdk_[0-9a-f]{8}_[A-Za-z0-9_-]{43}", clear)
    path = tmp_path / "default" / "first.yaml"
    assert clear not in path.read_text()
    assert clear.split("_")[2] not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    records, problems = keys.stored(tmp_path)
    assert records == (KeyRecord("default/first", secret_hash(clear)),)
    assert problems == ()


def test_keys_differ() -> None:
    assert len({keys.new_secret() for _ in range(100)}) == 100


def test_policy_is_kept(tmp_path: Path) -> None:
    when = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    keys.create(tmp_path, "team", "k", models=("a", "b"), verbs=("infer", "manage"), expires=when)
    record = keys.stored(tmp_path)[0][0]
    assert (record.models, record.verbs, record.expires) == (("a", "b"), ("infer", "manage"), "2030-01-02T03:04:05Z")


def test_a_name_is_taken_once(tmp_path: Path) -> None:
    keys.create(tmp_path, "default", "k")
    before = (tmp_path / "default" / "k.yaml").read_bytes()
    with pytest.raises(keys.KeyFault, match="exists in namespace 'default'; revoke it first"):
        keys.create(tmp_path, "default", "k")
    assert (tmp_path / "default" / "k.yaml").read_bytes() == before


@pytest.mark.parametrize("name", ["", "A", "../x", "a/b", "-a", "a" * 300, "a\n"])
def test_names_are_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(keys.KeyFault, match="lower-case"):
        keys.create(tmp_path, "default", name)
    with pytest.raises(keys.KeyFault, match="lower-case"):
        keys.create(tmp_path, name, "k")
    with pytest.raises(keys.KeyFault, match="lower-case"):
        keys.revoke(tmp_path, name, "k")
    assert list(tmp_path.iterdir()) == []


def test_revoke(tmp_path: Path) -> None:
    keys.create(tmp_path, "default", "k")
    keys.revoke(tmp_path, "default", "k")
    assert keys.stored(tmp_path) == ((), ())
    with pytest.raises(keys.KeyFault, match="no key 'k' in namespace 'default'"):
        keys.revoke(tmp_path, "default", "k")


def test_data_and_rotation_are_read() -> None:
    document = secret(previous={"sha256": "b" * 64, "until": "2030-01-01T00:00:00Z"})
    plain = document.pop("stringData")
    document["data"] = {name: base64.b64encode(value.encode()).decode() for name, value in plain.items()}
    record = keys.record_of(document)
    assert record == KeyRecord("team/k", HASH, PreviousKey("b" * 64, "2030-01-01T00:00:00Z"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"type": "Opaque"}, "only Secrets of type"),
        ({"stringData": {"sha256": "pdk_clear"}}, "sha256"),
        ({"stringData": {"sha256": HASH, "policy": "{"}}, "policy"),
        ({"stringData": {"sha256": HASH, "policy": '{"models": "a"}'}}, "policy.models"),
        ({"stringData": {"sha256": HASH, "policy": '{"expires": "tomorrow"}'}}, "policy.expires"),
        ({"data": {"sha256": "%%"}, "stringData": None}, "base64"),
        ({"metadata": {"name": "X"}}, "metadata.name"),
    ],
)
def test_faults_are_named_and_never_show_a_value(change: dict[str, Any], words: str) -> None:
    with pytest.raises(keys.KeyFault, match=words) as caught:
        keys.record_of(secret() | change)
    assert "pdk_clear" not in str(caught.value)


def test_a_bad_file_does_not_hide_the_good_ones(tmp_path: Path) -> None:
    keys.create(tmp_path, "default", "good")
    (tmp_path / "default" / "bad.yaml").write_text("kind: [")
    (tmp_path / "default" / "other.yaml").write_text(yaml.safe_dump(secret() | {"type": "Opaque"}))
    records, problems = keys.stored(tmp_path)
    assert [record.id for record in records] == ["default/good"]
    assert len(problems) == 2


def test_the_folder_decides_the_namespace(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "k.yaml").write_text(yaml.safe_dump(secret()))
    assert keys.stored(tmp_path)[0][0].id == "other/k"


def test_the_fingerprint_changes_with_every_change(tmp_path: Path) -> None:
    seen = [keys.fingerprint(tmp_path)]
    keys.create(tmp_path, "default", "k")
    seen.append(keys.fingerprint(tmp_path))
    keys.create(tmp_path, "default", "l")
    seen.append(keys.fingerprint(tmp_path))
    keys.revoke(tmp_path, "default", "k")
    seen.append(keys.fingerprint(tmp_path))
    assert len(set(seen)) == 4
