"""`paddock-runner estimate`: how much memory a model takes with given load-time numbers, before its bytes are here.

Called by `paddock_runner.__main__`, which `paddock fit` and `paddock show --memory` start as a child. Reads headers
only: of a model in the cache, or of a source's files over ranges. The output is described in docs/memory.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paddock_runner import logs
from paddock_runner.commands.events import printable, read_input
from paddock_runner.core.engine_record import MAX_SEQUENCES, EngineRecord, EngineRecordError
from paddock_runner.core.manifest import InvalidManifestError, strict_json
from paddock_runner.core.memory import estimate
from paddock_runner.core.memory_facts import memory_facts, parts_of
from paddock_runner.core.memory_split import split
from paddock_runner.core.names import InvalidNameError, ModelName
from paddock_runner.parent import die_with_parent
from paddock_runner.sources.errors import SourceUnsupportedError
from paddock_runner.sources.network import Network
from paddock_runner.sources.plan import FetchPlan, Local, PlannedFile, Remote
from paddock_runner.sources.remote_header import read_remote_header
from paddock_runner.sources.select import source_for
from paddock_runner.sources.transport import Transport
from paddock_runner.store.errors import InvalidGGUFError, StoreError, from_os_error
from paddock_runner.store.gguf import GGUFHeader, read_gguf
from paddock_runner.store.model import model_paths
from paddock_runner.store.split import join_headers, read_parts
from paddock_runner.store.store import Store

EXIT_FAILED = 1
MAX_REQUEST_BYTES = 1 << 20
DEFAULT_CONTEXT = 4096
DEFAULT_SLOTS = 4
DEFAULT_BATCH = 512
RETAINED = 16
VECTOR_CONTEXT = 2048
VECTOR_SLOTS = 32


class _InvalidOptionError(ValueError):
    """Options that do not fit together."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What an estimate is made from: a header, and bytes of the files that are loaded beside it."""

    name: str
    header: GGUFHeader
    adapters: int
    projector: int


def main(argv: Sequence[str]) -> int:
    """Run the command; returns 0, or 1 after printing `{"error","reason"}`."""
    arguments = _parser().parse_args(argv)
    die_with_parent()
    logs.setup("estimate")
    try:
        measured = _cached(arguments) if arguments.source is None else asyncio.run(_remote(arguments))
        print_line(answer(measured, arguments))
    except StoreError as error:
        return _fail(str(error), error.reason)
    except OSError as error:
        typed = from_os_error(error, "using", arguments.models or Path("-"))
        return _fail(str(typed), typed.reason)
    except InvalidNameError as error:
        return _fail(str(error), "InvalidName")
    except (EngineRecordError, _InvalidOptionError) as error:
        return _fail(str(error), "InvalidOption")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="paddock-runner estimate", description="Say how much memory a model needs, from its header alone."
    )
    parser.add_argument("name", nargs="?", help="a model of the cache")
    parser.add_argument("--models", type=Path, metavar="DIR", help="the model folder")
    parser.add_argument(
        "--source", metavar="FILE|-", help="instead of NAME: a pull request, whose files are not fetched"
    )
    parser.add_argument("--credentials", type=Path, metavar="DIR", help="a mounted Secret for the source's registry")
    parser.add_argument("--context", type=int, metavar="N", help="tokens of each sequence; default: up to 4096")
    parser.add_argument("--slots", type=int, metavar="N", help="sequences at once; default 4, 32 for vectors")
    parser.add_argument(
        "--cells", type=int, metavar="N", help="tokens of the cache; default: context × slots, context for vectors"
    )
    parser.add_argument("--batch", type=int, metavar="N", help="tokens of a step; default 512, context for vectors")
    parser.add_argument(
        "--kv-type", default="f16", metavar="TYPE", help="of keys and values: f16, q8_0, q4_0 and so on"
    )
    parser.add_argument("--flash-attention", choices=["auto", "on", "off"], default="auto")
    parser.add_argument("--gpu-layers", type=int, default=-1, metavar="N", help="layers on GPUs, -1 for all")
    parser.add_argument(
        "--gpus", default="", metavar="A,B", help="how the layers are shared out, e.g. 24,24 (GB of memory of each)"
    )
    return parser


def _cached(arguments: argparse.Namespace) -> Measured:
    if arguments.models is None or arguments.name is None:
        raise _InvalidOptionError("give --models DIR and NAME, or --source FILE")
    store = Store(arguments.models)
    stored = store.manifest(ModelName.parse(arguments.name))
    header = read_parts(model_paths(store, stored))
    sizes = {kind: sum(item.size for item in stored.manifest.of_kind(kind)) for kind in ("adapter", "projector")}
    return Measured(str(stored.name), header, sizes["adapter"], sizes["projector"])


