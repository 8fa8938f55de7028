"""Bundles: out of a store and into another, read by other tools, and everything hostile that a tar file can hold."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.support.gguf_maker import make_gguf

from paddock_runner.core.digest import Digest
from paddock_runner.core.manifest import MANIFEST_TYPE, Layer, build_manifest, layer
from paddock_runner.core.modelfile import parse_modelfile
from paddock_runner.core.names import PIN_HOST, ModelName
from paddock_runner.core.quantization import CONVERTED_HOST
from paddock_runner.store.bundle import export
from paddock_runner.store.bundle_import import import_
from paddock_runner.store.bundle_layout import MAX_MODELS, NAME_ANNOTATION
from paddock_runner.store.create import create
from paddock_runner.store.errors import (
    DigestMismatchError,
    NotFoundError,
    NotGGUFError,
    SizeMismatchError,
    StoreError,
)
from paddock_runner.store.model import load_model
from paddock_runner.store.store import Store
from paddock_runner.store.tar_stream import InvalidBundleError

ONE, TWO = ModelName("one", "1b"), ModelName("two", namespace="me", host="example.com:5000")


def silent(digest: Digest, done: int, total: int) -> None:
    pass


@pytest.fixture
def full(tmp_path: Path, gguf_file: Path) -> Store:
    """A store with two models that share their weights."""
    store = Store(tmp_path / "full")
    create(store, ONE, parse_modelfile(f"FROM {gguf_file}\nSYSTEM Be kind.\nLICENSE MIT\n".encode()), tmp_path)
    create(store, TWO, parse_modelfile(b"FROM one:1b\nSYSTEM Be brief.\n"), tmp_path)
    return store


def exported(store: Store, *names: ModelName) -> bytes:
    output = io.BytesIO()
    export(store, names, output.write, silent)
    return output.getvalue()


class Pipe(io.BytesIO):
    """A stream that cannot seek and gives little at a time."""

    def seekable(self) -> bool:
        return False

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(size, 1000) if size is not None and size >= 0 else 1000)


@pytest.mark.parametrize("kind", [io.BytesIO, Pipe])
def test_models_come_out_as_they_went_in(full: Store, store: Store, kind: type[io.BytesIO]) -> None:
    found = import_(store, kind(exported(full, TWO, ONE)), silent)
    assert [(item.name.full, item.digest) for item in found] == [
        (name.full, full.manifest(name).digest) for name in (TWO, ONE)
    ]
    for name in (ONE, TWO):
        assert store.manifest(name).data == full.manifest(name).data
        assert load_model(store, store.manifest(name)).system == load_model(full, full.manifest(name)).system
    assert {path.name for path in (store.path / "blobs").iterdir()} == {
        path.name for path in (full.path / "blobs").iterdir()
    }


def test_equal_models_are_equal_bytes(full: Store, store: Store) -> None:
    data = exported(full, ONE, TWO)
    assert data == exported(full, TWO, ONE, TWO)
    import_(store, io.BytesIO(data), silent)
    assert exported(store, ONE, TWO) == data


def test_a_bundle_is_an_oci_layout_for_a_strict_reader(full: Store, tmp_path: Path) -> None:
    """The rules of the image layout specification, checked on what the standard tar program unpacks."""
    bundle, folder = tmp_path / "bundle.tar", tmp_path / "layout"
    bundle.write_bytes(exported(full, ONE, TWO))
    folder.mkdir()
    subprocess.run(["tar", "-xf", bundle, "-C", folder], check=True)
    assert json.loads((folder / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((folder / "index.json").read_bytes())
    assert (index["schemaVersion"], index["mediaType"]) == (2, "application/vnd.oci.image.index.v1+json")
    assert [item["annotations"]["org.opencontainers.image.ref.name"] for item in index["manifests"]] == [
        "example.com:5000/me/two:latest",
        "registry.ollama.ai/library/one:1b",
    ]
    reachable: set[str] = set()

    def follow(descriptor: Mapping[str, Any]) -> bytes:
        algorithm, _, name = descriptor["digest"].partition(":")
        data = (folder / "blobs" / algorithm / name).read_bytes()
        assert (len(data), str(Digest.of(data))) == (descriptor["size"], descriptor["digest"])
        reachable.add(name)
        return bytes(data)

    for item in index["manifests"]:
        manifest = json.loads(follow(item))
        assert manifest["mediaType"] == item["mediaType"]
        for descriptor in (manifest["config"], *manifest["layers"]):
            follow(descriptor)
    assert {path.name for path in (folder / "blobs" / "sha256").iterdir()} == reachable


def test_an_archive_of_another_order_is_read_from_a_file_and_refused_as_a_stream(
    full: Store, store: Store, tmp_path: Path
) -> None:
    other = rewritten(exported(full, ONE), lambda names: sorted(names))
    with pytest.raises(InvalidBundleError, match="save it to a file"):
        import_(store, Pipe(other), silent)
    (tmp_path / "other.tar").write_bytes(other)
    with (tmp_path / "other.tar").open("rb") as stream:
        assert import_(store, stream, silent)[0].digest == full.manifest(ONE).digest


def test_archives_of_gnu_tar_are_read(full: Store, store: Store, tmp_path: Path) -> None:
    (tmp_path / "layout").mkdir()
    (tmp_path / "bundle.tar").write_bytes(exported(full, ONE))
    subprocess.run(["tar", "-xf", tmp_path / "bundle.tar", "-C", tmp_path / "layout"], check=True)
    for style in ("gnu", "ustar", "posix"):
        made = tmp_path / f"{style}.tar"
        subprocess.run(["tar", f"--format={style}", "-cf", made, "-C", tmp_path / "layout", "."], check=True)
        with made.open("rb") as stream:
            assert import_(store, stream, silent)[0].digest == full.manifest(ONE).digest


def test_blobs_that_are_there_are_passed_over(full: Store, store: Store) -> None:
    import_(store, io.BytesIO(exported(full, ONE)), silent)
    before = {path.name: path.stat().st_ino for path in (store.path / "blobs").iterdir()}
    written: list[Digest] = []
    import_(store, io.BytesIO(exported(full, ONE, TWO)), lambda digest, done, total: written.append(digest))
    after = {path.name: path.stat().st_ino for path in (store.path / "blobs").iterdir()}
    assert after.items() >= before.items()
    assert {digest.file_name for digest in written} == after.keys() - before.keys()


def test_a_cut_stream_names_nothing_and_the_next_goes_on(full: Store, store: Store) -> None:
    data = exported(full, ONE)
    for cut in range(0, len(data) - 10240, len(data) // 37):
        with pytest.raises(InvalidBundleError):
            import_(store, Pipe(data[:cut]), silent)
        assert store.list() == ()
    written: list[Digest] = []
    import_(store, Pipe(data), lambda digest, done, total: written.append(digest))
    assert len(set(written)) < len(full.manifest(ONE).manifest.blobs)


def test_a_flipped_byte_anywhere_imports_nothing_or_the_same(full: Store, store: Store) -> None:
    data, digest = exported(full, ONE), full.manifest(ONE).digest
    for at in range(0, len(data), len(data) // 61):
        bad = data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :]
        try:
            import_(store, io.BytesIO(bad), silent)
        except StoreError:
            assert store.list() == ()
        else:
            assert [item.digest for item in store.list()] == [digest]
            store.delete(store.list()[0].name)


def test_export_of_a_damaged_blob_fails(full: Store) -> None:
    weights = full.manifest(ONE).manifest.of_kind("model")[0]
    path = full.blob_path(weights.digest)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DigestMismatchError):
        exported(full, ONE)
    path.write_bytes(data[:-1])
    with pytest.raises(SizeMismatchError):
        exported(full, ONE)
    path.unlink()
    with pytest.raises(NotFoundError):
        exported(full, ONE)


def test_a_split_model_is_exported_and_imported(store: Store, tmp_path: Path) -> None:
    full, first = Store(tmp_path / "full"), make_gguf(tmp_path / "tiny.gguf", split_tensors=8)
    create(full, ONE, parse_modelfile(f"FROM {first}\n".encode()), tmp_path)
    (stored,) = import_(store, Pipe(exported(full, ONE)), silent)
    assert len(load_model(store, stored).split_paths) == len(list(tmp_path.glob("tiny-*.gguf"))) > 1


def test_a_read_only_store_is_exported(full: Store) -> None:
    assert exported(Store(full.path, read_only=True), ONE) == exported(full, ONE)


def rewritten(data: bytes, order: Callable[[list[str]], list[str]]) -> bytes:
    """The archive with its files in another order."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = {item.name: archive.extractfile(item).read() for item in archive}  # type: ignore[union-attr]
    return tar({name: files[name] for name in order(list(files))})


