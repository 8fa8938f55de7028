"""Models of mode Embed and Rerank with `paddock up`, called by the official clients, beside one that generates."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import numpy as np
import ollama
import openai
import pytest
from tests.support import bert_models as bert
from tests.support.gguf_maker import make_gguf
from tests.support.up import Up, cli, create, endpoint, model, write

TEXTS = ["the dog barks", "a cat", "the dog barks"]
HEADS = 4


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Up, dict[str, np.ndarray]]]:
    work = tmp_path_factory.mktemp("vectors")
    encoder, weights = bert.tiny_bert(work / "encoder.gguf")
    ranker, _ = bert.tiny_bert(work / "ranker.gguf", pooling=bert.RANK_POOLING)
    decoder = make_gguf(work / "decoder.gguf", pooling_type=bert.LAST_POOLING)
    files = {"encoder": encoder, "ranker": ranker, "decoder": decoder, "chatter": make_gguf(work / "chatter.gguf")}
    for name, path in files.items():
        create(work / "home", f"{name}:1", path)
    modes = {"encoder": "Embed", "ranker": "Rerank", "decoder": "Embed"}
    models = [
        model(name, f"{name}:1", serving={"mode": modes[name]} if name in modes else {}, replicas=1) for name in files
    ]
    write(work / "m", *models, endpoint("main", *files, auth={"apiKeys": {}}))
    with Up(work / "home", work / "m") as up:
        yield up.ready(60), weights


def tokens_of(text: str) -> list[int]:
    vocabulary = bert.letters_vocabulary()
    pieces = [
        vocabulary.index(character if at == 0 else f"##{character}")
        for word in text.split()
        for at, character in enumerate(word)
    ]
    return [bert.CLS, *pieces, bert.SEP]


def test_the_openai_client(running: tuple[Up, dict[str, np.ndarray]]) -> None:
    up, weights = running
    with openai.OpenAI(base_url=f"{up.url}/v1", api_key=up.key) as client:
        # The client asks for base64 unless told otherwise.
        reply = client.embeddings.create(model="encoder", input=TEXTS)
        floats = client.embeddings.create(model="encoder", input=TEXTS[0], encoding_format="float")
        short = client.embeddings.create(model="encoder", input=TEXTS[0], dimensions=8)
        with pytest.raises(openai.BadRequestError, match=r"does not support embeddings.*spec.serving.mode: Embed"):
            client.embeddings.create(model="chatter", input="x")
        with pytest.raises(openai.BadRequestError, match="does not support chat"):
            client.chat.completions.create(model="encoder", messages=[{"role": "user", "content": "x"}])
    for text, entry in zip(TEXTS, reply.data, strict=True):
        assert float(np.asarray(entry.embedding) @ bert.pooled(weights, tokens_of(text), heads=HEADS)) > 0.9999
    assert reply.usage.prompt_tokens == sum(len(tokens_of(text)) for text in TEXTS)
    assert floats.data[0].embedding == pytest.approx(reply.data[0].embedding, abs=1e-4)
    cut = np.asarray(floats.data[0].embedding[:8])
    assert short.data[0].embedding == pytest.approx(list(cut / np.linalg.norm(cut)), abs=1e-4)


def test_the_ollama_client(running: tuple[Up, dict[str, np.ndarray]]) -> None:
    up, _ = running
    with ollama.Client(host=up.url, headers={"Authorization": f"Bearer {up.key}"}) as client:
        reply = client.embed("decoder", TEXTS)
        assert len(reply.embeddings) == 3
        assert reply.embeddings[0] == pytest.approx(reply.embeddings[2], abs=1e-4)
        assert reply.prompt_eval_count
        assert reply.total_duration
        older = client.embeddings("decoder", TEXTS[0])
        assert list(older.embedding) == pytest.approx(list(reply.embeddings[0]), abs=1e-4)
        assert client.embed("decoder", "word " * 5000).embeddings, "cut to the context"
        with pytest.raises(ollama.ResponseError, match=r"input length exceeds the context length.* 1024"):
            client.embed("decoder", "word " * 5000, truncate=False)
        assert client.show("encoder").capabilities == ["embedding"]
        listed = {entry.model: entry for entry in client.list().models}
        assert "encoder:latest" in listed
        assert {entry.model for entry in client.ps().models} >= {"encoder:latest", "chatter:latest"}


def test_rerank(running: tuple[Up, dict[str, np.ndarray]]) -> None:
    up, _ = running
    with up.client() as client:
        asked = {"model": "ranker", "query": "who barks", "documents": TEXTS, "return_documents": True}
        reply = client.post("/v1/rerank", json=asked)
        assert reply.status_code == 200, reply.text
        results = reply.json()["results"]
        assert [result["document"]["text"] for result in results] == [TEXTS[result["index"]] for result in results]
        scores = [result["relevance_score"] for result in results]
        assert scores == sorted(scores, reverse=True)
        refused = client.post("/v1/rerank", json={**asked, "model": "encoder"})
        assert refused.status_code == 400
        metrics = client.get("/metrics")
        assert 'route="/v1/rerank"' in metrics.text
    with httpx.Client(base_url=up.url) as nobody:
        assert nobody.post("/v1/rerank", json=asked).status_code == 401


def test_the_status_tells_capabilities_and_memory(running: tuple[Up, dict[str, np.ndarray]]) -> None:
    up, _ = running
    shown = cli(up.home, "get", "model", "encoder", "-o", "yaml")
    assert shown.returncode == 0, shown.stderr
    assert "- embedding" in shown.stdout
