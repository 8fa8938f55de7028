"""Create, load and show: a Modelfile becomes layers, and layers become what a runner loads and a client sees."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from paddock_runner.core.digest import Digest
from paddock_runner.core.manifest import CONFIG_TYPE, Layer, build_manifest, layer
from paddock_runner.core.modelfile import parse_modelfile
from paddock_runner.core.names import ModelName
from paddock_runner.store.create import create
from paddock_runner.store.errors import (
    CacheUnusableError,
    DigestMismatchError,
    InvalidGGUFError,
    InvalidModelError,
    NotFoundError,
    NotGGUFError,
    StoreError,
    TruncatedGGUFError,
)
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.model import load_model
from paddock_runner.store.show import show, tags
from paddock_runner.store.store import Store

FULL = '''
FROM ./tiny.gguf
PARAMETER temperature 0.5
PARAMETER stop a
SYSTEM Be kind.
TEMPLATE """{{ .System }} {{ .Prompt }}"""
LICENSE MIT
LICENSE BSD
MESSAGE user hi
MESSAGE assistant hello
'''


@pytest.fixture
def folder(tmp_path: Path, gguf_file: Path) -> Path:
    shutil.copy(gguf_file, tmp_path / "tiny.gguf")
    return tmp_path


def make(
    store: Store, folder: Path, text: str, name: str = "x", seen: list[Mapping[str, Any]] | None = None
) -> StoredManifest:
    emit = ([] if seen is None else seen).append
    return create(store, ModelName.parse(name), parse_modelfile(text), folder, emit)


def make_adapter(path: Path, architecture: str = "llama", kind: str = "adapter") -> Path:
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_type(kind)
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.ones((4, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_everything_of_a_modelfile_comes_back(store: Store, folder: Path) -> None:
    stored = make(store, folder, FULL)
    files = load_model(store, stored.digest)
    assert files.model_path.read_bytes() == (folder / "tiny.gguf").read_bytes()
    assert (files.system, files.template) == ("Be kind.", "{{ .System }} {{ .Prompt }}")
    assert files.parameters == {"temperature": 0.5, "stop": ["a"]}
    assert files.messages == ({"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"})
    assert files.license == "MIT\nBSD"
    assert files.details["family"] == "llama"
    assert files.config["model_type"] == "103K"
    assert (files.adapter_paths, files.projector_path) == ((), None)
    assert files.size == sum(layer.size for layer in stored.manifest.layers)
    assert [layer.kind for layer in stored.manifest.layers] == [
        "model",
        "license",
        "license",
        "template",
        "system",
        "params",
        "messages",
    ]


def test_the_statuses_are_ollamas(store: Store, folder: Path) -> None:
    seen: list[Mapping[str, Any]] = []
    make(store, folder, "FROM ./tiny.gguf\nSYSTEM hi", seen=seen)
    make(store, folder, "FROM ./tiny.gguf\nSYSTEM hi", seen=seen)
    texts = [status["status"].split(" sha256:")[0] for status in seen]
    assert texts == [
        "parsing GGUF",
        "copying tiny.gguf",
        "creating new layer",
        "creating new layer",
        "writing manifest",
        "parsing GGUF",
        "copying tiny.gguf",
        "using existing layer",
        "using existing layer",
        "writing manifest",
    ]
    size = (folder / "tiny.gguf").stat().st_size
    assert seen[1] == {"status": "copying tiny.gguf", "completed": size, "total": size}


def test_the_same_modelfile_gives_the_same_digest(store: Store, folder: Path) -> None:
    assert make(store, folder, FULL, "a").digest == make(store, folder, FULL, "b").digest


def test_from_a_model_inherits_and_overrides(store: Store, folder: Path) -> None:
    make(store, folder, FULL, "base")
    text = "FROM Base\nPARAMETER top_k 3\nPARAMETER stop b\nSYSTEM Be brief.\nLICENSE GPL\nMESSAGE user yo\nRENDERER r"
    files = load_model(store, make(store, folder, text))
    assert files.parameters == {"temperature": 0.5, "stop": ["b"], "top_k": 3}
    assert files.system == "Be brief."
    assert files.template == "{{ .System }} {{ .Prompt }}"
    assert files.license == "MIT\nBSD\nGPL"
    assert files.messages == ({"role": "user", "content": "yo"},)
    assert files.config["renderer"] == "r"
    assert files.config["file_type"] == "F32"


def test_an_empty_system_keeps_the_inherited_one(store: Store, folder: Path) -> None:
    make(store, folder, FULL, "base")
    assert load_model(store, make(store, folder, 'FROM base\nSYSTEM ""')).system == "Be kind."


def test_adapter_and_projector_layers(store: Store, folder: Path) -> None:
    make_adapter(folder / "lora.gguf")
    make_adapter(folder / "eyes.gguf", "clip", "mmproj")
    files = load_model(store, make(store, folder, "FROM tiny.gguf\nFROM eyes.gguf\nADAPTER lora.gguf"))
    assert [path.read_bytes() for path in files.adapter_paths] == [(folder / "lora.gguf").read_bytes()]
    assert files.projector_path is not None
    assert files.projector_path.read_bytes() == (folder / "eyes.gguf").read_bytes()


def damage(folder: Path) -> None:
    data = (folder / "tiny.gguf").read_bytes()
    (folder / "short.gguf").write_bytes(data[:-1])
    (folder / "empty.gguf").write_bytes(b"")
    (folder / "text.gguf").write_text("hello")
    make_adapter(folder / "lora.gguf")
    make_adapter(folder / "foreign.gguf", "qwen2")
    os.mkfifo(folder / "fifo.gguf")
    (folder / "some").mkdir()


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        ("FROM ./missing.gguf", NotFoundError, "missing.gguf does not exist"),
        ("FROM nosuchmodel", NotFoundError, "nosuchmodel"),
        ("FROM bad//name", InvalidModelError, "no such file, and model name"),
        ("FROM ./some", InvalidModelError, "is a folder"),
        ("FROM short.gguf", TruncatedGGUFError, "truncated"),
        ("FROM empty.gguf", NotGGUFError, "empty"),
        ("FROM text.gguf", NotGGUFError, "hell"),
        ("FROM fifo.gguf", CacheUnusableError, "regular"),
        ("FROM tiny.gguf\nFROM tiny.gguf", InvalidModelError, "only one FROM"),
        ("FROM lora.gguf", InvalidModelError, "names no model"),
        ("FROM tiny.gguf\nADAPTER tiny.gguf", InvalidGGUFError, "an adapter is needed"),
        ("FROM tiny.gguf\nADAPTER foreign.gguf", InvalidGGUFError, "adapter is for qwen2, the model is llama"),
        ("FROM tiny.gguf\nADAPTER ./nope.gguf", NotFoundError, "nope"),
        ("FROM tiny.gguf\nSYSTEM " + "x" * (1 << 20) + "y", InvalidModelError, "SYSTEM has"),
    ],
)
def test_a_failed_create_leaves_no_model(
    store: Store, folder: Path, text: str, error: type[StoreError], match: str
) -> None:
    damage(folder)
    with pytest.raises(error, match=match):
        make(store, folder, text)
    assert store.list() == ()
    left = store.path / "blobs"
    assert not left.exists() or all(path.name.startswith("sha256-") for path in left.iterdir())


def test_a_failed_create_keeps_the_old_model(store: Store, folder: Path) -> None:
    digest = make(store, folder, FULL).digest
    with pytest.raises(NotFoundError):
        make(store, folder, "FROM ./missing.gguf")
    assert store.manifest(ModelName.parse("x")).digest == digest


def test_load_model_verifies(store: Store, folder: Path) -> None:
    stored = make(store, folder, FULL)
    path = load_model(store, stored).model_path
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DigestMismatchError):
        load_model(store, stored.digest)
    path.unlink()
    with pytest.raises(NotFoundError):
        load_model(store, stored.digest)


def with_layer(store: Store, folder: Path, kind: str, data: bytes) -> StoredManifest:
    """A model whose layer of `kind` holds `data`, as another program might have written it."""
    base = make(store, folder, "FROM tiny.gguf")
    (folder / "layer").write_bytes(data)
    blob = store.write_blob(folder / "layer")
    layers = [*base.manifest.layers, Layer("application/vnd.ollama.image." + kind, blob.digest, blob.size)]
    return store.write_manifest(ModelName.parse("y"), build_manifest(base.manifest.config, layers))


@pytest.mark.parametrize(
    ("kind", "data", "match"),
    [
        ("params", b"[]", "JSON object"),
        ("params", b"{", "JSON"),
        ("params", b'{"a":' + b"[" * 100 + b"]" * 100 + b"}", "nested"),
        ("params", b" " * (1 << 19), "larger than"),
        ("messages", b"{}", "JSON list"),
        ("messages", b'[{"role":1}]', "role and content"),
        ("system", b"\xff\xfe", "UTF-8"),
        ("template", b"x" * (2 << 20), "larger than"),
    ],
)
def test_malformed_layers_are_typed(store: Store, folder: Path, kind: str, data: bytes, match: str) -> None:
    stored = with_layer(store, folder, kind, data)
    with pytest.raises(CacheUnusableError, match=match):
        load_model(store, stored)


def test_a_second_model_layer_must_be_a_part_of_the_first(store: Store, folder: Path) -> None:
    with pytest.raises(NotGGUFError):
        load_model(store, with_layer(store, folder, "model", b"second"))
    with pytest.raises(InvalidGGUFError, match=r"split.count"):
        load_model(store, with_layer(store, folder, "model", (folder / "tiny.gguf").read_bytes()))
    base = make(store, folder, "FROM tiny.gguf").manifest
    none = store.write_manifest(ModelName.parse("z"), build_manifest(base.config, [layer("system", Digest.of(b""), 0)]))
    with pytest.raises(CacheUnusableError, match="no model layer"):
        load_model(store, none, verify=False)


def test_legacy_and_unknown_layers(store: Store, folder: Path) -> None:
    assert load_model(store, with_layer(store, folder, "prompt", b"{{ .Prompt }}")).template == "{{ .Prompt }}"
    assert load_model(store, with_layer(store, folder, "embed", b"?")).template is None


def test_a_lying_size_is_seen(store: Store, folder: Path) -> None:
    base = make(store, folder, "FROM tiny.gguf").manifest
    lie = Layer(base.layers[0].media_type, base.layers[0].digest, 5)
    stored = store.write_manifest(ModelName.parse("y"), build_manifest(base.config, [lie]))
    with pytest.raises(CacheUnusableError, match="5 bytes"):
        load_model(store, stored)


def test_a_store_of_another_program_is_read_as_it_is(store: Store, folder: Path) -> None:
    data = (folder / "tiny.gguf").read_bytes()
    config, other = b'{"model_format":"gguf","model_family":"llama"}', store.path
    (other / "blobs").mkdir(parents=True)
    for content in (data, config):
        (other / "blobs" / Digest.of(content).file_name).write_bytes(content)
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {"mediaType": CONFIG_TYPE, "digest": str(Digest.of(config)), "size": len(config)},
        "layers": [
            {
                "mediaType": "application/vnd.ollama.image.model",
                "digest": str(Digest.of(data)),
                "size": len(data),
                "from": "/elsewhere",
            }
        ],
    }
    target = other / "manifests" / "registry.ollama.ai" / "library" / "Theirs" / "1b"
    target.parent.mkdir(parents=True)
    target.write_text(json.dumps(manifest, indent=3))
    before = sorted(other.rglob("*"))
    closed = Store(other, read_only=True)
    entry = tags(closed)["models"][0]
    assert (entry["name"], entry["size"], entry["capabilities"]) == ("Theirs:1b", len(data), ["completion"])
    assert entry["digest"] == Digest.of(target.read_bytes()).hex
    assert load_model(closed, closed.manifest(ModelName.parse("theirs:1B"))).header.vocab_size == 512
    assert sorted(other.rglob("*")) == before


def test_tags_have_ollamas_shape(store: Store, folder: Path) -> None:
    stored = make(store, folder, FULL)
    entry = tags(store)["models"][0]
    assert entry.pop("modified_at").endswith("Z")
    assert entry == {
        "name": "x:latest",
        "model": "x:latest",
        "size": stored.manifest.size,
        "digest": stored.digest.hex,
        "details": {
            "parent_model": "",
            "format": "gguf",
            "family": "llama",
            "families": ["llama"],
            "parameter_size": "103K",
            "quantization_level": "F32",
            "context_length": 4096,
            "embedding_length": 64,
        },
        "capabilities": ["completion"],
    }


def test_tags_survive_a_missing_blob(store: Store, folder: Path) -> None:
    stored = make(store, folder, "FROM tiny.gguf")
    for item in stored.manifest.blobs:
        store.blob_path(item.digest).unlink()
    assert tags(store)["models"][0]["capabilities"] == []


def test_show_has_ollamas_shape(store: Store, folder: Path) -> None:
    make(store, folder, FULL)
    answer = show(store, ModelName.parse("X"))
    assert answer["license"] == "MIT\nBSD"
    assert answer["system"] == "Be kind."
    assert answer["template"] == "{{ .System }} {{ .Prompt }}"
    assert answer["parameters"].split() == ["temperature", "0.5", "stop", '"a"']
    assert answer["messages"][1] == {"role": "assistant", "content": "hello"}
    assert answer["details"]["quantization_level"] == "F32"
    assert answer["capabilities"] == ["completion"]
    info = answer["model_info"]
    assert info["general.architecture"] == "llama"
    assert info["llama.context_length"] == 4096
    assert info["tokenizer.ggml.tokens"] == []
    assert "tokenizer.chat_template" not in info
    assert "general.name" not in info
    assert answer["tensors"][0] == {"name": "token_embd.weight", "type": "F32", "shape": [64, 512]}
    reread = parse_modelfile(answer["modelfile"])
    assert reread.system == "Be kind."
    assert Path(reread.froms[0]).is_file()
    json.dumps(answer, allow_nan=False)


def test_show_falls_back_to_the_files_own_template(store: Store, folder: Path) -> None:
    make(store, folder, "FROM tiny.gguf")
    answer = show(store, ModelName.parse("x"))
    assert "im_start" in answer["template"]
    assert {"system", "license", "messages", "parameters", "requires"} & answer.keys() == set()
