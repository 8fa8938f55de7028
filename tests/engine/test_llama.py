"""The real backend's own matters: load-time numbers, llama.cpp's samplers, hostile files."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.engine.conftest import make_record
from tests.engine.test_backend_contract import PROMPT, feed, generate
from tests.support.bert_models import tiny_bert
from tests.support.gguf_maker import make_gguf

from paddock_runner.core.engine_sampling import normal_sampling
from paddock_runner.core.generation import Sampling
from paddock_runner.engine.backend import BackendError, NonFiniteLogitsError
from paddock_runner.engine.llama import LlamaBackend
from paddock_runner.engine.llama_bindings import api
from paddock_runner.engine.llama_log import LogCapture, buffer_bytes, flash_attention_in_force
from paddock_runner.engine.llama_samplers import LlamaSampler
from paddock_runner.engine.logits import best_token, token_logprob
from paddock_runner.engine.threads import ThreadCount


@pytest.fixture
def backend(tiny_model: Path) -> Iterator[LlamaBackend]:
    made = LlamaBackend([tiny_model], LogCapture("error"))
    yield made
    made.close()


LOG_ROUNDING = 0.01 * 1024 * 1024  # the log gives MiB with two decimals


def normal(**changes: object) -> Sampling:
    return normal_sampling(Sampling(**{"seed": 3, **changes}), vocab_size=512, context=512, seed=1)


def test_the_bindings_come_without_the_package() -> None:
    code = (
        "import sys; from paddock_runner.engine.llama_bindings import api; "
        "print([name for name in ('llama_cpp', 'jinja2', 'diskcache', 'llama_cpp.llama') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_llama_cpp_follows_the_quota(backend: LlamaBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed, now = 1, 0.0
    monkeypatch.setattr("paddock_runner.engine.threads.available_threads", lambda _: allowed)
    monkeypatch.setattr("paddock_runner.engine.llama.ThreadCount", lambda fixed: ThreadCount(fixed, clock=lambda: now))
    backend.load(make_record(threads=0), lambda _: None)
    assert (backend.threads, api.llama_n_threads(backend._context)) == (1, 1)
    allowed, now = 2, 5.0
    feed(backend, 0, PROMPT)
    assert backend.threads == api.llama_n_threads(backend._context) == api.llama_n_threads_batch(backend._context) == 2


@pytest.mark.parametrize("flash_attention", ["on", "off", "auto"])
def test_load_reports_what_llama_cpp_allocated(backend: LlamaBackend, flash_attention: str) -> None:
    seen: list[float] = []
    record = make_record(cells=1024, flash_attention=flash_attention)
    loaded = backend.load(record, seen.append)
    assert loaded.flash_attention == (flash_attention != "off")
    # 1 layer, 1 KV head of 32 values, K and V, two bytes each
    assert loaded.memory.kv == pytest.approx(1024 * 32 * 2 * 2, abs=LOG_ROUNDING)
    assert loaded.memory.weights > 100_000
    assert loaded.memory.compute > 0
    assert (loaded.cells, loaded.batch, loaded.threads) == (1024, 64, 1)
    assert seen[-1] == 1.0


def test_a_quantised_cache_is_smaller(backend: LlamaBackend) -> None:
    loaded = backend.load(make_record(cells=1024, type_k="q8_0", type_v="q8_0"), lambda _: None)
    assert loaded.memory.kv < 1024 * 32 * 2 * 2 - LOG_ROUNDING


def test_facts_are_known_before_the_weights(backend: LlamaBackend) -> None:
    vocab = backend.vocab
    assert (vocab.size, vocab.bos, vocab.eos_text, vocab.context_train) == (512, 0, "<|im_end|>", 4096)
    assert "im_start" in (vocab.chat_template or "")
    assert vocab.description == "tiny"


def test_a_file_that_is_none_says_so(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.gguf"
    garbage.write_bytes(b"GGUF" + bytes(1000))
    with pytest.raises(BackendError, match="does not load"):
        LlamaBackend([garbage], LogCapture("critical"))


EVERYTHING = {
    "temperature": 0.7, "dynatemp_range": 0.2, "top_k": 30, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.95,
    "top_n_sigma": 3.0, "xtc_probability": 0.2, "repeat_penalty": 1.2, "presence_penalty": 0.1,
    "frequency_penalty": 0.1, "dry_multiplier": 0.8, "logit_bias": ((40, 2.0), (41, -5.0)),
}  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (normal(), "?penalties ?dry ?top-n-sigma top-k ?typical top-p ?min-p ?xtc temp-ext dist"),
        (
            normal(**EVERYTHING),
            "logit-bias penalties dry top-n-sigma top-k typical top-p min-p xtc temp-ext dist",
        ),
        (normal(mirostat=1), "temp mirostat"),
        (normal(mirostat=2, logit_bias=((1, 1.0),)), "logit-bias temp mirostat-v2"),
    ],
)
def test_the_chain_is_that_of_llama_cpp(backend: LlamaBackend, wanted: Sampling, names: str) -> None:
    sampler = LlamaSampler(backend._vocabulary.native, 512, wanted, PROMPT)
    count = api.llama_sampler_chain_n(sampler.chain)
    links = [api.llama_sampler_chain_get(sampler.chain, index) for index in range(count)]
    assert " ".join(api.llama_sampler_name(link).decode() for link in links) == names
    sampler.close()
    sampler.close()


@pytest.mark.parametrize("wanted", [normal(**EVERYTHING), normal(mirostat=1), normal(mirostat=2)])
def test_every_parameter_generates(backend: LlamaBackend, wanted: Sampling) -> None:
    backend.load(make_record(), lambda _: None)
    first = generate(backend, 0, PROMPT[:8], 30, wanted)
    assert generate(backend, 0, PROMPT[:8], 30, wanted) == first


def test_greedy_by_numpy_equals_llama_cpps_chain(backend: LlamaBackend) -> None:
    backend.load(make_record(), lambda _: None)
    plain = generate(backend, 0, PROMPT[:8], 40, normal(temperature=0.0))
    chained = generate(backend, 0, PROMPT[:8], 40, normal(temperature=0.0, logit_bias=((5, 0.0),)))
    assert plain == chained


def test_bias_and_penalty_have_their_effect(backend: LlamaBackend) -> None:
    backend.load(make_record(), lambda _: None)
    biased = generate(backend, 0, PROMPT[:8], 5, normal(temperature=0.0, logit_bias=((65, 1000.0),)))
    assert biased == [65] * 5
    punished = generate(
        backend,
        0,
        PROMPT[:8],
        30,
        normal(temperature=0.0, repeat_penalty=1.0, presence_penalty=100.0, repeat_last_n=-1),
    )
    assert len(set(punished)) == 30
    assert not set(punished) & set(PROMPT[:8])


def test_nan_logits_are_a_typed_error(backend: LlamaBackend) -> None:
    backend.load(make_record(), lambda _: None)
    feed(backend, 0, PROMPT[:8])
    address = ctypes.addressof(api.llama_get_logits(backend._context).contents)
    np.ctypeslib.as_array((ctypes.c_float * 512).from_address(address))[7] = np.nan
    for wanted in (normal(), normal(temperature=0.0)):
        sampler = backend.open_sampler(wanted, ())
        with pytest.raises(NonFiniteLogitsError):
            backend.sample(0, sampler)
        sampler.close()


def test_arithmetic_on_a_row() -> None:
    row = np.array([0.0, 2.0, 2.0, -np.inf], dtype=np.float32)
    assert best_token(row) == 1
    logprob = token_logprob(row, 3, 2, lambda token: bytes([token]))
    assert logprob.logprob == -9999.0
    assert {entry[0] for entry in logprob.top} == {1, 2}
    with pytest.raises(NonFiniteLogitsError):
        best_token(np.array([1.0, np.inf], dtype=np.float32))


def test_log_lines_give_sizes_and_flash_attention() -> None:
    lines = [
        "llama_kv_cache:        CPU KV buffer size =   720.00 MiB",
        "llama_kv_cache:      CUDA0 KV buffer size =     1.50 MiB",
        "llama_context: flash_attn            = auto",
        "sched_reserve: Flash Attention not supported, set to disabled",
    ]
    assert buffer_bytes(lines) == {"KV": int(721.5 * 1024 * 1024)}
    assert not flash_attention_in_force(lines)
    assert flash_attention_in_force([*lines, "x: Flash Attention enabled"])


def test_a_decoder_that_pools_still_generates(tmp_path: Path) -> None:
    backend = LlamaBackend([make_gguf(tmp_path / "pooled.gguf", pooling_type=1)], LogCapture("error"))
    backend.load(make_record(), lambda _: None)
    assert len(generate(backend, 0, PROMPT[:8], 3, normal(temperature=0.0))) == 3
    backend.close()


def test_an_encoder_is_refused(backend: LlamaBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "llama_model_has_encoder", lambda _: True)
    with pytest.raises(BackendError, match="encoder"):
        backend.load(make_record(), lambda _: None)


def test_an_encoder_is_told_its_mode(tmp_path: Path) -> None:
    path, _ = tiny_bert(tmp_path / "bert.gguf")
    backend = LlamaBackend([path], LogCapture("error"))
    with pytest.raises(BackendError, match=r"set spec\.serving\.mode to Embed or Rerank"):
        backend.load(make_record(), lambda _: None)
    backend.close()
