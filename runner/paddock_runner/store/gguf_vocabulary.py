"""The vocabulary of a GGUF model: what llama.cpp aborts on at load, or later, on a user's prompt.

Called by `gguf.read_gguf`. Most C++ errors at load are caught; those while tokenizing a prompt end the engine, so the
tables that the tokenizer walks are judged here in full.
"""

from __future__ import annotations

import array
import sys
from collections.abc import Iterable

from paddock_runner.store.errors import InvalidGGUFError
from paddock_runner.store.gguf_reader import CHARSMAP_KEY, TOKENS_KEY, TYPES_KEY, Entry, RawHeader
from paddock_runner.store.gguf_tables import (
    BOOL,
    BPE_MODELS,
    BPE_STARTS,
    FLOAT32,
    INT8,
    INT32,
    PRE_TOKENIZERS,
    STRING,
    TOKENIZERS,
    UINT8,
    UINT32,
    TokenizerDefaults,
)
from paddock_runner.store.gguf_values import number

MAX_MERGES = 4 << 20
# Tries are built by recursion, one stack frame per byte.
MAX_TOKEN_BYTES = 4096
# PLaMo-2 lists every suffix of every token.
MAX_SUFFIX_BYTES = 1 << 28
_BYTE_TYPE = 6
_GEMMA4 = ("gemma4", "granite-embed-multi-311m")


def check_vocabulary(raw: RawHeader) -> int:
    """Tokens, scores, types, merges, special ids. Returns the number of tokens (0 for a model without a vocabulary).

    Raises InvalidGGUFError.
    """
    model = _model(raw.entries)
    if model in ("no_vocab", "none"):
        return 0
    listed = raw.entries.get(TOKENS_KEY)
    if listed is None or listed.item_type != STRING or not raw.tokens:
        raise InvalidGGUFError(TOKENS_KEY, "must be a list of at least one string")
    count = len(raw.tokens)
    _check_same_length(raw.entries, "tokenizer.ggml.scores", (FLOAT32, INT32), count)
    _check_same_length(raw.entries, TYPES_KEY, (INT32,), count)
    _check_tokens(raw.tokens)
    _check_model(raw, model)
    _check_special(raw.entries, model, count)
    return count


def _model(entries: dict[str, Entry]) -> str:
    model = entries.get("tokenizer.ggml.model")
    if model is None or model.value_type != STRING:
        raise InvalidGGUFError("tokenizer.ggml.model", "is missing or not a string")
    if model.value not in TOKENIZERS:
        raise InvalidGGUFError("tokenizer.ggml.model", f"{str(model.value)[:64]!r} is not supported by this llama.cpp")
    return str(model.value)


def _check_same_length(entries: dict[str, Entry], key: str, types: tuple[int, ...], count: int) -> None:
    entry = entries.get(key)
    if entry is None:
        return
    if entry.item_type not in types:
        raise InvalidGGUFError(key, "has the wrong element type")
    if entry.length != count:
        raise InvalidGGUFError(key, f"has {entry.length} elements, but there are {count} tokens")


def _check_tokens(tokens: list[bytes]) -> None:
    longest = max(map(len, tokens))
    if longest > MAX_TOKEN_BYTES:
        raise InvalidGGUFError(TOKENS_KEY, f"a token has {longest} bytes, the limit is {MAX_TOKEN_BYTES}")
    seen = _as_c_strings(tokens)
    if len(seen) != len(tokens):
        raise InvalidGGUFError(TOKENS_KEY, f"{len(tokens) - len(seen)} tokens appear twice; llama.cpp aborts on that")


def _as_c_strings(tokens: list[bytes]) -> set[bytes]:
    # llama.cpp reads C strings and gives empty ones a name of their own, so this is its view of the list.
    seen = set(tokens)
    if len(seen) == len(tokens) and not any(b"\0" in token for token in seen) and b"" not in seen:
        return seen
    cut = [token.split(b"\0", 1)[0] for token in tokens]
    return {token or b"[EMPTY_%d]" % index for index, token in enumerate(cut)}


def _check_model(raw: RawHeader, model: str) -> None:
    if model in BPE_MODELS:
        _check_pre_tokenizer(raw.entries, model)
        _check_merges(raw.entries)
    elif model == "llama":
        _check_bytes(raw.tokens)
    elif model == "bert":
        _check_no_bytes(raw.entries)
    elif model == "t5":
        check_charsmap(raw.entries.get(CHARSMAP_KEY))
    elif model == "rwkv":
        _check_first_bytes(raw.tokens)
    elif model == "plamo2":
        _check_suffixes(raw.tokens)


