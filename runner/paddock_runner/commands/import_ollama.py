"""`paddock-runner import-ollama`: the models of another model folder, such as Ollama's, without copying their bytes.

Called by `paddock_runner.__main__`. Blobs are hard-linked (across volumes cloned or copied) and hashed once; the other
folder is only read. JSON lines on stdout. Exit codes: 0 all came over, 1 some did not (each is told), 2 bad usage.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from paddock_runner import logs
from paddock_runner.commands.events import say
from paddock_runner.core.collection import MADE_HOSTS, require_foreign
from paddock_runner.core.manifest import Layer
from paddock_runner.core.names import InvalidNameError, ModelName
from paddock_runner.parent import die_with_parent
from paddock_runner.store.blobs import Progress
from paddock_runner.store.errors import CacheUnusableError, NotFoundError, StoreError, from_os_error
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.place import How, place
from paddock_runner.store.split import check_part
from paddock_runner.store.store import Store
from paddock_runner.store.usage import every_manifest

EXIT_FAILED = 1
_GGUF_KINDS = ("model", "projector", "adapter")
_TOLD_BYTES = 64 << 20


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    die_with_parent()
    logs.setup("importer")
    try:
        source = Store(arguments.source.resolve(), read_only=True)
        return import_models(Store(arguments.models), source, arguments.names)
    except (StoreError, OSError) as failure:
        say(_failure(_typed(failure, arguments.models), None))
    except InvalidNameError as error:
        say({"error": str(error), "reason": "InvalidName"})
    return EXIT_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="paddock-runner import-ollama", description="Take over models of another model folder; nothing is copied."
    )
    parser.add_argument("--models", type=Path, required=True, metavar="DIR", help="the model folder to import into")
    parser.add_argument("source", type=Path, metavar="SOURCE_DIR", help="the other model folder, e.g. ~/.ollama/models")
    parser.add_argument("names", nargs="*", metavar="NAME", help="these models only")
    return parser


def import_models(store: Store, source: Store, names: Sequence[str]) -> int:
    """Import the named models, or all; prints what became of each and returns the exit code.

    Raises NotFoundError if the other folder is none, CacheUnusableError if it is the same, InvalidNameError.
    """
    if not (source.path / "manifests").is_dir():
        raise NotFoundError(f"{source.path} is not a model folder: it has no manifests/")
    if store.path.exists() and source.path.samefile(store.path):
        raise CacheUnusableError(f"{source.path} is the model folder itself")
    done: Counter[str] = Counter()
    for item in _chosen(source, names):
        try:
            done.update(_import(store, source, item))
        except (StoreError, OSError) as failure:
            say(_failure(_typed(failure, source.path), item if isinstance(item, ModelName) else item.name))
            done["failed"] += 1
    say({"status": "success" if not done["failed"] else "incomplete", **{key: done[key] for key in _COUNTED}})
    return EXIT_FAILED if done["failed"] else 0


_COUNTED = ("imported", "failed", "linked", "cloned", "copied", "held")


def _typed(error: StoreError | OSError, folder: Path) -> StoreError:
    return error if isinstance(error, StoreError) else from_os_error(error, "importing", folder)


def _failure(error: StoreError, name: ModelName | None) -> dict[str, Any]:
    return {"error": str(error), "reason": error.reason} | ({"name": str(name)} if name is not None else {})


def _chosen(source: Store, names: Sequence[str]) -> Iterator[StoredManifest | ModelName]:
    """Manifests, and the bare name of each that cannot be read or is not there."""
    if not names:
        yield from (item for item in every_manifest(source) if _name_of(item).host.lower() not in MADE_HOSTS)
        return
    for name in [require_foreign(ModelName.parse(text), MADE_HOSTS) for text in names]:
        try:
            yield source.manifest(name)
        except StoreError:
            yield name


def _name_of(item: StoredManifest | ModelName) -> ModelName:
    return item if isinstance(item, ModelName) else item.name


def _import(store: Store, source: Store, item: StoredManifest | ModelName) -> Mapping[str, int]:
    stored = source.manifest(item) if isinstance(item, ModelName) else item
    bytes_by_way: Counter[str] = Counter()
    with store.writing():
        for layer in stored.manifest.blobs:
            how, size = _blob(store, source, layer)
            bytes_by_way[how] += size
        store.write_manifest(stored.name, stored.data)
    say({"status": "imported", "name": str(stored.name), "digest": stored.digest.hex, "size": stored.manifest.size,
         **bytes_by_way})  # fmt: skip
    return {"imported": 1, **bytes_by_way}


def _blob(store: Store, source: Store, layer: Layer) -> tuple[How, int]:
    check = check_part if layer.kind in _GGUF_KINDS else None
    placed = place(store, source.blob_path(layer.digest), layer.digest, "Link", check, _telling(layer))
    if placed.size != layer.size:
        raise CacheUnusableError(f"the manifest says that {layer.digest} has {layer.size} bytes, it has {placed.size}")
    return placed.how, placed.size


def _telling(layer: Layer) -> Progress:
    told = 0

    def tell(done: int, total: int) -> None:
        nonlocal told
        if done - told >= _TOLD_BYTES:
            told = done
            say({"status": f"verifying {layer.digest}", "completed": done, "total": total})

    return tell
