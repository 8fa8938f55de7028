"""One file over HTTP on loopback, whole or from an offset, stopping where a test says. For tests that start pullers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_PIECE = 64 * 1024


class FileServer:
    """Serves `data` at `url`. `pause_at` holds every body there (in bytes) until `go` is set."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.pause_at: int | None = None
        self.go = threading.Event()
        self.paused = threading.Event()
        self.heads: list[dict[str, str]] = []
        self.host = ""

    @property
    def url(self) -> str:
        return f"http://{self.host}/model.gguf"

    @property
    def ranges(self) -> list[str | None]:
        return [head.get("Range") for head in self.heads]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.heads.append(dict(request.headers))
        wanted = request.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        request.send_response(206 if wanted else 200)
        request.send_header("Content-Length", str(len(self.data) - start))
        if wanted:
            request.send_header("Content-Range", f"bytes {start}-{len(self.data) - 1}/{len(self.data)}")
        request.end_headers()
        for at in range(start, len(self.data), _PIECE):
            if self.pause_at is not None and at >= self.pause_at:
                self.paused.set()
                self.go.wait(30)
            request.wfile.write(self.data[at : at + _PIECE])


@contextmanager
def serving_file(data: bytes) -> Iterator[FileServer]:
    """A server for `data` on a free port."""
    state = FileServer(data)

    class Handling(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                state.answer(self)
            except ConnectionError:
                self.close_connection = True

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handling) as server:
        state.host = f"127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield state
        finally:
            state.go.set()
            server.shutdown()
            thread.join(10)
