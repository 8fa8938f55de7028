"""The template worker: a process of its own that renders chat templates until its input ends.

Started by `templating.client` as `python -m paddock_runner.templating.worker`; frames on stdin and stdout. A template
is code from a stranger: it may loop, recurse or ask for gigabytes. So the process has an address-space limit, no
files, and an alarm that ends it when a rendering takes too long, even if the front is gone. It imports
jinja2 and nothing else that is large.
"""

from __future__ import annotations

import resource
import signal
import sys
from typing import Any, BinaryIO

from jinja2 import TemplateError

from paddock_runner.templating import frames
from paddock_runner.templating.environment import OutputTooLargeError, RaisedByTemplateError, render

MEMORY_BYTES = 512 * 1024 * 1024
ALARM_SECONDS = frames.DEADLINE_SECONDS + 1.0


def limit_process() -> None:
    """Bound what the process can take. After this it opens no file."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to one request: {"text"} or {"error", "kind"}; kind is raised, limit or broken."""
    try:
        return {"text": render(request["template"], request["variables"], frames.MAX_OUTPUT)}
    except RaisedByTemplateError as error:
        return {"kind": "raised", "error": str(error)}
    except OutputTooLargeError:
        return {"kind": "limit", "error": f"it wrote more than {frames.MAX_OUTPUT} bytes"}
    except (MemoryError, RecursionError) as error:
        return {"kind": "limit", "error": f"it needs too much memory or recursion ({type(error).__name__})"}
    except TemplateError as error:
        return {"kind": "broken", "error": (error.message or type(error).__name__)[:300]}
    except Exception as error:  # whatever a stranger's code raises is an answer, not an end
        return {"kind": "broken", "error": f"{type(error).__name__}: {error}"[:300]}


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer frames until `source` ends."""
    while head := source.read(frames.LENGTH_BYTES):
        request = frames.unpack(source.read(int.from_bytes(head, "big")))
        signal.setitimer(signal.ITIMER_REAL, ALARM_SECONDS)
        reply = answer(request)
        signal.setitimer(signal.ITIMER_REAL, 0)
        sink.write(_packed(reply))
        sink.flush()


def _packed(reply: dict[str, Any]) -> bytes:
    try:
        return frames.pack(reply, frames.MAX_REPLY)
    except ValueError as error:
        return frames.pack({"kind": "broken", "error": f"its text cannot be encoded: {error}"[:300]}, frames.MAX_REPLY)


def preload() -> None:
    """Render once well and once badly: Jinja imports parts of itself on first use, later no file opens."""
    for template in ("{{ strftime_now('%Y') }}{{ {} | tojson }}", "{{ nothing.at.all }}", "{% if %}"):
        answer({"template": template, "variables": {}})


if __name__ == "__main__":
    preload()
    limit_process()
    serve(sys.stdin.buffer, sys.stdout.buffer)
