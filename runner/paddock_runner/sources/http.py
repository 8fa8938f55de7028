"""A GGUF file by URL and SHA-256. Called through `sources.select`; no credentials are ever sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from yarl import URL

from paddock_runner.core.digest import Digest
from paddock_runner.core.manifest import Manifest
from paddock_runner.core.names import HTTP_HOST, ModelName
from paddock_runner.sources.auth import Access
from paddock_runner.sources.errors import SourceUnsupportedError
from paddock_runner.sources.messages import parse_url
from paddock_runner.sources.plan import FetchPlan, PlannedFile, Remote
from paddock_runner.sources.transport import Transport

_HEX = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class HttpSource:
    """`url` and the SHA-256 that its bytes must have."""

    url: URL
    sha256: Digest
    digest: Digest | None = None
    access: Access | None = None

    @classmethod
    def parse(cls, spec: Mapping[str, object]) -> HttpSource:
        """Read `source.http`. Raises SourceUnsupportedError that names the field."""
        url, sha256 = spec.get("url"), spec.get("sha256")
        match = _HEX.fullmatch(sha256) if isinstance(sha256, str) else None
        if match is None:
            raise SourceUnsupportedError("source.http.sha256 must be 64 lower-case hex digits")
        try:
            return cls(parse_url(str(url)), Digest(match[1]))
        except ValueError:
            raise SourceUnsupportedError("source.http.url is not a URL") from None

    @property
    def name(self) -> ModelName:
        return ModelName(host=HTTP_HOST, namespace="sha256", model=self.sha256.hex)

    def holds(self, manifest: Manifest) -> bool:
        """Whether the manifest is one of the bytes that are asked for: a name alone can be written by others."""
        return {layer.digest for layer in manifest.of_kind("model")} == {self.sha256}

    async def plan(self, transport: Transport) -> FetchPlan:
        """The one file. Raises ForbiddenAddressError, InsecureSourceError, SourceUnsupportedError before any packet."""
        transport.network.rules.check(self.url)
        # As it is written: what is encoded in a URL may be no name of a file.
        shown = self.url.raw_name[-200:] or str(self.url.host)
        return FetchPlan(self.name, (PlannedFile("model", shown, Remote(str(self.url)), digest=self.sha256),))
