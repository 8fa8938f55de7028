"""Which names and blobs of a model folder may go: the pure part of garbage collection. Called by `store.collect`.

A root is a manifest file. Roots that people or other programs wrote always stay; Paddock's own go once their digest is
not live and they are old, with a quota only as many as it takes, oldest use first. A blob goes if no root that stays
references it and it is old.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass

from paddock_runner.core.digest import Digest
from paddock_runner.core.manifest import InvalidManifestError, strict_json
from paddock_runner.core.names import HTTP_HOST, PIN_HOST, InvalidNameError, ModelName
from paddock_runner.core.quantization import CONVERTED_HOST

MAX_LIVE_BYTES = 16 << 20
CLAIM_HOST = "claims.paddock.dev"
OWN_HOSTS = (PIN_HOST, HTTP_HOST, CLAIM_HOST, CONVERTED_HOST)
"""Hosts of names that Paddock wrote for itself: pins, files fetched by URL or from a claim, converted models."""

MADE_HOSTS = (PIN_HOST, CONVERTED_HOST)
"""Those whose names say what their bytes are: nobody else may write them."""


def require_foreign(name: ModelName, hosts: Sequence[str] = OWN_HOSTS) -> ModelName:
    """`name`, for somebody who wants to write it. Raises InvalidNameError if its host is one of `hosts`."""
    if name.host.lower() in hosts:
        raise InvalidNameError(f"model name: the host {name.host} is reserved")
    return name


class InvalidLiveError(ValueError):
    """The list of live digests breaks its form; the message says where."""


@dataclass(frozen=True, slots=True)
class Root:
    """A manifest: `digest` of its bytes, the `blobs` that it references, `age` in seconds since it was last used.

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
    """What goes, and the bytes of the blobs that stay."""

    names: tuple[ModelName, ...]
    blobs: tuple[HeldBlob, ...]
    staying: int = 0

    @property
    def size(self) -> int:
        """Bytes of the blobs."""
        return sum(blob.size for blob in self.blobs)


def plan_collection(
    roots: Iterable[Root], blobs: Iterable[HeldBlob], live: Set[Digest], min_age: float, quota: int | None = None
) -> Collection:
    """What may go, given every root and every blob of a folder.

    `min_age` (seconds) protects what a pull just made. With `quota` (bytes) roots go only while the blobs that stay
    exceed it; without one every root goes that may.
    """
    every, held = tuple(roots), tuple(blobs)
    may_go = [root for root in every if root.is_own and root.digest not in live and root.age >= min_age]
    leaving = may_go if quota is None else list(_down_to(quota, every, may_go, held, min_age))
    gone = {id(root) for root in leaving}
    needed = {digest for root in every if id(root) not in gone for digest in root.blobs}
    going = tuple(blob for blob in held if blob.digest not in needed and blob.age >= min_age)
    return Collection(
        tuple(root.name for root in leaving if root.name is not None),
        going,
        sum(blob.size for blob in held) - sum(blob.size for blob in going),
    )


def _down_to(
    quota: int, every: Sequence[Root], may_go: Sequence[Root], held: Sequence[HeldBlob], min_age: float
) -> Iterator[Root]:
    """The roots that must go, those of one digest together: a name without its pin would not be found by digest."""
    uses = Counter(digest for root in every for digest in root.blobs)
    sizes = {blob.digest: blob.size for blob in held if blob.age >= min_age}
    staying = sum(blob.size for blob in held) - sum(size for digest, size in sizes.items() if not uses[digest])
    for same in _by_use(every, may_go):
        if staying <= quota:
            return
        own = Counter(digest for root in same for digest in root.blobs)
        freed = sum(sizes.get(digest, 0) for digest, count in own.items() if uses[digest] == count)
        # What shares its bytes with something that stays frees nothing, unless that goes later: then so does this.
        uses -= own
        staying -= freed
        yield from same


def _by_use(every: Sequence[Root], may_go: Sequence[Root]) -> list[list[Root]]:
    """Groups of equal digest, the one whose last use is longest ago first; none of which one member must stay."""
    groups: dict[Digest, list[Root]] = {}
    for root in may_go:
        groups.setdefault(root.digest, []).append(root)
    owned = Counter(root.digest for root in every if root.is_own)
    whole = [same for digest, same in groups.items() if len(same) == owned[digest]]
    return sorted(whole, key=lambda same: (-min(root.age for root in same), same[0].digest))


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
