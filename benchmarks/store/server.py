"""One file over HTTP on loopback, as fast as the kernel copies: `python -m benchmarks.store.server FILE`.

A process of its own, sendfile from memory, ranges and keep-alive; prints its port. `GET /count` tells what was asked
for and sent. `--rate` is a limit in bytes/s over all connections, so that a kill meets a link and not a full buffer.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

STEP = 1 << 20
QUEUE_SECONDS = 0.02
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class Counter:
    """Requests and bytes of all connections, and the pace they keep."""

    def __init__(self, rate: int) -> None:
        self.requests = 0
        self.sent = 0
        self._rate = rate
        self._free_at = 0.0
        self._lock = threading.Lock()

    def asked(self) -> None:
        with self._lock:
            self.requests += 1

    def pace(self, count: int) -> None:
        with self._lock:
            self.sent += count
            if not self._rate:
                return
            # A link loses no time while a reader takes a breath: its queue holds so much.
            self._free_at = max(self._free_at, time.monotonic() - QUEUE_SECONDS) + count / self._rate
            wait = self._free_at - time.monotonic()
        time.sleep(max(0.0, wait))


def handler(handle: int, size: int, counter: Counter, step: int) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/count":
                return self._answer_count()
            counter.asked()
            match = _RANGE.fullmatch(self.headers.get("Range", ""))
            start = int(match[1]) if match else 0
            end = min(size, int(match[2]) + 1) if match and match[2] else size
            self.send_response(206 if match else 200)
            self.send_header("Content-Length", str(end - start))
            if match:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
            self.end_headers()
            self.wfile.flush()
            return self._copy(start, end)

        def _copy(self, start: int, end: int) -> None:
            self.close_connection = True
            try:
                while start < end:
                    done = os.sendfile(self.connection.fileno(), handle, start, min(step, end - start))
                    start += done
                    counter.pace(done)
            except OSError:
                return
            self.close_connection = False

        def _answer_count(self) -> None:
            body = json.dumps({"requests": counter.requests, "sent": counter.sent}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: socket.socket | tuple[bytes, socket.socket], address: object) -> None:
        """A client that was killed is what this server is for."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rate", type=int, default=0)
    arguments = parser.parse_args()
    handle = os.open(arguments.file, os.O_RDONLY)
    step = STEP if not arguments.rate else STEP // 16
    kind = handler(handle, arguments.file.stat().st_size, Counter(arguments.rate), step)
    with Server(("127.0.0.1", 0), kind) as server:
        print(server.server_port, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
