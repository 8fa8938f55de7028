"""Digests, names and manifests: tables of what is accepted, what is refused, and what comes out again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock_runner.core.digest import Digest, InvalidDigestError
from paddock_runner.core.manifest import (
    MAX_MANIFEST_BYTES,
    InvalidManifestError,
    Layer,
    build_config,
    build_manifest,
    layer,
    parse_config,
    parse_manifest,
    strict_json,
)
from paddock_runner.core.names import InvalidNameError, ModelName, Reference, same_name

HEX = "0123456789abcdef" * 4
DIGEST = Digest(HEX)


def test_digest_forms() -> None:
    assert str(Digest.parse(f"sha256:{HEX}")) == f"sha256:{HEX}"
    assert Digest.from_file_name(f"sha256-{HEX}") == DIGEST
    assert DIGEST.file_name == f"sha256-{HEX}"
    assert DIGEST.short == "0123456789ab"
    assert Digest.of(b"abc").hex.startswith("ba7816bf")


@pytest.mark.parametrize(
    "value",
    [
        f"sha256-{HEX}",
        f"sha256:{HEX}\n",
        f"sha256:{HEX.upper()}",
        f"sha256:{HEX[1:]}",
        f"sha256:{HEX}0",
        f"sha512:{HEX}",
        f"sha256:../../{HEX[6:]}",
        "sha256:" + "\u0661" * 64,
        "",
        None,
        7,
    ],
)
def test_bad_digests(value: Any) -> None:
    with pytest.raises(InvalidDigestError):
        Digest.parse(value)


@pytest.mark.parametrize("name", [f"sha256:{HEX}", "sha256-", f"sha256-{HEX}-partial", f"../sha256-{HEX}"])
def test_bad_file_names(name: str) -> None:
    with pytest.raises(InvalidDigestError):
        Digest.from_file_name(name)


@pytest.mark.parametrize(
    ("text", "parts", "shown"),
    [
        ("smollm2", ("registry.ollama.ai", "library", "smollm2", "latest"), "smollm2:latest"),
        ("smollm2:135m", ("registry.ollama.ai", "library", "smollm2", "135m"), "smollm2:135m"),
        ("library/x:y", ("registry.ollama.ai", "library", "x", "y"), "x:y"),
        ("me/x", ("registry.ollama.ai", "me", "x", "latest"), "me/x:latest"),
        ("hf.co/u/r:Q4_K_M", ("hf.co", "u", "r", "Q4_K_M"), "hf.co/u/r:Q4_K_M"),
        ("localhost:5000/a/b", ("localhost:5000", "a", "b", "latest"), "localhost:5000/a/b:latest"),
        ("https://h.io/a/b:c", ("h.io", "a", "b", "c"), "h.io/a/b:c"),
        ("llama3.2:1b-q4_0", ("registry.ollama.ai", "library", "llama3.2", "1b-q4_0"), "llama3.2:1b-q4_0"),
        ("Registry.Ollama.AI/Library/X", ("Registry.Ollama.AI", "Library", "X", "latest"), "X:latest"),
    ],
)
def test_names(text: str, parts: tuple[str, ...], shown: str) -> None:
    name = ModelName.parse(text)
    assert name.path_parts == parts
    assert str(name) == shown
    assert ModelName.parse(shown) == name


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "model"),
        (":", "tag|model"),
        ("x:", "tag"),
        ("/x", "namespace"),
        ("a//x", "namespace"),
        ("a/b/c/d", "at most"),
        ("../x", "namespace"),
        ("a/..", "model"),
        (".x", "model"),
        ("-x", "model"),
        ("a.b/x", "namespace"),
        ("x:a/b:c:d", "model|tag"),
        ("x y", "model"),
        ("x\n", "model"),
        ("x\0", "model"),
        ("é", "model"),
        ("x:" + "t" * 81, "80 bytes"),
        ("m" * 81, "80 bytes"),
        ("h" * 351 + "/n/m", "350 bytes"),
        ("http://h/a/b", "https"),
        (f"x@sha256:{HEX}", "digest"),
    ],
)
def test_bad_names(text: str, match: str) -> None:
    with pytest.raises(InvalidNameError, match=match):
        ModelName.parse(text)


@pytest.mark.parametrize(
    ("text", "name", "digest", "origin"),
    [
        ("smollm2:135m", "smollm2:135m", None, "https://registry.ollama.ai"),
        (f"me/x@sha256:{HEX}", "me/x:latest", DIGEST, "https://registry.ollama.ai"),
        (f"h.io:8443/a/b:c@sha256:{HEX}", "h.io:8443/a/b:c", DIGEST, "https://h.io:8443"),
        ("https://h.io/a/b:c", "h.io/a/b:c", None, "https://h.io"),
        ("http://127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b:latest", None, "http://127.0.0.1:5000"),
    ],
)
def test_references(text: str, name: str, digest: Digest | None, origin: str) -> None:
    reference = Reference.parse(text)
    assert (str(reference.name), reference.digest, reference.origin) == (name, digest, origin)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("x@", "after '@'"),
        (f"x@sha256:{HEX}@sha256:{HEX}", "after '@'"),
        ("x@sha256:../../etc/passwd", "after '@'"),
        (f"x@sha512:{HEX}", "after '@'"),
        (f"@sha256:{HEX}", "model"),
        ("http://x", "needs a host"),
        ("http://me/x:1", "needs a host"),
        ("http://https://h/a/b", "host"),
        ("ftp://h/a/b", "https"),
        ("https://user:secret@h/a/b", "after '@'|host"),
        ("x:" + "t" * 129, "80 bytes"),
        ("h.io/a/ｂ", "model"),
        ("h.io/a/b%2e%2e", "model"),
    ],
)
def test_bad_references(text: str, match: str) -> None:
    with pytest.raises(InvalidNameError, match=match) as caught:
        Reference.parse(text)
    assert len(str(caught.value)) < 400


def test_names_compare_without_case_and_with_latest() -> None:
    assert ModelName.parse("SmolLM2") == ModelName.parse("smollm2:latest")
    assert len({ModelName.parse("A:B"), ModelName.parse("a:b")}) == 1
    assert same_name("x", "X:LATEST")
    assert not same_name("x", "y")
    assert not same_name("x", "../x")


@given(st.text(max_size=40))
def test_no_text_becomes_a_path_that_leaves_its_folder(text: str) -> None:
    try:
        name = ModelName.parse(text)
    except InvalidNameError:
        return
    assert all(part not in ("", ".", "..") and "/" not in part and "\0" not in part for part in name.path_parts)


DIGEST_OF_5, DIGEST_OF_1 = Digest.of(b"12345"), Digest.of(b"1")
CONFIG = Layer("application/vnd.docker.container.image.v1+json", DIGEST, 10)


def valid() -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(build_manifest(CONFIG, [layer("model", DIGEST_OF_5, 5)]))
    return manifest


def test_a_manifest_survives_the_round_trip() -> None:
    data = build_manifest(CONFIG, [layer("model", DIGEST_OF_5, 5), Layer("text/plain", DIGEST_OF_1, 1)])
    manifest = parse_manifest(data)
    assert (manifest.size, manifest.config) == (6, CONFIG)
    assert [item.kind for item in manifest.layers] == ["model", ""]
    assert build_manifest(manifest.config, manifest.layers) == data


def valid_text() -> bytes:
    return json.dumps(valid(), separators=(",", ":")).encode()


def changed(**changes: Any) -> bytes:
    return json.dumps({**valid(), **changes}).encode()


def layered(**changes: Any) -> bytes:
    return changed(layers=[{**valid()["layers"][0], **changes}])


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "missing"),
        (b"{", "JSON"),
        (b"\xff\xfe{\0}\0", "UTF-8"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b"[]", "object"),
        (b'{"a":NaN}', "NaN"),
        (b'{"a":1,"a":2}', "duplicate"),
        (b"[" * 5000 + b"]" * 5000, "deep"),
        (b" " * (MAX_MANIFEST_BYTES + 1), "limit"),
        (changed(schemaVersion=1), "schemaVersion"),
        (changed(mediaType="text/html"), "mediaType"),
        (changed(manifests=[]), "manifests"),
        (changed(layers=[]), "layers"),
        (changed(layers={}), "layers"),
        (changed(layers=["x"]), r"layers\[0\]"),
        (changed(config=None), "config"),
        (layered(digest="sha256:../../etc/passwd"), r"layers\[0\].digest"),
        (layered(digest=f"sha512:{HEX}"), "digest"),
        (layered(size=-1), "size"),
        (layered(size=2**63), "size"),
        (layered(size=1.5), "size"),
        (layered(size=True), "size"),
        (layered(size="5"), "size"),
        (layered(mediaType=""), "mediaType"),
        (layered(mediaType=5), "mediaType"),
        (layered(mediaType="text/é"), "mediaType"),
        (layered(mediaType="a\nb"), "mediaType"),
        (layered(mediaType="x" * 256), "mediaType"),
        (layered(size=None), "size"),
        (layered(size=2**50 + 1), "size"),
        (layered(digest=f"sha256:{HEX}", size=9), "sizes 9 and 10|sizes 10 and 9"),
        (layered(size=2**50), "together"),
        (valid_text().replace(b'"config":', b'"config":{},"config":'), "duplicate key"),
        (valid_text().replace(b'"size":5', b'"size":5,"size":6'), "duplicate key"),
        (b'{"schemaVersion":2,"layers":[' + b"{}," * 100_000 + b"{}]}", "1 to 4096"),
    ],
)
def test_bad_manifests(data: bytes, match: str) -> None:
    with pytest.raises(InvalidManifestError, match=match):
        parse_manifest(data)


def test_config_leaves_absent_values_out() -> None:
    data = build_config({"model_family": "llama", "renderer": None, "capabilities": []})
    assert parse_config(data) == {"model_family": "llama", "architecture": "amd64", "os": "linux"}
    with pytest.raises(InvalidManifestError, match="object"):
        parse_config(b"[]")


def test_strict_json_keeps_its_limit() -> None:
    with pytest.raises(InvalidManifestError, match="the limit is 3"):
        strict_json(b'"abcdef"', 3)
