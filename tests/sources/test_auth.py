"""How a puller shows who it is: challenges as servers write them, token servers, Ollama's signatures, Secrets."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from tests.support.ollama_registry import verifies
from tests.support.web import Reply, Seen, Web, serving_web

from paddock_runner.sources import auth
from paddock_runner.sources.addresses import HostRules
from paddock_runner.sources.auth import Access, EitherAccess, FixedAccess, OllamaAccess, TokenAccess, access_for
from paddock_runner.sources.challenge import MAX_CHALLENGES, MAX_PARAMETERS, Challenge, parse_challenges
from paddock_runner.sources.errors import (
    ForbiddenAddressError,
    InsecureSourceError,
    NetworkError,
    SourceUnsupportedError,
    UnauthorizedError,
)
from paddock_runner.sources.network import Network, Timeouts
from paddock_runner.sources.transport import Answer, Transport
from paddock_runner.store.errors import StoreError

BASIC = "Basic bWU6aHVzaA=="
SCOPE = "repository:me/x:pull"


# Challenges


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        (["Basic"], [("basic", {})]),
        (['Bearer realm="https://a/t",service="s",scope="a b"'],
         [("bearer", {"realm": "https://a/t", "service": "s", "scope": "a b"})]),
        (['BEARER  Scope = x , REALM="r"'], [("bearer", {"scope": "x", "realm": "r"})]),
        (['Basic realm="a", Bearer realm="b"'], [("basic", {"realm": "a"}), ("bearer", {"realm": "b"})]),
        (['Basic realm="a"', 'Bearer realm="b"'], [("basic", {"realm": "a"}), ("bearer", {"realm": "b"})]),
        (["Negotiate, Basic realm=x"], [("negotiate", {}), ("basic", {"realm": "x"})]),
        (["Negotiate abc/+==, Bearer realm=x"], [("negotiate", {}), ("bearer", {"realm": "x"})]),
        ([r'Bearer realm="a\"b,\\c"'], [("bearer", {"realm": r'a"b,\c'})]),
        (['Bearer realm="a, Basic x=y"'], [("bearer", {"realm": "a, Basic x=y"})]),
        (['Bearer realm="",realm="second"'], [("bearer", {"realm": ""})]),
        ([",, Bearer realm=x ,,"], [("bearer", {"realm": "x"})]),
        (['Bearer realm="open'], [("bearer", {})]),
        (["Bearer realm="], [("bearer", {})]),
        (['realm="x"'], []),
        (["\x00"], []),
        (['Bearer realm="' + "x" * 9000 + '"'], []),
    ],
)  # fmt: skip
def test_challenges(values: list[str], expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [(item.scheme, dict(item.parameters)) for item in parse_challenges(values)] == expected


def test_challenges_are_bounded() -> None:
    assert len(parse_challenges([f"A{n}" for n in range(100)])) == MAX_CHALLENGES
    [found] = parse_challenges(["A " + ",".join(f"p{n}=x" for n in range(100))])
    assert len(found.parameters) == MAX_PARAMETERS


@given(st.lists(st.text(), max_size=3))
def test_no_header_breaks_the_reading(values: list[str]) -> None:
    assert len(parse_challenges(values)) <= MAX_CHALLENGES


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.text(st.characters(codec="ascii")), max_size=8))
def test_every_value_survives_quoting(parameters: dict[str, str]) -> None:
    kept = {key: "".join(x for x in value if x.isprintable()) for key, value in parameters.items()}
    text = ", ".join('{}="{}"'.format(k, v.replace("\\", "\\\\").replace('"', '\\"')) for k, v in kept.items())
    assert parse_challenges([f"Bearer {text}"])[0] == Challenge("bearer", kept)


# A registry and its token server, as the specification has them


class Registry:
    """`web` asks for a token of `realm`; `tokens` is what the server at /token has given out and still takes."""

    def __init__(self, web: Web) -> None:
        self.web = web
        self.realm = f"{web.origin}/token"
        self.scope = SCOPE
        self.credentials: str | None = None
        self.given = 0
        self.answer: dict[str, Any] = {}
        self.tokens: set[str] = set()
        self.url = web.on("/v2/me/x/manifests/1", self._serve)
        web.on("/token", self._token)

    def _serve(self, seen: Seen) -> Reply:
        if seen.headers.get("authorization", "").removeprefix("Bearer ") in self.tokens:
            return Reply(body=b"manifest")
        value = f'Bearer realm="{self.realm}",service="registry.example",scope="{self.scope}"'
        return Reply(401, headers={"WWW-Authenticate": value})

    def _token(self, seen: Seen) -> Reply:
        if self.credentials != seen.headers.get("authorization"):
            return Reply(401)
        self.given += 1
        self.tokens.add(f"t{self.given}")
        return Reply(body=json.dumps({"token": f"t{self.given}", **self.answer}).encode())


@pytest.fixture
def web() -> Iterator[Web]:
    with serving_web() as state:
        yield state


@pytest.fixture
def other() -> Iterator[Web]:
    with serving_web() as state:
        yield state


@pytest.fixture
def registry(web: Web) -> Registry:
    return Registry(web)


def network(*webs: Web) -> Network:
    timeouts = Timeouts(connect=5, silence=5, small=5, pause=0.01, attempts=2)
    return Network(rules=HostRules(frozenset(web.host for web in webs)), timeouts=timeouts)


async def read(registry: Registry, access: Access, *webs: Web) -> Answer:
    async with Transport(network(registry.web, *webs), access) as transport:
        return await transport.read(registry.url, limit=100)


@pytest.mark.parametrize("credentials", [BASIC, None])
async def test_a_token_is_asked_for_with_service_and_scope(registry: Registry, credentials: str | None) -> None:
    registry.credentials = credentials
    registry.realm += "?own=1"
    access = TokenAccess(registry.web.origin, credentials or "")
    assert (await read(registry, access)).body == b"manifest"
    [asked] = registry.web.asked("/token")
    assert dict(parse_qsl(urlsplit(asked.target).query)) == {"own": "1", "service": "registry.example", "scope": SCOPE}
    assert access.ready() == "Bearer t1"


async def test_several_scopes_are_several_parameters(registry: Registry) -> None:
    registry.scope = "a:b:pull c:d:push"
    await read(registry, TokenAccess(registry.web.origin))
    pairs = parse_qsl(urlsplit(registry.web.asked("/token")[0].target).query)
    assert [value for key, value in pairs if key == "scope"] == ["a:b:pull", "c:d:push"]


async def test_the_word_access_token_counts_too(registry: Registry) -> None:
    registry.answer = {"token": "", "access_token": "t1"}
    assert (await read(registry, TokenAccess(registry.web.origin))).body == b"manifest"


async def test_a_token_is_used_until_it_comes_of_age(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(auth, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    registry.answer = {"expires_in": 300}
    access = TokenAccess(registry.web.origin)
    async with Transport(network(registry.web), access) as transport:
        for _ in range(3):
            await transport.read(registry.url, limit=100)
        assert registry.given == 1
        clock[0] += 291
        await transport.read(registry.url, limit=100)
        assert registry.given == 2
        # A token that the registry forgets before its time is renewed once.
        registry.tokens.clear()
        await transport.read(registry.url, limit=100)
    assert registry.given == 3
    refused = len(registry.web.asked("/v2/me/x/manifests/1")) - 5
    assert refused == 2, "the one that came of age was renewed before it was refused"


@pytest.mark.parametrize("seconds", [-5, 0, 1, None, "soon", True, 10**9, 1e300])
async def test_odd_lives_are_bounded(registry: Registry, monkeypatch: pytest.MonkeyPatch, seconds: object) -> None:
    clock = [1000.0]
    monkeypatch.setattr(auth, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    registry.answer = {"expires_in": seconds}
    access = TokenAccess(registry.web.origin)
    await read(registry, access)
    clock[0] += 45
    assert access.ready() == "Bearer t1"
    clock[0] += 24 * 3600
    assert access.ready() is None


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(401), UnauthorizedError),
        (Reply(403), UnauthorizedError),
        (Reply(404), StoreError),
        (Reply(500), NetworkError),
        (Reply(body=b"<html>"), UnauthorizedError),
        (Reply(body=b"[]"), UnauthorizedError),
        (Reply(body=b"{}"), UnauthorizedError),
        (Reply(body=b'{"token": 5}'), UnauthorizedError),
        (Reply(body=b'{"token": "a b"}'), UnauthorizedError),
        (Reply(body=b'{"token": "a\\r\\nX: y"}'), UnauthorizedError),
        (Reply(body=b"[" * 50_000), UnauthorizedError),
        (Reply(body=b" " * 100_000), NetworkError),
    ],
)
async def test_a_token_server_that_gives_none(registry: Registry, reply: Reply, error: type[StoreError]) -> None:
    registry.web.on("/token", reply)
    registry.credentials = BASIC
    with pytest.raises(error) as caught:
        await read(registry, TokenAccess(registry.web.origin, BASIC))
    assert BASIC[6:] not in str(caught.value)


@pytest.mark.parametrize(
    ("realm", "error"),
    [
        ("http://example.com/token", InsecureSourceError),
        ("https://10.0.0.1/token", ForbiddenAddressError),
        ("https://localhost/token", ForbiddenAddressError),
        ("file:///etc/passwd", UnauthorizedError),
        ("/token", UnauthorizedError),
        ("https://me:pw@example.com/token", UnauthorizedError),
        ("https://exa mple.com/", UnauthorizedError),
        ("https://[/", UnauthorizedError),
        ("https://" + "x" * 7000 + ".example.com/", StoreError),
    ],
)
async def test_realms_are_judged(registry: Registry, realm: str, error: type[StoreError]) -> None:
    registry.realm = realm
    with pytest.raises(error):
        await read(registry, TokenAccess(registry.web.origin))


async def test_a_realm_on_another_host(registry: Registry, other: Web) -> None:
    tokens = Registry(other)
    registry.realm, registry.tokens = f"{other.origin}/token", tokens.tokens
    assert (await read(registry, TokenAccess(registry.web.origin), other)).body == b"manifest"
    assert "authorization" not in other.asked("/token")[0].headers

    tokens.credentials = BASIC
    with pytest.raises(UnauthorizedError, match=r"another host \(127.*dockerconfigjson") as caught:
        await read(registry, TokenAccess(registry.web.origin, BASIC), other)
    assert not caught.value.retryable
    assert len(other.asked("/token")) == 1, "credentials go to no other host"

    allowed = TokenAccess(registry.web.origin, BASIC, {other.host})
    assert (await read(registry, allowed, other)).body == b"manifest"


async def test_a_redirect_of_a_token_server_takes_no_credentials_along(registry: Registry, other: Web) -> None:
    other.on("/there", Reply(body=b'{"token":"x"}'))
    registry.web.on("/token", Reply(302, headers={"Location": f"{other.origin}/there"}))
    with pytest.raises(UnauthorizedError):
        await read(registry, TokenAccess(registry.web.origin, BASIC), other)
    assert "authorization" not in other.asked("/there")[0].headers


@pytest.mark.parametrize("challenge", ['Basic realm="x"', 'Negotiate, Basic realm="x"', ""])
async def test_plain_user_and_password(web: Web, challenge: str) -> None:
    def serve(seen: Seen) -> Reply:
        if seen.headers.get("authorization") == BASIC:
            return Reply(body=b"good")
        return Reply(401, headers={"WWW-Authenticate": challenge} if challenge else {})

    url = web.on("/a", serve)
    async with Transport(network(web), TokenAccess(web.origin, BASIC)) as transport:
        assert (await transport.read(url, limit=10)).body == b"good"
        await transport.read(url, limit=10)
    assert len(web.seen) == 3
    async with Transport(network(web), TokenAccess(web.origin)) as transport:
        with pytest.raises(UnauthorizedError):
            await transport.read(url, limit=10)


# Ollama's way


def private(key: Any) -> bytes:
    found: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return found


@pytest.fixture
def key_path(tmp_path: Path) -> Path:
    path = tmp_path / "id_ed25519"
    path.write_bytes(private(ed25519.Ed25519PrivateKey.generate()))
    return path


class Signed(Registry):
    """A registry whose token server knows Ollama's signatures."""

    def _token(self, seen: Seen) -> Reply:
        key, _, signature = seen.headers.get("authorization", "").partition(":")
        digest = base64.b64encode(b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855").decode()
        if not verifies(key, signature, f"GET,{self.web.origin}{seen.target},{digest}"):
            return Reply(401)
        self.credentials = seen.headers["authorization"]
        return super()._token(seen)


async def test_ollamas_signature(web: Web, key_path: Path) -> None:
    registry = Signed(web)
    registry.realm += "?z=1&b=%2F"
    assert (await read(registry, OllamaAccess(web.origin, key_path))).body == b"manifest"
    pairs = parse_qsl(urlsplit(web.asked("/token")[0].target).query)
    assert [key for key, _ in pairs] == ["b", "nonce", "scope", "service", "ts", "z"]
    values = dict(pairs)
    assert (values["scope"], values["service"], values["b"]) == (SCOPE, "registry.example", "/")
    assert len(base64.urlsafe_b64decode(values["nonce"] + "==")) == 16
    assert values["ts"].isdecimal()


async def test_a_signature_goes_to_the_registrys_own_host_only(web: Web, other: Web, key_path: Path) -> None:
    registry = Signed(web)
    registry.realm = f"{other.origin}/token"
    with pytest.raises(UnauthorizedError, match="another host"):
        await read(registry, OllamaAccess(web.origin, key_path), other)
    assert not other.seen


async def test_a_key_is_made_when_it_is_needed(web: Web, tmp_path: Path) -> None:
    path = tmp_path / "new" / "id_ed25519"
    access = OllamaAccess(web.origin, path)
    assert not path.exists()
    await read(Signed(web), access)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.with_name("id_ed25519.pub").read_text().startswith("ssh-ed25519 ")
    made = path.read_bytes()
    await read(Signed(web), OllamaAccess(web.origin, path))
    assert path.read_bytes() == made


@pytest.mark.parametrize("what", ["rsa", "garbage", "huge", "folder", "nowhere"])
async def test_keys_that_are_of_no_use(web: Web, tmp_path: Path, what: str) -> None:
    path = tmp_path / "key"
    if what == "folder":
        path.mkdir()
    elif what == "nowhere":
        (tmp_path / "file").write_text("")
        path = tmp_path / "file" / "key"
    else:
        contents = {
            "rsa": lambda: private(rsa.generate_private_key(65537, 2048)),
            "garbage": lambda: b"hush-hush",
            "huge": lambda: b"hush" * 10_000,
        }
        path.write_bytes(contents[what]())
    with pytest.raises(UnauthorizedError) as caught:
        await read(Signed(web), OllamaAccess(web.origin, path))
    assert "hush" not in str(caught.value)
    assert not web.asked("/token")


# What a source gets


def mounted(folder: Path, **keys: str) -> Path:
    for key, value in keys.items():
        (folder / key.replace("_", "-").replace("dot-", ".")).write_text(value)
    return folder


def test_a_secret_decides(tmp_path: Path, key_path: Path) -> None:
    origin = "https://registry.example:5000"
    folders = [tmp_path / name for name in "abcd"]
    for folder in folders:
        folder.mkdir()
    auths = {"registry.example:5000": {"username": "me", "password": "hush"}, "https://Auth.example/x": {}}
    token = access_for(mounted(folders[0], token="hush"), origin, {})
    basic = access_for(mounted(folders[1], username="me", password="hush"), origin, {})
    docker = access_for(mounted(folders[2], dot_dockerconfigjson=json.dumps({"auths": auths})), origin, {})
    ollama = access_for(mounted(folders[3], ssh_privatekey=key_path.read_text()), origin, {})
    assert token == FixedAccess(origin, "Bearer hush")
    assert (basic, docker) == (
        TokenAccess(origin, BASIC, frozenset()),
        TokenAccess(origin, BASIC, {"registry.example:5000", "auth.example"}),
    )
    assert isinstance(ollama, OllamaAccess)
    assert "hush" not in repr([token, basic, docker, ollama])
    assert BASIC[6:] not in repr([token, basic, docker, ollama])
    assert {token.origin, basic.origin, docker.origin, ollama.origin} == {origin}


def test_docker_hub_has_three_names(tmp_path: Path) -> None:
    auths = {"auths": {"https://index.docker.io/v1/": {"username": "me", "password": "hush"}}}
    found = access_for(mounted(tmp_path, dot_dockerconfigjson=json.dumps(auths)), "https://registry-1.docker.io", {})
    assert isinstance(found, TokenAccess)
    assert (found.basic, "auth.docker.io" in found.realms) == (BASIC, True)


def test_a_broken_key_in_a_secret(tmp_path: Path) -> None:
    with pytest.raises(UnauthorizedError, match="ssh-privatekey"):
        access_for(mounted(tmp_path, ssh_privatekey="hush"), "https://registry.example", {})


def test_without_a_secret_there_may_be_a_key(tmp_path: Path, key_path: Path) -> None:
    origin, hub = "https://registry.example", "https://registry.ollama.ai"
    home = tmp_path / "home"
    (home / ".ollama").mkdir(parents=True)
    assert isinstance(access_for(None, origin, {"HOME": str(home)}), TokenAccess)
    (home / ".ollama" / "id_ed25519").write_bytes(key_path.read_bytes())

    def ways(where: str, **variables: str) -> list[type]:
        found = access_for(None, where, {"HOME": str(home), **variables})
        assert isinstance(found, EitherAccess)
        return [type(way) for way in found.ways]

    assert ways(origin) == [TokenAccess, OllamaAccess]
    assert ways(hub) == [OllamaAccess, TokenAccess]
    assert ways(origin, PADDOCK_OLLAMA_KEY=str(key_path)) == [OllamaAccess, TokenAccess]


async def test_the_second_way_helps_where_the_first_is_refused(web: Web, key_path: Path) -> None:
    registry = Signed(web)
    access = EitherAccess(web.origin, (TokenAccess(web.origin), OllamaAccess(web.origin, key_path)))
    async with Transport(network(web), access) as transport:
        await transport.read(registry.url, limit=100)
        registry.tokens.clear()
        await transport.read(registry.url, limit=100)
    assert len(web.asked("/token")) == 3, "what was refused is not asked again"

    web.on("/token", Reply(401))
    with pytest.raises(UnauthorizedError, match="401"):
        await read(registry, EitherAccess(web.origin, (TokenAccess(web.origin), OllamaAccess(web.origin, key_path))))


async def test_a_bad_url_is_nobodys(web: Web) -> None:
    async with Transport(network(web)) as transport:
        with pytest.raises(SourceUnsupportedError):
            await transport.read("ftp://x/", limit=10)
