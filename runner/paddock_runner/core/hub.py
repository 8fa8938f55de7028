"""What Hugging Face's hub says of one revision of a repository, and what such a model is called in the store.

Called by `sources.huggingface`. Pure. The answer to `GET /api/models/…?blobs=true` is read strictly and within
bounds: a hub is as trusted as any server, nothing here becomes a path on a disk, and what breaks a rule is refused by
name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from paddock_runner.core.digest import Digest, InvalidDigestError
from paddock_runner.core.manifest import MAX_BLOB_BYTES, InvalidManifestError, strict_json
from paddock_runner.core.names import DEFAULT_TAG, MAX_PART_BYTES, ModelName

HOST = "huggingface.co"
DEFAULT_REVISION = "main"

MAX_ANSWER_BYTES = 8 << 20
MAX_FILES = 10_000
MAX_PATH_CHARACTERS = 1024

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHOWN = 80


class InvalidListingError(ValueError):
    """The answer breaks a rule; the message names the member."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file. `sha256` is known for files in large file storage, `blob` (git's SHA-1, hex) for the others."""

    path: str
    size: int
    sha256: Digest | None
    blob: str

    def holds(self, data: bytes) -> bool:
        """Whether `data` is this file: by SHA-256 where it is known, else by the SHA-1 that git names it with."""
        if self.sha256 is not None:
            return Digest.of(data) == self.sha256
        return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == self.blob


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of one `commit` (40 hex digits) by path."""

    commit: str
    files: Mapping[str, HubFile]


def parse_listing(data: bytes) -> Listing:
    """Read the hub's answer of at most 8 MiB and 10,000 files. Raises InvalidListingError that names the member."""
    try:
        value = strict_json(data, MAX_ANSWER_BYTES)
    except InvalidManifestError as error:
        raise InvalidListingError(str(error)) from None
    if not isinstance(value, dict):
        raise InvalidListingError("must be a JSON object")
    siblings = value.get("siblings")
    if not isinstance(siblings, list) or len(siblings) > MAX_FILES:
        raise InvalidListingError(f"siblings must be a list of at most {MAX_FILES} files")
    files = [_file(item, f"siblings[{index}]") for index, item in enumerate(siblings)]
    by_path = {file.path: file for file in files}
    if len(by_path) != len(files):
        raise InvalidListingError("siblings names a file twice")
    return Listing(_commit(value.get("sha")), by_path)


def store_name(repo: str, revision: str, choice: str | None) -> ModelName:
    """`huggingface.co/owner/name:choice` for `repo` owner/name and a file or quantization, None being the default one.

    What does not fit a name, and any revision but main, adds a hash. The name is that of the question, so it moves with
    a branch as a tag does; what a commit gave is kept by its pin.
    """
    owner, model = repo.split("/")
    choice = choice or DEFAULT_TAG
    tag = choice if revision == DEFAULT_REVISION else f"{choice}@{revision}"
    return ModelName(
        host=HOST, namespace=_part(owner, r"[^\w-]"), model=_part(model, r"[^\w.-]"), tag=_part(tag, r"[^\w.-]")
    )


def _part(text: str, forbidden: str) -> str:
    fitting = re.sub(forbidden, "-", text, flags=re.ASCII)
    if fitting == text and len(text) <= MAX_PART_BYTES and text[0] not in "-.":
        return text
    return f"{fitting[:66].lstrip('-.') or '_'}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def is_commit(text: str) -> bool:
    """Whether the text is a whole commit, which never moves, and no branch or tag."""
    return _COMMIT.fullmatch(text) is not None


def _commit(value: object) -> str:
    if not isinstance(value, str) or not is_commit(value):
        raise InvalidListingError("sha must be a commit of 40 lower-case hex digits")
    return value


def _file(value: object, where: str) -> HubFile:
    if not isinstance(value, dict):
        raise InvalidListingError(f"{where} must be an object")
    path = _path(value.get("rfilename"), where)
    large = value.get("lfs")
    if large is None:
        return HubFile(path, _size(value.get("size"), f"{where}.size"), None, _blob(value.get("blobId"), where))
    if not isinstance(large, dict):
        raise InvalidListingError(f"{where}.lfs must be an object")
    try:
        # The hub writes the bare digits; the pointer files of git-lfs put the algorithm before them.
        digest = Digest(str(large.get("sha256")).removeprefix("sha256:"))
    except InvalidDigestError as error:
        raise InvalidListingError(f"{where}.lfs.sha256: {error}") from None
    return HubFile(path, _size(large.get("size"), f"{where}.lfs.size"), digest, "")


def _path(value: object, where: str) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_PATH_CHARACTERS:
        raise InvalidListingError(f"{where}.rfilename must be a text of 1 to {MAX_PATH_CHARACTERS} characters")
    plain = not any(ord(character) < 32 or character in "\x7f\\" for character in value)
    if not plain or any(part in ("", ".", "..") for part in value.split("/")):
        raise InvalidListingError(f"{where}.rfilename {value[:_SHOWN]!r} is no relative path of plain names")
    return value


def _size(value: object, where: str) -> int:
    if type(value) is not int or not 0 <= value <= MAX_BLOB_BYTES:
        raise InvalidListingError(f"{where} must be an integer from 0 to {MAX_BLOB_BYTES}")
    return value


def _blob(value: object, where: str) -> str:
    if not isinstance(value, str) or not is_commit(value):
        raise InvalidListingError(f"{where}.blobId must be 40 lower-case hex digits")
    return value
