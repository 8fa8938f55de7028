"""The compute buffer of a step: which tensors of a block live at the same time, for the kinds of blocks that exist.

Used by `memory_facts`. Each method follows the order of operations of llama.cpp's graphs; what an operation writes in
place is not named. Sizes grow with the tokens of a step, so one simulated step gives bytes for each token.
"""

from __future__ import annotations

from collections.abc import Sequence

from paddock_runner.core.memory_arena import Arena, Span
from paddock_runner.core.memory_blocks import Attention, Block, Experts, Feed, Model, Recurrent

TOKENS = 512
_WORD = 4
_HALF = 2


class _Step:
    """One step of `TOKENS` tokens of `sequences`; `cells` have scores for each token, None with flash attention."""

    def __init__(self, model: Model, sequences: int, cells: int | None) -> None:
        self._arena = Arena()
        self._width, self._cached, self._steady = model.width, model.cached, model.steady
        self._sequences, self._cells = sequences, cells
        self._rows = TOKENS
        self._ahead: Span | None = None
        self._following: Recurrent | None = None

    def run(self, blocks: Sequence[Block]) -> int:
        """Bytes at the peak, without attention masks."""
        tokens = self._new(1)
        self._new(self._width)  # embeddings as an alternative input: no operation frees them
        self._inputs(blocks)
        stream = self._new(self._width)
        self._free(tokens)
        for index, block in enumerate(blocks):
            self._following = blocks[index + 1].recurrent if index + 1 < len(blocks) else None
            stream = self._block(block, stream, last=index == len(blocks) - 1)
        return self._arena.peak

    def _inputs(self, blocks: Sequence[Block]) -> None:
        self._new(1)  # positions
        if self._cached and any(block.attention for block in blocks):
            values = max(block.attention.value for block in blocks if block.attention)
            self._new(2)
            self._new(2 if self._cells is None else 2 * values)

    def _new(self, words: int, sequence_words: int = 0) -> Span:
        return self._arena.new(_WORD * (words * self._rows + sequence_words * self._sequences))

    def _free(self, *spans: Span) -> None:
        self._arena.free(*spans)

    def _block(self, block: Block, stream: Span, *, last: bool) -> Span:
        self._rows = TOKENS
        mixed: list[Span] = []
        if block.recurrent:
            mixed.append(self._recurrent(block.recurrent))
        if block.attention:
            mixed.append(self._attention(block.attention))
        if last:
            mixed, stream = self._reduced(mixed), self._reduced([stream])[0]
        steady = self._steady or (block.recurrent is not None and block.recurrent.viewed)
        stream = self._normed(block, self._added(stream, mixed, steady))
        return self._normed(block, self._fed(block, stream))

    def _added(self, stream: Span, parts: Sequence[Span], steady: bool) -> Span:
        """The sum takes the place of its first operand that is no view of another tensor."""
        if not parts:
            return stream
        kept, *gone = (stream, *parts) if steady else (*parts, stream)
        self._free(*gone)
        return kept

    def _normed(self, block: Block, stream: Span) -> Span:
        """Encoders norm behind each sum, and a LayerNorm does not write in place."""
        return self._turned(stream, self._width) if block.normed_behind else stream

    def _reduced(self, spans: Sequence[Span]) -> list[Span]:
        """Behind the attention of the last block only rows that have an output go on."""
        self._rows = min(self._sequences, TOKENS)
        rows = [self._new(self._width) for _ in spans]
        self._free(*spans)
        return rows

    def _fed(self, block: Block, stream: Span) -> Span:
        if block.feed is None and block.experts is None:
            return stream
        norm = Span(0, 0) if block.normed_behind else self._new(self._width)
        outputs: list[Span] = []
        if block.experts:
            outputs.append(self._experts(block.experts, norm, keep=block.feed is not None))
        if block.feed:
            outputs.append(self._feed(block.feed, norm))
        return self._added(stream, outputs, self._steady)

    def _attention(self, a: Attention) -> Span:
        norm = self._new(self._width) if a.normed else None
        if a.latent:
            query, key = self._latent(a, norm)
            self._free(key)
            values = a.latent * a.heads
        else:
            query = self._projected(a, norm)
            values = a.heads * a.value_head
        result = self._attended(a, query, values)
        if a.latent:
            result = self._decompressed(a, result)
        if a.gated:
            gate = self._new(a.gated)
            self._free(self._gate, result)
            result = gate
        out = self._new(self._width)
        self._free(result)
        return out

    def _projected(self, a: Attention, norm: Span | None) -> Span:
        if a.fused:
            whole = self._new(a.query + a.key + a.value)
            query, key = self._new(a.query), self._new(a.key)
            self._free(*([norm] if norm else []), whole, key)
            return query
        query = self._new(a.query + a.gated)
        if a.gated:
            self._gate, query = query, self._new(a.query)
        elif a.turned:
            query = self._turned(query, a.query)
        if self._cached:
            value, key = self._new(a.value), self._key(a)
            self._free(*([norm] if norm else []), key, value)
        else:
            self._kept = (self._key(a), self._new(a.value))
            self._free(*([norm] if norm else []))
        return query

    def _key(self, a: Attention) -> Span:
        key = self._new(a.key)
        return self._turned(key, a.key) if a.turned else key

    def _turned(self, span: Span, words: int) -> Span:
        """Norms and rotations of heads read a view, so they never write in place."""
        turned = self._new(words)
        self._free(span)
        return turned

    def _latent(self, a: Attention, norm: Span | None) -> tuple[Span, Span]:
        """Queries against compressed keys (MLA): every head reads the same key."""
        if a.query_rank:
            compressed = self._new(a.query_rank)
            query = self._new(a.query)
            self._free(compressed)
        else:
            query = self._new(a.query)
        absorbed, turned = self._new(a.heads * a.latent), self._new(a.heads * a.rope)
        self._free(query)
        query = self._new(a.heads * (a.latent + a.rope))
        self._free(absorbed, turned)
        both = self._new(a.latent + a.rope)
        self._free(*([norm] if norm else []))
        low, turned = self._new(a.latent), self._new(a.rope)
        self._free(both)
        key = self._new(a.latent + a.rope)
        self._free(low, turned)
        return query, key

    def _decompressed(self, a: Attention, result: Span) -> Span:
        wide = self._new(a.heads * a.value_head)
        self._free(result)
        if self._cells is None:
            narrow, wide = wide, self._new(a.heads * a.value_head)
            self._free(narrow)
        return wide

    def _attended(self, a: Attention, query: Span, values: int) -> Span:
        if self._cells is None:
            return self._fused(query, values)
        turned, kept = self._values(a)
        scores = self._arena.new(_WORD * a.heads * self._cells * self._rows)
        self._free(query, *kept)
        mixed = self._new(values)
        self._free(scores, *turned)
        result = self._new(values)
        self._free(mixed)
        return result

    def _fused(self, query: Span, values: int) -> Span:
        """Flash attention, which wants halves of what comes from no cache."""
        halves = []
        for span in () if self._cached else self._kept:
            halves.append(self._arena.new(span.size * _HALF // _WORD))
            self._free(span)
        result = self._new(values)
        self._free(query, *halves)
        return result

    def _values(self, a: Attention) -> tuple[list[Span], list[Span]]:
        """(values the other way round, keys of the step) for plain attention. A cache holds values so, but those of
        compressed keys.
        """
        if not self._cached:
            key, value = self._kept
            turned = self._arena.new(value.size)
            self._free(value)
            return [turned], [key]
        return ([self._arena.new(_HALF * a.latent * (self._cells or 0))] if a.latent else []), []

    def _feed(self, feed: Feed, norm: Span) -> Span:
        if feed.gated:
            gate, up = self._new(feed.hidden), self._new(feed.hidden)
            self._free(*([] if feed.scored else [norm]))
            inner = self._new(feed.hidden)
            self._free(gate, up)
        else:
            inner = self._new(feed.hidden)
            self._free(norm)
        down = self._new(self._width)
        self._free(inner)
        if feed.scored:
            self._free(self._new(1), norm)
        return down

    def _experts(self, e: Experts, norm: Span, *, keep: bool) -> Span:
        probabilities = self._new(e.count)
        order = self._new(e.count)
        weights = self._new(e.used)
        self._free(probabilities)
        shares = self._new(1)
        weights = self._turned(weights, e.used)
        self._free(shares)
        gate = self._new(e.used * e.hidden)
        up = self._new(e.used * e.hidden)
        if not keep:
            self._free(norm)
        inner = self._new(e.used * e.hidden)
        self._free(gate, up)
        down = self._new(e.used * self._width)
        self._free(inner, order, weights)
        total = self._new(self._width)
        self._free(down)
        return total

    def _recurrent(self, r: Recurrent) -> Span:
        return {"scan": self._scan, "convolution": self._convolution, "delta": self._delta}[r.kind](r)

    def _past(self, r: Recurrent) -> Span:
        past, self._ahead = self._ahead or self._new(0, r.convolved), None
        return past

    def _look_ahead(self) -> None:
        """The next block's state is read before the rest of this one is computed."""
        if self._following and self._following.kind != "delta":
            self._ahead = self._new(0, self._following.convolved)

    def _scan(self, r: Recurrent) -> Span:
        """Mamba: convolution, selective scan, gate."""
        past = self._past(r)
        norm = self._new(self._width)
        mixed = self._new(r.projected)
        self._free(norm)
        window = self._new(r.channels, r.convolved)
        self._free(past)
        inputs = self._new(r.channels)
        self._free(window)
        steps = self._new(r.heads)
        scanned = self._new(r.inner, r.state)
        self._free(steps)
        self._look_ahead()
        gate = self._new(r.inner)
        self._free(mixed)
        result = self._new(r.inner)
        self._free(inputs, scanned)
        gated = self._new(r.inner)
        self._free(gate, result)
        normed = self._turned(gated, r.inner) if r.normed else gated
        out = self._new(self._width)
        self._free(normed)
        return out

    def _convolution(self, r: Recurrent) -> Span:
        """LFM2: a short gated convolution."""
        past = self._past(r)
        norm = self._new(self._width)
        mixed = self._new(r.projected)
        self._free(norm)
        inputs = self._new(r.channels)
        window = self._new(r.channels, r.convolved)
        self._free(past, inputs)
        self._look_ahead()
        result = self._new(r.channels)
        self._free(window, mixed)
        out = self._new(self._width)
        self._free(result)
        return out

    def _delta_key(self, r: Recurrent) -> Span:
        key = self._new((r.channels - r.inner) // 2)
        return self._turned(key, r.inner) if r.repeated else key

    def _delta(self, r: Recurrent) -> Span:
        """Gated delta net: convolution over queries, keys and values, then the fused recurrence."""
        norm = self._new(self._width)
        past = self._new(0, r.convolved)
        mixed = self._new(r.channels)
        window = self._new(r.channels, r.convolved)
        self._free(past, mixed)
        state = self._new(0, r.state)
        convolved = self._new(r.channels)
        self._free(window)
        keys = [self._delta_key(r), self._delta_key(r)]
        both = self._new(2 * r.heads)
        rates = [self._new(r.heads), self._new(r.heads)]
        self._free(both)
        scanned = self._new(r.inner, r.state)
        self._free(*keys, *rates, convolved, state)
        result = self._turned(scanned, r.inner)
        gate = self._new(r.inner)
        self._free(norm)
        gate = self._turned(gate, r.inner)
        self._free(gate)
        out = self._new(self._width)
        self._free(result)
        return out


def step_bytes(model: Model, *, sequences: int, cells: int | None) -> int:
    """Bytes of a step of `TOKENS` tokens at its peak, without attention masks and logits.

    `cells`: of the cache, or tokens of the step for an encoder; None with flash attention.
    """
    return _Step(model, sequences, cells).run(model.blocks)
