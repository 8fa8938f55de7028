"""A small web server on loopback that answers as a test says and keeps what it was asked. For tests of the transport.

`routes` maps a path to one answer or to several, one per request, of which the last stays. With TLS the certificate is
of an authority of the tests' own.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.support.authority import Authority


@dataclass(frozen=True)
class Seen:
    """One request; `headers` have lower-case names."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Reply:
    """`drip` seconds lie between single bytes of the body; `length` is declared instead of the body's own."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    drip: float = 0.0
    length: int | None = None


Answer = Reply | Callable[[Seen], Reply]


@dataclass
class Web:
    """`host` is host:port."""

    host: str = ""
    scheme: str = "http"
    routes: dict[str, list[Answer]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.host}"

    def on(self, path: str, *answers: Answer) -> str:
        """Answer `path` so; returns its URL."""
        self.routes[path] = list(answers)
        return f"{self.origin}{path}"

    def asked(self, path: str) -> list[Seen]:
        """The requests for a path, with any query."""
        return [item for item in self.seen if item.target.partition("?")[0] == path]

    def answer(self, seen: Seen) -> Reply:
        self.seen.append(seen)
        answers = self.routes.get(seen.target.partition("?")[0], [Reply(404)])
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return found if isinstance(found, Reply) else found(seen)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20
    web: Web

    def do_GET(self) -> None:
        with suppress(ConnectionError, TimeoutError, ssl.SSLError):
            self._answer()
            return
        self.close_connection = True

    do_HEAD = do_POST = do_PUT = do_PATCH = do_GET  # noqa: N815

    def log_message(self, *arguments: object) -> None:
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self) -> None:
        headers = {key.lower(): value for key, value in self.headers.items()}
        reply = self.web.answer(Seen(self.command, self.path, headers, self._body()))
        self.send_response(reply.status)
        declared = len(reply.body) if reply.length is None else reply.length
        for key, value in {"Content-Length": str(declared), **reply.headers}.items():
            for line in value.split("\n"):
                self.send_header(key, line)
        self.end_headers()
        if self.command == "HEAD":
            return
        if not reply.drip:
            self.wfile.write(reply.body)
            self.close_connection |= declared != len(reply.body)
            return
        for index in range(len(reply.body)):
            self.wfile.write(reply.body[index : index + 1])
            self.wfile.flush()
            if self.web.released.wait(reply.drip):
                break
        self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves during the handshake is what some tests are about."""


@contextmanager
def serving_web(tls: ssl.SSLContext | None = None) -> Iterator[Web]:
    """A server on a free port of 127.0.0.1."""
    web = Web(scheme="https" if tls else "http")
    handler = type("Handler", (_Handler,), {"web": web})
    with _Server(("127.0.0.1", 0), handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        web.host = f"127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield web
        finally:
            web.released.set()
            server.shutdown()
            thread.join(10)


def tls_of(authority: Authority, folder: Path, address: str = "127.0.0.1") -> ssl.SSLContext:
    """A server's context with a certificate for `address`; files are put into `folder`."""
    certificate, key = authority.issue(address)
    (folder / "server.pem").write_bytes(certificate + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context
