"""`paddock-runner store`: create, list, show, rm, cp, du and verify on a model folder, with JSON on stdout.

Called by `paddock_runner.__main__`, which the `paddock` command starts as a child. Output and failures are described in
docs/reference/contracts.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paddock_runner import logs
from paddock_runner.commands.events import printable
from paddock_runner.commands.store_verify import verify_command
from paddock_runner.core.collection import require_foreign
from paddock_runner.core.digest import Digest
from paddock_runner.core.modelfile import MAX_MODELFILE_BYTES, Modelfile, ModelfileError, parse_modelfile
from paddock_runner.core.names import PIN_HOST, InvalidNameError, ModelName
from paddock_runner.core.quantization import CONVERTED_HOST, Conversion
from paddock_runner.parent import die_with_parent
from paddock_runner.store.create import create
from paddock_runner.store.errors import CacheUnusableError, StoreError, from_os_error
from paddock_runner.store.model import LayerProgress
from paddock_runner.store.show import facts, show, tags
from paddock_runner.store.store import Store
from paddock_runner.store.usage import usage

EXIT_FAILED = 1


def main(argv: Sequence[str]) -> int:
    """Run the command; returns 0, or 1 after printing `{"error","reason"}` or what is damaged."""
    arguments = _parser().parse_args(argv)
    die_with_parent()
    logs.setup("store")
    try:
        return int(arguments.run(Store(arguments.models), arguments) or 0)
    except StoreError as error:
        return _fail(str(error), error.reason)
    except OSError as error:
        typed = from_os_error(error, "using", arguments.models)
        return _fail(str(typed), typed.reason)
    except InvalidNameError as error:
        return _fail(str(error), "InvalidName")
    except ModelfileError as error:
        return _fail(str(error), "InvalidModelfile")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="paddock-runner store", description="Work on a model folder.")
    parser.add_argument("--models", type=Path, required=True, metavar="DIR", help="the model folder")
    verbs = parser.add_subparsers(required=True, metavar="create|list|show|rm|cp|du|verify")
    making = verbs.add_parser("create", help="make a model from a Modelfile")
    making.add_argument("name")
    making.add_argument("-f", "--file", type=Path, required=True, metavar="MODELFILE")
    making.add_argument("-q", "--quantize", metavar="TYPE", help="convert F32, F16 or BF16 weights to this type")
    making.set_defaults(run=_create)
    verbs.add_parser("list", help="all models").set_defaults(run=_list)
    showing = verbs.add_parser("show", help="one model")
    showing.add_argument("name")
    showing.add_argument("--verbose", action="store_true", help="also each blob, and what keeps the model")
    showing.set_defaults(run=_show)
    removing = verbs.add_parser("rm", help="remove names")
    removing.add_argument("names", nargs="+")
    removing.set_defaults(run=_remove)
    copying = verbs.add_parser("cp", help="give a model a second name")
    copying.add_argument("source")
    copying.add_argument("target")
    copying.set_defaults(run=_copy)
    verbs.add_parser("du", help="what the bytes are for").set_defaults(run=_usage)
    verifying = verbs.add_parser("verify", help="hash everything again; what is damaged is moved away")
    verifying.add_argument("names", nargs="*", help="these models only")
    verifying.add_argument("--repair", action="store_true", help="fetch again what is damaged or missing")
    verifying.set_defaults(run=_verify)
    return parser


def _print(value: Mapping[str, Any]) -> None:
    sys.stdout.write(printable(json.dumps(value, ensure_ascii=False)) + "\n")
    sys.stdout.flush()


def _fail(message: str, reason: str) -> int:
    _print({"error": message, "reason": reason})
    return EXIT_FAILED


def _name(text: str) -> ModelName:
    name = ModelName.parse(text)
    if name.host.lower() == PIN_HOST:
        raise InvalidNameError(f"model name: the host {PIN_HOST} is reserved")
    return name


def _create(store: Store, arguments: argparse.Namespace) -> None:
    name = require_foreign(_name(arguments.name))
    try:
        with arguments.file.open("rb") as stream:
            data = stream.read(MAX_MODELFILE_BYTES + 1)
    except OSError as error:
        raise ModelfileError(
            0, f"cannot read {arguments.file}: {error.strerror}; look at that file, then try again"
        ) from None
    modelfile = parse_modelfile(data)
    for warning in modelfile.warnings:
        _print({"status": f"warning: {warning}"})
    store.sweep()
    folder = arguments.file.resolve().parent
    if arguments.quantize is None:
        create(store, name, modelfile, folder, _print)
    else:
        _create_quantized(store, name, modelfile, folder, arguments.quantize)
    _print({"status": "success"})


def _create_quantized(store: Store, name: ModelName, modelfile: Modelfile, folder: Path, file_type: str) -> None:
    """Make the model under a hidden name, convert it, and give the result the name that was asked for."""
    # Here, since the other verbs of `store` need neither a network client nor an engine.
    from paddock_runner.commands.convert import conversion, convert

    # Judged before the first byte is copied.
    wanted = conversion(Digest.of(b""), file_type).type
    # Left behind by a kill, it is the collector's: no name that people wrote.
    hidden = ModelName(host=CONVERTED_HOST, namespace="create", model=secrets.token_hex(16))
    source = create(store, hidden, modelfile, folder, _print)
    asked = conversion(source.digest, wanted)
    try:
        converted = convert(store, asked, _quantizing(asked))
        with store.writing():
            store.require_blobs(converted.manifest.blobs)
            store.write_manifest(name, converted.data)
    finally:
        store.delete(hidden)


def _quantizing(asked: Conversion) -> LayerProgress:
    def tell(digest: Digest, completed: int, total: int) -> None:
        if digest == asked.source:
            _print({"status": f"quantizing to {asked.type}", "completed": completed, "total": total})

    return tell


def _list(store: Store, arguments: argparse.Namespace) -> None:
    _print(tags(store))


def _show(store: Store, arguments: argparse.Namespace) -> None:
    name = _name(arguments.name)
    _print(show(store, name) | (facts(store, name) if arguments.verbose else {}))


def _usage(store: Store, arguments: argparse.Namespace) -> None:
    _print(usage(store))


def _verify(store: Store, arguments: argparse.Namespace) -> int:
    return verify_command(store, [_name(text) for text in arguments.names], arguments.repair, _print)


def _unpin_last(store: Store, name: ModelName) -> None:
    """Who removes the last name of a digest wants its disk space back, also if a Model was served from it once."""
    with contextlib.suppress(CacheUnusableError):
        digest = store.manifest(name).digest
        if [item.digest for item in store.list()].count(digest) == 1:
            store.unpin(digest)


def _remove(store: Store, arguments: argparse.Namespace) -> None:
    names = [_name(text) for text in arguments.names]
    for name in names:
        _unpin_last(store, name)
        store.delete(name)
    _print({"deleted": [str(name) for name in names]})


def _copy(store: Store, arguments: argparse.Namespace) -> None:
    source, target = _name(arguments.source), require_foreign(_name(arguments.target))
    store.copy(source, target)
    _print({"copied": [str(source), str(target)]})
