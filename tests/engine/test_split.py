"""A split model in the real engine: the same answers as the whole file gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.engine.conftest import make_record, make_request
from tests.support.gguf_maker import make_gguf

from paddock_runner.core.generation import Delta
from paddock_runner.core.modelfile import parse_modelfile
from paddock_runner.core.names import ModelName
from paddock_runner.engine.backend import BackendError
from paddock_runner.engine.client import EngineClient
from paddock_runner.engine.llama import LlamaBackend
from paddock_runner.engine.llama_log import LogCapture
from paddock_runner.store.create import create
from paddock_runner.store.model import ModelFiles, load_model
from paddock_runner.store.store import Store


def stored(folder: Path, gguf: Path) -> ModelFiles:
    """The model as a runner gets it: blobs without telling names."""
    store = Store(folder / "models")
    modelfile = parse_modelfile(f"FROM {gguf}")
    return load_model(store, create(store, ModelName("tiny"), modelfile, folder))


async def greedy(model: Path | tuple[Path, ...]) -> list[int]:
    client = EngineClient(model, make_record())
    try:
        await client.load()
        events = [event async for event in client.generate(make_request("the colour of the sky", max_tokens=24))]
    finally:
        await client.close()
    return [token for event in events if isinstance(event, Delta) for token in event.tokens]


async def test_a_split_model_says_what_the_whole_one_says(tmp_path: Path, tiny_model: Path) -> None:
    parts = stored(tmp_path, make_gguf(tmp_path / "tiny.gguf", split_tensors=4)).split_paths
    assert len(parts) == 3
    told = await greedy(parts)
    assert len(told) == 24
    assert told == await greedy(tiny_model)


def test_parts_in_the_wrong_order_do_not_load(tmp_path: Path) -> None:
    parts = stored(tmp_path, make_gguf(tmp_path / "tiny.gguf", split_tensors=4)).split_paths
    for wrong in (parts[:2], (parts[1], parts[0], parts[2])):
        with pytest.raises(BackendError, match="does not load"):
            LlamaBackend(wrong, LogCapture("critical"))
