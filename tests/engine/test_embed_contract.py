"""What every embedding backend must do: the fake one and the real one, whole and cut, pass the same tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.engine.conftest import make_record
from tests.support.bert_models import tiny_bert
from tests.support.gguf_maker import make_gguf

from paddock_runner.core.embed_scheduler import Piece, Text
from paddock_runner.core.embedding import EmbedRequest
from paddock_runner.core.generation import Segment
from paddock_runner.engine.embed_backend import EmbedBackend, EmbedLoaded, Vector
from paddock_runner.engine.embed_fake import FakeEmbedder
from paddock_runner.engine.embed_texts import encode_texts
from paddock_runner.engine.llama_embed import LlamaEmbedder
from paddock_runner.engine.llama_log import LogCapture
from paddock_runner.engine.llama_model import LlamaModel
from paddock_runner.engine.startup import vector_self_test

Pair = tuple[EmbedBackend, EmbedLoaded]
KINDS = ("fake whole", "fake cut", "llama whole", "llama cut")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("contract")
    whole, _ = tiny_bert(folder / "whole.gguf")
    return {"whole": whole, "cut": make_gguf(folder / "cut.gguf", pooling_type=3)}


@pytest.fixture(params=KINDS)
def backend(request: pytest.FixtureRequest, files: dict[str, Path]) -> Iterator[Pair]:
    kind, _, way = request.param.partition(" ")
    made: EmbedBackend = FakeEmbedder(splits=way == "cut")
    if kind == "llama":
        made = LlamaEmbedder(LlamaModel([files[way]], LogCapture("error")))
    record = make_record(mode="embed", context_length=128, cells=256, batch=128, sequences=4, slots=4)
    yield made, made.load(record, lambda _: None)
    made.close()


def texts(backend: Pair, *many: str) -> list[Text]:
    request = EmbedRequest("r", tuple(Segment(text) for text in many))
    found = encode_texts(backend[0], backend[1].limit, request)
    return [Text(0, at, tokens, slot=at) for at, tokens in enumerate(found)]


def whole(text: Text, slot: int | None = None) -> Piece:
    text.slot = text.slot if slot is None else slot
    return Piece(text, 0, text.tokens, last=True)


def alike(one: Vector, other: Vector) -> bool:
    return float(one @ other) / float(np.linalg.norm(one) * np.linalg.norm(other)) > 0.9999


def test_the_limits_are_those_of_the_record(backend: Pair) -> None:
    embedder, loaded = backend
    assert loaded.limit == 128
    assert loaded.batch == 128
    assert (loaded.cells >= 128) == loaded.splits
    assert embedder.vocab.size > 100
    assert vector_self_test(embedder) > 0


def test_company_and_slot_change_nothing(backend: Pair) -> None:
    embedder, _ = backend
    many = texts(backend, "abc", "the quick", "z", "abc")
    together = embedder.run([whole(text) for text in many])
    assert len(together) == 4
    assert alike(together[0], together[3])
    assert not alike(together[0], together[1])
    for text, vector in zip(many, together, strict=True):
        for slot in (3, 0):
            (alone,) = embedder.run([whole(text, slot)])
            assert alike(alone, vector)


def test_pieces_make_the_whole(backend: Pair) -> None:
    embedder, loaded = backend
    if not loaded.splits:
        pytest.skip("its texts are never cut")
    long, short = texts(backend, "a long text of many words", "b")
    (expected,) = embedder.run([whole(long)])
    half = len(long.tokens) // 2
    assert embedder.run([Piece(long, 0, long.tokens[:half], last=False)]) == []
    beside, found = embedder.run([whole(short), Piece(long, half, long.tokens[half:], last=True)])
    assert alike(found, expected)
    assert not alike(beside, expected)


def test_a_dropped_text_is_forgotten(backend: Pair) -> None:
    embedder, loaded = backend
    (text,) = texts(backend, "some words")
    (expected,) = embedder.run([whole(text)])
    if loaded.splits:
        embedder.run([Piece(text, 0, text.tokens[:4], last=False)])
    embedder.drop(0)
    embedder.drop(0)
    (found,) = embedder.run([whole(text)])
    assert alike(found, expected)


def test_control_tokens_count_only_where_they_may(backend: Pair) -> None:
    embedder, _ = backend
    before, after = embedder.around
    control = [token for token in (*before, *after) if embedder.is_control(token)]
    assert control == [*before, *after]
    assert not any(embedder.is_control(token) for token in embedder.tokenize("plain", False))
