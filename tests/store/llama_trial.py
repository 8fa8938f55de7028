"""A child process that gives GGUF files to the real llama.cpp, each in a fork of its own with limits.

Run as a script by `test_gguf_llama`: paths on stdin, one JSON line per path on stdout. A fork loads the file (the
vocabulary alone, then all of it), tokenizes odd text, makes a context and decodes.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

import llama_cpp as llama

MEMORY = 2 << 30
ABSURD = 1 << 20
"""KiB that no file of less than 1 MiB may need."""
SECONDS = 8
TEXT = "<s>Hello a\n\t \x01 \u00e9\u6c34\U0001f600\ufffd \u2581 </s> 0123".encode()


def tokens_of(model: Any) -> list[int]:
    vocabulary = llama.llama_model_get_vocab(model)
    if llama.llama_vocab_type(vocabulary) == llama.LLAMA_VOCAB_TYPE_NONE:
        return []
    found = (llama.llama_token * 512)()
    count = llama.llama_tokenize(vocabulary, TEXT + bytes(range(1, 256)), len(TEXT) + 255, found, 512, True, True)
    piece = ctypes.create_string_buffer(256)
    for token in found[: max(count, 0)]:
        if token >= 0:
            llama.llama_token_to_piece(vocabulary, token, piece, 256, 0, True)
    return list(found[: max(count, 0)])


def load(path: str, vocabulary_only: bool) -> str:
    parameters = llama.llama_model_default_params()
    parameters.vocab_only = vocabulary_only
    model = llama.llama_model_load_from_file(path.encode(), parameters)
    if not model:
        return "refused"
    tokens = [token for token in tokens_of(model) if token >= 0][:24] or [0]
    if vocabulary_only:
        return "loaded"
    wanted = llama.llama_context_default_params()
    wanted.n_ctx, wanted.n_batch, wanted.n_ubatch, wanted.n_threads, wanted.n_threads_batch = 64, 32, 32, 1, 1
    context = llama.llama_init_from_model(model, wanted)
    if not context:
        return "no context"
    batch = llama.llama_batch_get_one((llama.llama_token * len(tokens))(*tokens), len(tokens))
    return f"decoded {llama.llama_decode(context, batch)}"


def limited(path: str, vocabulary_only: bool) -> str:
    """What happened in a fork: a word, `signal NAME`, `memory N MiB` or `hang`."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(2, 1)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        signal.alarm(4 * SECONDS)
        try:
            os.write(writer, load(path, vocabulary_only).encode())
            os._exit(0)
        finally:
            os._exit(70)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        said = stream.read().decode()
    _, status, usage = os.wait4(child, 0)
    if usage.ru_maxrss > ABSURD:
        return f"memory {usage.ru_maxrss >> 10} MiB"
    if os.WIFSIGNALED(status):
        number = signal.Signals(os.WTERMSIG(status))
        return "hang" if number in (signal.SIGALRM, signal.SIGKILL, signal.SIGXCPU) else f"signal {number.name}"
    return said or f"exit {os.WEXITSTATUS(status)}"


def main() -> None:
    os.environ["GGML_NO_BACKTRACE"] = "1"
    llama.llama_backend_init()
    for line in sys.stdin:
        path = line.strip()
        outcomes = {name: limited(path, name == "vocabulary") for name in sys.argv[1:] or ("vocabulary", "whole")}
        print(json.dumps({"path": path, **outcomes}), flush=True)


if __name__ == "__main__":
    main()
