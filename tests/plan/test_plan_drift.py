"""Whether the source of a pin moved: when it is asked, what its answers mean, and that nothing else follows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.plan.world import T0, A, B, make_model, observe

from paddock_operator.core import plan_drift, plan_pin
from paddock_operator.core.bases import Base
from paddock_operator.core.identity import source_hash
from paddock_operator.core.observed import ModelObserved, PullObserved, PullResult
from paddock_operator.core.plan import plan_model

DAY = 86400.0
F, G = "sha256:" + "1" * 64, "sha256:" + "2" * 64
COMMIT, LATER = "c0ffee" + "0" * 34, "decade" + "0" * 34
HUB = {"huggingFace": {"repo": "a/b"}}
OCI = {"oci": {"reference": "r.io/a:1"}}
OLLAMA = {"ollama": {"name": "x"}}
VARIANT = {"model": {"name": "base"}}


def pinned(source: dict[str, Any], now: str = "2026-01-02T00:30:00Z", **seen: Any) -> ModelObserved:
    """A Model that was pinned at T0 and is asked about once a day."""
    resolved, spec = seen.pop("resolved", {}), {"source": source, **seen.pop("spec", {})}
    model = make_model(**spec)
    hashed = source_hash(model.spec.source, model.spec.quantization)
    base = {"digest": A, "resolvedAt": T0, "sourceHash": hashed, "pullKey": hashed, "name": "n"}
    status = {"resolved": {**base, **resolved}, **seen.pop("status", {})}
    return observe(model, status=status, now=now, platform="cluster", check_seconds=DAY, **seen)


def decide(o: ModelObserved) -> plan_drift.Drift:
    return plan_drift.decide(o, plan_pin.decide(o))


def answered(o: ModelObserved, **result: Any) -> ModelObserved:
    found = PullResult(result.pop("digest", ""), "", 0, **result)
    return replace(o, check=PullObserved("succeeded", decide(o).key, result=found))


def files(*digests: str) -> tuple[dict[str, str], ...]:
    return tuple({"role": "model", "digest": digest} for digest in digests)


def test_a_day_later_the_name_is_asked_without_the_pin() -> None:
    before = decide(pinned(OLLAMA, now="2026-01-01T23:00:00Z"))
    assert (before.request, before.verdict, before.due_seconds) == (None, None, 3600)
    due = decide(pinned(OLLAMA))
    assert due.request == {"source": {"ollama": {"name": "x"}}, "digest": None, "fresh": True, "check": True}
    assert (due.verdict, due.due_seconds) == (None, DAY - 1800)
    assert due.key == decide(pinned(OLLAMA, now="2026-01-02T23:59:59Z")).key
    assert due.key != decide(pinned(OLLAMA, now="2026-01-03T00:00:00Z")).key


@pytest.mark.parametrize(
    ("source", "more"),
    [
        ({"ollama": {"name": "x", "digest": A}}, {}),
        ({"ollama": {"name": f"x@{A}"}}, {}),
        ({"huggingFace": {"repo": "a/b", "revision": COMMIT}}, {}),
        ({"oci": {"reference": f"r.io/a@{A}"}}, {}),
        ({"http": {"url": "https://a/m.gguf", "sha256": "1" * 64}}, {}),
        ({"claim": {"claimName": "c", "path": "m.gguf"}}, {}),
        (OLLAMA, {"spec": {"updatePolicy": {"type": "Track", "interval": "48h"}}}),
        (OLLAMA, {"spec": {"suspend": True}}),
    ],
)
def test_what_cannot_move_or_follows_is_not_asked(source: dict[str, Any], more: dict[str, Any]) -> None:
    found = decide(pinned(source, **more))
    assert (found.request, found.verdict) == (None, None)


def test_zero_seconds_ask_nobody() -> None:
    assert decide(replace(pinned(OLLAMA), check_seconds=0)) == plan_drift.Drift()


ANSWERS: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any], str]] = [
    # what, source, members of the pin, answer, reason
    ("the same manifest", OLLAMA, {}, {"digest": A, "revision": A}, "UpToDate"),
    ("another manifest", OLLAMA, {}, {"digest": B, "revision": B}, "SourceMoved"),
    ("that of what was converted", OLLAMA, {"sourceDigest": B}, {"digest": B}, "UpToDate"),
    ("another commit, equal files", HUB, {"revision": COMMIT, "files": files(F)},
     {"revision": LATER, "files": files(F)}, "UpToDate"),
    ("other files", HUB, {"revision": COMMIT, "files": files(F)},
     {"revision": LATER, "files": files(G)}, "SourceMoved"),
    ("a part more", HUB, {"files": files(F)}, {"revision": LATER, "files": files(F, G)}, "SourceMoved"),
    ("converted, so by commit", HUB, {"revision": COMMIT, "files": files(F), "sourceDigest": B},
     {"revision": LATER, "files": files(F)}, "SourceMoved"),
    ("an equal commit", HUB, {"revision": COMMIT}, {"revision": COMMIT, "files": files(F)}, "UpToDate"),
    ("another artifact", OCI, {"revision": A}, {"revision": B}, "SourceMoved"),
    ("nothing to compare", HUB, {}, {"revision": LATER}, "CheckFailed"),
    ("nothing at all", OCI, {"revision": A}, {}, "CheckFailed"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "source", "pin", "answer", "reason"), ANSWERS, ids=[row[0] for row in ANSWERS])
def test_answers(what: str, source: dict[str, Any], pin: dict[str, Any], answer: dict[str, Any], reason: str) -> None:
    verdict = decide(answered(pinned(source, resolved=pin), **answer)).verdict
    assert verdict is not None
    status = {"UpToDate": "False", "SourceMoved": "True", "CheckFailed": "Unknown"}[reason]
    assert verdict[:2] == (status, reason)


def test_both_digests_and_the_way_on_are_named() -> None:
    verdict = decide(answered(pinned(OLLAMA), digest=B)).verdict
    assert verdict is not None
    assert f"n is {'b' * 12} by now, and {'a' * 12} is pinned" in verdict[2]
    assert "spec.source.resolve" in verdict[2]
    other = answered(pinned(HUB, resolved={"revision": COMMIT, "files": files(F)}), revision=LATER, files=files(G))
    verdict = decide(other).verdict
    assert verdict is not None
    assert f"n is {LATER[:12]} by now, and {COMMIT[:12]} is pinned" in verdict[2]


def test_an_answer_stands_until_the_next() -> None:
    o = answered(pinned(OLLAMA), digest=B)
    status = plan_model(o).status
    later = replace(o, status=status, now="2026-01-03T00:30:00Z")
    assert decide(later).key != o.check.source_hash
    assert decide(later).verdict == decide(o).verdict
    failed = PullObserved("failed", decide(later).key, reason="NetworkError", message="no route", retryable=True)
    verdict = decide(replace(later, check=failed)).verdict
    assert verdict is not None
    assert verdict[:2] == ("Unknown", "CheckFailed")
    assert "no route" in verdict[2]


def test_a_new_pin_has_no_drift() -> None:
    moved = plan_model(answered(pinned(OLLAMA), digest=B)).status
    assert any(entry["type"] == "Drifted" for entry in moved["conditions"])
    edited = pinned({"ollama": {"name": "x"}, "resolve": "again"}, status=moved)
    assert all(entry["type"] != "Drifted" for entry in plan_model(edited).status["conditions"])


def test_drift_is_nobodys_business_but_its_own() -> None:
    o = pinned(OLLAMA)
    still, moved = plan_model(o), plan_model(answered(o, digest=B))
    others = [entry for entry in moved.status["conditions"] if entry["type"] != "Drifted"]
    assert others == still.status["conditions"]
    assert (moved.pull, moved.serve) == (still.pull, still.serve)
    assert [note.reason for note in moved.notes if note.message.startswith("Drifted")] == ["SourceMoved"]


@pytest.mark.parametrize(
    ("base", "reason"), [(Base(B), "SourceMoved"), (Base(A), "UpToDate"), (Base(reason="ModelNotReady"), None)]
)
def test_a_variant_is_compared_with_its_base(base: Base, reason: str | None) -> None:
    found = decide(pinned(VARIANT, base=base))
    assert found.request is None
    assert (found.verdict and found.verdict[1]) == reason
