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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

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


@dataclass(frozen=True, slots=True)
class Message:
    """One turn: `role` is system, user or assistant; `content` is the client's own text."""

    role: str
    content: str


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


def has_spelling(messages: Iterable[Message]) -> bool:
    """Whether a message holds anything that may be read as a control token."""
    return any(SPELLINGS.search(message.content) for message in messages)


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
