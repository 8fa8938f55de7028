"""The transport against real servers on loopback: what it sends to whom, what it follows, and how it fails."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from tests.support.authority import Authority
from tests.support.forward_proxy import ForwardProxy, serving_proxy
from tests.support.web import Reply, Seen, Web, serving_web, tls_of
from yarl import URL

from paddock_runner.sources.addresses import HostRules
from paddock_runner.sources.auth import FixedAccess
from paddock_runner.sources.challenge import Challenge
from paddock_runner.sources.errors import (
    ForbiddenAddressError,
    InsecureSourceError,
    NetworkError,
    OfflineError,
    SourceUnsupportedError,
    UnauthorizedError,
)
from paddock_runner.sources.network import Network, Timeouts
from paddock_runner.sources.statuses import retry_after
from paddock_runner.sources.transport import Answer, Transport
from paddock_runner.store.errors import NotFoundError, StoreError

QUICK = Timeouts(connect=5, silence=5, small=5, longest_wait=0.2, pause=0.01, attempts=3)
SECRET = "Bearer hush-hush"


@pytest.fixture
def web() -> Iterator[Web]:
    with serving_web() as state:
        yield state


@pytest.fixture
def other() -> Iterator[Web]:
    with serving_web() as state:
        yield state


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.make()


def network(*webs: Web, timeouts: Timeouts = QUICK, **settings: Any) -> Network:
    return Network(rules=HostRules(frozenset(web.host for web in webs)), timeouts=timeouts, **settings)


async def read(net: Network, url: str, access: Any = None, **options: Any) -> Answer:
    async with Transport(net, access) as transport:
        return await transport.read(url, **{"limit": 1000, **options})


async def test_a_small_answer(web: Web) -> None:
    url = web.on("/a", Reply(body=b"hello", headers={"X-Word": "yes", "Set-Cookie": "a=b"}))
    async with Transport(network(web)) as transport:
        answer = await transport.read(f"{url}?x=%7e%2F+1", limit=5, accept="text/plain", headers={"X-Own": "1"})
        assert (answer.status, answer.body, answer.headers["x-word"]) == (200, b"hello", "yes")
        assert answer.url == f"{url}?x=%7e%2F+1"
        await transport.read(url, limit=5)
    first, second = web.seen
    assert (first.method, first.target) == ("GET", "/a?x=%7e%2F+1"), "a signature may cover every byte"
    assert first.headers["accept-encoding"] == "identity"
    assert (first.headers["accept"], first.headers["x-own"]) == ("text/plain", "1")
    assert not {"authorization", "cookie"} & (first.headers.keys() | second.headers.keys())


async def test_what_http_cannot_carry_is_quoted(web: Web) -> None:
    web.on("/a%20b", Reply())
    await read(network(web), f"{web.origin}/a b")
    assert web.seen[0].target == "/a%20b"


async def test_a_head_and_a_post(web: Web) -> None:
    url = web.on("/a", Reply(body=b"x" * 50))
    assert (await read(network(web), url, method="HEAD", limit=1)).headers["content-length"] == "50"
    await read(network(web), url, method="POST", data=b"body")
    assert [(item.method, item.body) for item in web.seen] == [("HEAD", b""), ("POST", b"body")]


@pytest.mark.parametrize(
    ("reply", "match"),
    [
        (Reply(body=b"x" * 1001), "more than 1000 bytes"),
        (Reply(body=b"x", headers={"Content-Encoding": "gzip"}), "Content-Encoding"),
    ],
)
async def test_answers_that_are_refused(web: Web, reply: Reply, match: str) -> None:
    with pytest.raises(NetworkError, match=match) as caught:
        await read(network(web), web.on("/a", reply))
    assert not caught.value.retryable
    assert len(web.seen) == 1


@pytest.mark.parametrize(
    ("status", "error", "retryable", "requests"),
    [
        (400, NetworkError, False, 1),
        (401, UnauthorizedError, False, 1),
        (403, UnauthorizedError, False, 1),
        (404, NotFoundError, False, 1),
        (410, NotFoundError, False, 1),
        (204, NetworkError, False, 1),
        (429, NetworkError, True, 3),
        (500, NetworkError, True, 3),
        (503, NetworkError, True, 3),
    ],
)
async def test_statuses(web: Web, status: int, error: type[StoreError], retryable: bool, requests: int) -> None:
    url = web.on("/path", Reply(status))
    with pytest.raises(error, match=rf"^{re.escape(web.host)} .*HTTP {status}") as caught:
        await read(network(web), f"{url}?signature=hush")
    assert "/path" in str(caught.value)
    assert (caught.value.retryable, len(web.seen)) == (retryable, requests)
    assert "hush" not in str(caught.value)
    assert (await read(network(web), url, ok=(200, status))).status == status


async def test_what_passes_is_asked_again(web: Web) -> None:
    url = web.on("/a", Reply(503), Reply(body=b"xx", length=10), Reply(body=b"good"))
    assert (await read(network(web), url)).body == b"good"
    assert len(web.seen) == 3


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("7", 7, 7),
        ("", 0, 0),
        ("-5", 0, 0),
        ("soon", 0, 0),
        ("1" * 500, 0, 0),
        ("٣", 0, 0),
        ("Wed, 99 Foo 20266 99:99:99 GMT", 0, 0),
    ],
)
def test_seconds_in_retry_after_and_what_is_none(text: str, low: float, high: float) -> None:
    assert low <= retry_after({"Retry-After": text}) <= high


@pytest.mark.parametrize(("hours", "low", "high"), [(1, 3000, 3600), (-1, 0, 0)])
def test_a_date_in_retry_after(hours: int, low: float, high: float) -> None:
    moment = format_datetime(datetime.now(UTC) + timedelta(hours=hours))
    assert low <= retry_after({"Retry-After": moment}) <= high


async def test_a_server_may_ask_for_patience_but_not_for_ever(web: Web) -> None:
    url = web.on("/a", Reply(429, headers={"Retry-After": "3600"}), Reply(body=b"good"))
    began = time.monotonic()
    assert (await read(network(web), url)).body == b"good"
    assert 0.2 <= time.monotonic() - began < 5
    async with Transport(network(web)) as transport:
        with pytest.raises(NetworkError) as caught:
            async with transport.open(web.on("/b", Reply(503, headers={"Retry-After": "9"}))):
                pass
    assert (caught.value.retryable, caught.value.retry_after) == (True, 9.0)


async def test_a_dripping_body_has_an_end(web: Web) -> None:
    url = web.on("/a", Reply(body=b"x" * 900, drip=0.02))
    with pytest.raises(NetworkError, match=r"longer than 0\.3 s") as caught:
        await read(network(web, timeouts=replace(QUICK, small=0.3, attempts=1)), url)
    assert caught.value.retryable


async def test_silence_has_an_end(web: Web) -> None:
    def silent(seen: Seen) -> Reply:
        web.released.wait(10)
        return Reply()

    with pytest.raises(NetworkError, match="nothing in time"):
        await read(network(web, timeouts=replace(QUICK, silence=0.2, attempts=1)), web.on("/a", silent))


@pytest.mark.parametrize("headers", [{"X-Long": "x" * 100_000}, {f"X-{n}": "x" * 900 for n in range(100_0)}])
async def test_headers_are_bounded(web: Web, headers: dict[str, str]) -> None:
    with pytest.raises(NetworkError) as caught:
        await read(network(web, timeouts=replace(QUICK, attempts=1)), web.on("/a", Reply(headers=headers)))
    assert len(str(caught.value)) < 1000


async def test_a_server_that_is_not_there() -> None:
    with serving_web() as gone:
        net, url = network(gone), f"{gone.origin}/a?hush"
    with pytest.raises(NetworkError, match="cannot be reached") as caught:
        await read(net, url)
    assert caught.value.retryable
    assert "hush" not in str(caught.value)


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(web: Web, other: Web, status: int) -> None:
    target = other.on("/there", Reply(body=b"good"))
    middle = web.on("/middle", Reply(status, headers={"Location": target}))
    url = web.on("/a", Reply(status, headers={"Location": "middle"}))
    answer = await read(network(web, other), url)
    assert (answer.body, answer.url) == (b"good", target)
    assert middle.endswith(web.seen[1].target)


@pytest.mark.parametrize(
    ("location", "error"),
    [
        ("https://127.0.0.1:1/x", ForbiddenAddressError),
        ("https://[::1]:1/x", ForbiddenAddressError),
        ("https://[::ffff:10.0.0.1]/x", ForbiddenAddressError),
        ("https://169.254.169.254/latest/meta-data", ForbiddenAddressError),
        ("https://10.0.0.1/x", ForbiddenAddressError),
        ("https://192.168.1.1/x", ForbiddenAddressError),
        ("https://localhost:1/x", ForbiddenAddressError),
        ("https://2130706433/x", ForbiddenAddressError),
        ("https://0x7f.1/x", ForbiddenAddressError),
        ("https://127.1/x", ForbiddenAddressError),
        ("http://localhost:1/x", InsecureSourceError),
        ("http://example.com/x", InsecureSourceError),
        ("//example.com/x", InsecureSourceError),
        ("file:///etc/passwd", SourceUnsupportedError),
        ("gopher://example.com/x", SourceUnsupportedError),
        ("https://user:pw@example.com/x", SourceUnsupportedError),
        ("https://example.com/" + "x" * 8000, NetworkError),
        ("http://[", NetworkError),
        ("", NetworkError),
    ],
)
async def test_redirects_are_judged_like_the_first_url(web: Web, location: str, error: type[StoreError]) -> None:
    url = web.on("/a", Reply(302, headers={"Location": location} if location else {}))
    with pytest.raises(error):
        await read(network(web, timeouts=replace(QUICK, attempts=1)), url)
    assert len(web.seen) == 1


async def test_redirects_end(web: Web) -> None:
    url = web.on("/a", Reply(302, headers={"Location": "/a"}))
    with pytest.raises(NetworkError, match="more than 5 redirects") as caught:
        await read(network(web), url)
    assert (caught.value.retryable, len(web.seen)) == (False, 6)


async def test_a_redirect_that_is_wanted_is_an_answer(web: Web) -> None:
    url = web.on("/a", Reply(307, headers={"Location": "/b"}))
    answer = await read(network(web), url, method="POST", data=b"", ok=(307,))
    assert (answer.status, answer.headers["location"]) == (307, "/b")
    with pytest.raises(NetworkError, match="redirects a POST"):
        await read(network(web), url, method="POST", data=b"")


# Credentials


async def test_credentials_stay_with_their_origin(web: Web, other: Web) -> None:
    other.on("/there", Reply(302, headers={"Location": f"{web.origin}/back"}))
    web.on("/back", Reply(body=b"good"))
    url = web.on("/a", Reply(302, headers={"Location": f"{other.origin}/there"}))
    assert (await read(network(web, other), url, FixedAccess(web.origin, SECRET))).body == b"good"
    assert [item.headers.get("authorization") for item in web.seen] == [SECRET, SECRET]
    assert [item.headers.get("authorization") for item in other.seen] == [None]
    await read(network(web, other), other.on("/x", Reply()), FixedAccess(web.origin, SECRET))
    assert "authorization" not in other.asked("/x")[0].headers


async def test_private_headers_stay_with_the_first_origin(web: Web, other: Web) -> None:
    other.on("/there", Reply())
    url = web.on("/a", Reply(302, headers={"Location": f"{other.origin}/there"}))
    headers = {"Authorization": SECRET, "Cookie": "a=b", "X-Public": "1"}
    await read(network(web, other), url, headers=headers)
    assert (web.seen[0].headers["authorization"], web.seen[0].headers["cookie"]) == (SECRET, "a=b")
    assert not {"authorization", "cookie"} & other.seen[0].headers.keys()
    assert other.seen[0].headers["x-public"] == "1"


@dataclass
class Tokens:
    """An Access whose tokens are numbered; `asked` are the challenges."""

    origin: str
    number: int = 0
    useless: bool = False
    asked: list[Sequence[Challenge]] = field(default_factory=list)

    def ready(self) -> str | None:
        return f"Bearer {self.number}" if self.number else None

    async def header(self, transport: Transport, challenges: Sequence[Challenge], scope: str) -> str | None:
        self.asked.append(challenges)
        await asyncio.sleep(0)
        self.number += not self.useless
        return self.ready()


def demanding(token: Callable[[], str]) -> Callable[[Seen], Reply]:
    def answer(seen: Seen) -> Reply:
        if seen.headers.get("authorization") == token():
            return Reply(body=seen.body or b"good")
        return Reply(401, headers={"WWW-Authenticate": 'Bearer realm="r",scope="s"'})

    return answer


async def test_a_challenge_is_answered_once_for_all(web: Web) -> None:
    access = Tokens(web.origin)
    url = web.on("/a", demanding(lambda: "Bearer 1"))
    async with Transport(network(web), access) as transport:
        answers = await asyncio.gather(*(transport.read(url, limit=10) for _ in range(8)))
        assert {answer.body for answer in answers} == {b"good"}
        assert access.asked == [(Challenge("bearer", {"realm": "r", "scope": "s"}),)]
        # In the middle of a pull the token comes of age.
        web.on("/a", demanding(lambda: "Bearer 2"))
        await asyncio.gather(*(transport.read(url, limit=10) for _ in range(8)))
    assert len(access.asked) == 2


@pytest.mark.parametrize("useless", [True, False])
async def test_a_second_refusal_is_final(web: Web, useless: bool) -> None:
    access = Tokens(web.origin, useless=useless)
    with pytest.raises(UnauthorizedError):
        await read(network(web), web.on("/a", demanding(lambda: "never")), access)
    assert (len(access.asked), len(web.seen)) == (1, 1 if useless else 2)


async def test_a_challenge_of_a_stranger_gets_no_answer(web: Web, other: Web) -> None:
    access = Tokens(web.origin)
    other.on("/there", demanding(lambda: "never"))
    url = web.on("/a", Reply(302, headers={"Location": f"{other.origin}/there"}))
    with pytest.raises(UnauthorizedError):
        await read(network(web, other), url, access)
    assert not access.asked


class Pieces:
    """Bytes that can be sent again."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in (b"some", b"thing"):
            yield piece