def _check_bytes(tokens: list[bytes]) -> None:
    seen = set(tokens)
    missing = [value for value in range(256) if b"<0x%02X>" % value not in seen and bytes([value]) not in seen]
    if missing:
        raise InvalidGGUFError(
            TOKENS_KEY, f"the byte token <0x{missing[0]:02X}> is missing; unknown characters would crash"
        )


def _check_no_bytes(entries: dict[str, Entry]) -> None:
    types = entries.get(TYPES_KEY)
    if types is None or types.raw is None:
        return
    numbers = _int32(types.raw)
    if _BYTE_TYPE in numbers:
        raise InvalidGGUFError(
            TYPES_KEY, f"token {numbers.index(_BYTE_TYPE)} is a byte token, which a bert vocabulary cannot have"
        )


def _int32(raw: bytes) -> array.array[int]:
    numbers = array.array("i", raw)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _check_pre_tokenizer(entries: dict[str, Entry], model: str) -> None:
    key = "tokenizer.ggml.pre"
    entry = entries.get(key)
    if entry is None or model == "gemma4" or entry.value == "":
        return
    if entry.value_type != STRING or entry.value not in PRE_TOKENIZERS:
        raise InvalidGGUFError(key, f"{str(entry.value)[:64]!r} is not supported by this llama.cpp")
    # It leaves spaces to a tokenizer that drops them; the others abort on their first space.
    if entry.value == "whitespace" != model:
        raise InvalidGGUFError(key, f"'whitespace' does not fit tokenizer.ggml.model {model!r}")


def _check_merges(entries: dict[str, Entry]) -> None:
    key = "tokenizer.ggml.merges"
    entry = entries.get(key)
    pre = entries.get("tokenizer.ggml.pre")
    if entry is None and pre is not None and pre.value == "kimi-k2":
        return
    if entry is None or entry.item_type != STRING:
        raise InvalidGGUFError(key, "a gpt2 vocabulary needs its list of merges")
    if (entry.length or 0) > MAX_MERGES:
        raise InvalidGGUFError(key, f"has {entry.length} elements, the limit is {MAX_MERGES}")


def _check_first_bytes(tokens: list[bytes]) -> None:
    texts = [_rwkv_text(token) for token in tokens]
    single = {text for text in texts if len(text) == 1}
    for text in texts:
        if text and text[:1] not in single:
            raise InvalidGGUFError(
                TOKENS_KEY, f"the byte 0x{text[0]:02X} begins a token and is none itself; llama.cpp would never end"
            )


_ESCAPES = {ord("t"): 9, ord("n"): 10, ord("r"): 13}


def _rwkv_text(token: bytes) -> bytes:
    """What llama.cpp makes of the escapes of an RWKV token."""
    result = bytearray()
    rest: Iterable[int] = iter(token.split(b"\0", 1)[0])
    for byte in rest:
        if byte != ord("\\"):
            result.append(byte)
            continue
        kind = next(iter(rest), None)
        if kind == ord("x"):
            digits = [_rwkv_digit(digit) for _, digit in zip(range(2), rest, strict=False)]
            result += bytes([(digits[0] << 4) + digits[1] & 0xFF]) if len(digits) == 2 else b""
        elif kind is not None:
            result.append(_ESCAPES.get(kind, kind))
    return bytes(result)


def _rwkv_digit(byte: int) -> int:
    signed = byte - 256 if byte > 127 else byte
    return (signed - ord("a") + 10 if signed >= ord("a") else signed - ord("0")) & 0xFF


def _check_suffixes(tokens: list[bytes]) -> None:
    total = sum(len(token) ** 2 for token in tokens)
    if total > MAX_SUFFIX_BYTES:
        raise InvalidGGUFError(
            TOKENS_KEY, f"the suffixes of its tokens have {total} bytes, the limit is {MAX_SUFFIX_BYTES}"
        )


