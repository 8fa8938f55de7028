"""The real embedding backend: llama.cpp with a context that gives pooled vectors. Called by `engine.llama`.

Encoders compute a text in one go: every token sees every other, and llama.cpp keeps `batch` rows of logits for it, used
or not. Decoders that take the vector of the last token are different: all tokens but the last are read like a prompt,
without outputs, so a text may be cut into steps and no logits but those of the last tokens are made.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from paddock_runner.core.embed_scheduler import Piece
from paddock_runner.core.engine_facts import VocabFacts
from paddock_runner.core.engine_record import EngineRecord
from paddock_runner.core.sequence import Chunk
from paddock_runner.core.sequence import Sequence as Tokens
from paddock_runner.engine.backend import BackendError
from paddock_runner.engine.embed_backend import EmbedLoaded, PairForm, Vector
from paddock_runner.engine.llama_batch import LlamaBatch
from paddock_runner.engine.llama_bindings import api
from paddock_runner.engine.llama_model import LlamaModel, context_params
from paddock_runner.engine.threads import ThreadCount

NONE, MEAN, CLS, LAST, RANK = range(5)
_UNSPECIFIED = -1
_NO_TOKEN = -1
_META_BYTES = 128


class LlamaEmbedder:
    """`engine.embed_backend.EmbedBackend` on llama.cpp."""

    def __init__(self, file: LlamaModel) -> None:
        self._file = file
        self._context: Any = None
        self._memory: Any = None
        self._batch: LlamaBatch | None = None
        self._splits = self._alone = False
        self._width = 0
        self._threads = ThreadCount(1)

    @property
    def vocab(self) -> VocabFacts:
        return self._file.vocabulary.facts

    @property
    def around(self) -> tuple[list[int], list[int]]:
        return self._file.vocabulary.around

    @cached_property
    def pair(self) -> PairForm:
        vocab = self._file.vocabulary.native
        template = api.llama_model_chat_template(self._file.native, b"rerank")
        sep = api.llama_vocab_sep(vocab)
        eos = api.llama_vocab_eos(vocab)
        eos = sep if eos == _NO_TOKEN else eos
        after = [eos] if api.llama_vocab_get_add_eos(vocab) else []
        between = [*after, sep] if api.llama_vocab_get_add_sep(vocab) else after
        before = [self.vocab.bos] if self.vocab.add_bos else []
        text = template.decode(errors="replace") if template else None
        return PairForm(text, tuple(before), tuple(between), tuple(after))

    def load(self, record: EngineRecord, progress: Callable[[float], None]) -> EmbedLoaded:
        self._file.load(record, progress)
        self._check_model(record)
        self._threads = ThreadCount(record.threads)
        # Models like T5 look at distances within the whole batch: one text for each.
        self._alone = bool(api.llama_model_has_encoder(self._file.native))
        self._splits, pooling = self._plan(record)
        outputs = record.sequences if self._splits else record.batch
        params = context_params(record, sequences=record.sequences, outputs=outputs, threads=self.threads)
        params.embeddings = True
        params.pooling_type = pooling
        self._context = self._file.context(params)
        self._memory = api.llama_get_memory(self._context)
        self._batch = LlamaBatch(api.llama_n_batch(self._context))
        self._width = api.llama_model_n_embd_out(self._file.native) if record.mode == "embed" else 1
        return self._loaded(record, self.threads)

    @property
    def threads(self) -> int:
        return self._threads.value

    def tokenize(self, text: str, special: bool) -> list[int]:
        return self._file.vocabulary.tokenize(text, special)

    def is_control(self, token: int) -> bool:
        return self._file.vocabulary.is_control(token)

    def run(self, pieces: Sequence[Piece]) -> list[Vector]:
        ends = [piece for piece in pieces if piece.last]
        if self._threads.changed():
            api.llama_set_n_threads(self._context, self.threads, self.threads)
        if self._splits:
            self._read([_chunk(piece, last=False) for piece in pieces])
            self._compute([_chunk(piece, last=True) for piece in ends])
        else:
            self._compute([_chunk(piece) for piece in pieces])
        vectors = [self._vector(piece.text.slot) for piece in ends]
        for piece in ends:
            self.drop(piece.text.slot)
        return vectors

    def drop(self, slot: int) -> None:
        if self._memory and not api.llama_memory_seq_rm(self._memory, slot, -1, -1):
            raise BackendError(f"the cache does not let go of sequence {slot}")

    def close(self) -> None:
        if self._context:
            api.llama_free(self._context)
        self._context = None
        self._file.close()

    def _read(self, chunks: list[Chunk]) -> None:
        """Put tokens into the cache; nothing comes out."""
        chunks = [chunk for chunk in chunks if chunk.tokens]
        if not chunks:
            return
        api.llama_set_embeddings(self._context, False)
        self._decode(chunks, all_outputs=False)
        api.llama_set_embeddings(self._context, True)

    def _compute(self, chunks: list[Chunk]) -> None:
        """Tokens with pooled outputs."""
        if chunks:
            self._decode(chunks, all_outputs=True)

    def _decode(self, chunks: list[Chunk], *, all_outputs: bool) -> None:
        assert self._batch is not None  # noqa: S101  (load comes first)
        self._batch.fill(chunks)
        batch = _without_marks(self._batch.native) if all_outputs else self._batch.native
        code = (api.llama_encode if self._alone else api.llama_decode)(self._context, batch)
        if code != 0:
            raise BackendError(f"llama.cpp returned {code}: {self._file.last_words()}")

    def _vector(self, slot: int) -> Vector:
        pointer = api.llama_get_embeddings_seq(self._context, slot)
        if not pointer:
            raise BackendError(f"llama.cpp has no vector for sequence {slot}")
        return np.ctypeslib.as_array(pointer, shape=(self._width,)).copy()

    def _check_model(self, record: EngineRecord) -> None:
        model = self._file.native
        if api.llama_model_has_encoder(model) and api.llama_model_has_decoder(model):
            raise BackendError("the model is an encoder with a decoder, which gives no vectors; use an encoder")
        if record.mode == "rerank" and self._pooling() != RANK:
            raise BackendError(
                "the model has no rank head (its pooling type is not rank); set spec.serving.mode to Embed"
            )
        if record.mode == "embed" and self._pooling() == RANK:
            raise BackendError("the model ranks documents and gives no vectors; set spec.serving.mode to Rerank")

    def _plan(self, record: EngineRecord) -> tuple[bool, int]:
        """(whether texts may be cut, pooling type). A model that names none gets what its kind needs for one vector."""
        causal = self._causal()
        pooling = self._pooling()
        if pooling in (NONE, _UNSPECIFIED):
            pooling = LAST if causal else MEAN
        return causal and pooling in (LAST, RANK), pooling

    def _loaded(self, record: EngineRecord, threads: int) -> EmbedLoaded:
        trained = self.vocab.context_train or record.context_length
        limit = min(record.context_length, trained)
        cells = api.llama_n_ctx(self._context) if self._splits else 0
        return EmbedLoaded(
            memory=self._file.memory(),
            threads=threads,
            flash_attention=self._file.flash_attention(),
            cells=cells,
            batch=record.batch,
            limit=limit if self._splits else min(limit, record.batch),
            splits=self._splits,
            alone=self._alone,
            score=record.mode == "rerank",
        )

    def _pooling(self) -> int:
        return int(self._meta("pooling_type") or _UNSPECIFIED)

    def _causal(self) -> bool:
        """Whether a token sees only those before it, so that a cache can hold them."""
        return not self._alone and self._meta("attention.causal") != "false" and self._has_cache()

    def _has_cache(self) -> bool:
        params = api.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = params.n_seq_max = 1
        context = self._file.context(params)
        cache = bool(api.llama_get_memory(context))
        api.llama_free(context)
        return cache

    def _meta(self, key: str) -> str:
        buffer = ctypes.create_string_buffer(_META_BYTES)
        model = self._file.native
        api.llama_model_meta_val_str(model, b"general.architecture", buffer, _META_BYTES)
        name = buffer.value + b"." + key.encode()
        size = api.llama_model_meta_val_str(model, name, buffer, _META_BYTES)
        return buffer.value.decode(errors="replace") if size > 0 else ""


def _chunk(piece: Piece, *, last: bool | None = None) -> Chunk:
    """A piece for a batch: all of it, or only its end's last token, or what comes before that."""
    tokens, start = piece.tokens, piece.start
    if last is True:
        tokens, start = tokens[-1:], start + len(tokens) - 1
    elif last is False and piece.last:
        tokens = tokens[:-1]
    return Chunk(Tokens(0, tokens, len(tokens), slot=piece.text.slot), start, tokens, output=False)


def _without_marks(batch: Any) -> Any:
    """The batch with every token as an output: that is what no marks mean where vectors are asked for."""
    return api.llama_batch(
        n_tokens=batch.n_tokens, token=batch.token, embd=None, pos=batch.pos, n_seq_id=batch.n_seq_id,
        seq_id=batch.seq_id, logits=None,
    )  # fmt: skip
