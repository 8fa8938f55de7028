"""The generated GGUF is real: llama.cpp loads it, tokenises text that has unknown characters, and decodes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.gguf_maker import make_gguf

DECODE = """
import ctypes, json, sys, llama_cpp as l
l.llama_backend_init()
model = l.llama_model_load_from_file(sys.argv[1].encode(), l.llama_model_default_params())
assert model, "load failed"
params = l.llama_context_default_params()
params.n_ctx, params.n_batch, params.n_threads, params.n_threads_batch = 256, 64, 1, 1
context = l.llama_init_from_model(model, params)
vocab = l.llama_model_get_vocab(model)
text = "hello \\u00e9\\u6c34\\n".encode()
tokens = (l.llama_token * 64)()
count = l.llama_tokenize(vocab, text, len(text), tokens, 64, True, True)
assert count > 0, count
assert l.llama_decode(context, l.llama_batch_get_one(tokens, count)) == 0
sampler = l.llama_sampler_init_greedy()
out = b""
for _ in range(8):
    token = l.llama_sampler_sample(sampler, context, -1)
    assert not l.llama_vocab_is_eog(vocab, token)
    piece = ctypes.create_string_buffer(64)
    size = l.llama_token_to_piece(vocab, token, piece, 64, 0, True)
    out += piece.raw[:size]
    one = (l.llama_token * 1)(token)
    assert l.llama_decode(context, l.llama_batch_get_one(one, 1)) == 0
print(json.dumps({"vocab": l.llama_vocab_n_tokens(vocab), "prompt": count, "text": out.decode()}))
"""


@pytest.mark.model
@pytest.mark.parametrize("tokenizer", ["bpe", "spm"])
def test_llama_cpp_loads_and_decodes_it(tmp_path: Path, tokenizer: str) -> None:
    path = make_gguf(tmp_path / "tiny.gguf", vocab=400, layers=2, tokenizer=tokenizer)  # type: ignore[arg-type]
    assert path.stat().st_size < 2_000_000
    done = subprocess.run([sys.executable, "-c", DECODE, str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout)
    assert answer["vocab"] == 400
    assert answer["text"].isascii()
    assert answer["text"].isprintable()


def test_same_arguments_same_bytes(tmp_path: Path) -> None:
    first = make_gguf(tmp_path / "a.gguf", seed=3).read_bytes()
    assert first == make_gguf(tmp_path / "b.gguf", seed=3).read_bytes()
    assert first != make_gguf(tmp_path / "c.gguf", seed=4).read_bytes()


def test_sizes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vocab must be"):
        make_gguf(tmp_path / "a.gguf", vocab=10)
