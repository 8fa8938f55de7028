"""The load-time numbers of an engine and the memory that they take.

Called by `plan_model` and `plan_serve`. The engine has no defaults of its own: the record made here is the `engine`
object of the serve configuration, and the estimate reads the same record. `memory_parts` has the formulas; a rough one
is here for models that were pulled before a pull told what they need.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paddock_operator.core.memory_parts import CACHE_BYTES, PROCESS_BYTES, TOKEN_BYTES, checked_facts, estimate_parts
from paddock_operator.core.model_spec import KVCache, ModelSpec, Parameters, Serving
from paddock_operator.core.quantity import whole

DEFAULT_CONTEXT = 4096
DEFAULT_SLOTS = 4
DEFAULT_BATCH = 512
VECTOR_CONTEXT = 2048
"""The default for embedding models: llama.cpp keeps a row of logits for every token of a text that is never cut."""
VECTOR_SLOTS = 32
"""Texts of one step: as many short ones as fill it."""
DEFAULT_CACHE_TYPE = "f16"
RETAINED = 16
"""So many prefixes of finished requests stay in the cache for later ones; each is an id beside those of the slots."""
PREFIX_BYTES = 256 * 1024 * 1024
"""For prefixes that had to leave the cache: copying them back is a hundred times faster than reading them anew."""
MAX_SEQUENCES = 256
"""LLAMA_MAX_SEQ"""
MAX_CELLS = 4194304
"""Above this llama.cpp's 32-bit positions are in danger; the runner refuses it as well."""
MAX_BATCH = 65536
FLASH_ATTENTION = {"Auto": "auto", "Enabled": "on", "Disabled": "off"}


def engine_record(spec: ModelSpec, trained_context: int) -> dict[str, Any]:
    """The `engine` object of the serve configuration. `trained_context`: tokens in training, 0 if unknown."""
    serving, parameters = spec.serving or Serving(), spec.parameters or Parameters()
    cache = serving.kv_cache or KVCache()
    generates = serving.mode in (None, "Generate")
    slots = serving.slots or (DEFAULT_SLOTS if generates else VECTOR_SLOTS)
    context = _context(serving, parameters, trained_context, DEFAULT_CONTEXT if generates else VECTOR_CONTEXT)
    # A text that is not cut must fit into one step; texts that are share the cells of one.
    batch = min(max(parameters.num_batch or (DEFAULT_BATCH if generates else context), slots), MAX_BATCH)
    cells = context * slots if generates else context
    return {
        "mode": (serving.mode or "Generate").lower(),
        "contextLength": context,
        "slots": slots,
        "cells": (cache.cells and max(cache.cells, context)) or min(cells, MAX_CELLS),
        "sequences": min(slots + (RETAINED if generates else 0), batch, MAX_SEQUENCES),
        "batch": batch,
        "prefixBytes": PREFIX_BYTES if generates else 0,
        "typeK": cache.type_k or DEFAULT_CACHE_TYPE,
        "typeV": cache.type_v or DEFAULT_CACHE_TYPE,
        "flashAttention": FLASH_ATTENTION[serving.flash_attention or "Auto"],
        "mmap": parameters.use_mmap is not False,
        "mlock": bool(parameters.use_mlock),
        "gpuLayers": 0,
        "threads": _threads(spec, parameters),
    }


def _context(serving: Serving, parameters: Parameters, trained: int, default: int) -> int:
    wanted = serving.context_length or parameters.num_ctx
    if wanted:
        return min(wanted, MAX_CELLS)
    return min(trained, default) if trained > 0 else default


def _threads(spec: ModelSpec, parameters: Parameters) -> int:
    if parameters.num_thread:
        return parameters.num_thread
    cpu = spec.resources.cpu if spec.resources else None
    return whole(cpu) if cpu else 0


def estimate(engine: Mapping[str, Any], details: Mapping[str, Any], weights: int, others: int = 0) -> dict[str, int]:
    """Bytes of memory for a status: weights, kv, compute, total.

    `weights`: bytes of the model's files, for details that do not tell them; `others`: of adapters and projectors.
    """
    facts, vocab = checked_facts(details.get("memory")), _fact(details, "vocabSize")
    if not facts:
        return _rough(engine, details, weights, others)
    found = estimate_parts(engine, facts, vocab)
    return {
        "weights": found.weights + others,
        "kv": found.kv + found.state,
        "compute": found.compute + found.output,
        "total": found.total + others,
    }


def _rough(engine: Mapping[str, Any], details: Mapping[str, Any], weights: int, others: int) -> dict[str, int]:
    """For a plain decoder; facts that `details` lacks count as zero."""
    heads = _fact(details, "headCountKV") or _fact(details, "headCount")
    vocab, width = _fact(details, "vocabSize"), _fact(details, "embeddingLength")
    head_length = width // max(_fact(details, "headCount"), 1)
    key = (_fact(details, "keyLength") or head_length) * CACHE_BYTES[engine["typeK"]]
    value = (_fact(details, "valueLength") or head_length) * CACHE_BYTES[engine["typeV"]]
    kv = int(engine["cells"] * _fact(details, "blockCount") * heads * (key + value))
    activations = engine["batch"] * 4 * (vocab + 2 * width)
    scores = engine["batch"] * 4 * engine["cells"] * _fact(details, "headCount")
    compute = activations + engine["sequences"] * 4 * vocab + (scores if engine["flashAttention"] == "off" else 0)
    process = PROCESS_BYTES + TOKEN_BYTES * vocab + engine["prefixBytes"]
    loaded = weights + others
    return {"weights": loaded, "kv": kv, "compute": compute, "total": loaded + kv + compute + process}


def _fact(details: Mapping[str, Any], name: str) -> int:
    value = details.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