async def _remote(arguments: argparse.Namespace) -> Measured:
    """Plan as a pull does, then read the headers of what it would fetch."""
    if arguments.name is not None:
        raise _InvalidOptionError("give NAME or --source, not both")
    source = source_for(_request(arguments.source).get("source"), arguments.credentials)
    async with Transport(Network.from_environment(), source.access) as transport:
        plan = await source.plan(transport)
        headers = [await _header(file, transport) for file in plan.files if file.kind == "model"]
    if not headers:
        raise InvalidGGUFError("the source", "names no model file")
    return Measured(str(plan.name), join_headers(headers), _bytes(plan, "adapter"), _bytes(plan, "projector"))


def _request(where: str) -> Mapping[str, Any]:
    try:
        found = strict_json(read_input(where, MAX_REQUEST_BYTES), MAX_REQUEST_BYTES)
    except (OSError, InvalidManifestError) as error:
        raise SourceUnsupportedError(f"the request: {error}") from None
    if not isinstance(found, dict):
        raise SourceUnsupportedError("the request must be a JSON object with source")
    return found


async def _header(file: PlannedFile, transport: Transport) -> GGUFHeader:
    if isinstance(file.where, Remote):
        return await read_remote_header(file.where.url, file.size, transport)
    if isinstance(file.where, Local):
        return await asyncio.to_thread(read_gguf, file.where.path, part=True)
    raise InvalidGGUFError(file.name, "is part of the plan itself, not a model")


def _bytes(plan: FetchPlan, kind: str) -> int:
    return sum(file.size or 0 for file in plan.files if file.kind == kind)


def answer(measured: Measured, arguments: argparse.Namespace) -> dict[str, Any]:
    """The line of the contract. Raises EngineRecordError, InvalidGGUFError (an adapter or projector)."""
    header = measured.header
    if header.kind != "model":
        raise InvalidGGUFError("general.type", f"a model is needed, this is an {header.kind}")
    facts, record = memory_facts(header), _record(arguments, header)
    found = estimate(facts, header.vocab_size, record, adapters=measured.adapters, projector=measured.projector)
    try:
        shares = [float(share) for share in arguments.gpus.split(",") if share]
        gpus = split(parts_of(header), facts, header.vocab_size, record, shares)
    except ValueError as error:
        raise _InvalidOptionError(f"--gpus: {error}") from None
    known = {"architecture": header.architecture, "contextLength": header.own("context_length") or 0}
    return {
        "name": measured.name,
        **asdict(found),
        "total": found.total,
        "perGpu": gpus,
        "engine": {"context": record.context_length, "slots": record.slots, "cells": record.cells},
        "facts": {**known, "vocabSize": header.vocab_size, "adapters": measured.adapters, "memory": facts},
    }


def _record(arguments: argparse.Namespace, header: GGUFHeader) -> EngineRecord:
    """With the planner's defaults of spec.serving.mode Embed for a file that pools, else of Generate."""
    vectors = header.pooling_type is not None
    default = VECTOR_CONTEXT if vectors else DEFAULT_CONTEXT
    trained = header.own("context_length") or default
    context = arguments.context if arguments.context is not None else min(trained, default)
    slots = _given(arguments.slots, VECTOR_SLOTS if vectors else DEFAULT_SLOTS)
    batch = _given(arguments.batch, max(context, slots) if vectors else DEFAULT_BATCH)
    return EngineRecord.from_config({
        "mode": "embed" if vectors else "generate", "contextLength": context, "slots": slots,
        "sequences": min(slots + (0 if vectors else RETAINED), batch, MAX_SEQUENCES),
        "batch": batch, "prefixBytes": 0,
        "cells": _given(arguments.cells, context if vectors else context * slots),
        "typeK": arguments.kv_type, "typeV": arguments.kv_type, "flashAttention": arguments.flash_attention,
        "mmap": True, "mlock": False, "gpuLayers": arguments.gpu_layers, "threads": 0,
    })  # fmt: skip


def _given(value: int | None, default: int) -> int:
    return default if value is None else value


def print_line(value: Mapping[str, Any]) -> None:
    """One line of JSON on stdout."""
    sys.stdout.write(printable(json.dumps(value, ensure_ascii=False)) + "\n")
    sys.stdout.flush()


def _fail(message: str, reason: str) -> int:
    print_line({"error": message, "reason": reason})
    return EXIT_FAILED
