"""The home folder of `paddock up`: its layout and the lock that lets one `up` own it.

Called by `up` (prepare, own) and by the CLI (paths, who owns it). The layout is that of docs/reference/contracts.md.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

_RETRY_SECONDS = 0.5
"""A reader that asks who owns the home holds the lock for an instant; an `up` that meets it tries again."""


@dataclass(frozen=True, slots=True)
class Home:
    """Paths under one home; `models` may lie elsewhere."""

    root: Path
    models: Path

    @classmethod
    def at(cls, root: str | os.PathLike[str] | None = None, models: str | None = None) -> Home:
        """The home at `root` (default $PADDOCK_HOME, else ~/.paddock), models at `models` (default inside it)."""
        chosen = root or os.environ.get("PADDOCK_HOME") or Path.home() / ".paddock"
        path = Path(os.path.abspath(os.path.expanduser(chosen)))
        return cls(path, Path(os.path.abspath(os.path.expanduser(models))) if models else path / "models")

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def lock(self) -> Path:
        return self.run / "up.lock"

    @property
    def local_key(self) -> Path:
        return self.run / "local.key"

    def state(self, kind: str) -> Path:
        """The folder of state files of `Model` or `Endpoint`."""
        return self.root / "state" / f"{kind.lower()}s"

    def prepare(self) -> None:
        """Make the folders (0700). Raises OSError when that is impossible."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root.chmod(0o700)
        for folder in (self.keys, self.run, self.logs, self.state("Model"), self.state("Endpoint")):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.models.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True, slots=True)
class Owner:
    """The running `paddock up` of a home; `started` is RFC 3339."""

    pid: int
    started: str
    endpoints: Mapping[str, str]


class HomeOwnedError(Exception):
    """Another `paddock up` owns the home."""

    def __init__(self, home: Home, owner: Owner | None) -> None:
        who = f"process {owner.pid}, started {owner.started}" if owner else "a process that is just starting"
        super().__init__(
            f"{home.root} is owned by another paddock up ({who}); stop it, or give this one its own --home DIR"
        )
        self.owner = owner


class Ownership:
    """The lock held by this process; leaves with the process, however it ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._started = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        self.publish({})

    @classmethod
    def take(cls, home: Home) -> Self:
        """Own `home`. Raises HomeOwnedError naming the owner, OSError when the lock file cannot be opened."""
        descriptor = os.open(home.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + _RETRY_SECONDS
        while not _locked(descriptor, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise HomeOwnedError(home, _read(home.lock))
            time.sleep(0.02)
        return cls(descriptor)

    def publish(self, endpoints: Mapping[str, str]) -> None:
        """Write who we are and where each Endpoint (`ns/name`) answers."""
        text = json.dumps({"pid": os.getpid(), "started": self._started, "endpoints": dict(endpoints)})
        # In place: a rename would put the lock on a file that nobody opens any more.
        data = text.encode()
        os.pwrite(self._descriptor, data, 0)
        os.ftruncate(self._descriptor, len(data))

    def release(self) -> None:
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


def _locked(descriptor: int, mode: int) -> bool:
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: Path) -> Owner | None:
    for _ in range(10):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads(path.read_text())
            return Owner(int(found["pid"]), str(found["started"]), dict(found["endpoints"]))
        time.sleep(0.01)
    return None


def owner(home: Home) -> Owner | None:
    """The running `paddock up` of `home`, None when there is none."""
    try:
        descriptor = os.open(home.lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return None if _locked(descriptor, fcntl.LOCK_SH) else _read(home.lock)
    finally:
        os.close(descriptor)
