"""The hub's listing, strictly: what a good one means and which bad ones are refused by name."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import pytest
from tests.support.hub import blob_of, sibling

from paddock_runner.core.digest import Digest
from paddock_runner.core.hub import MAX_ANSWER_BYTES, HubFile, InvalidListingError, parse_listing, store_name

COMMIT = "5fd1" * 10


def listing(*siblings: object, **changes: object) -> bytes:
    return json.dumps({"id": "org/x", "sha": COMMIT, "siblings": list(siblings), **changes}).encode()


def changed(**changes: object) -> dict[str, Any]:
    return {**sibling("x.gguf", b"GGUF"), **changes}


def lfs(**changes: object) -> dict[str, Any]:
    return changed(lfs={**sibling("x.gguf", b"GGUF")["lfs"], **changes})


def test_a_listing_tells_commit_sizes_and_digests() -> None:
    found = parse_listing(listing(sibling("a/x y.gguf", b"GGUF"), sibling("template", b"{{ .Prompt }}"), cardData={}))

    assert found.commit == COMMIT
    assert found.files == {
        "a/x y.gguf": HubFile("a/x y.gguf", 4, Digest.of(b"GGUF"), ""),
        "template": HubFile("template", 13, None, blob_of(b"{{ .Prompt }}")),
    }


def test_a_file_knows_its_bytes() -> None:
    files = parse_listing(listing(sibling("x.gguf", b"GGUF"), sibling("system", b"Be brief."))).files

    assert files["x.gguf"].holds(b"GGUF")
    assert files["system"].holds(b"Be brief.")
    assert not files["x.gguf"].holds(b"GGUX")
    assert not files["system"].holds(b"Be brief!")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<html>", "invalid JSON"),
        (b"[]", "must be a JSON object"),
        (b'{"siblings":[]}', "sha"),
        (b" " * (MAX_ANSWER_BYTES + 1), "the limit is"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "nested deeper"),
        (listing(sha="main"), "sha"),
        (listing(sha="../" + COMMIT), "sha"),
        (listing(sha=5), "sha"),
        (listing(siblings={}), "siblings must be a list"),
        (listing(siblings=[{}] * 10_001), "at most 10000"),
        (listing("x.gguf"), r"siblings\[0\] must be an object"),
        (listing(changed(rfilename="../../etc/x.gguf")), r"siblings\[0\].rfilename '../../etc/x.gguf'"),
        (listing(changed(rfilename="/etc/x.gguf")), "rfilename"),
        (listing(changed(rfilename="a//x.gguf")), "rfilename"),
        (listing(changed(rfilename="a/./x.gguf")), "rfilename"),
        (listing(changed(rfilename="C:\\x.gguf")), "rfilename"),
        (listing(changed(rfilename="x\0.gguf")), "rfilename"),
        (listing(changed(rfilename="x\n.gguf")), "rfilename"),
        (listing(changed(rfilename="x" * 1025)), "1024 characters"),
        (listing(changed(rfilename="")), "rfilename"),
        (listing(changed(rfilename=None)), "rfilename"),
        (listing(changed(), changed()), "twice"),
        (listing(changed(lfs="x")), "lfs must be an object"),
        (listing(lfs(size=-1)), "lfs.size"),
        (listing(lfs(size=True)), "lfs.size"),
        (listing(lfs(size=1 << 51)), "lfs.size"),
        (listing(lfs(size="4")), "lfs.size"),
        (listing(lfs(sha256="A" * 64)), "lfs.sha256"),
        (listing(lfs(sha256=None)), "lfs.sha256"),
        (listing(lfs(sha256="sha256-../x")), "lfs.sha256"),
        (listing(changed(lfs=None, size=-5)), r"siblings\[0\].size"),
        (listing(changed(lfs=None, blobId="x")), "blobId"),
        (listing(changed(lfs=None, size=None)), r"siblings\[0\].size"),
    ],
)
def test_what_breaks_a_rule_is_refused_by_name(data: bytes, words: str) -> None:
    with pytest.raises(InvalidListingError, match=words):
        parse_listing(data)


@pytest.mark.parametrize(
    ("repo", "revision", "choice", "name"),
    [
        ("org/x-GGUF", "main", None, "huggingface.co/org/x-GGUF:latest"),
        ("org/x-GGUF", "main", "Q4_K_M", "huggingface.co/org/x-GGUF:Q4_K_M"),
        ("org/x-GGUF", "main", "x-Q4_K_M.gguf", "huggingface.co/org/x-GGUF:x-Q4_K_M.gguf"),
        ("o.rg/x", "main", None, "huggingface.co/o-rg-{o.rg}/x:latest"),
        ("org/x", "v1", "Q8_0", "huggingface.co/org/x:Q8_0-v1-{Q8_0@v1}"),
        ("org/x", "main", "a/b.gguf", "huggingface.co/org/x:a-b.gguf-{a/b.gguf}"),
    ],
)
def test_names_in_the_store(repo: str, revision: str, choice: str | None, name: str) -> None:
    hashed = re.sub(r"\{(.+)\}", lambda match: hashlib.sha256(match[1].encode()).hexdigest()[:12], name)

    assert store_name(repo, revision, choice).full == hashed


def test_different_questions_have_different_names_of_bounded_length() -> None:
    long = "x" * 96
    questions = [
        (f"{long}/{long}", "main", None),
        (f"{long}/{long[:-1]}y", "main", None),
        ("org/x", COMMIT, "Q4_K_M"),
        ("org/x", COMMIT[::-1], "Q4_K_M"),
        ("org/x", "main", "a/x.gguf"),
        ("org/x", "main", "a-x.gguf"),
        ("org/x", "main", "é" * 60 + ".gguf"),
        ("org/x", "a/b", None),
        ("org/x", "a-b", None),
        ("org/x", "Main", None),
    ]
    names = {store_name(*question) for question in questions}

    assert len(names) == len(questions)
    assert all(len(part) <= 80 for name in names for part in name.path_parts)