async def test_a_stream_is_sent_again_if_it_can_be(web: Web) -> None:
    url = web.on("/a", demanding(lambda: "Bearer 1"))
    async with (
        Transport(network(web), Tokens(web.origin)) as transport,
        transport.open(url, method="PUT", data=Pieces()) as response,
    ):
        assert await response.read() == b"something"
    once = aiter(Pieces())
    async with Transport(network(web), Tokens(web.origin)) as transport:
        with pytest.raises(NetworkError, match="only once") as caught:
            async with transport.open(url, method="PUT", data=once):
                pass
        assert caught.value.retryable
        async with transport.open(url, method="PUT", data=aiter(Pieces())) as response:
            assert await response.read() == b"something"


async def test_a_stream_that_breaks_is_a_typed_error(web: Web) -> None:
    url = web.on("/a", Reply(body=b"x" * 100, length=1000))
    async with Transport(network(web)) as transport:
        with pytest.raises(NetworkError) as caught:
            async with transport.open(url) as response:
                await response.read()
    assert caught.value.retryable


# TLS


@pytest.fixture
def secure(authority: Authority, tmp_path: Path) -> Iterator[Web]:
    with serving_web(tls_of(authority, tmp_path)) as state:
        yield state


async def test_an_unknown_authority_is_named_with_the_remedy(secure: Web) -> None:
    with pytest.raises(
        NetworkError, match=rf"certificate of {re.escape(secure.host)} is not trusted.*PADDOCK_CA_FILE"
    ) as caught:
        await read(network(secure), secure.on("/a", Reply()))
    assert not caught.value.retryable
    assert not secure.seen


