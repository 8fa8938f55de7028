"""Scores of documents for a query: `/v1/rerank` in the form that Jina's and Cohere's clients send. Called by `app`.

Scores are what the model's head gives, as llama-server's are: they order documents and need not lie between 0 and 1.
"""

from __future__ import annotations

from array import array
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from paddock_runner.api import body as bodies
from paddock_runner.api.context import runner_of, tenant_of
from paddock_runner.api.embed_schema import RerankBody
from paddock_runner.api.embedding_run import Embeddings, reply
from paddock_runner.api.modes import must_be
from paddock_runner.api.ollama_answer import encoded
from paddock_runner.api.openai import check_model
from paddock_runner.core.embedding import EmbedRequest
from paddock_runner.core.generation import Segment
from paddock_runner.logs import request_id


async def rerank(request: Request) -> Response:
    """POST /v1/rerank."""
    runner, body = runner_of(request), await bodies.read(request, RerankBody)
    check_model(runner, body.model)
    must_be(runner, "rerank", body.model)
    texts = [document if isinstance(document, str) else document.text for document in body.documents]
    wanted = EmbedRequest(request_id.get(), tuple(map(Segment, texts)), query=body.query, tenant=tenant_of(request))
    return reply(request, wanted, "rerank", lambda found: _reply(body, texts, found))


def _reply(body: RerankBody, texts: list[str], found: Embeddings) -> bytes:
    scores = {item.index: array("f", item.vector)[0] for item in found.found}
    order = sorted(scores, key=lambda index: -scores[index])[: body.top_n]
    results: list[dict[str, Any]] = [{"index": index, "relevance_score": scores[index]} for index in order]
    if body.return_documents:
        for result in results:
            result["document"] = {"text": texts[result["index"]]}
    usage = {"prompt_tokens": found.tokens, "total_tokens": found.tokens}
    return encoded({"model": body.model, "object": "list", "usage": usage, "results": results})
