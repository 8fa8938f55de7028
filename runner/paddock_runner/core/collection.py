"""Which names and blobs of a model folder may go: the pure part of garbage collection. Called by `store.collect`.

A root is a manifest file. Roots that people or other programs wrote always stay; Paddock's own go once their digest is
not live and they are old. A blob goes if no root that stays references it and it is old.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

from paddock_runner.core.digest import Digest
from paddock_runner.core.manifest import InvalidManifestError, strict_json
from paddock_runner.core.names import HTTP_HOST, PIN_HOST, ModelName

MAX_LIVE_BYTES = 16 << 20
OWN_HOSTS = (PIN_HOST, HTTP_HOST)
"""Hosts of names that Paddock wrote for itself: pins, and the names of files fetched by URL."""


class InvalidLiveError(ValueError):
    """The list of live digests breaks its form; the message says where."""


@dataclass(frozen=True, slots=True)
class Root:
    """A manifest: `digest` of its bytes, the `blobs` that it references, `age` in seconds.

    `name` is None if its place is no model's name: then somebody else made it.
    """

    name: ModelName | None
    digest: Digest
    blobs: frozenset[Digest]
    age: float

    @property
    def is_own(self) -> bool:
        """Whether Paddock wrote it for itself."""
        return self.name is not None and self.name.host.lower() in OWN_HOSTS


@dataclass(frozen=True, slots=True)
class HeldBlob:
    """A file under `blobs/`: `size` in bytes, `age` in seconds since its bytes or its name last changed."""

    digest: Digest
    size: int
    age: float


@dataclass(frozen=True, slots=True)
class Collection:
    """What goes."""

    names: tuple[ModelName, ...]
    blobs: tuple[HeldBlob, ...]

    @property
    def size(self) -> int:
        """Bytes of the blobs."""
        return sum(blob.size for blob in self.blobs)


def plan_collection(roots: Iterable[Root], blobs: Iterable[HeldBlob], live: Set[Digest], min_age: float) -> Collection:
    """What may go, given every root and every blob of a folder. `min_age` (seconds) protects what a pull just made."""
    every = tuple(roots)
    leaving = [root for root in every if root.is_own and root.digest not in live and root.age >= min_age]
    gone = {id(root) for root in leaving}
    needed = {digest for root in every if id(root) not in gone for digest in root.blobs}
    return Collection(
        tuple(root.name for root in leaving if root.name is not None),
        tuple(blob for blob in blobs if blob.digest not in needed and blob.age >= min_age),
    )


def parse_live(data: bytes) -> frozenset[Digest]:
    """The manifest digests of `{"digests":["sha256:…"]}`. Raises InvalidLiveError: nothing is guessed or skipped."""
    try:
        value = strict_json(data, MAX_LIVE_BYTES)
    except InvalidManifestError as error:
        raise InvalidLiveError(str(error)) from None
    if not isinstance(value, dict) or set(value) != {"digests"} or not isinstance(value["digests"], list):
        raise InvalidLiveError('must be a JSON object with the one member "digests", a list')
    try:
        return frozenset(Digest.parse(item) for item in value["digests"])
    except ValueError as error:
        raise InvalidLiveError(f"digests: {error}") from None
