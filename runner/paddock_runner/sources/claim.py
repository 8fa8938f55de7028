"""`source.claim`: GGUF files on a volume that exists already, mounted beside the cache.

Called through `sources.select`. The executor mounts each claim read-only at `$PADDOCK_CLAIMS/<claimName>`; the path
inside may lead over links, but nowhere out of the claim.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from paddock_runner.core.collection import CLAIM_HOST
from paddock_runner.core.digest import Digest
from paddock_runner.core.names import ModelName
from paddock_runner.sources.errors import SourceUnsupportedError
from paddock_runner.sources.plan import FetchPlan, Local, PlannedFile
from paddock_runner.store.errors import CacheUnusableError, InvalidModelError, NotFoundError, from_os_error
from paddock_runner.store.gguf import read_gguf
from paddock_runner.store.split import model_files

if TYPE_CHECKING:
    from paddock_runner.sources.auth import Access
    from paddock_runner.sources.transport import Transport

CLAIMS = "PADDOCK_CLAIMS"
MAX_PATH_CHARACTERS = 1024
_CLAIM_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class ClaimSource:
    """`path` leads to a file, the first part of a split model, or a folder, inside the claim's folder `mount`."""

    claim: str
    path: str
    mount: Path
    digest: Digest | None = None
    access: Access | None = None

    @classmethod
    def parse(cls, spec: Mapping[str, object], credentials: Path | None = None) -> ClaimSource:
        """Read `source.claim`. Raises SourceUnsupportedError that names the field, or where no claims are mounted."""
        claims = os.environ.get(CLAIMS)
        if not claims:
            raise SourceUnsupportedError(
                "source.claim: a claim needs a cluster; on one machine use paddock create with FROM and the file's path"
            )
        claim, path = spec.get("claimName"), spec.get("path")
        if not isinstance(claim, str) or not _CLAIM_NAME.fullmatch(claim) or ".." in claim:
            raise SourceUnsupportedError("source.claim.claimName must be the name of a PersistentVolumeClaim")
        if not isinstance(path, str) or not _is_inside(path):
            raise SourceUnsupportedError(
                f"source.claim.path must be a relative path of at most {MAX_PATH_CHARACTERS} characters without . or .."
            )
        return cls(claim, path, Path(claims) / claim)

    @property
    def name(self) -> ModelName:
        """One for each file of each claim."""
        key = hashlib.sha256(f"{self.claim}/{self.path}".encode()).hexdigest()
        return ModelName(host=CLAIM_HOST, namespace="sha256", model=key)

    async def plan(self, transport: Transport) -> FetchPlan:
        """The files, in order. Raises NotFoundError, InvalidModelError (no or several models), CacheUnusableError (a
        way out of the claim, a special file), and what `read_gguf` raises.
        """
        return await asyncio.to_thread(self._plan)

    def _plan(self) -> FetchPlan:
        if not self.mount.is_dir():
            raise NotFoundError(f"source.claim.claimName: the claim {self.claim!r} is not mounted here")
        start = self._real(self.mount / self.path)
        found = [self._file(path) for path in model_files(start)]
        whole = [file.name for file, number in found if file.kind == "model" and number == 0]
        if not whole:
            raise InvalidModelError(f"source.claim.path: {self.path} holds no GGUF model")
        if len(whole) > 1:
            raise InvalidModelError(
                f"source.claim.path: {self.path} holds several models ({', '.join(whole[:5])}); name one file"
            )
        return FetchPlan(self.name, tuple(file for file, _ in found))

    def _file(self, path: Path) -> tuple[PlannedFile, int]:
        """The file, and the number of the part that it is, from 0."""
        real = self._real(path)
        status = real.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise CacheUnusableError(f"source.claim.path: {path.name} is not a regular file")
        header = read_gguf(real, part=True)
        return PlannedFile(header.kind, path.name, Local(real), status.st_size), header.part[0]

    def _real(self, path: Path) -> Path:
        """Where the path really leads, as the kernel found it. Raises NotFoundError, CacheUnusableError if outside."""
        try:
            # Only a reference: nothing is opened, so a device or a FIFO at the end does no harm.
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFoundError(f"source.claim.path: {self.path} does not exist in the claim {self.claim!r}") from None
        except OSError as error:
            raise from_os_error(error, "opening", path) from error
        try:
            real = Path(os.readlink(f"/proc/self/fd/{handle}"))
        finally:
            os.close(handle)
        if not real.is_relative_to(self.mount.resolve()):
            raise CacheUnusableError(f"source.claim.path: {self.path} leads out of the claim {self.claim!r}")
        return real


def _is_inside(path: str) -> bool:
    parts = path.split("/")
    return (
        0 < len(path) <= MAX_PATH_CHARACTERS and "\0" not in path and all(part not in ("", ".", "..") for part in parts)
    )
