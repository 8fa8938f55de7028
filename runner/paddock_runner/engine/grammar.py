"""What a constrained output may say next: llguidance over a model's vocabulary. Called by `engine.prompts` and `loop`.

A grammar is compiled beside the loop; between two decodes it costs one mask and one token. llguidance's matchers never
raise for what a user wrote: they fall into an error state, which becomes a typed error here. Its limits are set so that
neither compiling nor a mask holds up anybody else's step.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import llguidance
import numpy as np
from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark
from numpy.typing import NDArray

from paddock_runner.core.generation import Constraint, InvalidRequestError

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

Allowed = NDArray[np.bool_]
"""One entry for each token of the vocabulary."""

_LIMITS = llguidance.LLParserLimits(
    initial_lexer_fuel=1_000_000, step_lexer_fuel=50_000, step_max_items=20_000, max_lexer_states=20_000,
    max_grammar_size=100_000,
)  # fmt: skip
# Small models that may put any white space between two values put nothing but white space there.
_WHITE_SPACE = r"( |\n[ \t]{0,20})?"
_ANY_OBJECT = '{"type": "object"}'
# Of the sets of tokens that are known beforehand the one that masks of JSON texts are made of: each costs memory.
_SLICES = llguidance.LLTokenizer.json_slices()[-1:]
_MAX_DETAIL = 300
_COMPLETE = ("NoExtension", "NoExtensionBias", "EndOfSentence")
"""Why a matcher stops where nothing more fits; the second is noticed one mask later."""
_BITS = 32


class Tokens(Protocol):
    """The part of a backend that says what its tokens are."""

    def tokenize(self, text: str, special: bool) -> list[int]: ...

    def is_control(self, token: int) -> bool: ...

    def is_end(self, token: int) -> bool: ...

    def piece(self, token: int) -> bytes: ...

    def pieces(self) -> list[bytes]: ...


class GrammarError(Exception):
    """A matcher gave up in the middle of an output."""


class Guide:
    """One sequence under a constraint, from its first generated token on. Not thread-safe."""

    def __init__(self, table: Table, constraint: Constraint, matcher: llguidance.LLMatcher) -> None:
        self._table = table
        self._constraint = constraint
        self._matcher = matcher
        self._begun = constraint.after_token < 0 and not constraint.after_text
        self._tail = b""
        self._bits = np.zeros(-(-table.size // _BITS), dtype=np.int32)

    @property
    def done(self) -> bool:
        """Whether nothing more can be said."""
        return self._begun and self._matcher.stop_reason() in _COMPLETE

    def allowed(self) -> Allowed | None:
        """Tokens that may come next; None for all. Raises GrammarError."""
        if not self._begun:
            return self._table.no_end if self._constraint.required else None
        if not self._matcher.is_stopped():
            self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        if self._matcher.is_stopped():
            self._check()
            return self._table.only_end
        bits = np.unpackbits(self._bits.view(np.uint8), count=self._table.size, bitorder="little")
        return bits.view(np.bool_)

    def accept(self, token: int) -> None:
        """Go on after `token`, which was allowed and ends nothing. Raises GrammarError."""
        if not self._begun:
            self._begun = self._begins(token)
            return
        self._matcher.consume_token(token)
        self._check()

    def _begins(self, token: int) -> bool:
        wanted = self._constraint.after_text.encode()
        if not wanted:
            return token == self._constraint.after_token
        text = self._tail + self._table.piece(token)
        self._tail = text[-len(wanted) :]
        return wanted in text

    def _check(self) -> None:
        if self._matcher.is_error() and not self.done:
            raise GrammarError(_plain(self._matcher.get_error()))


class Table:
    """The vocabulary as llguidance needs it; made once for a model of `size` tokens. Thread-safe."""

    def __init__(self, backend: Tokens, size: int) -> None:
        self.size = size
        self.piece = backend.piece
        ends = [token for token in range(size) if backend.is_end(token)]
        self.no_end = np.ones(size, dtype=np.bool_)
        self.no_end[ends] = False
        self.only_end = ~self.no_end
        self._native = _native(backend, size, ends) if ends else None

    def guide(self, constraint: Constraint) -> Guide:
        """Compile. Raises InvalidRequestError that names the field and what is wrong with the grammar."""
        if self._native is None:
            raise InvalidRequestError(constraint.field, "this model has no token that ends an output; leave it out")
        try:
            matcher = llguidance.LLMatcher(self._native, _grammar(constraint), limits=_LIMITS, log_level=0)
        except (ValueError, GbnfToLarkError) as error:
            raise _invalid(constraint, str(error)) from None
        if not matcher.is_error():
            # What is beyond the budget of a mask shows here, before anybody waits for it.
            matcher.compute_bitmask()
        if matcher.is_error() and matcher.stop_reason() not in _COMPLETE:
            raise _invalid(constraint, matcher.get_error())
        return Guide(self, constraint, matcher)


class _Vocabulary:
    """What llguidance reads; where a grammar forces a text it asks for the tokens that a model would write it with."""

    bos_token_id = None
    native: llguidance.LLTokenizer | None = None

    def __init__(self, backend: Tokens, special: Sequence[int], end: int) -> None:
        self._backend = backend
        self.tokens = backend.pieces()
        self.special_token_ids, self.eos_token_id = special, end
        for token in special:
            self.tokens[token] = f"<|{token}|>".encode()

    def __call__(self, text: bytes) -> list[int]:
        found = self._backend.tokenize(text.decode(errors="replace"), False)
        # Some tokenisers put a space before every text.
        if self.native is None or b"".join(map(self._backend.piece, found)) == text:
            return found
        return self.native.greedy_tokenize(text.decode(errors="replace"))


def _native(backend: Tokens, size: int, ends: Sequence[int]) -> llguidance.LLTokenizer:
    special = [token for token in range(size) if backend.is_control(token)]
    vocabulary = _Vocabulary(backend, special, ends[0])
    wrapper = llguidance.TokenizerWrapper(vocabulary)
    native = llguidance.LLTokenizer(wrapper, n_vocab=size, eos_token=list(ends), slices=_SLICES)
    # They are read by now, and a copy of them is kept.
    wrapper.tokens = vocabulary.tokens = []
    vocabulary.native = native
    return native


def _grammar(constraint: Constraint) -> str:
    """In llguidance's own form. Raises ValueError."""
    kind, text = constraint.kind, constraint.grammar
    if kind in ("json", "json_schema"):
        schema = _ANY_OBJECT if kind == "json" else text
        white_space: JsonCompileOptions = {"whitespace_pattern": _WHITE_SPACE, "lenient": False}
        return llguidance.LLMatcher.grammar_from_json_schema(schema, overrides=white_space)
    if kind == "regex":
        return llguidance.LLMatcher.grammar_from_regex(text)
    return llguidance.LLMatcher.grammar_from_lark(gbnf_to_lark(text) if kind == "gbnf" else text)


def _invalid(constraint: Constraint, detail: str) -> InvalidRequestError:
    what = {"json_schema": "the JSON schema", "json": "JSON"}.get(constraint.kind, f"the {constraint.kind} grammar")
    return InvalidRequestError(constraint.field, f"{what} cannot be used: {_plain(detail)}")


def _plain(detail: str) -> str:
    """One line of printable characters."""
    line = re.sub(r"\s+", " ", detail.partition("<state>")[0]).strip()
    return "".join(character for character in line if character.isprintable())[:_MAX_DETAIL]
