"""Tool calls as JSON between two tags, as Hermes and Qwen write them. Pure. Called by `api.ollama`.

Text comes in pieces of any size. What may be the beginning of a tag is held back, so no part of a call is ever told as
text; a call that turns out to be none comes out as the text it was, so nothing is lost.
"""

from __future__ import annotations

import json
from typing import Any

from paddock_runner.core.chat import ToolCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"
MAX_CALL_CHARACTERS = 256 * 1024
MAX_CLOSINGS = 16
"""Closing tags that one call may hold in its arguments: each costs another reading of the call."""
_OTHER_FORMS = ("<function=", "<arg_key>")


def knows_tools(template: str) -> bool:
    """Whether a Jinja template offers tools and shows the form of calls that this module reads."""
    return "tools" in template and OPEN in template and not any(form in template for form in _OTHER_FORMS)


class TaggedCalls:
    """`feed` the output piece by piece, `finish` at its end; both give the text to show and the calls completed.

    The ids of calls are `seed` with a number, so equal outputs of one request give equal ids.
    """

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._held = ""
        self._inside = False
        self._searched = 0
        self._closings = 0
        self._count = 0

    def feed(self, text: str) -> tuple[str, list[ToolCall]]:
        """Take the next piece."""
        self._held += text
        shown: list[str] = []
        calls: list[ToolCall] = []
        while self._advance(shown, calls):
            pass
        return "".join(shown), calls

    def finish(self) -> tuple[str, list[ToolCall]]:
        """The end of the output: a whole call may lack its closing tag, anything else that is held is text."""
        call = self._call(self._held) if self._inside else None
        rest = "" if call else (OPEN if self._inside else "") + self._held
        self._held, self._inside = "", False
        return rest, [call] if call else []

    def _advance(self, shown: list[str], calls: list[ToolCall]) -> bool:
        return self._in_call(shown, calls) if self._inside else self._in_text(shown)

    def _in_text(self, shown: list[str]) -> bool:
        before, tag, after = self._held.partition(OPEN)
        if tag:
            shown.append(before)
            self._held, self._inside, self._searched, self._closings = after, True, 0, 0
            return True
        keep = next((size for size in range(len(OPEN) - 1, 0, -1) if before.endswith(OPEN[:size])), 0)
        shown.append(before[: len(before) - keep])
        self._held = before[len(before) - keep :]
        return False

    def _in_call(self, shown: list[str], calls: list[ToolCall]) -> bool:
        end = self._held.find(CLOSE, self._searched)
        if end < 0:
            self._searched = max(0, len(self._held) - len(CLOSE) + 1)
            if len(self._held) <= MAX_CALL_CHARACTERS:
                return False
            shown.append(OPEN + self._held)
            self._held, self._inside = "", False
            return False
        after = end + len(CLOSE)
        call = self._call(self._held[:end])
        # A closing tag may stand inside an argument: then the rest may still make the call whole.
        self._closings += 1
        if call is None and self._closings <= MAX_CLOSINGS and _is_in_string(self._held[:end]):
            self._searched = after
            return True
        if call is None:
            shown.append(OPEN + self._held[:after])
        else:
            calls.append(call)
        self._held, self._inside = self._held[after:], False
        return True

    def _call(self, text: str) -> ToolCall | None:
        found = _parsed(text)
        if found is None:
            return None
        self._count += 1
        return ToolCall(found[0], found[1], f"call_{self._seed}{self._count - 1}")


def _parsed(text: str) -> tuple[str, dict[str, Any]] | None:
    try:
        value = json.loads(text)
        arguments = value.get("arguments", {}) if isinstance(value, dict) else None
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    name = value.get("name") if isinstance(value, dict) else None
    return (name, arguments) if isinstance(name, str) and name and isinstance(arguments, dict) else None


def _is_in_string(text: str) -> bool:
    inside, characters = False, iter(text)
    for character in characters:
        if character == '"':
            inside = not inside
        elif character == "\\" and inside:
            next(characters, None)
    return inside
