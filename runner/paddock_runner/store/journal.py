"""The journal beside a partial download: which bytes of it were written, and a checksum that proves each piece.

Written and read by `store.partial`. Pure: bytes in, values out. docs/store.md describes the format. What cannot be
proved here counts as missing; that the whole is right is proved by the blob's SHA-256 alone.
"""

from __future__ import annotations

import bisect
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from zlib_ng.zlib_ng import crc32

from paddock_runner.core.digest import Digest
from paddock_runner.core.manifest import MAX_BLOB_BYTES

MAX_JOURNAL_BYTES = 32 << 20
MAX_PIECE_BYTES = 64 << 20
_MAGIC = b"PDKJ0001"
_HEADER = struct.Struct("<8s32sQI")
_RECORD = struct.Struct("<QIII")
RECORD_BYTES = _RECORD.size
HEADER_BYTES = _HEADER.size


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes `offset` to `offset + length` of the blob; `checksum` is their CRC-32."""

    offset: int
    length: int
    checksum: int

    @property
    def end(self) -> int:
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class JournalFacts:
    """What a journal says: the blob's size in bytes, its pieces as they were written, and how much of it is sound."""

    size: int
    pieces: tuple[Piece, ...]
    sound_bytes: int


def checksum(parts: Iterable[bytes | memoryview], value: int = 0) -> int:
    """CRC-32 over all `parts`, going on from that of what came before (`value`)."""
    for part in parts:
        value = crc32(part, value)
    return value


def header(digest: Digest, size: int) -> bytes:
    """The first bytes of a journal for the blob `digest` of `size` bytes."""
    start = _HEADER.pack(_MAGIC, bytes.fromhex(digest.hex), size, 0)[:-4]
    return start + struct.pack("<I", crc32(start))


def record(piece: Piece) -> bytes:
    """One record; it carries a checksum of its own, so that a torn one is told from a whole one."""
    start = struct.pack("<QII", piece.offset, piece.length, piece.checksum)
    return start + struct.pack("<I", crc32(start))


def parse(data: bytes, digest: Digest) -> JournalFacts | None:
    """Read a journal up to its first unsound record; None if it is not a journal of `digest`."""
    if len(data) < HEADER_BYTES or len(data) > MAX_JOURNAL_BYTES:
        return None
    _, _, size, _ = _HEADER.unpack_from(data)
    if data[:HEADER_BYTES] != header(digest, size) or size > MAX_BLOB_BYTES:
        return None
    pieces = []
    for at in range(HEADER_BYTES, len(data) - RECORD_BYTES + 1, RECORD_BYTES):
        offset, length, value, _ = _RECORD.unpack_from(data, at)
        piece = Piece(offset, length, value)
        if record(piece) != data[at : at + RECORD_BYTES] or not _fits(piece, size):
            break
        pieces.append(piece)
    return JournalFacts(size, tuple(pieces), HEADER_BYTES + RECORD_BYTES * len(pieces))


def _fits(piece: Piece, size: int) -> bool:
    return 0 < piece.length <= MAX_PIECE_BYTES and piece.end <= size


def latest(pieces: Iterable[Piece]) -> list[Piece]:
    """The pieces that stand, by offset: one that was written again, even in part, gives way to what came later."""
    starts: list[int] = []
    standing: dict[int, Piece] = {}
    for piece in reversed(list(pieces)):
        at = bisect.bisect_left(starts, piece.offset)
        before = standing[starts[at - 1]].end if at else 0
        after = starts[at] if at < len(starts) else piece.end
        if before <= piece.offset and piece.end <= after:
            starts.insert(at, piece.offset)
            standing[piece.offset] = piece
    return [standing[start] for start in starts]
