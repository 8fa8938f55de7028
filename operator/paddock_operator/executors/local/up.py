"""`paddock up`: the composition root of the local executor.

Called by the CLI. Owns the home, reads and watches the manifests, and keeps the controller told until a signal comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from paddock_operator.core.identity import secret_hash
from paddock_operator.core.resources import DEFAULT_NAMESPACE, Endpoint, KeyRecord, Ref, is_api_key, parse
from paddock_operator.executors.local import atomic, files, keys
from paddock_operator.executors.local.announce import Announcer
from paddock_operator.executors.local.context import Context
from paddock_operator.executors.local.controller import Controller
from paddock_operator.executors.local.credentials import PREFIX
from paddock_operator.executors.local.home import Home, HomeOwnedError, Ownership
from paddock_operator.executors.local.listen import Address, ListenError
from paddock_operator.executors.local.machine import memory
from paddock_operator.executors.local.manifests import checker
from paddock_operator.executors.local.ports import Ports
from paddock_operator.executors.local.report import JsonReporter, Reporter, TextReporter
from paddock_operator.executors.local.watch import POLL_SECONDS, Desired, Watcher
from paddock_operator.executors.local.yamlread import Document

STOPPED, FAILED, BAD_INPUT, OWNED, IN_USE, KILLED = 0, 1, 2, 3, 4, 130
DEFAULT_KEY = "default"
_LOCAL_KEY_ID = "paddock:up/local"
"""No namespace has a colon: a key of elsewhere, which opens every Endpoint (docs/decisions/0002-the-local-key.md)."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says. `paths` may hold `-` once; `check_seconds` is that of the Context."""

    paths: tuple[str, ...]
    listen: Address
    home: Home
    output: str = "text"
    check_seconds: float = 0.0


def run(options: Options) -> int:
    """Serve until a signal; the exit code (docs/reference/cli.md)."""
    reporter = _reporter(options.output)
    try:
        return _owned(options, reporter)
    except HomeOwnedError as error:
        reporter.error(str(error))
        return OWNED
    except OSError as error:
        reporter.error(f"{error.filename or options.home.root}: {error.strerror or error}")
        return FAILED
    finally:
        reporter.close()


def _reporter(output: str) -> Reporter:
    if output == "json":
        return JsonReporter()
    if not sys.stderr.isatty():
        return TextReporter()
    from paddock_operator.executors.local.terminal import TerminalReporter

    return TerminalReporter()


def _owned(options: Options, reporter: Reporter) -> int:
    options.home.prepare()
    ownership = Ownership.take(options.home)
    try:
        stdin = files.from_stdin(sys.stdin.buffer.read(files.MAX_FILE_BYTES + 1)) if "-" in options.paths else None
        watcher = Watcher(options.paths, checker(), stdin)
        first = watcher.poll()
        for problem in first.problems:
            reporter.error(problem)
        if first.problems:
            return BAD_INPUT
        return asyncio.run(_Up(options, reporter, ownership, watcher).serve(first))
    finally:
        ownership.release()


