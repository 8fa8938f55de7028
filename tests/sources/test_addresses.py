"""Which addresses and URLs a puller may reach."""

from __future__ import annotations

import pytest
from yarl import URL

from paddock_runner.sources.addresses import CheckedResolver, HostRules, NamedResolver, is_public
from paddock_runner.sources.errors import ForbiddenAddressError, InsecureSourceError, SourceUnsupportedError
from paddock_runner.store.errors import StoreError


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "2002:7f00:1::",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::7f00:1",
        "192.0.0.192",
        "168.63.129.16",
        "192.88.99.1",
        "100::1",
        "2001:20::1",
        "2001:0:0:0:0:0:80ff:fffe",
        "3fff::1",
        "5f00::1",
        "fec0::1",
        "::127.0.0.1",
        "::ffff:0:127.0.0.1",
        "2001:db8::5efe:7f00:1",
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://example.com/a", InsecureSourceError),
        ("https://127.0.0.1/a", ForbiddenAddressError),
        ("https://[::1]/a", ForbiddenAddressError),
        ("https://[::ffff:169.254.169.254]/a", ForbiddenAddressError),
        ("https://127.1/a", ForbiddenAddressError),
        ("https://2130706433/a", ForbiddenAddressError),
        ("https://0x7f000001/a", ForbiddenAddressError),
        ("https://0177.0.0.1/a", ForbiddenAddressError),
        ("https://127。0。0。1/a", ForbiddenAddressError),
        ("https://①②⑦.0.0.1/a", ForbiddenAddressError),
        ("https://[fe80::1%25eth0]/a", ForbiddenAddressError),
        ("https://127.0.0.1./a", SourceUnsupportedError),
        ("https://1.2.3.4.5/a", SourceUnsupportedError),
        ("https://999999999999/a", SourceUnsupportedError),
        ("https://a..b/a", SourceUnsupportedError),
        ("https://./a", SourceUnsupportedError),
        ("https://" + "a" * 64 + ".example/a", SourceUnsupportedError),
        ("https://a.example%2f@b.example/a", SourceUnsupportedError),
        ("https://user:secret@example.com/a", SourceUnsupportedError),
        ("file:///etc/passwd", SourceUnsupportedError),
        ("ftp://example.com/a", SourceUnsupportedError),
        ("/etc/passwd", SourceUnsupportedError),
        ("https://example.com/" + "x" * 9000, SourceUnsupportedError),
    ],
)
def test_urls_that_are_refused(url: str, error: type[StoreError]) -> None:
    with pytest.raises(error) as caught:
        HostRules().check(URL(url))
    assert "secret" not in str(caught.value)


def test_listed_hosts_are_allowed_by_name_and_port() -> None:
    rules = HostRules.from_environment({"PADDOCK_ALLOW_INSECURE_HOSTS": "127.0.0.1:8000, Models.Lan,[::1]:9,"})
    for url in ("http://127.0.0.1:8000/a", "http://models.lan/a", "https://MODELS.lan:44/a", "http://[::1]:9/"):
        rules.check(URL(url))
    with pytest.raises(InsecureSourceError):
        rules.check(URL("http://127.0.0.1:8001/a"))
    assert HostRules.from_environment({}).listed == frozenset()


@pytest.mark.parametrize("host", ["localhost", "2130706433", "0x7f.1", "127.1"])
async def test_names_are_judged_by_what_they_resolve_to(host: str) -> None:
    resolver = CheckedResolver(HostRules())
    with pytest.raises(ForbiddenAddressError, match="not public"):
        await resolver.resolve(host, 443)
    await resolver.close()


async def test_the_way_to_a_proxy_leads_nowhere_else() -> None:
    resolver = NamedResolver(frozenset({"localhost"}))
    assert {item["host"] for item in await resolver.resolve("localhost", 80)} <= {"127.0.0.1", "::1"}
    with pytest.raises(ForbiddenAddressError, match="not a proxy"):
        await resolver.resolve("example.com", 443)
    await resolver.close()
