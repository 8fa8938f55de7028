"""`paddock-runner export` and `import`: models of a folder as one tar file, for machines without a network.

Called by `paddock_runner.__main__`. The file is an OCI image layout. Output and failures are those of `commands.store`;
`export -o -` writes the bundle to stdout and what it has to say to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from paddock_runner import logs
from paddock_runner.commands.events import printable
from paddock_runner.core.digest import Digest
from paddock_runner.core.names import PIN_HOST, InvalidNameError, ModelName
from paddock_runner.parent import die_with_parent
from paddock_runner.store.bundle import export
from paddock_runner.store.bundle_import import import_
from paddock_runner.store.errors import CacheUnusableError, NotFoundError, StoreError, from_os_error
from paddock_runner.store.files import os_errors, sync_folder, temporary_name
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.model import LayerProgress
from paddock_runner.store.store import Store

EXIT_FAILED = 1
EXIT_TERMINATED = 128 + signal.SIGTERM
PROGRESS_SECONDS = 1.0
STANDARD = "-"

Say = Callable[[Mapping[str, Any]], None]


def export_main(argv: Sequence[str]) -> int:
    """Run `export`; returns 0, or 1 after printing `{"error","reason"}`."""
    parser = argparse.ArgumentParser(prog="paddock-runner export", description="Write models as one tar file.")
    parser.add_argument("--models", type=Path, required=True, metavar="DIR", help="the model folder")
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("-o", "--output", required=True, metavar="FILE.tar|-")
    arguments = parser.parse_args(argv)
    # The default action would leave half a file behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(EXIT_TERMINATED))
    say = _saying(sys.stderr if arguments.output == STANDARD else sys.stdout)
    return _run(lambda: _export(arguments, say), say, arguments.models)


def import_main(argv: Sequence[str]) -> int:
    """Run `import`; returns 0, or 1 after printing `{"error","reason"}`."""
    parser = argparse.ArgumentParser(prog="paddock-runner import", description="Bring the models of a bundle in.")
    parser.add_argument("--models", type=Path, required=True, metavar="DIR", help="the model folder")
    parser.add_argument("file", metavar="FILE.tar|-")
    arguments = parser.parse_args(argv)
    say = _saying(sys.stdout)
    return _run(lambda: _import(arguments, say), say, arguments.models)


def _saying(where: TextIO) -> Say:
    def say(event: Mapping[str, Any]) -> None:
        where.write(printable(json.dumps(event, ensure_ascii=False)) + "\n")
        where.flush()

    return say


def _run(work: Callable[[], None], say: Say, models: Path) -> int:
    die_with_parent()
    logs.setup("bundle")
    try:
        work()
    except StoreError as error:
        return _fail(say, str(error), error.reason)
    except OSError as error:
        typed = from_os_error(error, "using", models)
        return _fail(say, str(typed), typed.reason)
    except InvalidNameError as error:
        return _fail(say, str(error), "InvalidName")
    say({"status": "success"})
    return 0


def _fail(say: Say, message: str, reason: str) -> int:
    say({"error": message, "reason": reason})
    return EXIT_FAILED


def _telling(say: Say, verb: str) -> LayerProgress:
    """At most one line per second, and one for the end of each blob."""
    due = time.monotonic()

    def tell(digest: Digest, done: int, total: int) -> None:
        nonlocal due
        if time.monotonic() >= due or done == total:
            due = time.monotonic() + PROGRESS_SECONDS
            say({"status": f"{verb} {digest}", "digest": str(digest), "completed": done, "total": total})

    return tell


def _export(arguments: argparse.Namespace, say: Say) -> None:
    names = [_name(text) for text in arguments.names]
    store = Store(arguments.models)
    if arguments.output == STANDARD:
        with _other_side("writing", Path("standard output")):
            found = export(store, names, sys.stdout.buffer.write, _telling(say, "exporting"))
            sys.stdout.buffer.flush()
    else:
        with _whole_file(Path(arguments.output)) as output:
            found = export(store, names, output.write, _telling(say, "exporting"))
    _say_models(say, "exported", found)


def _import(arguments: argparse.Namespace, say: Say) -> None:
    store = Store(arguments.models)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_other_side("reading", Path(arguments.file)))
        stream: BinaryIO = sys.stdin.buffer
        if arguments.file != STANDARD:
            stream = stack.enter_context(open(arguments.file, "rb"))
        found = import_(store, stream, _telling(say, "importing"))
    _say_models(say, "imported", found)


def _say_models(say: Say, verb: str, models: Sequence[StoredManifest]) -> None:
    for stored in models:
        say({"status": f"{verb} {stored.name}", "name": stored.name.full, "digest": str(stored.digest)})


def _name(text: str) -> ModelName:
    name = ModelName.parse(text)
    if name.host.lower() == PIN_HOST:
        raise InvalidNameError(f"model name: the host {PIN_HOST} is reserved")
    return name


@contextlib.contextmanager
def _other_side(doing: str, path: Path) -> Iterator[None]:
    """OSErrors of the other side of the copy; those of the store are typed already."""
    try:
        yield
    except FileNotFoundError:
        raise NotFoundError(f"{path} does not exist") from None
    except OSError as error:
        raise from_os_error(error, doing, path) from error


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file that appears at `path` when the block ends well, on disk; nothing is left of it otherwise."""
    temporary = path.with_name(temporary_name(f".{path.name}."))
    with os_errors("writing", path):
        if path.exists() and not path.is_file():
            # A rename would put a file in the place of a device.
            raise CacheUnusableError(f"{path} is not a regular file; name another one, or - for standard output")
        try:
            with temporary.open("xb") as output:
                yield output
                output.flush()
                os.fsync(output.fileno())
            temporary.rename(path)
            sync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
