"""Hugging Face: a repository's revision becomes a commit, its listing a plan of verified files.

Called through `sources.select`. One question to the hub's API tells the commit and, for every file in large file
storage, size and SHA-256; the bytes come from the commit's own URLs, which redirect to a storage host that gets no
token. Why not the hub's own client: docs/decisions/0011.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from yarl import URL

from paddock_runner.core.digest import Digest
from paddock_runner.core.hub import (
    DEFAULT_REVISION,
    HOST,
    MAX_ANSWER_BYTES,
    InvalidListingError,
    Listing,
    is_commit,
    parse_listing,
    store_name,
)
from paddock_runner.core.manifest import InvalidManifestError, strict_json
from paddock_runner.core.names import DEFAULT_TAG, ModelName
from paddock_runner.core.quantization import InvalidQuantizationError, parse_type
from paddock_runner.core.selection import NothingFitsError, Selection, SelectionError, select
from paddock_runner.core.shards import is_gguf
from paddock_runner.sources.auth import Access, TokenAccess, access_for
from paddock_runner.sources.errors import NetworkError, SourceUnsupportedError, UnauthorizedError
from paddock_runner.sources.plan import FetchPlan, Inline, PlannedFile, Remote
from paddock_runner.sources.transport import Transport
from paddock_runner.store.errors import DigestMismatchError, NotFoundError
from paddock_runner.store.model import MAX_PARAMS_BYTES, MAX_TEXT_BYTES

HOSTS = (HOST, "hf.co")
ENDPOINT_VARIABLE = "HF_ENDPOINT"
MAX_REVISION_CHARACTERS = 200
MAX_FILE_CHARACTERS = 255

_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")
_TEXTS = {"template": MAX_TEXT_BYTES, "system": MAX_TEXT_BYTES, "params": MAX_PARAMS_BYTES}
_UNSEEN = (
    "does not exist, or is private or gated; check the spelling, accept the licence on the repository's page and name "
    "a Secret with a token that may read it in secretRef"
)


@dataclass(frozen=True, slots=True)
class HuggingFaceSource:
    """`file` is a path in the repository, else `quantization` is the word in the file's name, else a default is taken.

    `convertible` takes an unquantized file where none has the quantization. `digest` is that of a manifest that is
    demanded. `name` is the question's (repository, revision, file), so that it moves as the revision does.
    """

    name: ModelName
    repo: str
    revision: str = DEFAULT_REVISION
    file: str | None = None
    quantization: str | None = None
    convertible: bool = False
    endpoint: str = f"https://{HOST}"
    credentials: Path | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, spec: Mapping[str, object], credentials: Path | None = None) -> HuggingFaceSource:
        """Read `source.huggingFace`, in which `quantization` is the Model's; `credentials` is its Secret's folder.

        Raises SourceUnsupportedError that names the field.
        """
        repo = _text(spec, "repo", _REPO, "owner/name of a repository")
        revision = _text(spec, "revision", _REVISION, "a branch, tag or commit", MAX_REVISION_CHARACTERS)
        file = _path(spec.get("file"))
        word = _text(spec, "quantization", _WORD, "a word such as Q4_K_M")
        if repo is None:
            raise SourceUnsupportedError("source.huggingFace.repo is missing")
        revision, word = revision or DEFAULT_REVISION, word.upper() if word else None
        return cls(
            name=store_name(repo, revision, file or word),
            repo=repo,
            revision=revision,
            file=file,
            quantization=word,
            convertible=_can_be_made(word),
            endpoint=endpoint_of(os.environ),
            credentials=credentials,
        )

    @classmethod
    def from_ollama_name(cls, name: ModelName, credentials: Path | None = None) -> HuggingFaceSource:
        """The repository behind `hf.co/owner/name[:QUANT | :FILE.gguf]`; the model keeps that name in the store.

        Raises SourceUnsupportedError for another host.
        """
        if name.host.lower() not in HOSTS:
            raise SourceUnsupportedError(f"{name.host} is not Hugging Face; its names begin with hf.co/")
        word = None if name.tag.lower() == DEFAULT_TAG else name.tag
        file = word if word is not None and is_gguf(word) else None
        return cls(
            name=name,
            repo=f"{name.namespace}/{name.model}",
            file=file,
            quantization=None if file else word,
            endpoint=endpoint_of(os.environ),
            credentials=credentials,
        )

    @property
    def access(self) -> Access | None:
        """The token, for the hub's origin and no other. Raises UnauthorizedError if the Secret holds none."""
        if self.credentials is None:
            return None
        access = access_for(self.credentials, str(URL(self.endpoint).origin()), os.environ)
        if isinstance(access, TokenAccess):
            raise UnauthorizedError("Hugging Face takes a token: the Secret must hold the key token", retryable=True)
        return access

    async def plan(self, transport: Transport) -> FetchPlan:
        """Ask the hub. Raises NotFoundError, UnauthorizedError, SourceUnsupportedError, NetworkError and what the

        transport raises; DigestMismatchError for a small text that is not the commit's.
        """
        listing = await self._listing(transport)
        chosen = self._select(listing)
        weights = [self._weights("model", listing, path) for path in chosen.model]
        if chosen.projector is not None:
            weights.append(self._weights("projector", listing, chosen.projector))
        kinds = [kind for kind in _TEXTS if kind in listing.files and listing.files[kind].size]
        texts = [await self._small(transport, listing, kind) for kind in kinds]
        return FetchPlan(self.name, (*weights, *texts), revision=listing.commit, validator=listing.commit)

    async def _listing(self, transport: Transport) -> Listing:
        url = f"{self.endpoint}/api/models/{self.repo}/revision/{quote(self.revision, safe='')}?blobs=true"
        try:
            answer = await transport.read(url, limit=MAX_ANSWER_BYTES, accept="application/json")
        except UnauthorizedError:
            raise UnauthorizedError(f"{self._where}: {self._refusal} {_UNSEEN}") from None
        except NotFoundError:
            raise NotFoundError(f"{self._where} was not found: the revision or the repository {_UNSEEN}") from None
        try:
            listing = parse_listing(answer.body)
        except InvalidListingError as error:
            raise NetworkError(f"the hub's answer about {self.repo}: {error}", retryable=False) from None
        if is_commit(self.revision) and listing.commit != self.revision:
            raise NetworkError(
                f"the hub answers with commit {listing.commit} for commit {self.revision}", retryable=False
            )
        return listing

    @property
    def _where(self) -> str:
        return f"{self.repo} at revision {self.revision!r}"

    @property
    def _refusal(self) -> str:
        # To the hub, a repository that is not there looks like one that a stranger may not see.
        return "it is not for this token, or" if self.credentials else "it is not for everybody, or"

    def _select(self, listing: Listing) -> Selection:
        try:
            return select(listing.files, file=self.file, quantization=self.quantization, convertible=self.convertible)
        except NothingFitsError as error:
            raise NotFoundError(f"{self.repo}@{listing.commit[:12]}: {error}") from None
        except SelectionError as error:
            raise SourceUnsupportedError(f"{self.repo}@{listing.commit[:12]}: {error}") from None

    def _weights(self, kind: str, listing: Listing, path: str) -> PlannedFile:
        file = listing.files[path]
        if file.sha256 is None:
            raise SourceUnsupportedError(
                f"{self.repo}: the hub tells no SHA-256 of {path[-100:]!r}, which is not in large file storage; "
                "use http with the file's URL and its sha256"
            )
        return PlannedFile(kind, path, Remote(self._url(listing, path)), file.size, file.sha256)

    async def _small(self, transport: Transport, listing: Listing, kind: str) -> PlannedFile:
        """One of the texts that `ollama pull hf.co/…` takes from the root of a repository too."""
        file, limit = listing.files[kind], _TEXTS[kind]
        if file.size > limit:
            raise SourceUnsupportedError(f"{self.repo}: {kind} has {file.size} bytes, the limit is {limit}")
        data = (await transport.read(self._url(listing, kind), limit=file.size)).body
        if not file.holds(data):
            raise DigestMismatchError(f"{kind} of {self.repo}", file.sha256 or f"git:{file.blob}", Digest.of(data))
        if kind == "params":
            _check_params(self.repo, data)
        return PlannedFile(kind, kind, Inline(data), len(data), Digest.of(data))

    def _url(self, listing: Listing, path: str) -> str:
        return f"{self.endpoint}/{self.repo}/resolve/{listing.commit}/{quote(path)}"


