"""The requests for vectors and scores as strict types. Used by `api.embed` and `api.rerank`.

As everywhere, unknown fields are ignored and nothing is converted.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from paddock_runner.core.embedding import MAX_DIMENSIONS, MAX_TEXTS
from paddock_runner.core.options import INT32

MAX_TOKENS = 1 << 20
Token = Annotated[int, Field(ge=0, le=INT32)]
Tokens = Annotated[list[Token], Field(min_length=1, max_length=MAX_TOKENS)]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)


class OllamaEmbedBody(_Body):
    model: Annotated[str, Field(max_length=4096)] | None = None
    input: Any = None
    truncate: bool | None = None
    dimensions: Annotated[int, Field(ge=0, le=MAX_DIMENSIONS)] | None = None
    keep_alive: Any = None
    options: dict[str, Any] | None = None


class OllamaEmbeddingsBody(_Body):
    model: Annotated[str, Field(max_length=4096)] | None = None
    prompt: str | None = None
    keep_alive: Any = None
    options: dict[str, Any] | None = None


class OpenAIEmbedBody(_Body):
    model: str = Field(max_length=4096)
    input: Any = None
    dimensions: Annotated[int, Field(ge=1, le=MAX_DIMENSIONS)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    truncate: bool | None = None


class Document(_Body):
    text: str


class RerankBody(_Body):
    model: str = Field(max_length=4096)
    query: str = Field(min_length=1)
    documents: list[str | Document] = Field(min_length=1, max_length=MAX_TEXTS)
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool | None = None
