"""One file over HTTP on loopback from a server that misbehaves as told, request by request. For tests of downloads.

A behaviour answers one request. `script` holds one per request, the last stays; `script_for` chooses by the range asked
for instead. What was asked and how many bytes were sent is kept.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from paddock_runner.core.digest import Digest

_PIECE = 64 * 1024
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")

Behaviour = Callable[["FaultServer", BaseHTTPRequestHandler], None]


@dataclass
class FaultServer:
    """Serves `data` at `url`. `pause_at` holds every body there (in bytes) until `go` is set; `rate` is bytes/s."""

    data: bytes
    script: list[Behaviour] = field(default_factory=lambda: [whole])
    etag: str = ""
    rate: float = 0.0
    pause_at: int | None = None
    go: threading.Event = field(default_factory=threading.Event)
    paused: threading.Event = field(default_factory=threading.Event)
    heads: list[dict[str, str]] = field(default_factory=list)
    host: str = ""
    sent: int = 0
    connections: int = 0
    answering: int = 0
    """Answers that are under way."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://{self.host}/model.gguf"

    @property
    def ranges(self) -> list[str | None]:
        return [head.get("Range") for head in self.heads]

    @property
    def digest(self) -> Digest:
        return Digest.of(self.data)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        with self._lock:
            self.heads.append(dict(request.headers))
            action = self.script.pop(0) if len(self.script) > 1 else self.script[0]
            self.answering += 1
        try:
            action(self, request)
        finally:
            with self._lock:
                self.answering -= 1

    def count(self, bytes_sent: int) -> None:
        with self._lock:
            self.sent += bytes_sent


def span(server: FaultServer, request: BaseHTTPRequestHandler) -> tuple[int, int, bool]:
    """The bytes that the request asks for, and whether it asks for a range."""
    match = _RANGE.fullmatch(request.headers.get("Range", ""))
    total = len(server.data)
    if match is None:
        return 0, total, False
    return int(match[1]), min(total, int(match[2]) + 1) if match[2] else total, True


def send(
    server: FaultServer,
    request: BaseHTTPRequestHandler,
    status: int,
    body: bytes,
    length: int | None = None,
    offset: int = 0,
    **headers: str,
) -> None:
    """Answer with `body`, declared as `length` bytes (-1: not declared), which is at `offset` of the file."""
    request.send_response(status)
    if length != -1:
        request.send_header("Content-Length", str(len(body) if length is None else length))
    if server.etag:
        request.send_header("ETag", server.etag)
    for key, value in headers.items():
        request.send_header(key.replace("_", "-"), value)
    if length is not None:
        request.send_header("Connection", "close")
        request.close_connection = True
    request.end_headers()
    for at in range(0, len(body), _PIECE):
        if server.pause_at is not None and offset + at >= server.pause_at:
            server.paused.set()
            server.go.wait(30)
        piece = body[at : at + _PIECE]
        if server.rate and server.go.wait(len(piece) / server.rate):
            server.rate = 0.0
        request.wfile.write(piece)
        server.count(len(piece))


def whole(server: FaultServer, request: BaseHTTPRequestHandler) -> None:
    """A good server: whole bodies and right ranges."""
    cut(None)(server, request)


def cut(count: int | None, reset: bool = False) -> Behaviour:
    """End the connection after `count` bytes of the body, although more were promised."""

    def answer(server: FaultServer, request: BaseHTTPRequestHandler) -> None:
        start, end, ranged = span(server, request)
        total = len(server.data)
        if ranged and start >= total:
            send(server, request, 416, b"", Content_Range=f"bytes */{total}")
            return
        shown = {"Content_Range": f"bytes {start}-{end - 1}/{total}"} if ranged else {}
        body = server.data[start:end] if count is None else server.data[start : min(end, start + count)]
        length = None if count is None else end - start
        send(server, request, 206 if ranged else 200, body, length, start, **shown)
        if reset:
            # Closing with SO_LINGER 0 sends a reset instead of an end.
            request.wfile.flush()
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            request.connection.close()

    return answer


def ignores_range(server: FaultServer, request: BaseHTTPRequestHandler) -> None:
    send(server, request, 200, server.data)


def no_length(server: FaultServer, request: BaseHTTPRequestHandler) -> None:
    """The whole file without a Content-Length, ended by the end of the connection."""
    send(server, request, 200, server.data, -1)


def chunked(server: FaultServer, request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    for at in range(0, len(server.data), _PIECE):
        piece = server.data[at : at + _PIECE]
        request.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        server.count(len(piece))
    request.wfile.write(b"0\r\n\r\n")


def stall(count: int) -> Behaviour:
    """Send `count` bytes, then nothing."""

    def answer(server: FaultServer, request: BaseHTTPRequestHandler) -> None:
        cut(count)(server, request)
        request.wfile.flush()
        server.go.wait(20)

    return answer


def drip(server: FaultServer, request: BaseHTTPRequestHandler) -> None:
    """A byte now and then."""
    cut(1000)(server, request)
    start = span(server, request)[0]
    for index in range(start + 1000, start + 2000):
        if server.go.wait(0.02):
            return
        request.wfile.write(server.data[index : index + 1])
        server.count(1)


def status(code: int, **headers: str) -> Behaviour:
    return lambda server, request: send(server, request, code, b"nothing", **headers)


def shifted(by: int, honest: bool = True) -> Behaviour:
    """Bytes from a wrong place: told so in the Content-Range, or not."""

    def answer(server: FaultServer, request: BaseHTTPRequestHandler) -> None:
        start, end, ranged = span(server, request)
        if not ranged:
            send(server, request, 200, server.data)
            return
        total = len(server.data)
        low, high = min(start + by, total - 1), min(end + by, total)
        shown = (low, high - 1) if honest else (start, start + high - low - 1)
        send(server, request, 206, server.data[low:high], Content_Range=f"bytes {shown[0]}-{shown[1]}/{total}")

    return answer


def body(content: bytes, content_type: str = "application/octet-stream", length: int | None = None) -> Behaviour:
    return lambda server, request: send(server, request, 200, content, length, Content_Type=content_type)


@contextmanager
def serving(data: bytes) -> Iterator[FaultServer]:
    """A server for `data` on a free port."""
    state = FaultServer(data)

    class Handling(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def setup(self) -> None:
            state.connections += 1
            super().setup()

        def do_GET(self) -> None:
            try:
                state.answer(self)
            except (ConnectionError, TimeoutError):
                self.close_connection = True

        def finish(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                super().finish()

        def log_message(self, *arguments: object) -> None:
            pass

    class Listener(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

    with Listener(("127.0.0.1", 0), Handling) as server:
        state.host = f"127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield state
        finally:
            state.go.set()
            server.shutdown()
            thread.join(10)