def tar(files: Mapping[str, bytes]) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return output.getvalue()


@dataclass
class Forged:
    """A bundle in parts, to break one of them. `weights` becomes the one model layer."""

    weights: bytes
    name: str = "registry.ollama.ai/library/forged:latest"
    config: bytes = b"{}"
    descriptor: dict[str, Any] = field(default_factory=dict)
    index: dict[str, Any] = field(default_factory=dict)

    @property
    def layers(self) -> list[Layer]:
        return [layer("model", Digest.of(self.weights), len(self.weights))]

    @property
    def manifest(self) -> bytes:
        config = Layer("application/vnd.docker.container.image.v1+json", Digest.of(self.config), len(self.config))
        return build_manifest(config, self.layers)

    def entry(self, **changed: Any) -> dict[str, Any]:
        digest, size = str(Digest.of(self.manifest)), len(self.manifest)
        known = {"mediaType": MANIFEST_TYPE, "digest": digest, "size": size}
        return {**known, "annotations": {NAME_ANNOTATION: self.name}, **self.descriptor, **changed}

    def files(self, manifest: bytes | None = None) -> dict[str, bytes]:
        manifest = self.manifest if manifest is None else manifest
        index = {"schemaVersion": 2, "manifests": [self.entry()], **self.index}
        files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index).encode()}
        for data in (manifest, self.config, self.weights):
            files[f"blobs/sha256/{Digest.of(data).hex}"] = data
        return files


