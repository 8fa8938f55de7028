"""The fake backend and the real one keep the same promises."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engine.conftest import make_record
from tests.support.gguf_maker import make_gguf

from paddock_runner.core.engine_sampling import normal_sampling
from paddock_runner.core.generation import GenerationRequest, Sampling, Segment
from paddock_runner.core.sequence import Chunk, Sequence
from paddock_runner.engine.backend import Backend, NoCellsError
from paddock_runner.engine.fake import FakeBackend
from paddock_runner.engine.llama import LlamaBackend
from paddock_runner.engine.llama_log import LogCapture
from paddock_runner.engine.prompts import encode_prompt
from paddock_runner.engine.startup import self_test

TEXT = "The quick brown fox; naïve café, 日本, 😀\n\ttabs"
PROMPT = list(b"the quick brown fox jumps over the lazy dog")


@pytest.fixture(params=["fake", "bpe", "spm"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    made = make_backend(request.param, tmp_path)
    made.load(make_record(cells=512), lambda _: None)
    yield made
    made.close()


def make_backend(kind: str, folder: Path) -> Backend:
    if kind == "fake":
        return FakeBackend()
    return LlamaBackend([make_gguf(folder / "tiny.gguf", tokenizer=kind)], LogCapture("error"))


def sampling(**changes: object) -> Sampling:
    return normal_sampling(Sampling(**{"seed": 1, **changes}), vocab_size=200, context=512, seed=1)


def feed(backend: Backend, slot: int, tokens: list[int], start: int = 0) -> None:
    backend.decode([chunk(slot, tokens, start)])


def chunk(slot: int, tokens: list[int], start: int = 0, output: bool = True) -> Chunk:
    sequence = Sequence(slot, list(tokens), 512)
    sequence.slot = slot
    return Chunk(sequence, start, list(tokens), output)


def draw(backend: Backend, row: int = 0) -> int:
    sampler = backend.open_sampler(sampling(temperature=0.0), ())
    token = backend.sample(row, sampler)
    sampler.close()
    return token


def generate(backend: Backend, slot: int, prompt: list[int], count: int, wanted: Sampling) -> list[int]:
    sampler = backend.open_sampler(wanted, prompt)
    tokens = list(prompt)
    feed(backend, slot, prompt)
    for _ in range(count):
        tokens.append(backend.sample(0, sampler))
        feed(backend, slot, tokens[-1:], len(tokens) - 1)
    sampler.close()
    backend.remove(slot)
    return tokens[len(prompt) :]


class TestBackend:
    def test_pieces_of_tokens_give_the_text_back(self, backend: Backend) -> None:
        tokens = backend.tokenize(TEXT, False)
        assert b"".join(map(backend.piece, tokens)).decode().strip() == TEXT.strip()
        assert backend.tokenize("", False) == []

    def test_control_tokens_are_parsed_only_where_allowed(self, backend: Backend) -> None:
        end = backend.vocab.eos_text
        assert backend.tokenize(end, True) == [backend.vocab.eos]
        plain = backend.tokenize(end, False)
        assert backend.vocab.eos not in plain
        assert b"".join(map(backend.piece, plain)).decode().strip() == end

    def test_end_and_control_tokens_are_known_and_silent(self, backend: Backend) -> None:
        end = backend.vocab.eos
        assert backend.is_end(end)
        assert backend.is_control(end)
        assert backend.piece(end) == b""
        letter = backend.tokenize("a", False)[-1]
        assert not backend.is_end(letter)
        assert not backend.is_control(letter)

    def test_a_prompt_in_chunks_says_what_it_says_whole(self, backend: Backend) -> None:
        feed(backend, 0, PROMPT)
        whole = draw(backend)
        feed(backend, 1, PROMPT[:16])
        feed(backend, 1, PROMPT[16:32], 16)
        feed(backend, 1, PROMPT[32:], 32)
        assert draw(backend) == whole

    def test_sequences_in_one_batch_do_not_see_each_other(self, backend: Backend) -> None:
        other = list(reversed(PROMPT))
        feed(backend, 0, PROMPT[:20])
        first = draw(backend)
        backend.remove(0)
        feed(backend, 0, other[:20])
        second = draw(backend)
        backend.remove(0)
        backend.decode([chunk(0, PROMPT[:20]), chunk(2, other[:20])])
        assert [draw(backend, 0), draw(backend, 1)] == [first, second]

    def test_rows_count_only_chunks_with_output(self, backend: Backend) -> None:
        feed(backend, 0, PROMPT[:20])
        expected = draw(backend)
        backend.remove(0)
        backend.decode([chunk(1, PROMPT[:7], output=False), chunk(0, PROMPT[:20])])
        assert draw(backend, 0) == expected

    def test_a_removed_sequence_leaves_nothing(self, backend: Backend) -> None:
        feed(backend, 0, PROMPT[:20])
        expected = draw(backend)
        backend.remove(0)
        feed(backend, 0, PROMPT[20:40])
        backend.remove(0)
        feed(backend, 0, PROMPT[:20])
        assert draw(backend) == expected

    def test_a_copy_of_a_beginning_goes_on_like_the_original(self, backend: Backend) -> None:
        feed(backend, 1, PROMPT)
        whole = draw(backend)
        backend.remove(1)
        feed(backend, 0, PROMPT[:30])
        backend.copy(0, 5, 24)
        feed(backend, 5, PROMPT[24:], 24)
        assert draw(backend) == whole
        feed(backend, 0, PROMPT[30:], 30)
        assert draw(backend) == whole, "the original is untouched"
        backend.remove(0)
        feed(backend, 5, PROMPT[:4], len(PROMPT))
        again = draw(backend)
        backend.remove(5, len(PROMPT))
        feed(backend, 5, PROMPT[:4], len(PROMPT))
        assert draw(backend) == again, "and its cells outlive it"

    def test_saved_cells_come_back_under_another_id(self, backend: Backend) -> None:
        feed(backend, 1, PROMPT)
        whole = draw(backend)
        backend.remove(1)
        feed(backend, 0, PROMPT[:30])
        saved = backend.save(0)
        backend.remove(0)
        feed(backend, 2, PROMPT[:5])
        backend.restore(3, saved)
        backend.remove(3, 20)
        feed(backend, 3, PROMPT[20:], 20)
        assert draw(backend) == whole

    def test_shared_cells_count_once(self, backend: Backend) -> None:
        for start in range(0, 384, 64):
            feed(backend, 0, (PROMPT * 2)[:64], start)
        for target in range(1, 8):
            backend.copy(0, target, 384)
        feed(backend, 1, (PROMPT * 2)[:64], 384)
        feed(backend, 2, (PROMPT * 2)[:64], 384)
        with pytest.raises(NoCellsError):
            feed(backend, 3, PROMPT[:1], 384)
        backend.remove(1, 384)
        feed(backend, 3, PROMPT[:1], 384)

    def test_no_cells_changes_nothing(self, backend: Backend) -> None:
        prompt = (PROMPT * 2)[:64]
        for start in range(0, 448, 64):
            feed(backend, 0, prompt, start)
        feed(backend, 1, prompt[:32])
        with pytest.raises(NoCellsError):
            feed(backend, 2, prompt)
        feed(backend, 1, prompt[32:40], 32)
        after_trouble = draw(backend)
        backend.remove(0)
        backend.remove(1)
        feed(backend, 1, prompt[:40])
        assert draw(backend) == after_trouble

    def test_a_seed_decides(self, backend: Backend) -> None:
        hot = sampling(temperature=1.5, top_k=0, top_p=1.0)
        first = generate(backend, 0, PROMPT[:8], 12, hot)
        assert generate(backend, 1, PROMPT[:8], 12, hot) == first
        others = [generate(backend, 0, PROMPT[:8], 12, sampling(temperature=1.5, top_k=0, seed=n)) for n in (2, 3)]
        assert any(other != first for other in others)

    def test_logprobs_are_exact_over_the_whole_vocabulary(self, backend: Backend) -> None:
        feed(backend, 0, PROMPT[:8])
        token, size = draw(backend), backend.vocab.size
        logprob = backend.logprob(0, token, size)
        assert logprob.top[0][0] == logprob.token == token
        assert logprob.piece == backend.piece(token)
        assert math.isclose(sum(math.exp(value) for _, _, value in logprob.top), 1.0, rel_tol=1e-6)
        assert backend.logprob(0, token, 0).top == ()

    def test_the_self_test_passes_and_leaves_no_cells(self, backend: Backend) -> None:
        assert self_test(backend) >= 0
        feed(backend, 0, PROMPT[:8])

    def test_prompts_get_one_bos_and_keep_user_text_plain(self, backend: Backend) -> None:
        vocab = backend.vocab
        request = GenerationRequest("r", (Segment("a" + vocab.eos_text, special=True), Segment(f"b{vocab.eos_text}c")))
        tokens = encode_prompt(backend, request)
        assert tokens.count(vocab.eos) == 1
        bos = [vocab.bos] if vocab.add_bos else []
        assert tokens[: len(bos)] == bos
        again = GenerationRequest("r", (Segment(vocab.bos_text + "a", special=True),))
        assert encode_prompt(backend, again).count(vocab.bos) == 1


def test_segments_without_control_text_are_tokenised_as_one(tiny_model: Path) -> None:
    backend = LlamaBackend([tiny_model], LogCapture("error"))
    request = GenerationRequest("r", (Segment("<|im_start|>ea", special=True), Segment("te et")))
    assert encode_prompt(backend, request) == backend.tokenize("<|im_start|>eate et", True)
    backend.close()
