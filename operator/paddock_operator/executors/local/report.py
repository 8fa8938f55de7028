"""What `paddock up` tells its user: JSON lines for programs, plain text for pipes. `terminal` adds the live view.

Called by `controller` and `up`. Standard output carries only what a script waits for; everything else goes to stderr.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Mapping
from typing import Any, Protocol, TextIO

from paddock_operator.core.resources import Ref

Condition = Mapping[str, Any]


class Reporter(Protocol):
    """Where news goes. `bytes_per_second` is 0 while unknown."""

    def ready(self, ref: Ref, url: str, first: bool) -> None: ...
    def key(self, name: str, secret: str) -> None: ...
    def progress(self, ref: Ref, digest: str, completed: int, total: int, bytes_per_second: float) -> None: ...
    def condition(self, ref: Ref, condition: Condition) -> None: ...
    def forget(self, ref: Ref) -> None: ...
    def error(self, message: str) -> None: ...
    def note(self, message: str) -> None: ...
    def stopping(self) -> None: ...
    def stopped(self) -> None: ...
    def close(self) -> None: ...


def _print(stream: TextIO, line: str) -> None:
    # A reader that went away must not end what we serve.
    with contextlib.suppress(OSError, ValueError):
        stream.write(line + "\n")
        stream.flush()


class JsonReporter:
    """One JSON object per line on stdout and nothing else there; notes for people stay on stderr."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._err = err or sys.stderr

    def _emit(self, event: str, **members: Any) -> None:
        _print(self._out, json.dumps({"event": event, **members}))

    def ready(self, ref: Ref, url: str, first: bool) -> None:
        self._emit("ready", url=url, endpoint=f"{ref.namespace}/{ref.name}")

    def key(self, name: str, secret: str) -> None:
        self._emit("key", name=name, secret=secret)

    def progress(self, ref: Ref, digest: str, completed: int, total: int, bytes_per_second: float) -> None:
        model = f"{ref.namespace}/{ref.name}"
        speed = round(bytes_per_second)
        self._emit("progress", model=model, digest=digest, completed=completed, total=total, bytesPerSecond=speed)

    def condition(self, ref: Ref, condition: Condition) -> None:
        members = {name: condition.get(name, "") for name in ("type", "status", "reason", "message")}
        self._emit("condition", kind=ref.kind, namespace=ref.namespace, name=ref.name, **members)

    def forget(self, ref: Ref) -> None:
        pass

    def error(self, message: str) -> None:
        self._emit("error", message=message)

    def note(self, message: str) -> None:
        _print(self._err, message)

    def stopping(self) -> None:
        self._emit("stopping")

    def stopped(self) -> None:
        self._emit("stopped")

    def close(self) -> None:
        pass


_ATTEMPT = re.compile(r" \((attempt \d+|\d+ restarts)\)")
_BAD = {"Fits": "False", "ModelsReady": "False", "NameConflict": "True"}
"""Beside Ready, what a person must know; all conditions are in `paddock describe` and in the JSON output."""


class TextReporter:
    """`key …` and one `ready URL` on stdout; conditions and errors as lines on stderr."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self._said: dict[tuple[Ref, str], str] = {}

    def ready(self, ref: Ref, url: str, first: bool) -> None:
        if first:
            _print(self._out, f"ready {url}")
        else:
            self.note(f"{ref} answers at {url}")

    def key(self, name: str, secret: str) -> None:
        _print(self._out, f"key {name} {secret}")

    def progress(self, ref: Ref, digest: str, completed: int, total: int, bytes_per_second: float) -> None:
        pass

    def condition(self, ref: Ref, condition: Condition) -> None:
        if line := self.line(ref, condition):
            self.note(line)

    def line(self, ref: Ref, condition: Condition) -> str:
        """The line worth reading, or "": Ready at every change, what stands beside it once for each new reason."""
        kind, status = str(condition.get("type", "")), str(condition.get("status", ""))
        reason, message = str(condition.get("reason", "")), str(condition.get("message", ""))
        text = f"{ref}: {kind}={status} {reason}" + (f": {message}" if message else "")
        # One more attempt that fails in the same way is no news for a person.
        essence = _ATTEMPT.sub("", text) if kind == "Ready" else f"{status} {reason}"
        news = self._said.get((ref, kind)) != essence
        self._said[(ref, kind)] = essence
        return text if news and (kind == "Ready" or _BAD.get(kind) == status) else ""

    def forget(self, ref: Ref) -> None:
        self._said = {key: text for key, text in self._said.items() if key[0] != ref}

    def error(self, message: str) -> None:
        self.note(f"error: {message}")

    def note(self, message: str) -> None:
        _print(self._err, message)

    def stopping(self) -> None:
        self.note("stopping when the running answers are done; a second signal stops at once")

    def stopped(self) -> None:
        self.note("stopped")

    def close(self) -> None:
        pass
