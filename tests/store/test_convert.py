"""Quantizing a model in the cache: by llama.cpp itself, once, and only what was not rounded before."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.gguf_maker import make_gguf

from paddock_runner.commands.convert import conversion, convert
from paddock_runner.core.digest import Digest
from paddock_runner.core.modelfile import parse_modelfile
from paddock_runner.core.names import ModelName
from paddock_runner.core.quantization import Conversion, InvalidQuantizationError, check_source, parse_step, parse_type
from paddock_runner.engine.converting import run_quantizer
from paddock_runner.store.collect import collect
from paddock_runner.store.create import create
from paddock_runner.store.errors import InvalidModelError, NotFoundError
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.model import load_model
from paddock_runner.store.store import Store

SOURCE = Digest.of(b"a manifest")
MODELFILE = b'FROM ./wide.gguf\nSYSTEM "You are terse."\nPARAMETER temperature 0\n'


@pytest.fixture(scope="session")
def wide_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of 256 elements, which K types need."""
    return make_gguf(
        tmp_path_factory.mktemp("wide") / "wide.gguf", embedding=256, heads=4, kv_heads=4, feed_forward=256
    )


@pytest.fixture
def source(store: Store, wide_gguf: Path) -> StoredManifest:
    return create(store, ModelName.parse("wide"), parse_modelfile(MODELFILE), wide_gguf.parent)


def ignore(*_: object) -> None:
    pass


@pytest.mark.parametrize(
    ("text", "meant"),
    [("Q4_K_M", "Q4_K_M"), ("q4_k_m", "Q4_K_M"), ("Q4_K", "Q4_K_M"), ("bf16", "BF16"), ("iq4_xs", "IQ4_XS")],
)
def test_known_types(text: str, meant: str) -> None:
    assert parse_type(text) == meant


@pytest.mark.parametrize("text", ["", "Q9", "IQ1_S", "Q4_K_M ", None, 4, "Q4_K_M\n", "x" * 1000])
def test_unknown_types_are_refused_with_the_known_ones(text: object) -> None:
    with pytest.raises(InvalidQuantizationError, match="Q8_0") as refused:
        parse_type(text)
    assert len(str(refused.value)) < 400


def test_what_was_rounded_is_not_rounded_again() -> None:
    check_source("Q4_K_M", ["F32", "BF16"])
    with pytest.raises(InvalidQuantizationError, match="Q4_0, Q6_K"):
        check_source("Q8_0", ["Q6_K", "F32", "Q4_0"])


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("[   1/ 272] output.weight - [ 576, 49152, 1, 1], type = f16, ", (0, 272)),
        ("[ 272/ 272] blk.0", (271, 272)),
        ("[ 9/ 3] nonsense", None),
        ("llama_model_quantize_impl: model size = 1 MiB", None),
        ("", None),
    ],
)
def test_steps_of_the_log(line: str, step: tuple[int, int] | None) -> None:
    assert parse_step(line) == step


def test_the_key_is_of_source_type_and_version() -> None:
    made = Conversion(SOURCE, "Q8_0", "1")
    others = [Conversion(SOURCE, "Q4_0", "1"), Conversion(SOURCE, "Q8_0", "2"), Conversion(Digest.of(b""), "Q8_0", "1")]
    assert made.key == Conversion(SOURCE, "Q8_0", "1").key
    assert len({made.key, *(other.key for other in others)}) == 4


def test_a_model_is_converted_once_and_keeps_its_texts(store: Store, source: StoredManifest) -> None:
    told: list[tuple[int, int]] = []
    asked = conversion(source.digest, "q4_k_m")
    made = convert(store, asked, lambda digest, done, total: told.append((done, total)))
    before, after = load_model(store, source), load_model(store, made)
    assert after.header.quantization == "Q4_K_M"
    assert after.header.parameter_count == before.header.parameter_count
    assert after.model_path.stat().st_size < before.model_path.stat().st_size / 2
    assert (after.system, after.parameters) == (before.system, before.parameters)
    assert after.config["file_type"] == "Q4_K_M"
    assert len(told) > 3
    assert all(done <= total for done, total in told)
    inode = after.model_path.stat().st_ino
    again = convert(store, asked, ignore)
    assert (again.digest, load_model(store, again).model_path.stat().st_ino) == (made.digest, inode)
    assert store.manifest_by_digest(made.digest).is_pin, "a root of its own keeps the bytes"
    assert not list((store.path / ".paddock" / "tmp").iterdir())


