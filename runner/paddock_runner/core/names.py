"""Model names as Ollama writes them: `[host/][namespace/]model[:tag]`, and references to models of a registry.

Used by the store (names are paths below `manifests/`), sources and commands. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from paddock_runner.core.digest import Digest, InvalidDigestError

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"
PIN_HOST = "pins.paddock.dev"
HTTP_HOST = "http.paddock.dev"
MAX_HOST_BYTES = 350
MAX_PART_BYTES = 80

_PATTERNS = {
    "host": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*"),
    "namespace": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*"),
    "model": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*"),
    "tag": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*"),
}


class InvalidNameError(ValueError):
    """The text is not a model name; the message names the part, the limit and the rule."""


def _check(part: str, value: str) -> None:
    limit = MAX_HOST_BYTES if part == "host" else MAX_PART_BYTES
    if not 1 <= len(value.encode("utf-8", "replace")) <= limit:
        raise InvalidNameError(f"model name: the {part} must have 1 to {limit} bytes")
    if not _PATTERNS[part].fullmatch(value):
        raise InvalidNameError(
            f"model name: the {part} {value!r} may hold only letters, digits, '_', '-' and '.' "
            "(no '.' in a namespace, ':' only in a host) and must begin with a letter, a digit or '_'"
        )


@dataclass(frozen=True, slots=True, eq=False)
class ModelName:
    """A complete name. Comparison ignores case; the spelling is kept. `str()` is the display form."""

    model: str
    tag: str = DEFAULT_TAG
    namespace: str = DEFAULT_NAMESPACE
    host: str = DEFAULT_HOST

    def __post_init__(self) -> None:
        for part in ("host", "namespace", "model", "tag"):
            _check(part, getattr(self, part))

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Read a name; absent parts get Ollama's defaults. Raises InvalidNameError."""
        rest = text.removeprefix("https://")
        if "://" in rest:
            raise InvalidNameError("model name: only https:// may stand before a name")
        if "@" in rest:
            raise InvalidNameError(
                "model name: a digest is no part of the name of a stored model; only a source may have one"
            )
        rest, tag = _split_tag(rest)
        parts = rest.split("/")
        if len(parts) > 3:
            raise InvalidNameError("model name: at most host/namespace/model:tag")
        defaults = [DEFAULT_HOST, DEFAULT_NAMESPACE]
        host, namespace, model = defaults[: 3 - len(parts)] + parts
        return cls(model=model, tag=tag, namespace=namespace, host=host)

    @property
    def path_parts(self) -> tuple[str, str, str, str]:
        """The four path parts below `manifests/`: host, namespace, model, tag."""
        return (self.host, self.namespace, self.model, self.tag)

    @property
    def key(self) -> tuple[str, ...]:
        """Equal for names that are the same to Ollama."""
        return tuple(part.lower() for part in self.path_parts)

    @property
    def full(self) -> str:
        """All four parts: `host/namespace/model:tag`."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, ModelName) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)

    def __str__(self) -> str:
        if self.host.lower() != DEFAULT_HOST:
            return self.full
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"


@dataclass(frozen=True, slots=True)
class Reference:
    """A model of a registry: its name, the manifest digest that it must have (None: any), and how to reach the host."""

    name: ModelName
    digest: Digest | None = None
    scheme: str = "https"

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read `[http://|https://][host/][namespace/]model[:tag][@sha256:…]`. Raises InvalidNameError."""
        rest, at, digest = text.removeprefix("http://").partition("@")
        scheme = "http" if text.startswith("http://") else "https"
        if scheme == "http" and rest.count("/") != 2:
            raise InvalidNameError("model name: http:// needs a host, as in http://host:port/namespace/model:tag")
        try:
            return cls(ModelName.parse(rest), Digest.parse(digest) if at else None, scheme)
        except InvalidDigestError as error:
            raise InvalidNameError(f"model name: after '@', the {error}") from None

    @property
    def origin(self) -> str:
        """`scheme://host[:port]` of the registry."""
        return f"{self.scheme}://{self.name.host}"


def _split_tag(text: str) -> tuple[str, str]:
    colon = text.rfind(":")
    if colon <= text.rfind("/"):
        return text, DEFAULT_TAG
    return text[:colon], text[colon + 1 :]


def same_name(left: str, right: str) -> bool:
    """True when both texts name the same model (`x` equals `x:latest`, case ignored); False if either is no name."""
    try:
        return ModelName.parse(left) == ModelName.parse(right)
    except InvalidNameError:
        return False
