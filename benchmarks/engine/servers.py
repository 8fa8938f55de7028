"""Paddock's runner and its peers with the same model, slots and context. Used by `benchmarks.engine.run`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import Child, Context, wait_http

from interop.build import ensure
from interop.stock import free_port, serving

OURS, DEFAULT, BEST = "Paddock", "llama-server", "llama-server, best"
OLLAMA, TUNED = "Ollama", "Ollama, tuned"


@dataclass(frozen=True)
class Shape:
    """What all servers of one comparison are given: parallel requests, and the tokens that each may have."""

    slots: int
    context: int


@contextlib.contextmanager
def llama_server(context: Context, shape: Shape, flags: tuple[str, ...]) -> Iterator[str]:
    port = free_port()
    cells = str(shape.slots * shape.context)
    command = [str(context.llama / "llama-server"), "-m", str(context.gguf), "--host", "127.0.0.1", "--port", str(port)]
    child = Child([*command, "-np", str(shape.slots), "-c", cells, "-kvu", *flags], events=False)
    try:
        wait_http(f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}"
    finally:
        child.stop()


@contextlib.contextmanager
def ollama(context: Context, shape: Shape, tuned: bool, folder: Path) -> Iterator[str]:
    """A stock server with the model as `smollm2`; `tuned`: as many parallel requests as the others have."""
    more = {"OLLAMA_CONTEXT_LENGTH": str(shape.context), "OLLAMA_KEEP_ALIVE": "-1"}
    more |= {"OLLAMA_NUM_PARALLEL": str(shape.slots), "OLLAMA_FLASH_ATTENTION": "1"} if tuned else {}
    with serving(ensure(), folder / "home", folder / "models", **more) as stock:
        blob = stock.add_blob(context.gguf)
        stock.stream("/api/create", {"model": "smollm2", "files": {context.gguf.name: blob}})
        yield stock.url


@contextlib.contextmanager
def all_of(context: Context, shape: Shape, names: tuple[str, ...], best: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """Start the named servers; yields their URLs. `best` are llama-server's flags where it is at its best."""
    with contextlib.ExitStack() as stack:
        urls = dict[str, str]()
        for name in names:
            if name == OURS:
                urls[name] = stack.enter_context(context.serving(slots=shape.slots, context=shape.context))
            elif name in (DEFAULT, BEST):
                flags = best if name == BEST else ()
                urls[name] = stack.enter_context(llama_server(context, shape, flags))
            else:
                folder = context.home / name.replace(", ", "-")
                urls[name] = stack.enter_context(ollama(context, shape, name == TUNED, folder))
        yield urls
