"""Find and read the manifests that `paddock up -f PATH…` names: files, folders, `-` for standard input.

Called by `watch` (again and again) and by the composition root at start. Order is meaningful and deterministic: the
order of the arguments, inside a folder by file name, inside a file by position.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paddock_operator.executors.local.yamlread import ManifestError

SUFFIXES = (".yaml", ".yml", ".json")
MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_FILES = 1000
STDIN = "<stdin>"


@dataclass(frozen=True, slots=True)
class Text:
    """The bytes of one manifest file, or why they cannot be had. `fingerprint` changes exactly when they do."""

    source: str
    fingerprint: str
    content: str | None
    problem: str = ""


def expand(paths: Sequence[str]) -> list[Path]:
    """The manifest files under `paths` (no `-`), in order, each once; a folder is not searched below its first level.

    Raises ManifestError when a folder holds more than MAX_FILES manifests.
    """
    found: dict[str, Path] = {}
    for name in paths:
        for path in _under(Path(name)):
            found.setdefault(os.path.abspath(path), path)
    return list(found.values())


def _under(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    entries = sorted(entry for entry in path.iterdir() if entry.suffix in SUFFIXES and not entry.name.startswith("."))
    files = [entry for entry in entries if not entry.is_dir()]
    if len(files) > MAX_FILES:
        raise ManifestError(str(path), 0, f"{len(files)} manifests, the limit is {MAX_FILES}; split the folder")
    return files


def read(path: Path) -> Text:
    """The file's text. A file that cannot be read, is too large or is no UTF-8 comes back with `problem` set."""
    source = str(path)
    try:
        return _decode(source, _bytes(path))
    except OSError as error:
        return Text(source, f"error:{error.errno}", None, error.strerror or str(error))
    except ValueError as error:
        return Text(source, f"error:{error}", None, str(error))


def _bytes(path: Path) -> bytes:
    # O_NONBLOCK: a FIFO in a manifest folder must not hang the watcher.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a regular file")
        return bounded(file.read(MAX_FILE_BYTES + 1))


def bounded(data: bytes) -> bytes:
    """`data` itself. Raises ValueError when it is longer than MAX_FILE_BYTES."""
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"larger than {MAX_FILE_BYTES // (1024 * 1024)} MiB; split the file")
    return data


def _decode(source: str, data: bytes) -> Text:
    fingerprint = hashlib.sha256(data).hexdigest()
    try:
        return Text(source, fingerprint, data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return Text(source, fingerprint, None, f"not UTF-8 at line {line}")


def from_stdin(data: bytes) -> Text:
    """Standard input as a manifest file of its own. A problem (too large, no UTF-8) is in `problem`."""
    try:
        return _decode(STDIN, bounded(data))
    except ValueError as error:
        return Text(STDIN, "stdin", None, str(error))
