"""Mounted Secrets with registry credentials: what is accepted, what is refused, and that nothing is quoted."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from paddock_runner.sources.credentials import MAX_VALUE_BYTES, authorization
from paddock_runner.sources.errors import UnauthorizedError

HOST = "registry.example.com"
SECRET = "s3cret-value"


def basic(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def docker(auths: object) -> dict[str, str]:
    return {".dockerconfigjson": json.dumps({"auths": auths})}


def mount(folder: Path, keys: dict[str, str]) -> Path:
    """As a kubelet does it: keys are links into a folder of one version."""
    version = folder / "..2026_01_01"
    version.mkdir()
    (folder / "..data").symlink_to(version.name)
    for key, value in keys.items():
        (version / key).write_text(value)
        (folder / key).symlink_to(f"..data/{key}")
    return folder


@pytest.mark.parametrize(
    ("keys", "header"),
    [
        ({"token": "abc.DEF-1\n"}, "Bearer abc.DEF-1"),
        ({"username": "me", "password": "p:w ü"}, f"Basic {basic('me:p:w ü')}"),
        (docker({HOST: {"auth": basic("me:pw")}}), f"Basic {basic('me:pw')}"),
        (docker({"x": {}, f"https://{HOST}/v1/": {"username": "me", "password": "pw"}}), f"Basic {basic('me:pw')}"),
        (docker({HOST.upper(): {"registrytoken": "tok"}}), "Bearer tok"),
        ({"token": "abc", "other": "ignored"}, "Bearer abc"),
    ],
)
def test_accepted(tmp_path: Path, keys: dict[str, str], header: str) -> None:
    assert authorization(mount(tmp_path, keys), HOST) == header


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ({}, r"username and password, or \.dockerconfigjson, or ssh-privatekey; it has none of them"),
        ({"password": SECRET}, "it has password"),
        ({"token": SECRET, "username": SECRET, "password": SECRET}, "it has token and username and password"),
        ({"token": ""}, "key token is empty"),
        ({"token": "\n"}, "key token is empty"),
        ({"token": f"{SECRET} x"}, "one word"),
        ({"token": f"{SECRET}\nX-Evil: 1"}, "one word"),
        ({"username": f"a:{SECRET}", "password": SECRET}, "no ':'"),
        ({"username": "a", "password": f"{SECRET}\r\nX: y"}, "printable"),
        ({"token": SECRET * MAX_VALUE_BYTES}, "more than"),
        ({".dockerconfigjson": SECRET}, "is not JSON"),
        ({".dockerconfigjson": "[]"}, "with auths"),
        ({".dockerconfigjson": '{"auths": []}'}, "with auths"),
        (docker({f"{HOST}.evil.com": {"auth": basic(f"me:{SECRET}")}}), f"no entry for {HOST}"),
        (docker({HOST: SECRET}), f"no entry for {HOST}"),
        (docker({HOST: {"auth": f"{SECRET}!"}}), "base64"),
        (docker({HOST: {"auth": basic(SECRET)}}), "a user name and a password"),
        (docker({HOST: {}}), "a user name and a password"),
    ],
)
def test_refused_with_the_keys_named_and_no_value(tmp_path: Path, keys: dict[str, str], match: str) -> None:
    with pytest.raises(UnauthorizedError, match=match) as caught:
        authorization(mount(tmp_path, keys), HOST)
    assert caught.value.retryable
    assert SECRET not in str(caught.value)


def test_a_key_that_is_no_text_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"\xff\xfe")
    with pytest.raises(UnauthorizedError, match="not UTF-8"):
        authorization(tmp_path, HOST)
    (tmp_path / "token").unlink()
    (tmp_path / "token").mkdir()
    with pytest.raises(UnauthorizedError, match="cannot be read"):
        authorization(tmp_path, HOST)
    with pytest.raises(UnauthorizedError, match="none of them"):
        authorization(tmp_path / "missing", HOST)
