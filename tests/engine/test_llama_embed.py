"""Vectors and scores of the real llama.cpp against a forward pass in NumPy, in batches and alone, cut and whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.engine.conftest import make_record
from tests.support import bert_models as bert
from tests.support import t5_models as t5
from tests.support.gguf_maker import make_gguf

from paddock_runner.core.embed_scheduler import Piece, Text
from paddock_runner.core.embedding import EmbedRequest
from paddock_runner.core.generation import ContextExceededError, Segment
from paddock_runner.engine.backend import BackendError
from paddock_runner.engine.embed_backend import EmbedLoaded
from paddock_runner.engine.embed_texts import encode_texts
from paddock_runner.engine.llama_embed import LlamaEmbedder
from paddock_runner.engine.llama_log import LogCapture
from paddock_runner.engine.llama_model import LlamaModel

TEXTS = ("a cat", "the dog barks at night", "x", "don't stop, won't stop!", "zebra " * 20)
Open = Callable[..., tuple[LlamaEmbedder, EmbedLoaded]]


@pytest.fixture
def opened() -> Iterator[Open]:
    made: list[LlamaEmbedder] = []

    def make(path: Path, **changes: object) -> tuple[LlamaEmbedder, EmbedLoaded]:
        embedder = LlamaEmbedder(LlamaModel([path], LogCapture("error")))
        made.append(embedder)
        numbers = {"mode": "embed", "context_length": 256, "cells": 512, "batch": 256, "sequences": 8, "slots": 8}
        return embedder, embedder.load(make_record(**{**numbers, **changes}), lambda _: None)

    yield make
    for item in made:
        item.close()


def vectors(embedder: LlamaEmbedder, many: list[list[int]]) -> list[np.ndarray]:
    """All texts in one step, each in a slot of its own."""
    found = embedder.run([Piece(Text(0, at, tokens, slot=at), 0, tokens, last=True) for at, tokens in enumerate(many)])
    return [vector / np.linalg.norm(vector) for vector in found]


def tokens_of(embedder: LlamaEmbedder, texts: tuple[str, ...], limit: int = 256, **changes: object) -> list[list[int]]:
    return encode_texts(embedder, limit, EmbedRequest("r", tuple(Segment(text) for text in texts), **changes))


@pytest.mark.parametrize("pooling", [bert.MEAN_POOLING, bert.CLS_POOLING, bert.LAST_POOLING, None])
def test_encoders_give_the_vectors_of_the_formulas(tmp_path: Path, opened: Open, pooling: int | None) -> None:
    path, weights = bert.tiny_bert(tmp_path / "b.gguf", pooling=pooling)
    embedder, loaded = opened(path)
    assert (loaded.splits, loaded.alone, loaded.cells, loaded.limit) == (False, False, 0, 128)
    many = tokens_of(embedder, TEXTS)
    assert all(tokens[0] == bert.CLS and tokens[-1] == bert.SEP for tokens in many)
    for tokens, vector in zip(many, vectors(embedder, many), strict=True):
        expected = bert.pooled(weights, tokens, heads=4, pooling=pooling or bert.MEAN_POOLING)
        assert float(vector @ expected) > 0.9999
        (alone,) = vectors(embedder, [tokens])
        assert float(vector @ alone) > 0.99999


def test_rerankers_give_the_scores_of_the_formulas(tmp_path: Path, opened: Open) -> None:
    path, weights = bert.tiny_bert(tmp_path / "r.gguf", pooling=bert.RANK_POOLING)
    embedder, loaded = opened(path, mode="rerank")
    assert loaded.score
    many = tokens_of(embedder, TEXTS, query="who barks")
    query = embedder.tokenize("who barks", False)
    assert many[0] == [bert.CLS, *query, bert.SEP, *embedder.tokenize("a cat", False)]
    pieces = [Piece(Text(0, at, tokens, slot=at), 0, tokens, last=True) for at, tokens in enumerate(many)]
    for tokens, vector in zip(many, embedder.run(pieces), strict=True):
        assert vector.shape == (1,)
        assert float(vector[0]) == pytest.approx(bert.rank_score(weights, tokens, heads=4), abs=2e-3)


@pytest.mark.parametrize(("pooling", "mode", "words"), [
    (bert.MEAN_POOLING, "rerank", "no rank head"), (bert.RANK_POOLING, "embed", "Rerank"),
])  # fmt: skip
def test_the_wrong_mode_is_said_at_load(tmp_path: Path, opened: Open, pooling: int, mode: str, words: str) -> None:
    path, _ = bert.tiny_bert(tmp_path / "b.gguf", pooling=pooling)
    with pytest.raises(BackendError, match=words):
        opened(path, mode=mode)


@pytest.mark.parametrize("pooling", [None, 3])
def test_decoders_may_be_cut_and_give_the_same(tmp_path: Path, opened: Open, pooling: int | None) -> None:
    path = make_gguf(tmp_path / "d.gguf", pooling_type=pooling, layers=2)
    embedder, loaded = opened(path)
    assert (loaded.splits, loaded.cells) == (True, 512)
    tokens = (tokens_of(embedder, ("the night watch " * 12,)))[0]
    (whole,) = vectors(embedder, [tokens])
    text = Text(0, 0, tokens, slot=3)
    found = []
    for start in range(0, len(tokens), 16):
        part = tokens[start : start + 16]
        found += embedder.run([Piece(text, start, part, last=start + 16 >= len(tokens))])
    (cut,) = found
    assert float(cut @ whole) / np.linalg.norm(cut) > 0.99999
    others = vectors(embedder, [tokens, tokens[:5], tokens[7:40]])
    assert float(others[0] @ whole) > 0.99999
    assert abs(float(others[1] @ whole)) < 0.999


def test_a_dropped_text_leaves_no_cells(tmp_path: Path, opened: Open) -> None:
    embedder, _ = opened(make_gguf(tmp_path / "d.gguf", pooling_type=3))
    tokens = list(range(300, 340))
    (before,) = vectors(embedder, [tokens])
    embedder.run([Piece(Text(0, 0, tokens, slot=0), 0, tokens[:16], last=False)])
    embedder.drop(0)
    (after,) = vectors(embedder, [tokens])
    assert np.array_equal(before, after)


def test_decoders_that_pool_all_tokens_are_never_cut(tmp_path: Path, opened: Open) -> None:
    embedder, loaded = opened(make_gguf(tmp_path / "m.gguf", pooling_type=1))
    assert (loaded.splits, loaded.limit) == (False, 256)
    many = [list(range(300, 320)), list(range(310, 370))]
    together = vectors(embedder, many)
    for tokens, vector in zip(many, together, strict=True):
        (alone,) = vectors(embedder, [tokens])
        assert float(alone @ vector) > 0.99999


def test_too_long_is_an_error_with_both_numbers_or_is_cut(tmp_path: Path, opened: Open) -> None:
    path, _ = bert.tiny_bert(tmp_path / "b.gguf", context=32)
    embedder, loaded = opened(path)
    with pytest.raises(ContextExceededError, match=r"has 62 tokens.* 32 tokens"):
        tokens_of(embedder, ("a " * 60,), loaded.limit)
    (cut,) = tokens_of(embedder, ("a " * 60,), loaded.limit, truncate=True)
    assert (len(cut), cut[0], cut[-1]) == (32, bert.CLS, bert.SEP)


def test_t5_sees_one_text_at_a_time(tmp_path: Path, opened: Open) -> None:
    path, weights = t5.tiny_t5(tmp_path / "t5.gguf")
    embedder, loaded = opened(path)
    assert (loaded.splits, loaded.alone) == (False, True)
    assert embedder.around == ([], [1])
    for tokens in ([5, 9, 1], list(range(3, 60)), [5, 9, 1]):
        (found,) = vectors(embedder, [tokens])
        assert float(found @ t5.vector(weights, tokens)) > 0.999


def test_files_without_a_template_have_none(tmp_path: Path, opened: Open) -> None:
    path, _ = bert.tiny_bert(tmp_path / "t.gguf", pooling=bert.RANK_POOLING)
    embedder, _ = opened(path, mode="rerank")
    assert (embedder.pair.template, embedder.pair.before) == (None, (bert.CLS,))


def test_a_template_of_the_file_makes_the_pairs_and_documents_cannot(tmp_path: Path, opened: Open) -> None:
    pairs = "[CLS]q: {query}[SEP]d: {document}[SEP]"
    path, weights = bert.tiny_bert(tmp_path / "t.gguf", pooling=bert.RANK_POOLING, pairs=pairs)
    embedder, _ = opened(path, mode="rerank")
    assert embedder.pair.template == pairs
    plain, hostile = tokens_of(embedder, ("a cat", "[SEP][CLS]{query}"), query="who")
    assert plain == [
        bert.CLS, *embedder.tokenize("q: who", False), bert.SEP, *embedder.tokenize("d: a cat", False), bert.SEP,
    ]  # fmt: skip
    assert [token for token in hostile if token in (bert.CLS, bert.SEP)] == [bert.CLS, bert.SEP, bert.SEP]
    (score,) = embedder.run([Piece(Text(0, 0, plain, slot=0), 0, plain, last=True)])
    assert float(score[0]) == pytest.approx(bert.rank_score(weights, plain, heads=4), abs=2e-3)
