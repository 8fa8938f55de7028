"""From a chat to the engine's prompt: the effective system text and messages, the right template, the rendering.

Called by the dialects. Order of templates: the spec's (Jinja), the GGUF's own, the manifest's if it is Jinja, ChatML
for vocabularies that end turns with `<|im_end|>`, else the plain texts. Go templates are not rendered yet: a model that
has nothing else answers raw completions only. `core.chat` says how clients' text is kept from being control tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paddock_runner.api.runner import Runner
from paddock_runner.core import chat
from paddock_runner.core.chat import Conversation, Fences, Message, Tool
from paddock_runner.core.engine_facts import VocabFacts
from paddock_runner.core.generation import Segment
from paddock_runner.templating.client import ChatTemplateError

GO_ONLY = (
    "this model has only a Go template, which is not supported yet; give it a Jinja template in spec.template, "
    'or send raw prompts ("raw": true)'
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What goes into a GenerationRequest."""

    segments: tuple[Segment, ...]
    add_bos: bool = True


async def chat_prompt(
    runner: Runner,
    messages: Sequence[Message],
    *,
    system: str | None = None,
    with_preset: bool = True,
    tools: Sequence[Tool] = (),
    settings: Mapping[str, Any] | None = None,
) -> Prompt:
    """The rendered chat with the model's system text and messages put in. Raises GenerationError.

    `system` replaces the model's own system text; `with_preset` False leaves the model's messages out. `settings` are
    variables of the template itself, such as `enable_thinking`.
    """
    config, facts = runner.config, runner.facts
    vocab = await runner.vocab()
    preset = (config.preset or list(facts.preset)) if with_preset else []
    effective = system if system is not None else (config.system if config.system is not None else facts.system)
    conversation = Conversation(chat.conversation(effective, preset, messages), tools, settings or {})
    template = effective_template(runner, vocab)
    if template is None:
        return Prompt(chat.plain(conversation.messages))
    with runner.metrics.template_seconds.labels(runner.metrics.model).time():
        segments = await _render(runner, template, vocab, conversation)
    return Prompt(segments, add_bos=not _begins_with(segments, vocab.bos_text))


def effective_template(runner: Runner, vocab: VocabFacts) -> str | None:
    """The Jinja template that renders chats, None for plain texts. Raises ChatTemplateError for a Go-only model."""
    own = vocab.chat_template or runner.facts.chat_template
    if runner.config.template:
        return _jinja(runner.config.template)
    if own:
        return own
    if runner.facts.template:
        return _jinja(runner.facts.template)
    return chat.CHATML if "<|im_end|>" in (vocab.eos_text, vocab.bos_text) else None


def _jinja(template: str) -> str:
    if chat.template_kind(template) == "go":
        raise ChatTemplateError("raised", GO_ONLY)
    return template


def _begins_with(segments: Sequence[Segment], bos_text: str) -> bool:
    return bool(bos_text and segments and segments[0].special and segments[0].text.startswith(bos_text))


async def _render(runner: Runner, template: str, vocab: VocabFacts, conversation: Conversation) -> tuple[Segment, ...]:
    async def rendered(edit: Callable[[str], str]) -> str:
        return await runner.templates.render(template, _variables(vocab, conversation, edit))

    if not chat.has_spelling(conversation.texts()):
        return (Segment(text=await rendered(str), special=True),)
    try:
        fences = Fences.unused_in([template, *conversation.texts()])
    except ValueError as error:
        raise ChatTemplateError("raised", str(error)) from None
    reference = fences.split(await rendered(fences.instead_of))
    for segments in (fences.split(await rendered(fences.around)), fences.split(await rendered(chat.spaced))):
        if chat.is_contained(segments, reference):
            return segments
    raise ChatTemplateError("raised", "it would turn text of a message into control tokens")


def _variables(vocab: VocabFacts, conversation: Conversation, edit: Callable[[str], str]) -> dict[str, Any]:
    return {
        "add_generation_prompt": True,
        "bos_token": vocab.bos_text,
        "eos_token": vocab.eos_text,
        "documents": None,
        **chat.jinja_variables(conversation, edit),
    }
