"""The settings of the network: what the environment may say, and what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest
from yarl import URL

from paddock_runner.sources.errors import SourceUnsupportedError, UnauthorizedError
from paddock_runner.sources.network import DEFAULT_CONNECTIONS, Network

HUB = URL("https://hub.example/v2/x?a=%2F", encoded=True)


def made(**variables: str) -> Network:
    return Network.from_environment(variables)


def test_nothing_is_set() -> None:
    net = made()
    assert (net.offline, net.rate, net.connections, net.ca_file) == (False, 0, DEFAULT_CONNECTIONS, None)
    assert (net.proxy_for(HUB), net.mirrors_of(HUB)) == (None, ())


def test_everything_is_set() -> None:
    net = made(
        PADDOCK_ALLOW_INSECURE_HOSTS="10.0.0.1:80",
        PADDOCK_CA_FILE="/ca.pem",
        PADDOCK_OFFLINE="1",
        PADDOCK_DOWNLOAD_RATE="50M",
        PADDOCK_DOWNLOAD_CONNECTIONS="3",
        PADDOCK_MIRRORS="Hub.example=https://m1/x/, other=http://m2 ,hub.example=https://m3:5",
        HTTPS_PROXY="http://proxy:3128",
    )
    assert net.rules.lists("10.0.0.1", 80)
    assert (net.offline, net.rate, net.connections, net.ca_file) == (True, 50_000_000, 3, Path("/ca.pem"))
    assert net.mirrors_of(HUB) == (
        URL("https://m1/x/v2/x?a=%2F", encoded=True),
        URL("https://m3:5/v2/x?a=%2F", encoded=True),
    )
    assert net.mirrors_of(URL("https://elsewhere/")) == ()
    assert net.proxy_for(HUB) == URL("http://proxy:3128")
    assert net.proxy_for(URL("http://hub.example/")) is None


def test_a_mirror_of_one_port() -> None:
    net = made(PADDOCK_MIRRORS="hub.example:5000=https://m")
    assert net.mirrors_of(HUB) == ()
    assert net.mirrors_of(URL("https://hub.example:5000/a")) == (URL("https://m/a"),)


def test_the_usual_variables_of_others() -> None:
    assert made(SSL_CERT_FILE="/a").ca_file == Path("/a")
    assert made(SSL_CERT_FILE="/a", PADDOCK_CA_FILE="/b").ca_file == Path("/b")
    assert made(https_proxy="proxy:1").proxy_for(HUB) == URL("http://proxy:1")
    assert made(HTTPS_PROXY="http://big", https_proxy="http://small").proxy_for(HUB) == URL("http://big")


@pytest.mark.parametrize(
    ("text", "rate"),
    [("0", 0), ("", 0), ("1000", 1000), ("5k", 5000), ("2M", 2_000_000), ("1G", 10**9), ("8Mi", 8 << 20)],
)
def test_rates(text: str, rate: int) -> None:
    assert made(PADDOCK_DOWNLOAD_RATE=text).rate == rate


@pytest.mark.parametrize(
    ("direct", "url", "is_direct"),
    [
        ("*", "https://a.example/", True),
        ("a.example", "https://a.example/", True),
        ("a.example", "https://b.a.example/", True),
        (".a.example", "https://b.a.example/", True),
        ("*.a.example", "https://b.a.example/", True),
        ("a.example", "https://ba.example/", False),
        ("A.EXAMPLE, x", "https://a.example/", True),
        ("a.example:444", "https://a.example/", False),
        ("a.example:444", "https://a.example:444/", True),
        ("10.0.0.0/8", "https://10.1.2.3/", True),
        ("10.0.0.0/8", "https://11.1.2.3/", False),
        ("::1", "https://[::1]/", True),
        ("[::1]:5", "https://[::1]:5/", True),
        ("fd00::/8", "https://[fd00::5]/", True),
        ("", "https://a.example/", False),
    ],
)
def test_what_goes_past_the_proxy(direct: str, url: str, is_direct: bool) -> None:
    net = made(HTTPS_PROXY="http://proxy:1", NO_PROXY=direct)
    assert (net.proxy_for(URL(url)) is None) == is_direct


def test_a_proxy_gets_its_password_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "username").write_text("me@corp")
    with pytest.raises(UnauthorizedError, match="the Secret of the proxy must hold username and password") as caught:
        made(HTTPS_PROXY="http://proxy:1", PADDOCK_PROXY_CREDENTIALS=str(tmp_path))
    assert caught.value.retryable
    (tmp_path / "password").write_text("p@ss:w/rd\n")
    net = made(
        HTTPS_PROXY="http://proxy:1", HTTP_PROXY="http://you:own@other:2", PADDOCK_PROXY_CREDENTIALS=str(tmp_path)
    )
    assert (net.proxies["https"].user, net.proxies["https"].password) == ("me@corp", "p@ss:w/rd")
    assert (net.proxies["http"].user, net.proxies["http"].password) == ("you", "own")
    assert "p@ss" not in repr(net)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PADDOCK_OFFLINE", "maybe"),
        ("PADDOCK_DOWNLOAD_RATE", "fast"),
        ("PADDOCK_DOWNLOAD_RATE", "-1"),
        ("PADDOCK_DOWNLOAD_RATE", "1.5M"),
        ("PADDOCK_DOWNLOAD_CONNECTIONS", "0"),
        ("PADDOCK_DOWNLOAD_CONNECTIONS", "65"),
        ("PADDOCK_DOWNLOAD_CONNECTIONS", "٣"),
        ("PADDOCK_DOWNLOAD_CONNECTIONS", "9" * 5000),
        ("PADDOCK_MIRRORS", "hub.example"),
        ("PADDOCK_MIRRORS", "hub.example=ftp://m"),
        ("PADDOCK_MIRRORS", "=https://m"),
        ("PADDOCK_MIRRORS", "hub.example=https://me:hush@m"),
        ("PADDOCK_MIRRORS", "hub.example=http://["),
        ("PADDOCK_MIRRORS", "hub.example=http://xn--"),
        ("HTTPS_PROXY", "http://xn--"),
        ("PADDOCK_MIRRORS", ",".join(f"h{n}=https://m" for n in range(17))),
        ("HTTPS_PROXY", "socks5://me:hush@proxy"),
        ("HTTP_PROXY", "http://"),
    ],
)
def test_what_is_refused_is_named_and_not_quoted(variable: str, value: str) -> None:
    with pytest.raises(SourceUnsupportedError, match=variable) as caught:
        made(**{variable: value})
    assert "hush" not in str(caught.value)
    assert len(str(caught.value)) < 300
