"""The Modelfile language: tables of what is read and what is refused, with its line."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock_runner.core.modelfile import (
    Modelfile,
    ModelfileError,
    format_modelfile,
    format_parameters,
    parse_modelfile,
)


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("FROM x", "froms", ["x"]),
        ("from ./a b.gguf  ", "froms", ["./a b.gguf"]),
        ("FROM a.gguf\nFROM mmproj.gguf", "froms", ["a.gguf", "mmproj.gguf"]),
        ("\n# FROM y\n  # z\nFROM x # not a comment", "froms", ["x # not a comment"]),
        ("FROM\tx", "froms", ["x"]),
        ("FROM x\r\nSYSTEM hi\r\n", "system", "hi"),
        ("FROM x\nADAPTER ./lora.gguf", "adapters", ["./lora.gguf"]),
        ("FROM x\nSYSTEM You are kind.", "system", "You are kind."),
        ('FROM x\nSYSTEM "  padded  "', "system", "  padded  "),
        ('FROM x\nSYSTEM """one\n  two\n"""', "system", "one\n  two\n"),
        ('FROM x\nSYSTEM """one"""', "system", "one"),
        ('FROM x\nSYSTEM "one\ntwo"\n', "system", "one\ntwo"),
        ('FROM x\nSYSTEM """\n# kept\nFROM y\n"""', "system", "\n# kept\nFROM y\n"),
        ('FROM x\nSYSTEM say "hi" now', "system", 'say "hi" now'),
        ('FROM x\nSYSTEM """say "hi" """', "system", 'say "hi" '),
        ('FROM x\nSYSTEM ""', "system", ""),
        ("FROM x\nSYSTEM a\\nb", "system", "a\\nb"),
        ("FROM x\nSYSTEM a\nSYSTEM b", "system", "b"),
        ("FROM x\nSYSTEM line\u2028separator", "system", "line\u2028separator"),
        ('FROM x\nTEMPLATE """{{ .System }}\n{{ .Prompt }}"""', "template", "{{ .System }}\n{{ .Prompt }}"),
        ('FROM x\nTEMPLATE """a  \nb"""', "template", "a  \nb"),
        ("FROM x\nLICENSE MIT\nLICENSE BSD", "licenses", ["MIT", "BSD"]),
        (
            'FROM x\nMESSAGE user hi\nmessage Assistant """he\nllo"""',
            "messages",
            [("user", "hi"), ("assistant", "he\nllo")],
        ),
        ("FROM x\nRENDERER gemma4\nPARSER p\nREQUIRES 0.1.2", "renderer", "gemma4"),
        ("FROM x\nRENDERER gemma4\nPARSER p\nREQUIRES 0.1.2", "requires", "0.1.2"),
        ("FROM x\nPARAMETER temperature 0.5", "parameters", {"temperature": 0.5}),
        ("FROM x\nPARAMETER num_ctx 4096", "parameters", {"num_ctx": 4096}),
        ("FROM x\nPARAMETER seed -1", "parameters", {"seed": -1}),
        ("FROM x\nPARAMETER use_mmap false", "parameters", {"use_mmap": False}),
        ("FROM x\nPARAMETER mirostat 2", "parameters", {"mirostat": 2}),
        ("FROM x\nPARAMETER TOP_K 1\nPARAMETER top_k 2", "parameters", {"top_k": 2}),
        ('FROM x\nPARAMETER stop "<|im_end|>"\nPARAMETER stop b', "parameters", {"stop": ["<|im_end|>", "b"]}),
        ('FROM x\nPARAMETER stop """\n"""', "parameters", {"stop": ["\n"]}),
        ("FROM x\nPARAMETER numa true", "parameters", {}),
        ("FROM x\nPARAMETER numa true", "warnings", ["(line 2): parameter 'numa' was removed and has no effect"]),
    ],
)
def test_what_is_read(text: str, field: str, value: Any) -> None:
    assert getattr(parse_modelfile(text), field) == value
    assert getattr(parse_modelfile(text.encode()), field) == value
    assert getattr(parse_modelfile(text.encode("utf-16")), field) == value


