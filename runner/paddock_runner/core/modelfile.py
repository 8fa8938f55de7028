"""The Modelfile language: parser with line numbers, parameter types, and a formatter.

Used by `store create` (parse) and `store show` (format). Pure: text in, values out; paths are not resolved here.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from paddock_runner.core.options import RULES, parse_options

MAX_MODELFILE_BYTES = 4 * 1024 * 1024
COMMANDS = (
    "from",
    "adapter",
    "template",
    "system",
    "parameter",
    "license",
    "message",
    "renderer",
    "parser",
    "requires",
)
_GO_EXPONENT = 1e21
ROLES = ("system", "user", "assistant")
REMOVED_PARAMETERS = frozenset(
    "f16_kv logits_all low_vram numa penalize_newline tfs_z use_mlock vocab_only".split()  # noqa: SIM905
)

ParameterValue = int | float | bool | list[str]


class ModelfileError(ValueError):
    """The Modelfile is wrong; `line` is the 1-based line where, 0 when the file as a whole is meant."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"(line {line}): {message}" if line else message)
        self.line = line


@dataclass(slots=True)
class Modelfile:
    """What a Modelfile says. `froms` and `adapters` are as written: names or paths relative to the Modelfile."""

    froms: list[str] = field(default_factory=list)
    adapters: list[str] = field(default_factory=list)
    parameters: dict[str, ParameterValue] = field(default_factory=dict)
    system: str | None = None
    template: str | None = None
    licenses: list[str] = field(default_factory=list)
    messages: list[tuple[str, str]] = field(default_factory=list)
    renderer: str | None = None
    parser: str | None = None
    requires: str | None = None
    warnings: list[str] = field(default_factory=list)


def _integer(text: str) -> int:
    try:
        return int(text, 10)
    except ValueError:
        raise ValueError(f"invalid int value {text[:32]!r}") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"invalid float value {text[:32]!r}") from None


def _boolean(text: str) -> bool:
    word = text.lower()
    if word not in ("true", "false", "t", "f", "1", "0"):
        raise ValueError(f"invalid bool value {text[:32]!r}")
    return word in ("true", "t", "1")


_CONVERTERS: dict[str, Callable[[str], int | float | bool]] = {
    "integer": _integer,
    "float32": _number,
    "boolean": _boolean,
}


def parse_modelfile(data: bytes | str) -> Modelfile:
    """Read a Modelfile (UTF-8, or UTF-16 with a byte order mark). Raises ModelfileError with the line."""
    result = Modelfile()
    lines = _decode(data).replace("\r\n", "\n").split("\n")
    index = 0
    while index < len(lines):
        text, start = lines[index].lstrip(), index + 1
        index += 1
        if not text or text.startswith("#"):
            continue
        command, rest = _command(text, start)
        value, index = _value(lines, index, rest, start)
        _apply(result, command, value, start)
    if not result.froms:
        raise ModelfileError(0, "no FROM line")
    return result


def _decode(data: bytes | str) -> str:
    if len(data) > MAX_MODELFILE_BYTES:
        raise ModelfileError(0, f"the Modelfile has more than {MAX_MODELFILE_BYTES} bytes")
    if isinstance(data, str):
        return data.removeprefix("\ufeff")
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ModelfileError(data[: error.start].count(b"\n") + 1, "is not UTF-8 text") from None


def _command(text: str, line: int) -> tuple[str, str]:
    """Split the command (with the parameter name or role it takes) from the start of its value."""
    pieces = text.split(None, 1)
    command, rest = pieces[0].lower(), "".join(pieces[1:])
    if command not in COMMANDS:
        allowed = ", ".join(f'"{name}"' for name in COMMANDS)
        raise ModelfileError(line, f"command must be one of {allowed}")
    if command not in ("parameter", "message"):
        return command, rest
    head = rest.split(None, 1)
    if len(head) < 2:
        raise ModelfileError(line, f"{command.upper()} needs a name and a value")
    return f"{command} {head[0].lower()}", head[1]


