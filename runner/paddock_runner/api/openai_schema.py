"""The requests of OpenAI's API as strict types. Used by `api.openai`.

No value is converted: `"5"` is not 5 and `true` is not 1. Unknown fields are ignored, since SDKs send more every month;
a known field whose feature does not exist here is refused by `api.openai`, so that nobody gets something else unawares.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from paddock_runner.core.options import INT32, INT64, MAX_LOGIT_BIAS, MAX_STOP_BYTES, MAX_STOPS

MAX_MESSAGES = 2048
MAX_PARTS = 256
MAX_PROMPT_TOKENS = 1 << 22

Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_BYTES)]
Token = Annotated[int, Field(ge=0, le=INT32)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)


class TextPart(_Body):
    type: Literal["text"]
    text: str


class OpenAIMessage(_Body):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[TextPart] | None = None
    tool_calls: list[Any] | None = None
    function_call: Any = None

    @field_validator("content", mode="before")
    @classmethod
    def _text_parts_only(cls, value: Any) -> Any:
        if isinstance(value, list):
            if len(value) > MAX_PARTS:
                raise ValueError(f"has {len(value)} parts, at most {MAX_PARTS} are allowed")
            if any(isinstance(part, dict) and part.get("type") not in ("text", None) for part in value):
                raise ValueError("only text parts are supported by this model")
        return value

    @property
    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class StreamOptions(_Body):
    include_usage: bool = False


class _Common(_Body):
    model: str = Field(max_length=4096)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: int | None = Field(default=None, ge=-INT64 - 1, le=INT64)
    stop: str | list[Stop] | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=INT32)
    logit_bias: dict[str, float] | None = None
    n: int | None = None

    @field_validator("stop")
    @classmethod
    def _bounded_stop(cls, value: str | list[str] | None) -> list[str]:
        items = [value] if isinstance(value, str) else value or []
        if len(items) > MAX_STOPS or any(not 0 < len(item.encode()) <= MAX_STOP_BYTES for item in items):
            raise ValueError(f"at most {MAX_STOPS} strings of 1 to {MAX_STOP_BYTES} bytes are allowed")
        return items

    @field_validator("logit_bias")
    @classmethod
    def _bounded_bias(cls, value: dict[str, float] | None) -> dict[str, float]:
        bias = value or {}
        if len(bias) > MAX_LOGIT_BIAS:
            raise ValueError(f"has {len(bias)} entries, at most {MAX_LOGIT_BIAS} are allowed")
        if not all(_is_token(key) and -100 <= number <= 100 for key, number in bias.items()):
            raise ValueError("must map token ids (as decimal strings) to numbers from -100 to 100")
        return bias

    @property
    def biases(self) -> tuple[tuple[int, float], ...]:
        return tuple((int(key), number) for key, number in (self.logit_bias or {}).items())

    @property
    def stops(self) -> list[str]:
        return self.stop if isinstance(self.stop, list) else []


def _is_token(key: str) -> bool:
    return key.isascii() and key.isdecimal() and len(key) <= 10 and int(key) <= INT32


class ChatBody(_Common):
    messages: list[OpenAIMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=INT32)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: Any = None
    tools: Any = None
    functions: Any = None
    modalities: Any = None
    audio: Any = None
    chat_template: Any = None
    chat_template_kwargs: Any = None


class CompletionBody(_Common):
    prompt: str | list[str] | list[Token]
    logprobs: int | None = Field(default=None, ge=0, le=20)
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None

    @field_validator("prompt")
    @classmethod
    def _one_prompt(cls, value: str | list[str] | list[int]) -> str | list[str] | list[int]:
        if isinstance(value, list) and len(value) > MAX_PROMPT_TOKENS:
            raise ValueError(f"has {len(value)} items, at most {MAX_PROMPT_TOKENS} are allowed")
        return value