@pytest.fixture
def forged(gguf_file: Path) -> Forged:
    return Forged(gguf_file.read_bytes())


def both(store: Store, data: bytes, error: type[StoreError], words: str) -> None:
    """Refused as a file and as a stream, with no name in the store and nothing outside of it."""
    for stream in (io.BytesIO(data), Pipe(data)):
        with pytest.raises(error, match=words):
            import_(store, stream, silent)
        assert store.list() == ()
    assert not (store.path.parent / "evil").exists()


def test_a_forged_bundle_that_is_right_is_imported(store: Store, forged: Forged) -> None:
    assert import_(store, Pipe(tar(forged.files())), silent)[0].name.model == "forged"


@pytest.mark.parametrize(
    "name", ["../evil", "/evil", "blobs/sha256/../../evil", "blobs/sha256/..", "blobs/sha512/" + "a" * 80, "evil"]
)
def test_names_that_no_layout_has_are_refused(store: Store, forged: Forged, name: str) -> None:
    both(store, tar({name: b"x", **forged.files()}), InvalidBundleError, "no place in an OCI image layout")


@pytest.mark.parametrize("kind", [tarfile.DIRTYPE, tarfile.XHDTYPE])
def test_headers_without_end_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch, kind: bytes) -> None:
    monkeypatch.setattr("paddock_runner.store.tar_stream.MAX_MEMBERS", 100)
    info = tarfile.TarInfo("again")
    info.type = kind
    with pytest.raises(InvalidBundleError, match="headers"):
        import_(store, Endless(info.tobuf() * 100), silent)


