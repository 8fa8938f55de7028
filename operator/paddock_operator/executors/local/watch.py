"""Keep the last good version of every declared object while files change under it.

Called by `up` at start and every half second. Each poll re-reads the files that may have changed (symlink swaps, as
ConfigMaps make them, change the inode that the path leads to) and answers with the whole desired state, never a
difference. An invalid edit is reported once and what was good before stays, object by object.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paddock_operator.core.resources import Ref
from paddock_operator.executors.local import files
from paddock_operator.executors.local.yamlread import Document, ManifestError, parse

POLL_SECONDS = 0.5
_SETTLED_NS = 2_000_000_000
"""A file younger than this is read again although its stat is unchanged: a clock tick can hide an edit."""


Check = Callable[[dict[str, Any]], Sequence[str]]
"""Problems of one document, each one line; empty when it is good."""


@dataclass(frozen=True, slots=True)
class Desired:
    """All good objects in order, and the problems found since the last poll."""

    objects: dict[Ref, Document]
    problems: tuple[str, ...]
    changed: bool


@dataclass(slots=True)
class _File:
    stat: tuple[int, ...] = ()
    fingerprint: str = ""
    absences: int = 0
    objects: dict[Ref, Document] = field(default_factory=dict)


def identity(document: dict[str, Any]) -> Ref | None:
    """Kind, namespace (default `default`) and name of a document, None when they are not all strings."""
    metadata = document.get("metadata")
    if not isinstance(metadata, dict):
        return None
    kind, namespace, name = document.get("kind"), metadata.get("namespace") or "default", metadata.get("name")
    if not (isinstance(kind, str) and isinstance(namespace, str) and isinstance(name, str)):
        return None
    return Ref(kind, namespace, name) if kind and name else None


class Watcher:
    """The last good state of the manifests under `paths`; `stdin` is a file that never changes."""

    def __init__(self, paths: Sequence[str], check: Check, stdin: files.Text | None = None) -> None:
        self._paths = [path for path in paths if path != "-"]
        self._check = check
        self._stdin = stdin
        self._files: dict[str, _File] = {}
        self._clashes: set[str] = set()
        self._last: dict[Ref, Document] = {}

    def poll(self) -> Desired:
        """Read what changed and give the whole desired state."""
        problems: list[str] = []
        try:
            present = files.expand(self._paths)
        except (ManifestError, OSError) as error:
            return Desired(self._last, (str(error),), False)
        for path in present:
            self._refresh(path, problems)
        order = [str(path) for path in present]
        if self._stdin is not None:
            self._take(self._stdin, problems)
            order.insert(0, self._stdin.source)
        order += [source for source in self._files if source not in order and not self._gone(source)]
        self._files = {source: self._files[source] for source in order}
        objects = self._merge(problems)
        changed = objects != self._last or list(objects) != list(self._last)
        self._last = objects
        return Desired(objects, tuple(problems), changed)

    def _refresh(self, path: Path, problems: list[str]) -> None:
        known = self._files.get(str(path))
        now = _signature(path)
        if known is not None and not now and known.objects:
            if self._gone(str(path)):
                self._files[str(path)] = _File()
            return
        if known is not None and now and now == known.stat and _settled(now):
            return
        self._take(files.read(path), problems)
        self._files[str(path)].stat = now

    def _gone(self, source: str) -> bool:
        """Absent twice in a row: some editors remove a file for an instant when they save it."""
        file = self._files[source]
        file.absences += 1
        return file.absences > 1

    def _take(self, text: files.Text, problems: list[str]) -> None:
        file = self._files.setdefault(text.source, _File())
        file.absences = 0
        if text.fingerprint == file.fingerprint:
            return
        file.fingerprint = text.fingerprint
        if text.content is None:
            problems.append(f"{text.source}: {text.problem}")
            return
        try:
            documents = parse(text.content, text.source)
        except ManifestError as error:
            problems.append(str(error))
            return
        file.objects = self._accept(documents, file.objects, problems)

    def _accept(
        self, documents: tuple[Document, ...], before: dict[Ref, Document], problems: list[str]
    ) -> dict[Ref, Document]:
        """The file's new objects: a bad document keeps the version before it; one without a name keeps all of them."""
        after: dict[Ref, Document] = {}
        nameless = False
        for document in documents:
            key = identity(document.body)
            faults = [f"{document.place}: {fault}" for fault in self._check(document.body)]
            if key is not None and key in after:
                faults = [f"{document.place}: {key} is declared twice, first at {after[key].place}"]
            problems.extend(faults)
            nameless = nameless or key is None
            if key is not None and key not in after and (not faults or key in before):
                after[key] = before[key] if faults else document
        return {**before, **after} if nameless else after

    def _merge(self, problems: list[str]) -> dict[Ref, Document]:
        objects: dict[Ref, Document] = {}
        clashes: set[str] = set()
        for file in self._files.values():
            for key, document in file.objects.items():
                first = objects.setdefault(key, document)
                if first is not document:
                    clashes.add(f"{document.place}: {key} is declared twice, first at {first.place}")
        problems.extend(sorted(clashes - self._clashes))
        self._clashes = clashes
        return objects


def _signature(path: Path) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _settled(signature: tuple[int, ...]) -> bool:
    return time.time_ns() - max(signature[3], signature[4]) > _SETTLED_NS