class _Up:
    """One run, between owning the home and giving it back."""

    def __init__(self, options: Options, reporter: Reporter, ownership: Ownership, watcher: Watcher) -> None:
        self._home = options.home
        self._reporter = reporter
        self._watcher = watcher
        self._ports = Ports(options.listen)
        self._signalled = asyncio.Event()
        self._killed = asyncio.Event()
        self._problems: set[str] = set()
        self._keys_seen: object = None
        self._cache_seen: object = None
        self._local = keys.new_secret()
        context = Context(self._home, reporter, memory(), check_seconds=options.check_seconds)
        announcer = Announcer(reporter, ownership.publish)
        self._controller = Controller(context, self._ports, _all_rights(self._local), announcer)

    async def serve(self, first: Desired) -> int:
        """Until signals end it; the exit code."""
        self._catch_signals()
        self._clean()
        try:
            self._bind_first(first.objects)
        except ListenError as error:
            self._reporter.error(str(error))
            return IN_USE if error.in_use else FAILED
        atomic.write(self._home.local_key, self._local.encode() + b"\n")
        try:
            await self._watch(first)
            return await self._stop()
        finally:
            self._clean()

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._signal)

    def _signal(self) -> None:
        if self._signalled.is_set():
            self._killed.set()
        else:
            self._signalled.set()
            self._reporter.stopping()

    def _clean(self) -> None:
        """Configurations may hold credentials: none stays behind, also none of a run that was killed."""
        stale = [*self._home.run.glob("model-*.json"), *self._home.run.glob("endpoint-*.json"), self._home.local_key]
        for path in stale:
            path.unlink(missing_ok=True)
        for folder in self._home.run.glob(f"{PREFIX}*"):
            shutil.rmtree(folder, ignore_errors=True)

    def _bind_first(self, objects: Mapping[Ref, Document]) -> None:
        """Bind `--listen` before anything starts. Raises ListenError."""
        endpoints = {ref: _endpoint(document) for ref, document in objects.items() if ref.kind == "Endpoint"}
        if not endpoints:
            self._reporter.note("no Endpoint is declared: models are kept ready, but nothing listens")
            return
        self._ports.claim(endpoints)
        listener = self._ports.listener(next(iter(endpoints)))
        if not listener.loopback and any(_open_to_all(endpoint) for endpoint in endpoints.values()):
            self._reporter.note(
                f"warning: {listener.address} is reachable from outside and an Endpoint asks for no key"
            )

    async def _watch(self, desired: Desired) -> None:
        self._apply(desired.objects)
        while not self._signalled.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._signalled.wait(), POLL_SECONDS)
                return
            desired = await asyncio.to_thread(self._watcher.poll)
            self._complain(desired.problems)
            if desired.changed or keys.fingerprint(self._home.keys) != self._keys_seen:
                self._apply(desired.objects)
            self._look_at_cache()

    def _complain(self, problems: tuple[str, ...]) -> None:
        for problem in problems:
            if problem not in self._problems:
                self._reporter.error(problem)
        self._problems = set(problems)

    def _apply(self, documents: Mapping[Ref, Document]) -> None:
        objects = {ref: document for ref, document in documents.items() if ref.kind != "Secret"}
        secrets = {ref: document for ref, document in documents.items() if ref.kind == "Secret"}
        declared = [keys.record_of(document.body) for document in secrets.values() if is_api_key(document.body)]
        stored, problems = keys.stored(self._home.keys)
        for problem in problems:
            self._reporter.error(problem)
        made = [self._first_key(namespace) for namespace in _namespaces_without_key(objects, [*declared, *stored])]
        if any(made):
            stored, _ = keys.stored(self._home.keys)
        self._keys_seen = keys.fingerprint(self._home.keys)
        self._controller.apply(objects, [*declared, *stored], secrets)

    def _first_key(self, namespace: str) -> bool:
        """A namespace that never had a key gets one, shown this once. After `key revoke` none comes back by itself."""
        if (self._home.keys / namespace).exists():
            return False
        shown = DEFAULT_KEY if namespace == DEFAULT_NAMESPACE else f"{namespace}/{DEFAULT_KEY}"
        self._reporter.key(shown, keys.create(self._home.keys, namespace, DEFAULT_KEY))
        return True

    def _look_at_cache(self) -> None:
        """`paddock create` cures a missing model at once, not at the next try."""
        if not self._controller.missing_models:
            self._cache_seen = None
            return
        seen = [(str(path), path.stat().st_mtime_ns) for path in self._home.models.glob("manifests/*/*/*")]
        if self._cache_seen is not None and seen != self._cache_seen:
            self._controller.retry_pulls()
        self._cache_seen = seen

    async def _stop(self) -> int:
        """Drain, unless a second signal comes: then every child is killed and nothing is waited for."""
        draining = asyncio.create_task(self._controller.stop())
        second = asyncio.create_task(self._killed.wait())
        await asyncio.wait({draining, second}, return_when=asyncio.FIRST_COMPLETED)
        second.cancel()
        if self._killed.is_set():
            self._controller.kill()
            draining.cancel()
            return KILLED
        draining.result()
        self._reporter.stopped()
        return STOPPED


def _all_rights(clear: str) -> KeyRecord:
    return KeyRecord(_LOCAL_KEY_ID, secret_hash(clear), models=("*",), verbs=("infer", "manage"))


def _endpoint(document: Document) -> Endpoint:
    parsed = parse(document.body)
    if not isinstance(parsed, Endpoint):
        raise TypeError(f"{document.place} is no Endpoint")
    return parsed


def _open_to_all(endpoint: Endpoint) -> bool:
    return endpoint.spec.auth is not None and endpoint.spec.auth.none is not None


def _wants_default_key(endpoint: Endpoint) -> bool:
    """API keys are asked for, and a key called `default` would open it."""
    auth = endpoint.spec.auth
    if auth is None:
        return True
    return auth.api_keys is not None and (not auth.api_keys.names or DEFAULT_KEY in auth.api_keys.names)


def _namespaces_without_key(objects: Mapping[Ref, Document], records: list[KeyRecord]) -> list[str]:
    have = {record.id.partition("/")[0] for record in records}
    endpoints = [_endpoint(document) for ref, document in objects.items() if ref.kind == "Endpoint"]
    wanted = {endpoint.ref.namespace for endpoint in endpoints if _wants_default_key(endpoint)}
    return sorted(wanted - have)