class Endless(Pipe):
    """The same bytes again and again."""

    def read(self, size: int | None = -1) -> bytes:
        data = io.BytesIO.read(self, size)
        if not data:
            self.seek(0)
            data = io.BytesIO.read(self, size)
        return data


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE],
)
def test_links_and_devices_are_refused(store: Store, forged: Forged, kind: bytes) -> None:
    info = tarfile.TarInfo("blobs/sha256/" + "a" * 64)
    info.type, info.linkname = kind, "../../evil"
    both(store, info.tobuf() + tar(forged.files()), InvalidBundleError, "no plain file")


def test_extended_headers_that_rename_or_resize_are_refused(store: Store, forged: Forged) -> None:
    for headers in ({"path": "../evil"}, {"size": "99"}, {"GNU.sparse.name": "x"}):
        info = tarfile.TarInfo("oci-layout")
        info.pax_headers = headers
        extended = info.create_pax_header(info.get_info(), "utf-8")
        both(store, extended + tar(forged.files()), InvalidBundleError, "extended headers|twice")
    huge = tarfile.TarInfo("headers")
    huge.type, huge.size = tarfile.XHDTYPE, 1 << 40
    both(store, huge.tobuf(tarfile.GNU_FORMAT), InvalidBundleError, "the limit is")


