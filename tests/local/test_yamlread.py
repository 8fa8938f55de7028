"""Manifest text: documents with their lines, and every refusal with a place."""

from __future__ import annotations

import pytest

from paddock_operator.executors.local.yamlread import MAX_DOCUMENTS, ManifestError, parse

MODEL = "apiVersion: paddock.dev/v1alpha1\nkind: Model\nmetadata: {name: a}\n"


def test_documents_know_their_lines_and_empty_ones_vanish() -> None:
    found = parse(f"---\n{MODEL}---\n---\n# nothing\n---\n{MODEL}", "m.yaml")
    assert [document.place for document in found] == ["m.yaml:2", "m.yaml:9"]
    assert found[0].body["metadata"] == {"name": "a"}


def test_json_is_yaml() -> None:
    assert parse('{"kind": "Model", "spec": {"a": [1, 2.5, null]}}', "m.json")[0].body["spec"] == {"a": [1, 2.5, None]}


def test_timestamps_stay_text_as_in_json() -> None:
    assert parse("when: 2026-01-01T00:00:00Z\n", "m")[0].body == {"when": "2026-01-01T00:00:00Z"}


def test_aliases_within_bounds_work() -> None:
    assert parse("a: &x {b: 1}\nc: *x\n", "m")[0].body["c"] == {"b": 1}


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "the key 'a' appears twice"),
        ("a:\n  b: 1\n  b: 1\n", 3, "the key 'b' appears twice"),
        ("a: [1,\nb: {", 2, ""),
        ("- a\n- b\n", 1, "must be a mapping"),
        ("just text\n", 1, "must be a mapping"),
        ("1: a\n", 1, "must be a mapping"),
        ("a: !!python/object/apply:os.system [ls]\n", 1, "could not determine a constructor"),
        ("a: *nowhere\n", 1, "undefined alias"),
        ("a: \x00\n", 0, "not YAML"),
        (BOMB, 0, "aliases expand to more than"),
        ("a: " + "[" * 200 + "]" * 200 + "\n", 1, "nested deeper"),
        ("[" * 5000, 0, "not YAML"),
        ("? {a: b}\n: c\n", 1, "unhashable"),
        ("---\na: 1\n" * (MAX_DOCUMENTS + 1), 0, f"more than {MAX_DOCUMENTS} documents"),
    ],
)
def test_refusals_name_the_place(text: str, line: int, words: str) -> None:
    with pytest.raises(ManifestError, match=r"m\.yaml") as caught:
        parse(text, "m.yaml")
    assert words in caught.value.message
    if line:
        assert caught.value.line == line


def test_a_cycle_is_refused() -> None:
    with pytest.raises(ManifestError):
        parse("a: &a [*a]\n", "m.yaml")
