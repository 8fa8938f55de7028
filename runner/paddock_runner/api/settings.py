"""The serve configuration (docs/reference/contracts.md, version 1) as strict types. Read by `commands.serve`.

`engine`, `models` and `digest` count at start; the rest is hot: handlers ask for the value in force at each request.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator
from pydantic.alias_generators import to_camel

from paddock_runner.core.chat import Message
from paddock_runner.core.engine_record import EngineRecord
from paddock_runner.core.options import Options, parse_options
from paddock_runner.core.strict_json import loads

Hex64 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
MAX_TEXT = 1024 * 1024


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)


class PresetMessage(_Strict):
    role: Literal["system", "user", "assistant"]
    content: str = Field(max_length=MAX_TEXT)


class Credential(_Strict):
    endpoint: str = Field(max_length=256)
    sha256: Hex64


class ServeConfig(_Strict):
    """One Model's front. `engine` stays raw here: `record` checks it."""

    version: Literal[1]
    namespace: str = Field(min_length=1, max_length=63)
    name: str = Field(min_length=1, max_length=253)
    names: list[Annotated[str, StringConstraints(min_length=1, max_length=512)]] = Field(min_length=1, max_length=256)
    models: str = Field(min_length=1, max_length=4096)
    digest: Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
    system: str | None = Field(default=None, max_length=MAX_TEXT)
    template: str | None = Field(default=None, max_length=MAX_TEXT)
    parameters: dict[str, Any] = Field(default_factory=dict)
    messages: list[PresetMessage] = Field(default_factory=list, max_length=2048)
    engine: dict[str, Any]
    keep_alive_seconds: float = Field(default=-1, ge=-1, le=315_360_000)
    queue_depth: int = Field(default=64, ge=0, le=4096)
    drain_seconds: float = Field(default=30, ge=0, le=86_400)
    credentials: list[Credential] = Field(default_factory=list, max_length=1024)
    anonymous: bool = False

    @field_validator("engine")
    @classmethod
    def _engine_is_whole(cls, value: dict[str, Any]) -> dict[str, Any]:
        EngineRecord.from_config(value)
        return value

    @field_validator("parameters")
    @classmethod
    def _parameters_are_known(cls, value: dict[str, Any]) -> dict[str, Any]:
        parse_options(value)
        return value

    @property
    def record(self) -> EngineRecord:
        """The load-time numbers."""
        return EngineRecord.from_config(self.engine)

    @property
    def options(self) -> Options:
        """The spec's parameters, typed."""
        return parse_options(self.parameters)

    @property
    def preset(self) -> list[Message]:
        """The spec's messages."""
        return [Message(message.role, message.content) for message in self.messages]


def parse_settings(body: bytes) -> ServeConfig:
    """The configuration in `body`. Raises ValueError that names the field."""
    try:
        return ServeConfig.model_validate(loads(body))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise ValueError(f"serve configuration: {where}: {problem['msg'].removeprefix('Value error, ')}") from None
