"""References to OCI artifacts: which registry, which repository, and what the model is called in the store.

Used by `sources.oci` and `sources.push_oci`. Pure.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from paddock_runner.core.digest import Digest, InvalidDigestError
from paddock_runner.core.names import DEFAULT_TAG, MAX_PART_BYTES, ModelName

DOCKER_HUB_API = "registry-1.docker.io"
MAX_REFERENCE_CHARACTERS = 512
MAX_REPOSITORY_CHARACTERS = 255

_DOCKER_HUB = ("docker.io", "index.docker.io")
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]{0,252}[a-z0-9])?(:[0-9]{1,5})?", re.IGNORECASE)
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_NAMESPACE = re.compile(r"[a-z0-9][a-z0-9_-]*")
_HASH_CHARACTERS = 12
_SINGLE = "_"


class InvalidReferenceError(ValueError):
    """The text is no reference to an artifact; the message names the part and the fix."""


@dataclass(frozen=True, slots=True)
class OciReference:
    """`[http://]host[:port]/repository[:tag][@sha256:…]`; `host` and `repository` as the registry's API wants them."""

    host: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None
    scheme: str = "https"

    @classmethod
    def parse(cls, text: str) -> OciReference:
        """Read a reference. Raises InvalidReferenceError."""
        if len(text) > MAX_REFERENCE_CHARACTERS:
            raise InvalidReferenceError(f"has {len(text)} characters, the limit is {MAX_REFERENCE_CHARACTERS}")
        scheme, rest = ("http", text[7:]) if text.startswith("http://") else ("https", text.removeprefix("https://"))
        rest, digest = _split_digest(rest)
        host, slash, rest = rest.partition("/")
        _check_host(host, rest if slash else host)
        repository, tag = _split_tag(rest)
        if host.lower() in _DOCKER_HUB:
            host, repository = DOCKER_HUB_API, repository if "/" in repository else f"library/{repository}"
        _check_repository(repository)
        return cls(host.lower(), repository, tag, digest, scheme)

    @property
    def origin(self) -> str:
        """`scheme://host[:port]` of the registry."""
        return f"{self.scheme}://{self.host}"

    @property
    def word(self) -> str:
        """What the manifest is asked for by: the digest, else the tag, else `latest`."""
        return str(self.digest) if self.digest is not None else self.tag or DEFAULT_TAG

    def url(self, what: str) -> str:
        """The address of something of the repository: `manifests/latest`, `blobs/sha256:…`."""
        return f"{self.origin}/v2/{self.repository}/{what}"

    @property
    def name(self) -> ModelName:
        """What the model is called in the store; different repositories never share a name.

        Parts that a name cannot hold (several namespaces, dots in one, more than 80 bytes) become a readable piece and
        a hash, behind `_`, with which no component of a repository begins.
        """
        namespace, _, model = self.repository.rpartition("/")
        if not namespace:
            namespace = _SINGLE
        elif not _NAMESPACE.fullmatch(namespace) or len(namespace) > MAX_PART_BYTES:
            namespace = _hashed(namespace)
        model = model if len(model) <= MAX_PART_BYTES else _hashed(model)
        return ModelName(model, self._tag_of_name(), namespace, self.host)

    def _tag_of_name(self) -> str:
        if self.tag is None:
            return self.digest.file_name if self.digest is not None else DEFAULT_TAG
        return self.tag if len(self.tag) <= MAX_PART_BYTES else _hashed(self.tag)


def repository_of(name: ModelName) -> str | None:
    """The repository that `OciReference.name` made a name from, None if the name does not tell it."""
    namespace, model = name.namespace, name.model
    if model.startswith("_") or (namespace.startswith("_") and namespace != _SINGLE):
        return None
    path = model if namespace == _SINGLE else f"{namespace}/{model}"
    return path if all(_COMPONENT.fullmatch(part) for part in path.split("/")) else None


def _hashed(text: str) -> str:
    short = hashlib.sha256(text.encode()).hexdigest()[:_HASH_CHARACTERS]
    plain = re.sub(r"[^A-Za-z0-9_]", "-", text)[: MAX_PART_BYTES - _HASH_CHARACTERS - 2]
    return f"_{plain}-{short}"


def _split_digest(text: str) -> tuple[str, Digest | None]:
    rest, at, digest = text.partition("@")
    try:
        return rest, Digest.parse(digest) if at else None
    except InvalidDigestError as error:
        raise InvalidReferenceError(f"after '@', the {error}") from None


def _check_host(host: str, example: str) -> None:
    if not _HOST.fullmatch(host) and host != "":
        raise InvalidReferenceError(f"the host {host[:80]!r} is no DNS name or IPv4 address with an optional port")
    if "." not in host and ":" not in host and host != "localhost":
        raise InvalidReferenceError(
            f"begins with no registry host; write it out, as in docker.io/{example[:80] or 'ai/smollm2'} "
            "(a host without a dot needs its port, as in registry:443/…)"
        )


def _split_tag(text: str) -> tuple[str, str | None]:
    repository, colon, tag = text.partition(":")
    if not colon:
        return text, None
    if not _TAG.fullmatch(tag):
        raise InvalidReferenceError(
            f"the tag {tag[:140]!r} must be 1 to 128 letters, digits, '_', '.' and '-', and not begin with '.' or '-'"
        )
    return repository, tag


def _check_repository(repository: str) -> None:
    if len(repository) > MAX_REPOSITORY_CHARACTERS:
        raise InvalidReferenceError(f"the repository has more than {MAX_REPOSITORY_CHARACTERS} characters")
    for part in repository.split("/"):
        if not _COMPONENT.fullmatch(part):
            raise InvalidReferenceError(
                f"the repository's part {part[:80]!r} must be lower-case letters and digits, "
                "joined by '.', '_', '__' or '-'"
            )
