"""The conversation of `paddock run NAME`: history, quoted lines, slash commands, Ctrl-C for the answer only.

Called by `run` when there is no prompt and standard input is a terminal. Nothing of it is written to a file.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

from paddock_operator.cli.client import Client, Reply
from paddock_operator.cli.errors import CliError
from paddock_operator.cli.run import spell, statistics

QUOTES = '"""'
HELP = f"""\
  /set system TEXT         what the model is told before the conversation
  /set parameter NAME N    a generation parameter, such as temperature
  /set verbose | quiet     statistics after each answer, or none
  /clear                   forget the conversation
  /bye                     leave (also Ctrl-D)
  {QUOTES}                      begin and end a message of several lines
  Ctrl-C                   stop the answer
"""


class Chat:
    """One conversation. `ask` reads a line after a prompt; it raises EOFError and KeyboardInterrupt as `input` does."""

    def __init__(self, client: Client, model: str, verbose: bool, ask: Callable[[str], str] | None = None) -> None:
        self._client = client
        self._model = model
        self._verbose = verbose
        self._ask = ask or _input()
        self._messages: list[dict[str, str]] = []
        self._system = ""
        self._options: dict[str, Any] = {}

    def loop(self) -> int:
        """Until /bye or Ctrl-D; exit code 0."""
        while True:
            try:
                text = self._read()
            except KeyboardInterrupt:
                sys.stdout.write("\nUse Ctrl-D or /bye to leave.\n")
                continue
            except EOFError:
                sys.stdout.write("\n")
                return 0
            if text.strip() == "/bye":
                return 0
            self._take(text)

    def _read(self) -> str:
        line = self._ask(">>> ")
        if QUOTES not in line or not line.lstrip().startswith((QUOTES, "/set system")):
            return line
        while line.count(QUOTES) < 2:
            line += "\n" + self._ask("... ")
        return line.replace(QUOTES, "")

    def _take(self, text: str) -> None:
        try:
            if text.startswith("/"):
                self._command(text)
            elif text.strip():
                self._say(text)
        except CliError as error:
            sys.stderr.write(f"error: {error}\n")

    def _command(self, text: str) -> None:
        verb, _, rest = text.partition(" ")
        if verb == "/clear":
            self._messages.clear()
        elif verb == "/set":
            self._set(rest.strip())
        elif verb in ("/?", "/help"):
            sys.stdout.write(HELP)
        else:
            sys.stdout.write(f"{verb} is no command; /? lists them\n")

    def _set(self, text: str) -> None:
        name, _, value = text.partition(" ")
        if name == "system" and value.strip():
            self._system = value.strip()
        elif name == "parameter" and len(value.split(None, 1)) == 2:
            key, number = value.split(None, 1)
            self._options[key] = _value(number)
        elif text in ("verbose", "quiet"):
            self._verbose = text == "verbose"
        else:
            sys.stdout.write(HELP)

    def _say(self, text: str) -> None:
        asked = {"role": "user", "content": text}
        before = [{"role": "system", "content": self._system}] if self._system else []
        body = {
            "model": self._model,
            "messages": [*before, *self._messages, asked],
            "stream": True,
            "options": self._options,
        }
        heard: list[str] = []
        end: Reply = {}
        # Stopped or not: what was said is part of the conversation.
        with contextlib.suppress(KeyboardInterrupt), self._client.post("/api/chat", body) as answer:
            end = spell(_pieces(iter(answer), heard))
        if not end:
            sys.stdout.write("\n")
        if heard:
            self._messages += [asked, {"role": "assistant", "content": "".join(heard)}]
        if self._verbose and end:
            statistics(end)


def _pieces(answer: Iterator[Reply], heard: list[str]) -> Iterator[tuple[str, Reply]]:
    for reply in answer:
        piece = str((reply.get("message") or {}).get("content", ""))
        heard.append(piece)
        yield piece, reply


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _input() -> Callable[[str], str]:
    with contextlib.suppress(ImportError):
        # Importing it is what gives `input` arrow keys and the history of this conversation.
        import readline  # noqa: F401
    return input
