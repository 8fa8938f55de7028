"""A tar stream, written and read one block at a time: only what a bundle needs, nothing that could surprise.

Called by `store.bundle` and `store.bundle_import`. The reader never seeks backwards and never holds more than a block
of a header: links, devices, sparse files, long names and whatever else a tar may hold are refused by name.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from paddock_runner.store.errors import StoreError

BLOCK = tarfile.BLOCKSIZE
MAX_MEMBERS = 65_536
MAX_MEMBER_BYTES = 1 << 50

_PIECE = 1 << 20
_MAX_EXTENDED_BYTES = 64 << 10
_END = bytes(2 * BLOCK)
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE)
_RENAMING = ("path", "size", "linkpath", "GNU.sparse")
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"PK\x03\x04": "zip",
}


class InvalidBundleError(StoreError):
    """The bundle is not what `export` writes or another tool's OCI image layout."""

    reason = "InvalidBundle"


def header(name: str, size: int) -> bytes:
    """The header block of a regular file of `size` bytes: no owner, no time, so that equal content is equal bytes."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.GNU_FORMAT, "ascii", "strict")


def padding(size: int) -> bytes:
    """The zeros that fill up the last block of `size` bytes."""
    return bytes(-size % BLOCK)


def end(written: int) -> bytes:
    """What ends an archive of which `written` bytes are out."""
    return _END + bytes(-(written + len(_END)) % tarfile.RECORDSIZE)


@dataclass(slots=True)
class Member:
    """A regular file of an archive, read from the stream as far as its size goes."""

    name: str
    size: int
    _stream: BinaryIO
    left: int = field(init=False)

    def __post_init__(self) -> None:
        self.left = self.size

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, b"" at the member's end. Raises InvalidBundleError if the archive ends before."""
        wanted = min(self.left, size if size >= 0 else self.left, _PIECE)
        if wanted == 0:
            return b""
        data = self._stream.read(wanted)
        if not data:
            raise _cut(f"in {self.name}, {self.left} bytes before the end of that file")
        self.left -= len(data)
        return data

    def content(self, limit: int) -> bytes:
        """All bytes. Raises InvalidBundleError if there are more than `limit`."""
        if self.size > limit:
            raise InvalidBundleError(f"{self.name} has {self.size} bytes, the limit is {limit}")
        pieces = []
        while piece := self.read():
            pieces.append(piece)
        return b"".join(pieces)


def members(stream: BinaryIO, skip: Callable[[int], object] | None = None) -> Iterator[Member]:
    """The regular files of an archive in order; what the caller leaves unread is passed over.

    `skip` moves the stream forward by a number of bytes if it can seek. Raises InvalidBundleError for everything that
    is not a plain archive of regular files and folders, each name once.
    """
    seen: set[str] = set()
    headers = 0
    while (found := _next_header(stream)) is not None:
        headers += 1
        if headers > 4 * MAX_MEMBERS:
            raise InvalidBundleError(f"it has more than {4 * MAX_MEMBERS} headers for at most {MAX_MEMBERS} files")
        member = Member(found.name.removeprefix("./"), found.size, stream)
        if found.type == tarfile.XHDTYPE:
            _check_extended(member)
        elif found.type in _REGULAR:
            _check_name(member.name, seen)
            yield member
        elif found.type != tarfile.DIRTYPE or found.size:
            raise InvalidBundleError(f"{found.name[:200]!r} is a link, a device or another thing that is no plain file")
        _pass_over(member, stream, skip)
    # Who writes into a pipe wants its padding read.
    stream.read(tarfile.RECORDSIZE)


def _next_header(stream: BinaryIO) -> tarfile.TarInfo | None:
    block = _exactly(stream, BLOCK)
    if block == bytes(BLOCK):
        return None
    try:
        found = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        raise _no_header(block, error) from None
    if not 0 <= found.size <= MAX_MEMBER_BYTES:
        raise InvalidBundleError(f"{found.name[:200]!r} has {found.size} bytes, the limit is {MAX_MEMBER_BYTES}")
    return found


def _no_header(block: bytes, error: Exception) -> InvalidBundleError:
    kind = next((word for magic, word in _COMPRESSED.items() if block.startswith(magic)), None)
    if kind is not None:
        return InvalidBundleError(f"it is compressed with {kind}; decompress it first (a stream is read from -)")
    return InvalidBundleError(f"it is no tar archive, or damaged ({error})")


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = stream.read(size - len(data))
        if not piece:
            raise _cut("in its table of files" if data else "where another file should begin")
        data += piece
    return data


def _cut(where: str) -> InvalidBundleError:
    return InvalidBundleError(f"the archive ends early, {where}; copy it again")


def _check_name(name: str, seen: set[str]) -> None:
    if name in seen:
        raise InvalidBundleError(f"{name[:200]!r} is in the archive twice")
    if len(seen) >= MAX_MEMBERS:
        raise InvalidBundleError(f"it has more than {MAX_MEMBERS} files")
    seen.add(name)


def _check_extended(member: Member) -> None:
    """Pass over times and the like of the POSIX format, refuse what gives the next file another size or name."""
    content = member.content(_MAX_EXTENDED_BYTES)
    if any(f" {word}".encode() in content for word in _RENAMING):
        raise InvalidBundleError("it has extended headers that rename or resize files; write it in GNU or ustar format")


def _pass_over(member: Member, stream: BinaryIO, skip: Callable[[int], object] | None) -> None:
    if skip is not None and member.left:
        skip(member.left)
        member.left = 0
    while member.read(_PIECE):
        pass
    _exactly(stream, -member.size % BLOCK)
