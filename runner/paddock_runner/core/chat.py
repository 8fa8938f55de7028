"""From messages to a prompt: which template renders, what it gets, and how user text is kept apart. Pure.

Called by `api/prompting.py`; the Jinja rendering itself happens in the `templating` worker.

How a client's text is kept from becoming control tokens. The engine tokenises the rendered chat as one string with
control tokens parsed, exactly as the model's authors meant it, so ordinary chats get the reference tokens. Where a
message spells something that may be a control token (`<|im_start|>`, `</s>`, `[INST]`; every known vocabulary writes
them in brackets, without white space), the spelling is fenced by two private-use characters that occur in no message
and not in the template. After rendering, fenced text becomes a segment of its own in which no control token is parsed,
and the fences are gone. Ordinary text is untouched and the spelling itself stays whole, so `strip()`, slices,
`split('</think>')` and searches in templates keep working.

A template may tear a fence off (an ASCII filter, a slice). `is_contained` finds that out: the parsed segments may hold
no more spellings than a rendering of the same chat without them. Then the chat is rendered with a visible space inside
each spelling (`<|im_s tart|>`), which survives such filters; if even that fails, the chat is refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from paddock_runner.core.generation import Segment

TemplateKind = Literal["jinja", "go"]

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPELLINGS = re.compile(r"<[^<>\s]{1,100}>|\[\|[^\[\]|\s]{1,100}\|\]|\[/?[A-Za-z][A-Za-z0-9_]{1,60}\]")
_PRIVATE_USE = range(0xF0000, 0xFFFFE)
_GO = re.compile(
    r"\{\{-?\s*(?:[.$]|/\*|(?:if|range|with|else if|block|define|template|json)\s+[-.$(\"]|(?:else|end)\s*-?\}\}"
    r"|(?:eq|ne|and|or|not|index|len|slice|printf)\s)"
)


Edit = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a model made: `arguments` in the order in which they were written. `id` may be empty."""

    name: str
    arguments: Mapping[str, Any]
    id: str = ""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may call: `definition` is its `name`, `description` and `parameters` (a JSON schema)."""

    definition: Mapping[str, Any]
    strict: bool = False

    @property
    def name(self) -> str:
        return str(self.definition["name"])

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The JSON schema of the arguments; an object without members if the client gave none."""
        return self.definition.get("parameters") or {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn: `role` is system, user, assistant or tool; `content` is the client's own text.

    Turns of the assistant may hold `thinking` and `tool_calls`; a turn of a tool says whose answer it is, by the
    function's name (`tool_name`) and the call's id (`tool_call_id`) as far as they are known.
    """

    role: str
    content: str
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_name: str = ""
    tool_call_id: str = ""

    def texts(self) -> Iterable[str]:
        """Every text of the client in it."""
        yield from (self.content, self.thinking, self.tool_name, self.tool_call_id)
        for call in self.tool_calls:
            yield from texts_of([call.name, call.id, call.arguments])


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a template renders: the messages, the tools on offer, and the template's own `settings`.

    `settings` are variables that templates know by name, such as `enable_thinking` and `reasoning_effort`.
    """

    messages: Sequence[Message]
    tools: Sequence[Tool] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def texts(self) -> Iterable[str]:
        """Every text in it that a client wrote."""
        for message in self.messages:
            yield from message.texts()
        yield from texts_of([tool.definition for tool in self.tools])


def texts_of(value: Any) -> Iterable[str]:
    """Every text in a JSON value, names of members too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from texts_of(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts_of(item)


def edited(value: Any, edit: Edit) -> Any:
    """A JSON value with `edit` applied to every text in it, names of members too."""
    if isinstance(value, str):
        return edit(value)
    if isinstance(value, Mapping):
        return {edit(key): edited(item, edit) for key, item in value.items()}
    return [edited(item, edit) for item in value] if isinstance(value, list | tuple) else value


def jinja_variables(chat: Conversation, edit: Edit) -> dict[str, Any]:
    """`messages` and `tools` as `apply_chat_template` passes them, with `edit` applied to every text of a client."""
    tools = [{"type": "function", "function": edited(tool.definition, edit)} for tool in chat.tools]
    return {
        **chat.settings,
        "messages": [_jinja_message(message, edit) for message in chat.messages],
        "tools": tools or None,
    }


def _jinja_message(message: Message, edit: Edit) -> dict[str, Any]:
    found: dict[str, Any] = {"role": message.role, "content": edit(message.content)}
    if message.thinking:
        # Qwen's family and DeepSeek call it the one, gpt-oss the other.
        found |= dict.fromkeys(("reasoning_content", "thinking"), edit(message.thinking))
    if message.tool_calls:
        found["tool_calls"] = [_jinja_call(call, edit) for call in message.tool_calls]
    if message.tool_name:
        found["name"] = edit(message.tool_name)
    if message.tool_call_id:
        found["tool_call_id"] = edit(message.tool_call_id)
    return found


def _jinja_call(call: ToolCall, edit: Edit) -> dict[str, Any]:
    function = {"name": edit(call.name), "arguments": edited(call.arguments, edit)}
    return {"type": "function", **({"id": edit(call.id)} if call.id else {}), "function": function}


@dataclass(frozen=True, slots=True)
class Fences:
    """Two characters that occur nowhere in a chat or its template."""

    left: str
    right: str

    @classmethod
    def unused_in(cls, texts: Iterable[str]) -> Fences:
        """Raises ValueError if the texts use every private-use character but one."""
        used = {char for text in texts for char in text if ord(char) >= _PRIVATE_USE.start}
        free = (chr(point) for point in _PRIVATE_USE if chr(point) not in used)
        left, right = next(free, None), next(free, None)
        if left is None or right is None:
            raise ValueError("the messages use every private-use character")
        return cls(left, right)

    def around(self, text: str) -> str:
        """`text` with every spelling between the two fences."""
        return SPELLINGS.sub(lambda match: self.left + match.group() + self.right, text)

    def instead_of(self, text: str) -> str:
        """`text` with the fences alone where spellings were: what the template says without them."""
        return SPELLINGS.sub(self.left + self.right, text)

    def split(self, rendered: str) -> tuple[Segment, ...]:
        """The rendered chat as segments: fenced text is not parsed for control tokens, a lone fence just vanishes."""
        fenced = re.split(f"{self.left}([^{self.left}{self.right}]*){self.right}", rendered)
        texts = [re.sub(f"[{self.left}{self.right}]", "", text) for text in fenced]
        return tuple(Segment(text=text, special=index % 2 == 0) for index, text in enumerate(texts) if text)


def spaced(text: str) -> str:
    """`text` with a space in the middle of every spelling, so that none is left."""
    return SPELLINGS.sub(lambda match: _spaced(match.group()), text)


def _spaced(spelling: str) -> str:
    middle = len(spelling) // 2
    return f"{spelling[:middle]} {spelling[middle:]}"


def has_spelling(texts: Iterable[str]) -> bool:
    """Whether a text holds anything that may be read as a control token."""
    return any(SPELLINGS.search(text) for text in texts)


def is_contained(segments: Iterable[Segment], reference: Iterable[Segment]) -> bool:
    """Whether the parsed text of `segments` holds no spelling more often than that of `reference`."""
    return not _counts(segments) - _counts(reference)


def _counts(segments: Iterable[Segment]) -> Counter[str]:
    return Counter(hit for segment in segments if segment.special for hit in SPELLINGS.findall(segment.text))


def template_kind(template: str) -> TemplateKind:
    """Whether `template` is Jinja or a Go template, by the constructs that only one of them has."""
    if "{%" in template:
        return "jinja"
    return "go" if _GO.search(template) else "jinja"


def conversation(system: str | None, preset: Sequence[Message], messages: Sequence[Message]) -> list[Message]:
    """The whole chat: the system text first, the model's own messages, then the client's.

    A system message of the client replaces `system`.
    """
    own = any(message.role == "system" for message in messages)
    first = [Message("system", system)] if system and not own else []
    return [*first, *preset, *messages]


def plain(messages: Sequence[Message]) -> tuple[Segment, ...]:
    """The prompt for a model without any template: the texts alone, in order, with no control token parsed."""
    text = "\n\n".join(message.content for message in messages if message.content)
    return (Segment(text=text, special=False),) if text else ()