def endpoint_of(environment: Mapping[str, str]) -> str:
    """The hub's address, from HF_ENDPOINT as for the official client. Raises SourceUnsupportedError."""
    text = environment.get(ENDPOINT_VARIABLE, "").rstrip("/") or f"https://{HOST}"
    try:
        url = URL(text)
        url.origin()
    except ValueError:
        raise SourceUnsupportedError(f"{ENDPOINT_VARIABLE} must be a URL such as https://{HOST}") from None
    if url.scheme not in ("http", "https") or url.user or url.password or url.query_string or url.fragment:
        raise SourceUnsupportedError(f"{ENDPOINT_VARIABLE} must be https://host[/path], without user or query")
    return text


def _can_be_made(word: str | None) -> bool:
    try:
        return word is not None and bool(parse_type(word))
    except InvalidQuantizationError:
        return False


def _check_params(repo: str, data: bytes) -> None:
    try:
        value = strict_json(data, MAX_PARAMS_BYTES)
    except InvalidManifestError as error:
        raise SourceUnsupportedError(f"{repo}: the file params: {error}") from None
    if not isinstance(value, dict):
        raise SourceUnsupportedError(f"{repo}: the file params must be a JSON object")


def _text(spec: Mapping[str, object], key: str, pattern: re.Pattern[str], what: str, limit: int = 1024) -> str | None:
    value = spec.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > limit or not pattern.fullmatch(value):
        raise SourceUnsupportedError(f"source.huggingFace.{key} must be {what}")
    return value


def _path(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not is_gguf(value) or len(value) > MAX_FILE_CHARACTERS:
        raise SourceUnsupportedError(
            f"source.huggingFace.file must be the path of a .gguf file, at most {MAX_FILE_CHARACTERS} characters"
        )
    return value