def check_charsmap(entry: Entry | None) -> None:
    """The normalization table of a t5 vocabulary: every step that a prompt can make stays inside it.

    Raises InvalidGGUFError.
    """
    if entry is None:
        return
    if entry.item_type not in (INT8, UINT8):
        raise InvalidGGUFError(CHARSMAP_KEY, "must be an array of bytes")
    blob = entry.raw or b""
    size = int.from_bytes(blob[:4], "little")
    if len(blob) < 4 or size + 4 >= len(blob):
        raise InvalidGGUFError(CHARSMAP_KEY, f"its table of {size} bytes does not fit its {len(blob)} bytes")
    texts = blob[4 + size :]
    if texts[-1:] != b"\0":
        raise InvalidGGUFError(CHARSMAP_KEY, "its last replacement does not end")
    units = array.array("I", blob[4 : 4 + size // 4 * 4])
    if sys.byteorder == "big":
        units.byteswap()
    if units:
        _walk(units, len(texts))


def _walk(units: array.array[int], texts: int) -> None:
    """Visit every node of the double array; the child of a node with base b for the byte c is the unit b ^ c."""
    children: dict[int, list[int]] = {}
    for index, unit in enumerate(units):
        if not unit >> 31 and unit & 0xFF:
            children.setdefault(index ^ unit & 0xFF, []).append(index)
    todo = [_base(units[0])]
    seen = set(todo)
    while todo:
        base = todo.pop()
        if base | 0xFF >= len(units):
            raise InvalidGGUFError(CHARSMAP_KEY, f"it points at unit {base | 0xFF} of {len(units)}")
        for index in children.get(base, ()):
            target = index ^ _base(units[index])
            if units[index] >> 8 & 1:
                _check_leaf(units, target, texts)
            if target not in seen:
                seen.add(target)
                todo.append(target)


def _base(unit: int) -> int:
    return (unit >> 10) << ((unit & 1 << 9) >> 6) & 0xFFFFFFFF


def _check_leaf(units: array.array[int], target: int, texts: int) -> None:
    if target >= len(units) or units[target] & 0x7FFFFFFF >= texts:
        raise InvalidGGUFError(CHARSMAP_KEY, f"its unit {target} points behind its {texts} bytes of replacements")


def _check_special(entries: dict[str, Entry], model: str, count: int) -> None:
    """The ids exist, and the tokens that every prompt gets (llama.cpp aborts on a missing one) are there."""
    for name in ("bos", "eos"):
        number(entries, f"tokenizer.ggml.{name}_token_id", 0, count - 1)
    for key, entry in entries.items():
        if key.startswith("tokenizer.ggml.") and key.endswith("_token_id") and entry.value_type != UINT32:
            raise InvalidGGUFError(key, "must be an unsigned 32-bit number")
    defaults = TOKENIZERS[model]
    pre = entries.get("tokenizer.ggml.pre")
    always = _always(entries, model, defaults, pre.value if pre is not None else None)
    for name, key in always:
        _require_id(entries, key, defaults.ids.get(name), count, pre)


def _always(entries: dict[str, Entry], model: str, defaults: TokenizerDefaults, pre: object) -> list[tuple[str, str]]:
    begins = _flag(entries, "add_bos_token", defaults.begins or (model in BPE_MODELS and pre in BPE_STARTS))
    ends = _flag(entries, "add_eos_token", defaults.ends)
    result = []
    if model == "bert" or model == "gemma4" or (model in BPE_MODELS and pre in _GEMMA4) or begins:
        result.append(("bos", "tokenizer.ggml.bos_token_id"))
    if ends and model != "bert":
        result.append(("eos", "tokenizer.ggml.eos_token_id"))
    if model == "bert":
        result.append(("sep", "tokenizer.ggml.seperator_token_id"))
    return result if defaults.added else []


def _flag(entries: dict[str, Entry], name: str, default: bool) -> bool:
    entry = entries.get(f"tokenizer.ggml.{name}")
    if entry is None:
        return default
    if entry.value_type != BOOL:
        raise InvalidGGUFError(f"tokenizer.ggml.{name}", "must be true or false")
    return bool(entry.value)


def _require_id(entries: dict[str, Entry], key: str, default: int | None, count: int, pre: Entry | None) -> None:
    entry = entries.get(key)
    if entry is not None and isinstance(entry.value, int) and entry.value < count:
        return
    hidden = pre is not None and pre.value in ("chatglm-bpe", "glm4", "glm5") and key.endswith("bos_token_id")
    if default is None or default >= count or hidden:
        raise InvalidGGUFError(key, "is missing, and every prompt gets this token; llama.cpp aborts on that")
