"""A model's vocabulary: tokenise, pieces, which tokens end or control. Called by `engine.llama`.

`Vocabulary.tokenize` may be called from any thread.
"""

from __future__ import annotations

import ctypes
from functools import cached_property
from typing import Any

from paddock_runner.core.engine_facts import VocabFacts
from paddock_runner.engine.llama_bindings import api

_MAX_TEMPLATE = 1024 * 1024


class Vocabulary:
    """Reads `model`'s vocabulary; valid as long as the model is."""

    def __init__(self, model: Any) -> None:
        self.native: Any = api.llama_model_get_vocab(model)
        self.facts = self._facts(model)
        self._pieces: dict[int, bytes] = {}

    def tokenize(self, text: str, special: bool) -> list[int]:
        return self._tokenize(text.encode(), False, special)

    def _tokenize(self, data: bytes, around: bool, special: bool) -> list[int]:
        # A token has at least one byte, but some tokenisers put a space before the text.
        capacity = len(data) + 8
        buffer = (ctypes.c_int32 * capacity)()
        count = api.llama_tokenize(self.native, data, len(data), buffer, capacity, around, special)
        if count < 0:
            capacity = -count
            buffer = (ctypes.c_int32 * capacity)()
            count = api.llama_tokenize(self.native, data, len(data), buffer, capacity, around, special)
        return list(buffer[:count])

    @cached_property
    def around(self) -> tuple[list[int], list[int]]:
        """The tokens that the model's own tokeniser puts before and after every text."""
        bare, full = self._tokenize(b"a", False, False), self._tokenize(b"a", True, False)
        starts = range(len(full) - len(bare) + 1)
        start = next(at for at in starts if full[at : at + len(bare)] == bare)
        return full[:start], full[start + len(bare) :]

    def is_control(self, token: int) -> bool:
        return bool(api.llama_vocab_is_control(self.native, token))

    def is_end(self, token: int) -> bool:
        return bool(api.llama_vocab_is_eog(self.native, token))

    def piece(self, token: int) -> bytes:
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._read_piece(token, special=False)
        return piece

    def pieces(self) -> list[bytes]:
        """Of all tokens, in a new list."""
        return [self._read_piece(token, special=False) for token in range(self.facts.size)]

    def _read_piece(self, token: int, special: bool) -> bytes:
        buffer = ctypes.create_string_buffer(64)
        size = api.llama_token_to_piece(self.native, token, buffer, len(buffer), 0, special)
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = api.llama_token_to_piece(self.native, token, buffer, len(buffer), 0, special)
        return buffer.raw[: max(size, 0)]

    def _facts(self, model: Any) -> VocabFacts:
        bos, eos = api.llama_vocab_bos(self.native), api.llama_vocab_eos(self.native)
        return VocabFacts(
            size=api.llama_vocab_n_tokens(self.native),
            bos=bos,
            eos=eos,
            bos_text=self._text(bos),
            eos_text=self._text(eos),
            add_bos=bool(api.llama_vocab_get_add_bos(self.native)),
            chat_template=_chat_template(model),
            context_train=_context_train(model),
            description=_metadata(model, "general.name"),
        )

    def _text(self, token: int) -> str:
        return self._read_piece(token, special=True).decode(errors="replace") if token >= 0 else ""


def _chat_template(model: Any) -> str | None:
    template = api.llama_model_chat_template(model, None)
    return template[:_MAX_TEMPLATE].decode(errors="replace") if template else None


def _context_train(model: Any) -> int:
    # llama_model_n_ctx_train is 0 as long as only the vocabulary is loaded; the file's own words are there.
    architecture = _metadata(model, "general.architecture")
    value = _metadata(model, f"{architecture}.context_length")
    return int(value) if value.isdecimal() else 0


def _metadata(model: Any, key: str) -> str:
    buffer = ctypes.create_string_buffer(256)
    size = api.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
    return buffer.value.decode(errors="replace") if size >= 0 else ""
