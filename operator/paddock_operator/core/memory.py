"""The load-time numbers of an engine and the memory that they take.

Called by `plan_model`. The engine has no defaults of its own: the record made here is the `engine` object of the serve
configuration, and the estimate reads the same record. The formulas follow what llama.cpp allocates (tests/plan compares
them with what it logs).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paddock_operator.core.model_spec import KVCache, ModelSpec, Parameters, Serving
from paddock_operator.core.quantity import whole

DEFAULT_CONTEXT = 4096
DEFAULT_SLOTS = 4
DEFAULT_BATCH = 512
DEFAULT_CACHE_TYPE = "f16"
MAX_CELLS = 4194304
"""Above this llama.cpp's 32-bit positions are in danger; the runner refuses it as well."""
MAX_BATCH = 65536
PROCESS_BYTES = 160 * 1024 * 1024
"""Front, engine and libraries without weights, cache and buffers: measured, rounded up."""
FLASH_ATTENTION = {"Auto": "auto", "Enabled": "on", "Disabled": "off"}
# bytes per element: blocks of 32 elements have a scale (and a minimum) besides the quants
CACHE_BYTES = {
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
}


def engine_record(spec: ModelSpec, trained_context: int) -> dict[str, Any]:
    """The `engine` object of the serve configuration. `trained_context`: tokens in training, 0 if unknown."""
    serving, parameters = spec.serving or Serving(), spec.parameters or Parameters()
    cache = serving.kv_cache or KVCache()
    slots = serving.slots or DEFAULT_SLOTS
    context = _context(serving, parameters, trained_context)
    return {
        "contextLength": context,
        "slots": slots,
        "cells": (cache.cells and max(cache.cells, context)) or min(context * slots, MAX_CELLS),
        "sequences": slots,
        "batch": min(max(parameters.num_batch or DEFAULT_BATCH, slots), MAX_BATCH),
        "typeK": cache.type_k or DEFAULT_CACHE_TYPE,
        "typeV": cache.type_v or DEFAULT_CACHE_TYPE,
        "flashAttention": FLASH_ATTENTION[serving.flash_attention or "Auto"],
        "mmap": parameters.use_mmap is not False,
        "mlock": bool(parameters.use_mlock),
        "gpuLayers": 0,
        "threads": _threads(spec, parameters),
    }


def _context(serving: Serving, parameters: Parameters, trained: int) -> int:
    wanted = serving.context_length or parameters.num_ctx
    if wanted:
        return min(wanted, MAX_CELLS)
    return min(trained, DEFAULT_CONTEXT) if trained > 0 else DEFAULT_CONTEXT


def _threads(spec: ModelSpec, parameters: Parameters) -> int:
    if parameters.num_thread:
        return parameters.num_thread
    cpu = spec.resources.cpu if spec.resources else None
    return whole(cpu) if cpu else 0


def estimate(engine: Mapping[str, Any], details: Mapping[str, Any], weights: int) -> dict[str, int]:
    """Bytes of memory: weights, kv, compute, total. Facts that `details` lacks count as zero."""
    kv = kv_bytes(engine, details)
    compute = compute_bytes(engine, details)
    return {"weights": weights, "kv": kv, "compute": compute, "total": weights + kv + compute + PROCESS_BYTES}


def kv_bytes(engine: Mapping[str, Any], details: Mapping[str, Any]) -> int:
    """Bytes of keys and values of all cells in all layers."""
    heads = _fact(details, "headCountKV") or _fact(details, "headCount")
    head_length = _fact(details, "embeddingLength") // max(_fact(details, "headCount"), 1)
    key = (_fact(details, "keyLength") or head_length) * CACHE_BYTES[engine["typeK"]]
    value = (_fact(details, "valueLength") or head_length) * CACHE_BYTES[engine["typeV"]]
    return int(engine["cells"] * _fact(details, "blockCount") * heads * (key + value))


def compute_bytes(engine: Mapping[str, Any], details: Mapping[str, Any]) -> int:
    """Bytes of the buffers of one step: logits and activations of a batch, the output rows, attention scores if any."""
    vocab, width = _fact(details, "vocabSize"), _fact(details, "embeddingLength")
    activations = engine["batch"] * 4 * (vocab + 2 * width)
    outputs = engine["sequences"] * 4 * vocab
    scores = engine["batch"] * 4 * engine["cells"] * _fact(details, "headCount")
    return int(activations + outputs + (scores if engine["flashAttention"] == "off" else 0))


def _fact(details: Mapping[str, Any], name: str) -> int:
    value = details.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
