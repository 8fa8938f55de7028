"""The requests of Ollama's API as strict types. Used by `api.ollama`.

As in Go, null means absent. Unknown fields are ignored: clients of every age are welcome.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from paddock_runner.core.options import INT32

MAX_MESSAGES = 2048
MAX_TOOLS = 128
MAX_CONTEXT = 1 << 22
Token = Annotated[int, Field(ge=0, le=INT32)]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value


class OllamaFunction(_Body):
    name: str = Field(min_length=1, max_length=256)
    arguments: dict[str, Any] = Field(default_factory=dict)


class OllamaCall(_Body):
    id: str = Field(default="", max_length=256)
    function: OllamaFunction


class OllamaTool(_Body):
    type: str = "function"
    function: dict[str, Any]

    @field_validator("function")
    @classmethod
    def _named(cls, value: dict[str, Any]) -> dict[str, Any]:
        name, parameters = value.get("name"), value.get("parameters")
        if not isinstance(name, str) or not name:
            raise ValueError("needs a name, a string that is not empty")
        if parameters is not None and not isinstance(parameters, dict):
            raise ValueError("parameters must be a JSON schema object")
        return value


class OllamaMessage(_Body):
    role: str = Field(max_length=64)
    content: str = ""
    images: list[Any] = Field(default_factory=list)
    thinking: str = ""
    tool_calls: list[OllamaCall] = Field(default_factory=list, max_length=MAX_TOOLS)
    tool_name: str = Field(default="", max_length=256)
    tool_call_id: str = Field(default="", max_length=256)

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
    tools: list[OllamaTool] = Field(default_factory=list, max_length=MAX_TOOLS)


class ShowBody(_Body):
    model: str = Field(default="", max_length=4096)
    name: str = Field(default="", max_length=4096)
