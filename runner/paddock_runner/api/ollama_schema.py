"""The requests of Ollama's API as strict types. Used by `api.ollama`.

As in Go, null means absent. Unknown fields are ignored: clients of every age are welcome.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from paddock_runner.core.options import INT32

MAX_MESSAGES = 2048
MAX_CONTEXT = 1 << 22
Token = Annotated[int, Field(ge=0, le=INT32)]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value


class OllamaMessage(_Body):
    role: str = Field(max_length=64)
    content: str = ""
    images: list[Any] = Field(default_factory=list)
    tool_calls: list[Any] = Field(default_factory=list)

    @field_validator("role")
    @classmethod
    def _folded(cls, value: str) -> str:
        return value.lower()


class _Common(_Body):
    model: str = Field(default="", max_length=4096)
    stream: bool = True
    format: Any = None
    keep_alive: Any = None
    options: dict[str, Any] = Field(default_factory=dict)
    think: Any = None
    logprobs: bool = False
    top_logprobs: int = 0


class GenerateBody(_Common):
    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    context: list[Token] = Field(default_factory=list, max_length=MAX_CONTEXT)
    raw: bool = False
    images: list[Any] = Field(default_factory=list)


class ChatBody(_Common):
    messages: list[OllamaMessage] = Field(default_factory=list, max_length=MAX_MESSAGES)
    tools: list[Any] = Field(default_factory=list)


class ShowBody(_Body):
    model: str = Field(default="", max_length=4096)
    name: str = Field(default="", max_length=4096)