def _value(lines: list[str], index: int, text: str, line: int) -> tuple[str, int]:
    """The value that begins with `text` and may go on in the following lines; returns it with the next index."""
    mark = '"""' if text.startswith('"""') else '"' if text.startswith('"') else ""
    parts = [text]
    while not _closed(parts[-1].rstrip(), mark, alone=len(parts) == 1):
        if index == len(lines):
            raise ModelfileError(line, f"unexpected EOF: the value's closing {mark} is missing")
        parts.append(lines[index])
        index += 1
    whole = "\n".join(parts).rstrip()
    return (whole[len(mark) : len(whole) - len(mark)] if mark else whole), index


def _closed(last: str, mark: str, alone: bool) -> bool:
    shortest = 2 * len(mark) if alone else len(mark)
    return not mark or (len(last) >= shortest and last.endswith(mark))


def _apply(result: Modelfile, command: str, value: str, line: int) -> None:
    word, _, name = command.partition(" ")
    if word == "parameter":
        _apply_parameter(result, name, value, line)
    elif word == "message":
        _apply_message(result, name, value, line)
    elif word in ("from", "adapter", "license"):
        if not value:
            raise ModelfileError(line, f"{word.upper()} needs a value")
        {"from": result.froms, "adapter": result.adapters, "license": result.licenses}[word].append(value)
    else:
        setattr(result, word, value)


def _apply_message(result: Modelfile, role: str, value: str, line: int) -> None:
    if role not in ROLES:
        raise ModelfileError(line, 'message role must be one of "system", "user", or "assistant"')
    result.messages.append((role, value))


def _apply_parameter(result: Modelfile, name: str, value: str, line: int) -> None:
    if name in REMOVED_PARAMETERS:
        result.warnings.append(f"(line {line}): parameter {name!r} was removed and has no effect")
        return
    if name != "stop" and name not in RULES:
        raise ModelfileError(line, f"unknown parameter {name!r}")
    try:
        parsed = [*_stops(result), value] if name == "stop" else _CONVERTERS[RULES[name].kind](value)
        parse_options({name: parsed})
    except ValueError as error:
        raise ModelfileError(line, f"parameter {name}: {error}") from None
    result.parameters[name] = parsed


def _stops(result: Modelfile) -> list[str]:
    stops = result.parameters.get("stop", [])
    return stops if isinstance(stops, list) else []


def _quote(text: str) -> str:
    return f'"""{text}"""' if "\n" in text or '"' in text else f'"{text}"' if text != text.strip() else text


def format_parameters(parameters: Mapping[str, object]) -> str:
    """Parameters as `ollama show` prints them: one per line, the name padded to 30 characters, texts quoted."""
    lines = []
    for name, value in parameters.items():
        for item in value if isinstance(value, list | tuple) else [value]:
            shown = json.dumps(item, ensure_ascii=False) if isinstance(item, str) else _plain(item)
            lines.append(f"{name:<30} {shown}")
    return "\n".join(lines)


def _plain(value: object) -> str:
    """A number or truth as Go prints it: 0 and not 0.0."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _GO_EXPONENT:
        return str(int(value))
    return str(value).lower()


def format_modelfile(modelfile: Modelfile) -> str:
    """A Modelfile that parses back to `modelfile` (warnings aside)."""
    lines = [f"FROM {_quote(name)}" for name in modelfile.froms]
    lines += [f"ADAPTER {_quote(path)}" for path in modelfile.adapters]
    for command in ("template", "system", "renderer", "parser", "requires"):
        if value := getattr(modelfile, command):
            lines.append(f"{command.upper()} {_quote(value)}")
    for name, value in modelfile.parameters.items():
        items = [_quote(item) for item in value] if isinstance(value, list) else [_plain(value)]
        lines += [f"PARAMETER {name} {item}" for item in items]
    lines += [f"MESSAGE {role} {_quote(text)}" for role, text in modelfile.messages]
    lines += [f"LICENSE {_quote(text)}" for text in modelfile.licenses]
    return "\n".join(lines) + "\n"