def test_a_damaged_result_is_made_again(store: Store, source: StoredManifest) -> None:
    asked = conversion(source.digest, "Q8_0")
    made = convert(store, asked, ignore)
    path = load_model(store, made).model_path
    path.unlink()
    assert convert(store, asked, ignore).digest == made.digest
    assert path.exists()


def test_a_quantized_model_is_refused(store: Store, source: StoredManifest) -> None:
    made = convert(store, conversion(source.digest, "Q8_0"), ignore)
    with pytest.raises(InvalidModelError, match="Q8_0 cannot become Q4_0"):
        convert(store, conversion(made.digest, "Q4_0"), ignore)


def test_no_such_source(store: Store) -> None:
    with pytest.raises(NotFoundError, match=str(SOURCE)):
        convert(store, conversion(SOURCE, "Q8_0"), ignore)


def test_leftovers_of_a_killed_run_do_not_harm(store: Store, source: StoredManifest) -> None:
    asked = conversion(source.digest, "Q8_0")
    left = store.path / ".paddock" / "tmp" / f"convert-{asked.key.hex}"
    left.mkdir(parents=True)
    (left / "converted.gguf").write_bytes(b"half")
    assert load_model(store, convert(store, asked, ignore)).header.quantization == "Q8_0"
    assert not left.exists()


def test_a_link_that_was_planted_is_not_written_through(store: Store, source: StoredManifest, tmp_path: Path) -> None:
    asked = conversion(source.digest, "Q8_0")
    (tmp_path / "elsewhere").mkdir()
    store.working_folder(asked.key).symlink_to(tmp_path / "elsewhere")
    convert(store, asked, ignore)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_collector_takes_what_a_killed_run_left_and_spares_the_living(store: Store, source: StoredManifest) -> None:
    dead, living = (store.working_folder(Digest(letter * 64)) for letter in "12")
    for folder in (dead, living):
        folder.mkdir()
        (folder / "converted.gguf").write_bytes(b"half")
    with store.digest_lock(Digest("2" * 64)):
        collect(store, None, 0)
    assert [dead.exists(), living.exists()] == [False, True]


def test_the_command_answers_as_a_pull_does(store: Store, source: StoredManifest) -> None:
    request = json.dumps({"digest": str(source.digest), "type": "Q8_0"})
    command = [sys.executable, "-m", "paddock_runner", "convert", "--models", str(store.path), "--request", "-"]
    done = subprocess.run(command, input=request, capture_output=True, text=True, timeout=60, check=True)
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["event"] == "result"
    assert last["result"]["details"]["quantization"] == "Q8_0"
    assert Digest.parse(last["result"]["digest"]) == convert(store, conversion(source.digest, "Q8_0"), ignore).digest


@pytest.mark.parametrize(
    ("request_", "reason", "words"),
    [
        ("{}", "InvalidModel", "digest"),
        ('{"digest":"sha256:%s","type":"Q99"}' % ("0" * 64), "InvalidModel", "Q99"),
        ('{"digest":"sha256:%s","type":"Q8_0"}' % ("0" * 64), "NotFound", "no manifest"),
        ("[", "InvalidModel", "request"),
    ],
)
def test_bad_requests(store: Store, request_: str, reason: str, words: str) -> None:
    command = [sys.executable, "-m", "paddock_runner", "convert", "--models", str(store.path), "--request", "-"]
    done = subprocess.run(command, input=request_, capture_output=True, text=True, timeout=60, check=False)
    last = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, last["event"], last["reason"]) == (1, "error", reason)
    assert words in last["message"]


def test_a_file_that_llama_cpp_refuses_is_a_typed_error(store: Store, source: StoredManifest, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(load_model(store, source).model_path.read_bytes()[:4096])
    with pytest.raises(InvalidModelError, match=r"llama\.cpp cannot convert"):
        run_quantizer(broken, tmp_path / "out.gguf", "Q8_0", ignore)
