"""A forward proxy on loopback: CONNECT and absolute URLs, always to one server, whatever name was asked for.

For tests of the transport: the proxy is who resolves names, so any public address can be asked for without a packet.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class ForwardProxy:
    """`asked` are the targets as the client named them, `heads` the headers; `status` refuses all."""

    target: str
    host: str = ""
    status: int = 0
    asked: list[str] = field(default_factory=list)
    heads: list[dict[str, str]] = field(default_factory=list)

    def connect(self) -> socket.socket:
        host, _, port = self.target.partition(":")
        return socket.create_connection((host, int(port)), 10)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20
    proxy: ForwardProxy

    def do_CONNECT(self) -> None:
        if not self._admit():
            return
        with self.proxy.connect() as server:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=_copy, args=(server, self.connection))
            back.start()
            _copy(self.connection, server)
            back.join(10)
        self.close_connection = True

    def do_GET(self) -> None:
        if not self._admit():
            return
        path = "/" + self.path.split("/", 3)[3]
        lines = "".join(f"{key}: {value}\r\n" for key, value in self.headers.items() if key != "Proxy-Authorization")
        with self.proxy.connect() as server:
            server.sendall(f"GET {path} HTTP/1.1\r\n{lines}Connection: close\r\n\r\n".encode())
            _copy(server, self.connection)
        self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        pass

    def _admit(self) -> bool:
        self.proxy.asked.append(self.path)
        self.proxy.heads.append({key.lower(): value for key, value in self.headers.items()})
        if self.proxy.status:
            self.send_response(self.proxy.status)
            self.send_header("Content-Length", "0")
            self.end_headers()
        return not self.proxy.status


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


class _Server(ThreadingHTTPServer):
    daemon_threads = True


@contextmanager
def serving_proxy(target: str) -> Iterator[ForwardProxy]:
    """A proxy on a free port that leads to `target` (host:port)."""
    proxy = ForwardProxy(target)
    handler = type("Handler", (_Handler,), {"proxy": proxy})
    with _Server(("127.0.0.1", 0), handler) as server:
        proxy.host = f"127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join(10)
