"""`paddock run NAME [PROMPT]`: ask a model one thing, or talk to it (`chat`)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator

from paddock_operator.cli.client import Reply, client_for
from paddock_operator.cli.errors import BAD_USAGE, CliError

MAX_STDIN_BYTES = 4 * 1024 * 1024


def run(arguments: argparse.Namespace) -> int:
    """One answer if there is a prompt (arguments, piped standard input, or both), else a conversation."""
    prompt = _prompt(arguments.prompt)
    client = client_for(arguments, arguments.name)
    if prompt is None:
        from paddock_operator.cli.chat import Chat

        return Chat(client, arguments.name, arguments.verbose).loop()
    with client.post("/api/generate", {"model": arguments.name, "prompt": prompt, "stream": True}) as answer:
        end = spell(_texts(answer))
    if arguments.verbose:
        statistics(end)
    return 0


def _prompt(words: list[str]) -> str | None:
    parts = [" ".join(words)] if words else []
    if not sys.stdin.isatty():
        parts += [text] if (text := _piped()) else []
        if not parts:
            raise CliError("standard input is empty; give a prompt", BAD_USAGE)
    return "\n\n".join(parts) if parts else None


def _piped() -> str:
    data = sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)
    if len(data) > MAX_STDIN_BYTES:
        raise CliError(f"standard input is larger than {MAX_STDIN_BYTES // 1024 // 1024} MiB", BAD_USAGE)
    return data.decode(errors="replace").strip()


def _texts(answer: Iterable[Reply]) -> Iterator[tuple[str, Reply]]:
    for reply in answer:
        yield str(reply.get("response", "")), reply


def spell(pieces: Iterable[tuple[str, Reply]]) -> Reply:
    """Print pieces as they come; the last reply, which carries the statistics."""
    last: Reply = {}
    for text, reply in pieces:
        last = reply
        sys.stdout.write(text)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return last


def statistics(end: Reply) -> None:
    """Print what the answer cost to stderr, in the words of `ollama run --verbose`."""
    lines = [("total duration", _seconds(end, "total_duration")), ("load duration", _seconds(end, "load_duration"))]
    for name, count, duration in (
        ("prompt eval", "prompt_eval_count", "prompt_eval_duration"),
        ("eval", "eval_count", "eval_duration"),
    ):
        tokens, seconds = int(end.get(count, 0)), int(end.get(duration, 0)) / 1e9
        lines += [(f"{name} count", f"{tokens} token(s)"), (f"{name} duration", f"{seconds:.3f}s")]
        lines += [(f"{name} rate", f"{tokens / seconds:.2f} tokens/s")] if seconds > 0 else []
    sys.stderr.write("\n" + "".join(f"{name + ':':<22}{value}\n" for name, value in lines))


def _seconds(end: Reply, name: str) -> str:
    return f"{int(end.get(name, 0)) / 1e9:.3f}s"
