"""A stand-in for `paddock-runner` that starts in 50 ms: pull, serve, gateway, the events and /readyz of the contracts.

Run as a script by tests of the local executor that need many processes and no model. `$STUB_JOURNAL` collects one line
for each start and each end.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

DIGEST = "sha256:" + "ab" * 32


def say(**event: Any) -> None:
    print(json.dumps(event), flush=True)


def note(*words: object) -> None:
    with open(os.environ["STUB_JOURNAL"], "a") as journal:
        journal.write(" ".join(str(word) for word in words) + "\n")


def pull() -> None:
    request = json.load(sys.stdin)
    name = request["source"]["ollama"]["name"]
    note("pull", name)
    if name.startswith("missing"):
        say(event="error", reason="NotFound", message=f"{name} is not there", retryable=False)
        sys.exit(1)
    say(event="result", result={"digest": DIGEST, "name": name, "size": 10, "files": [], "details": {}})


def serve(command: str, arguments: list[str]) -> None:
    config = Path(arguments[arguments.index("--config") + 1])
    listen = arguments[arguments.index("--listen") + 1]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = config.read_bytes()
            body = {"ready": True, "config": hashlib.sha256(data).hexdigest(), "state": "ready", "restarts": 0}
            reply = json.dumps(body | {"digest": json.loads(data).get("digest", "")}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: object) -> None:
            pass

    inherited = listen.startswith("fd:")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=not inherited)
    if inherited:
        server.socket.close()
        server.socket = socket.socket(fileno=int(listen[3:]))
    name = json.loads(config.read_bytes())["name"]

    def end(*_: object) -> None:
        note("end", command, name)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    note("start", command, name)
    say(event="listening", address="127.0.0.1:%d" % server.socket.getsockname()[1])  # noqa: UP031
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while True:
        time.sleep(60)


if __name__ == "__main__":
    if sys.argv[1] == "pull":
        pull()
    else:
        serve(sys.argv[1], sys.argv[2:])