def test_a_name_twice_is_refused(store: Store, forged: Forged) -> None:
    index = forged.files()["index.json"]
    first = tar({"index.json": index})[: 512 + -(-len(index) // 512) * 512]
    both(store, first + tar(forged.files()), InvalidBundleError, "twice")


def test_what_is_no_tar_is_refused(store: Store) -> None:
    import gzip

    both(store, gzip.compress(b"x" * 9000, 0), InvalidBundleError, "compressed with gzip")
    both(store, b"<html>" * 500, InvalidBundleError, "no tar archive")
    both(store, b"", InvalidBundleError, "ends early")
    both(store, tar({}), InvalidBundleError, "no oci-layout")
    both(store, tar({"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}), InvalidBundleError, "no index.json")
    both(store, tar({"oci-layout": b'{"imageLayoutVersion":"2"}'}), InvalidBundleError, "imageLayoutVersion")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"digest": "sha256:../../../evil"}, "digest must look like"),
        ({"digest": "sha512:" + "a" * 128}, "digest must look like"),
        ({"size": -1}, "size must be"),
        ({"size": 1 << 63}, "size must be"),
        ({"size": True}, "size must be"),
        ({"mediaType": "application/vnd.oci.image.index.v1+json"}, "mediaType must be"),
        ({"annotations": {}}, "is missing"),
        ({"annotations": {NAME_ANNOTATION: "../../evil"}}, "model name"),
        ({"annotations": {NAME_ANNOTATION: f"{PIN_HOST}/sha256/x:latest"}}, "reserved"),
        ({"annotations": {NAME_ANNOTATION: f"{CONVERTED_HOST}/sha256/x:latest"}}, "reserved"),
    ],
)
def test_descriptors_are_read_strictly(store: Store, forged: Forged, changed: dict[str, Any], words: str) -> None:
    forged.descriptor = changed
    both(store, tar(forged.files()), InvalidBundleError, words)


def test_an_index_that_is_a_bomb_is_refused(store: Store, forged: Forged) -> None:
    forged.index = {"manifests": [forged.entry()] * (MAX_MODELS + 1)}
    both(store, tar(forged.files()), InvalidBundleError, f"1 to {MAX_MODELS}")
    forged.index = {"manifests": [forged.entry()] * 2}
    both(store, tar(forged.files()), InvalidBundleError, "twice")
    files = forged.files() | {"index.json": b"[" * 100_000}
    both(store, tar(files), InvalidBundleError, "nested deeper")
    both(store, tar(files | {"index.json": b" " * (5 << 20)}), InvalidBundleError, "the limit is")


def test_sizes_and_digests_that_lie_are_refused(store: Store, forged: Forged) -> None:
    files = forged.files()
    weights, manifest = (f"blobs/sha256/{Digest.of(data).hex}" for data in (forged.weights, forged.manifest))
    both(store, tar(files | {weights: forged.weights + b"x"}), SizeMismatchError, "must have")
    both(store, tar(files | {weights: forged.weights[:-1] + b"x"}), DigestMismatchError, "digest")
    both(store, tar(files | {manifest: forged.manifest[:-1] + b" "}), DigestMismatchError, "digest")
    forged.descriptor = {"size": len(forged.manifest) + 1}
    both(store, tar(forged.files()), SizeMismatchError, "must have")


def test_what_is_missing_is_named_and_the_others_are_imported(store: Store, forged: Forged) -> None:
    files = forged.files()
    weights, manifest = (f"blobs/sha256/{Digest.of(data).hex}" for data in (forged.weights, forged.manifest))
    both(
        store, tar({key: value for key, value in files.items() if key != weights}), NotFoundError, "forged:latest lacks"
    )
    both(store, tar({key: value for key, value in files.items() if key != manifest}), StoreError, "manifest")
    other = Forged(forged.weights, "registry.ollama.ai/library/other:latest", b'{"a":1}')
    forged.index = {"manifests": [forged.entry(), other.entry()]}
    joined = {**forged.files(), **{key: value for key, value in other.files().items() if key != "index.json"}}
    del joined[f"blobs/sha256/{Digest.of(other.config).hex}"]
    with pytest.raises(NotFoundError, match=r"other:latest lacks .*\(1 other"):
        import_(store, io.BytesIO(tar(joined)), silent)
    assert [item.name.model for item in store.list()] == ["forged"]


def test_weights_that_are_no_gguf_are_refused(store: Store) -> None:
    both(store, tar(Forged(b"<html>" * 100).files()), NotGGUFError, "not a GGUF")
    store.write_blob(io.BytesIO(b"<html>" * 100))
    both(store, tar(Forged(b"<html>" * 100).files()), NotGGUFError, "not a GGUF")


def run(*arguments: str | Path, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    command = [sys.executable, "-m", "paddock_runner", *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def lines(output: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_the_commands(full: Store, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.tar"
    code, out, errors = run("export", "--models", full.path, "one:1b", TWO.full, "-o", bundle)
    assert (code, lines(out)[-1]) == (0, {"status": "success"}), errors
    code, piped, _ = run("export", "--models", full.path, "one:1b", TWO.full, "-o", "-")
    assert (code, piped) == (0, bundle.read_bytes())
    code, out, errors = run("import", "--models", tmp_path / "in", "-", stdin=piped)
    assert (code, lines(out)[-1]) == (0, {"status": "success"}), errors
    digest = str(full.manifest(ONE).digest)
    assert {"status": "imported one:1b", "name": ONE.full, "digest": digest} in lines(out)
    assert any(line.get("completed") == line.get("total") != 0 for line in lines(out) if "total" in line)
    assert run("import", "--models", tmp_path / "in", bundle)[0] == 0


def test_failures_of_the_commands(full: Store, tmp_path: Path) -> None:
    target = tmp_path / "bundle.tar"
    code, out, _ = run("export", "--models", full.path, "nobody", "-o", target)
    assert (code, lines(out)[-1]["reason"]) == (1, "NotFound")
    assert [path.name for path in tmp_path.iterdir() if "bundle" in path.name] == []
    code, out, _ = run("import", "--models", tmp_path / "in", target)
    assert (code, lines(out)[-1]["reason"]) == (1, "NotFound")
    code, out, _ = run("import", "--models", tmp_path / "in", "-", stdin=b"<html>")
    assert (code, lines(out)[-1]["reason"]) == (1, "InvalidBundle")
    code, out, _ = run("export", "--models", full.path, f"{PIN_HOST}/a/b", "-o", target)
    assert (code, lines(out)[-1]["reason"]) == (1, "InvalidName")


def test_a_bundle_takes_no_place_of_what_is_no_file(full: Store, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    code, out, _ = run("export", "--models", full.path, "one:1b", "-o", pipe)
    assert (code, json.loads(out.splitlines()[-1])["reason"]) == (1, "CacheUnusable")
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".pipe")) == []
