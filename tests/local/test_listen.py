"""Addresses and sockets, and which Endpoint gets which."""

from __future__ import annotations

import socket

import pytest

from paddock_operator.core.resources import Endpoint, Ref, parse
from paddock_operator.executors.local.listen import Address, ListenError, bind
from paddock_operator.executors.local.listen import parse as parse_address
from paddock_operator.executors.local.ports import Ports


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:11434", Address("127.0.0.1", 11434)),
        ("localhost:0", Address("localhost", 0)),
        ("[::1]:80", Address("::1", 80)),
        (":8080", Address("0.0.0.0", 8080)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "127.0.0.1", "host:", "host:70000", "host:x", "::1:80", "host:-1", "host:\u0661"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ListenError, match="is not HOST:PORT"):
        parse_address(text)


def test_bind_listens_and_knows_its_url() -> None:
    listener = bind(Address("127.0.0.1", 0))
    assert listener.url == f"http://127.0.0.1:{listener.address.port}"
    assert listener.loopback
    socket.create_connection(("127.0.0.1", listener.address.port), 1).close()
    listener.close()


def test_a_wildcard_is_no_loopback_but_answers_there() -> None:
    listener = bind(Address("0.0.0.0", 0))
    assert not listener.loopback
    assert listener.url.startswith("http://127.0.0.1:")
    listener.close()


def test_in_use_is_one_clear_line() -> None:
    first = bind(Address("127.0.0.1", 0))
    with pytest.raises(ListenError, match=rf"127\.0\.0\.1:{first.address.port} is in use by another process") as caught:
        bind(first.address)
    assert caught.value.in_use
    first.close()


def test_an_unknown_host() -> None:
    with pytest.raises(ListenError, match=r"cannot listen on 192\.0\.2\.1:0") as caught:
        bind(Address("192.0.2.1", 0))
    assert not caught.value.in_use


def endpoint(name: str, port: int | None = None) -> tuple[Ref, Endpoint]:
    spec = {"models": [{"name": "m"}]} | ({"service": {"port": port}} if port else {})
    found = parse({"kind": "Endpoint", "metadata": {"name": name}, "spec": spec})
    assert isinstance(found, Endpoint)
    return found.ref, found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_the_first_gets_listen_and_keeps_it() -> None:
    ports = Ports(Address("127.0.0.1", 0))
    a, b = endpoint("a", free_port()), endpoint("b", free_port())
    ports.claim(dict([b, a]))
    main, other = ports.listener(b[0]), ports.listener(a[0])
    ports.claim(dict([a, b]))
    assert ports.listener(b[0]) is main
    assert ports.listener(a[0]) is other
    ports.claim(dict([a]))
    assert ports.listener(a[0]) is main, "the next one takes the address over with its socket"
    ports.close()


def test_others_need_a_port_of_their_own() -> None:
    ports = Ports(Address("127.0.0.1", 0))
    a, b = endpoint("a"), endpoint("b")
    ports.claim(dict([a, b]))
    with pytest.raises(ListenError, match=r"spec\.service\.port"):
        ports.listener(b[0])


def test_two_cannot_have_one_port() -> None:
    port = free_port()
    ports = Ports(Address("127.0.0.1", 0))
    a, b, c = endpoint("a"), endpoint("b", port), endpoint("c", port)
    ports.claim(dict([a, b, c]))
    ports.listener(b[0])
    with pytest.raises(ListenError, match="is the address of Endpoint default/b"):
        ports.listener(c[0])
    ports.claim(dict([a, c]))
    assert ports.listener(c[0]).address.port == port
    ports.close()


def test_nobody_wants_it_so_it_is_closed() -> None:
    port = free_port()
    ports = Ports(Address("127.0.0.1", port))
    ports.claim(dict([endpoint("a")]))
    ports.listener(Ref("Endpoint", "default", "a"))
    ports.claim({})
    bind(Address("127.0.0.1", port)).close()