async def test_an_authority_of_ones_own(secure: Web, authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    url = secure.on("/a", Reply(body=b"good"))
    assert (await read(network(secure, ca_file=tmp_path / "ca.pem"), url)).body == b"good"


async def test_a_certificate_for_another_host(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    with serving_web(tls_of(authority, tmp_path, "127.0.0.9")) as web, pytest.raises(NetworkError, match="not trusted"):
        await read(network(web, ca_file=tmp_path / "ca.pem"), f"{web.origin}/a")


async def test_no_tls_where_tls_must_be(web: Web) -> None:
    with pytest.raises(NetworkError):
        await read(network(web), f"https://{web.host}/a")


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
async def test_a_useless_ca_file(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_bytes(content)
    with pytest.raises(SourceUnsupportedError, match="PADDOCK_CA_FILE"):
        await read(Network(ca_file=tmp_path / "ca.pem"), "https://example.com/")


# Mirrors


def mirrored(origin: Web, *mirrors: Web, path: str = "") -> Network:
    bases = tuple(URL(f"{mirror.origin}{path}") for mirror in mirrors)
    return network(origin, *mirrors, mirrors={origin.host: bases})


async def test_a_mirror_is_asked_first_and_without_credentials(web: Web, other: Web) -> None:
    other.on("/cache/v2/a", Reply(body=b"mirrored"))
    url = web.on("/v2/a", Reply(body=b"original"))
    answer = await read(mirrored(web, other, path="/cache/"), f"{url}?q=1", FixedAccess(web.origin, SECRET))
    assert (answer.body, web.seen) == (b"mirrored", [])
    assert other.seen[0].target == "/cache/v2/a?q=1"
    assert "authorization" not in other.seen[0].headers


@pytest.mark.parametrize(
    "reply",
    [
        Reply(404),
        Reply(401),
        Reply(500),
        Reply(302, headers={"Location": "https://10.0.0.1/"}),
        Reply(302, headers={"Location": "/loop"}),
    ],
)
async def test_a_mirror_that_does_not_help_is_passed_by(web: Web, other: Web, reply: Reply) -> None:
    other.on("/a", reply)
    other.on("/loop", Reply(302, headers={"Location": "/loop"}))
    url = web.on("/a", Reply(body=b"original"))
    assert (await read(mirrored(web, other), url, ok=(200, 401, 404, 500))).body == b"original"


@pytest.mark.parametrize(
    "reply",
    [Reply(body=b"x" * 20, length=100), Reply(body=b"x" * 2000), Reply(body=b"x" * 500, drip=0.05)],
)
async def test_a_mirror_whose_body_is_bad_is_not_asked_again(web: Web, other: Web, reply: Reply) -> None:
    other.on("/a", reply)
    url = web.on("/a", Reply(body=b"original"))
    net = replace(mirrored(web, other), timeouts=replace(QUICK, small=0.4))
    async with Transport(net) as transport:
        if len(reply.body) > 1000:
            with pytest.raises(NetworkError, match="more than"):
                await transport.read(url, limit=1000)
        assert (await transport.read(url, limit=1000)).body == b"original"
    assert len(other.seen) == 1


async def test_a_mirror_that_drips_leaves_time_for_the_host(web: Web, caplog: Any) -> None:
    url = web.on("/a", Reply(body=b"original"))

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not reader.at_eof():
            writer.write(b"a")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await reader.read(100)
        writer.close()
        ended.set()

    ended = asyncio.Event()
    async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
        host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        net = replace(
            network(web, mirrors={web.host: (URL(f"http://{host}"),)}),
            rules=HostRules(frozenset({web.host, host})),
            timeouts=replace(QUICK, silence=0.3, small=20, attempts=1),
        )
        async with Transport(net) as transport:
            assert (await transport.read(url, limit=100)).body == b"original"
            started = time.monotonic()
            assert (await transport.read(url, limit=100)).body == b"original"
        assert time.monotonic() - started < 0.3
        await asyncio.wait_for(ended.wait(), 10)
    assert "is left alone" in caplog.text


async def test_mirrors_come_in_order_and_a_dead_one_rests(web: Web, other: Web, caplog: Any) -> None:
    with serving_web() as dead:
        pass
    other.on("/a", Reply(body=b"second"))
    async with Transport(mirrored(web, dead, other)) as transport:
        for _ in range(3):
            assert (await transport.read(f"{web.origin}/a", limit=10)).body == b"second"
    assert len([record for record in caplog.records if "left alone" in record.getMessage()]) == 1


async def test_what_is_private_or_written_goes_to_no_mirror(web: Web, other: Web) -> None:
    url = web.on("/a", Reply(body=b"original"))
    async with Transport(mirrored(web, other)) as transport:
        await transport.read(url, limit=10, headers={"Authorization": SECRET})
        await transport.read(url, limit=10, alone=True)
        await transport.read(url, limit=10, method="POST", data=b"x")
        async with transport.open(url, mirrors=False) as response:
            assert await response.read() == b"original"
    assert not other.seen


# Proxies


@pytest.fixture
def proxied(authority: Authority, tmp_path: Path) -> Iterator[tuple[Web, ForwardProxy, Network]]:
    """A server that is 1.1.1.1 for whoever goes through the proxy, and the settings for it."""
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    with serving_web(tls_of(authority, tmp_path, "1.1.1.1")) as web, serving_proxy(web.host) as proxy:
        # By its name, which has no public address.
        url = URL(f"http://me:pass@{proxy.host}".replace("127.0.0.1", "localhost"))
        net = Network(timeouts=QUICK, proxies={"https": url, "http": url}, ca_file=tmp_path / "ca.pem")
        yield web, proxy, net


async def test_tls_goes_through_a_tunnel(proxied: tuple[Web, ForwardProxy, Network]) -> None:
    web, proxy, net = proxied
    web.on("/a", Reply(body=b"good"))
    answer = await read(net, "https://1.1.1.1/a", FixedAccess("https://1.1.1.1", SECRET))
    assert (answer.body, proxy.asked) == (b"good", ["1.1.1.1:443"])
    assert proxy.heads[0]["proxy-authorization"] == "Basic bWU6cGFzcw=="
    assert "authorization" not in proxy.heads[0]
    assert web.seen[0].headers["authorization"] == SECRET
    assert "proxy-authorization" not in web.seen[0].headers


async def test_the_proxy_resolves_names_but_addresses_are_judged(proxied: tuple[Web, ForwardProxy, Network]) -> None:
    _, proxy, net = proxied
    for url in ("https://10.0.0.1/a", "https://169.254.169.254/", "https://127.1/"):
        with pytest.raises(ForbiddenAddressError):
            await read(net, url)
    with pytest.raises(InsecureSourceError):
        await read(net, "http://models.example/a")
    assert not proxy.asked


async def test_a_listed_host_goes_through_in_the_clear(web: Web) -> None:
    web.on("/a", Reply(body=b"good"))
    with serving_proxy(web.host) as proxy:
        rules = HostRules(frozenset({"models.example"}))
        net = Network(rules=rules, timeouts=QUICK, proxies={"http": URL(f"http://{proxy.host}")})
        assert (await read(net, "http://models.example/a")).body == b"good"
        assert proxy.asked == ["http://models.example/a"]
        direct = replace(net, rules=HostRules(frozenset({web.host})), direct=("127.0.0.1",))
        assert (await read(direct, f"{web.origin}/a")).body == b"good"
        assert len(proxy.asked) == 1


@pytest.mark.parametrize("status", [403, 407, 502])
async def test_a_proxy_that_refuses(proxied: tuple[Web, ForwardProxy, Network], status: int) -> None:
    _, proxy, net = proxied
    proxy.status = status
    with pytest.raises(NetworkError, match=rf"proxy on the way to 1\.1\.1\.1 answers HTTP {status}") as caught:
        await read(net, "https://1.1.1.1/a")
    assert "pass" not in str(caught.value)


async def test_a_proxy_that_is_not_there() -> None:
    with serving_proxy("127.0.0.1:1") as proxy:
        net = Network(timeouts=QUICK, proxies={"https": URL(f"http://me:hush@{proxy.host}")})
    with pytest.raises(NetworkError, match="proxy on the way") as caught:
        await read(net, "https://1.1.1.1/a")
    assert caught.value.retryable
    assert "hush" not in str(caught.value) + repr(net)


# Offline


async def test_offline_sends_nothing_and_names_the_setting(web: Web) -> None:
    async with Transport(network(web, offline=True)) as transport:
        with pytest.raises(OfflineError, match="PADDOCK_OFFLINE") as caught:
            await transport.read(f"{web.origin}/a?hush", limit=10)
        with pytest.raises(OfflineError):
            async with transport.open(f"{web.origin}/a"):
                pass
    assert (caught.value.reason, caught.value.retryable, web.seen) == ("Offline", False, [])
    assert "hush" not in str(caught.value)


async def test_outside_of_its_block_a_transport_is_of_no_use(web: Web) -> None:
    with pytest.raises(RuntimeError):
        await Transport(network(web)).read(f"{web.origin}/a", limit=10)


def test_the_system_trusts_its_own_authorities() -> None:
    assert Network().ssl_context().verify_mode == ssl.CERT_REQUIRED
