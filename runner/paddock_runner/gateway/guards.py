"""What a request must look like before anybody reads it: framing, Host, Origin, media type. Called by `gateway.app`.

Framing proper (duplicate lengths, unknown codings, characters) is the HTTP parser's; here is what it lets through.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping

from paddock_runner.gateway.errors import Refusal
from paddock_runner.gateway.exchange import Message

Headers = Mapping[bytes, bytes]

MAX_HEADERS = 100
MAX_HEADER_BYTES = 64 * 1024
MAX_TARGET_BYTES = 8 * 1024

_CLOSE = {"Connection": "close"}

_HOST = re.compile(rb"(?:([A-Za-z0-9._-]{1,253})|\[([0-9A-Fa-f:.]{2,45})\])(?::[0-9]{1,5})?")
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
_LOCAL_ORIGIN = re.compile(rb"https?://(?:localhost|127\.0\.0\.1|0\.0\.0\.0|\[::1\])(?::[0-9]{1,5})?")
_APP_ORIGIN = re.compile(rb"(?:app|file|tauri|vscode-webview|vscode-file)://.*")
_NEVER_JSON = (b"multipart/", b"image/", b"audio/", b"video/", b"application/octet-stream")


def check_head(scope: Message) -> None:
    """Bound the head: the parser's own bound does not hold for a head that arrives in one piece."""
    if scope["http_version"] not in ("1.0", "1.1"):
        raise Refusal("bad_request", "only HTTP/1.0 and HTTP/1.1 are spoken here", headers=_CLOSE)
    headers = scope["headers"]
    size = sum(len(name) + len(value) for name, value in headers)
    if len(headers) > MAX_HEADERS or size > MAX_HEADER_BYTES:
        message = f"more than {MAX_HEADERS} headers or {MAX_HEADER_BYTES} bytes of them"
        raise Refusal("head_too_large", message, headers=_CLOSE)
    if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_TARGET_BYTES:
        raise Refusal("head_too_large", f"the path is longer than {MAX_TARGET_BYTES} bytes", headers=_CLOSE)


def check_framing(headers: Headers) -> None:
    """Two lengths for one body are how requests are smuggled: the connection ends with this answer."""
    if b"transfer-encoding" in headers and b"content-length" in headers:
        message = "a request has either Content-Length or Transfer-Encoding, not both"
        raise Refusal("bad_request", message, headers=_CLOSE)


def check_host(headers: Headers) -> None:
    """A Host header, where there is one, must be a host and nothing else."""
    host = headers.get(b"host", b"")
    if host and not _HOST.fullmatch(host):
        raise Refusal("bad_request", "the Host header is not HOST or HOST:PORT", headers=_CLOSE)


def check_local_caller(headers: Headers, server: str) -> None:
    """For an Endpoint without keys on loopback: keeps other people's web pages out.

    Without this, a page in the browser of this machine could use the model: by its own name that resolves to 127.0.0.1
    (Host), or by a plain cross-site request (Origin). `server` is the address that the request arrived at.
    """
    if is_loopback(server) and not _is_local_host(headers.get(b"host", b"")):
        raise Refusal("bad_host", "this Host is not allowed on an Endpoint without keys")
    origin = headers.get(b"origin")
    if origin and not (_LOCAL_ORIGIN.fullmatch(origin) or _APP_ORIGIN.fullmatch(origin)):
        raise Refusal("bad_origin", "this Origin is not allowed on an Endpoint without keys")


def check_media(headers: Headers) -> None:
    """Refuse what cannot be JSON. A form is read as JSON: that is what curl calls a body by default."""
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Refusal("media_type", "compressed bodies are not accepted; send the JSON as it is")
    media = headers.get(b"content-type", b"").strip().lower()
    if media.startswith(_NEVER_JSON):
        raise Refusal("media_type", "the body must be JSON; send Content-Type: application/json")


def is_loopback(host: str) -> bool:
    """Whether an address (or `localhost`) can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_local_host(value: bytes) -> bool:
    match = _HOST.fullmatch(value)
    if not match:
        return not value
    name = (match.group(1) or match.group(2)).decode("ascii").lower()
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name in ("localhost", socket.gethostname().lower()) or name.endswith(_LOCAL_SUFFIXES)
    return address.is_loopback or address.is_private or address.is_unspecified