@pytest.mark.parametrize(
    "name", ["f16_kv", "logits_all", "low_vram", "penalize_newline", "tfs_z", "use_mlock", "vocab_only"]
)
def test_removed_parameters_only_warn(name: str) -> None:
    modelfile = parse_modelfile(f"FROM x\nPARAMETER {name} 1")
    assert modelfile.parameters == {}
    assert name in modelfile.warnings[0]


@pytest.mark.parametrize(
    ("text", "line", "match"),
    [
        ("", 0, "no FROM line"),
        ("# only a comment", 0, "no FROM line"),
        ("SYSTEM hi", 0, "no FROM line"),
        ("FROM", 1, "FROM needs a value"),
        ("FROM x\n\nFROMM y", 3, 'command must be one of "from"'),
        ("hello world", 1, "command must be one of"),
        ("FROM x\nMESSAGE robot hi", 2, 'message role must be one of "system", "user", or "assistant"'),
        ("FROM x\nMESSAGE user", 2, "needs a name and a value"),
        ("FROM x\nPARAMETER temperature", 2, "needs a name and a value"),
        ("FROM x\nPARAMETER nosuch 1", 2, "unknown parameter 'nosuch'"),
        ("FROM x\nPARAMETER temperature hot", 2, "invalid float value 'hot'"),
        ("FROM x\nPARAMETER temperature nan", 2, "temperature"),
        ("FROM x\nPARAMETER temperature -1", 2, "between 0 and 100"),
        ("FROM x\nPARAMETER top_k 1.5", 2, "invalid int value '1.5'"),
        ("FROM x\nPARAMETER num_ctx 1000000000000", 2, "num_ctx"),
        ("FROM x\nPARAMETER use_mmap maybe", 2, "invalid bool value"),
        ('FROM x\nPARAMETER stop ""', 2, "stop"),
        ("FROM x\n" + "PARAMETER stop a\n" * 17, 18, "at most 16"),
        ('FROM x\nSYSTEM """never\nclosed', 2, 'unexpected EOF: the value\'s closing """'),
        ('FROM x\nSYSTEM "never', 2, "unexpected EOF"),
        ('FROM x\nSYSTEM """""', 2, "unexpected EOF"),
    ],
)
def test_what_is_refused(text: str, line: int, match: str) -> None:
    with pytest.raises(ModelfileError, match=match) as caught:
        parse_modelfile(text)
    assert caught.value.line == line
    assert not line or str(caught.value).startswith(f"(line {line}): ")


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(ModelfileError, match=r"\(line 2\): is not UTF-8"):
        parse_modelfile(b"FROM x\nSYSTEM \xff")
    with pytest.raises(ModelfileError, match="bytes"):
        parse_modelfile(b"#" * (5 << 20))


WORDS = st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30)
SAFE = WORDS.map(str.strip).filter(lambda text: text and not text.endswith('"') and not text.startswith('"'))


@given(SAFE, SAFE, st.lists(SAFE.filter(lambda text: len(text.encode()) < 250), max_size=4), st.integers(0, 100), SAFE)
def test_a_formatted_modelfile_reads_back(system: str, template: str, stops: list[str], top_k: int, said: str) -> None:
    original = Modelfile(
        froms=["x"],
        system=system + "\n" + template,
        template=template,
        parameters={"top_k": top_k, **({"stop": stops} if stops else {})},
        messages=[("user", said)],
        licenses=[system],
    )
    assert parse_modelfile(format_modelfile(original)) == original


def test_parameters_as_show_prints_them() -> None:
    shown = format_parameters({"temperature": 0.5, "stop": ["a", "b"], "use_mmap": True})
    assert shown.splitlines() == [
        "temperature" + " " * 20 + "0.5",
        "stop" + " " * 27 + '"a"',
        "stop" + " " * 27 + '"b"',
        "use_mmap" + " " * 23 + "true",
    ]
    numbers = {"temperature": 0.0, "top_p": 1.0, "min_p": 0.00001, "num_ctx": 4096}
    assert [line.split()[1] for line in format_parameters(numbers).splitlines()] == ["0", "1", "1e-05", "4096"]
    assert "PARAMETER temperature 0\n" in format_modelfile(Modelfile(froms=["x"], parameters={"temperature": 0.0}))
