"""What the puller and the converter are asked, and what the status says of it: requests, conversions, variants."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.plan.world import T0, A, B, C, Machine, condition, failed, make_model, observe, pulled

from paddock_operator.core.bases import Base, find_base
from paddock_operator.core.identity import source_hash
from paddock_operator.core.observed import PullObserved
from paddock_operator.core.plan import plan_model
from paddock_operator.core.plan_conversion import MIN_BYTES, memory_needed
from paddock_operator.core.quantization import TYPES, ImpossibleConversionError, conversion
from paddock_operator.core.schema import Schemas, status_problems
from paddock_runner.core.quantization import FILE_TYPES

HUB = {"huggingFace": {"repo": "a/b"}}
COMMIT = "c0ffee" + "0" * 34
LATER = "2026-01-01T02:00:00Z"
HOURLY = {"type": "Track", "interval": "1h"}


def message(status: Any, kind: str) -> str:
    return str(next(entry["message"] for entry in status["conditions"] if entry["type"] == kind))


def known(**resolved: Any) -> dict[str, Any]:
    """A status whose pin has these members; `spec` is that of the Model it belongs to."""
    model = make_model(**resolved.pop("spec"))
    base = {"digest": A, "resolvedAt": T0, "sourceHash": source_hash(model.spec.source, model.spec.quantization)}
    return {"resolved": {**base, "pullKey": base["sourceHash"], "name": "n", **resolved}}


REQUESTS: list[tuple[str, dict[str, Any], dict[str, Any], str, dict[str, Any]]] = [
    # what, spec, members of the pin (empty: none), time, request
    ("a name", {"source": {"ollama": {"name": "x"}}}, {}, T0, {"source": {"ollama": {"name": "x"}}, "digest": None}),
    (
        "a pinned name by its digest", {"source": {"ollama": {"name": "x"}}}, {"digest": A}, T0,
        {"source": {"ollama": {"name": "x", "digest": A}}, "digest": A},
    ),
    (
        "a quantization selects the file", {"source": HUB, "quantization": "Q4_K_M"}, {}, T0,
        {"source": {"huggingFace": {"repo": "a/b", "quantization": "Q4_K_M"}}, "digest": None},
    ),
    (
        "a pinned repository at its commit", {"source": HUB}, {"revision": COMMIT, "validator": COMMIT}, T0,
        {"source": {"huggingFace": {"repo": "a/b", "revision": COMMIT}}, "digest": A},
    ),
    (
        "a pinned artifact by what the tag meant", {"source": {"oci": {"reference": "r.io/a:1"}}}, {"revision": B}, T0,
        {"source": {"oci": {"reference": f"r.io/a:1@{B}"}}, "digest": A},
    ),
    (
        "a reference with a digest stays", {"source": {"oci": {"reference": f"r.io/a@{B}"}}}, {"revision": B}, T0,
        {"source": {"oci": {"reference": f"r.io/a@{B}"}}, "digest": A},
    ),
    (
        "a tracked name is asked anew", {"source": HUB, "updatePolicy": HOURLY},
        {"revision": COMMIT, "validator": COMMIT}, LATER,
        {"source": HUB, "digest": None, "fresh": True, "validator": COMMIT},
    ),
    (
        "what was converted is asked by its source", {"source": {"ollama": {"name": "x"}}, "quantization": "Q8_0"},
        {"digest": C, "sourceDigest": A, "quantization": "Q8_0"}, T0,
        {"source": {"ollama": {"name": "x", "digest": A}}, "digest": A},
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "pin", "now", "request_"), [row[1:] for row in REQUESTS], ids=[x[0] for x in REQUESTS]
)
def test_requests(spec: dict[str, Any], pin: dict[str, Any], now: str, request_: dict[str, Any]) -> None:
    status = known(spec=spec, **pin) if pin else {}
    seen: dict[str, Any] = {"status": status, "now": now}
    plan = plan_model(observe(make_model(**spec), **seen))
    if plan.convert:
        seen["convert"] = failed(plan.convert_key, "NotFound")
        plan = plan_model(observe(make_model(**spec), **seen))
    assert plan.pull == request_


def test_a_new_token_asks_the_source_whatever_the_cache_knows() -> None:
    machine = Machine(make_model())
    machine.settle()
    machine.model = make_model(2, source={"ollama": {"name": "smollm2:135m"}, "resolve": "again"})
    assert machine.step().pull == {
        "source": {"ollama": {"name": "smollm2:135m"}, "resolve": "again"}, "digest": None, "fresh": True,
    }  # fmt: skip
    first = plan_model(observe(make_model(source={"ollama": {"name": "x"}, "resolve": "once"})))
    assert "fresh" not in (first.pull or {}), "a seeded cache may answer a Model that was never resolved"


def test_a_pin_keeps_what_it_was_found_under() -> None:
    """Asked for by its digest, the cache tells a name without a revision."""
    model = make_model(source=HUB)
    key = source_hash(model.spec.source)
    told = pulled(key)
    assert told.result is not None
    first = replace(told, result=replace(told.result, name="hub/a/b:main", revision=COMMIT, validator=COMMIT))
    status = plan_model(observe(model, pull=first)).status
    again = plan_model(observe(model, status=status, pull=told)).status["resolved"]
    assert (again["name"], again["revision"], again["validator"]) == ("hub/a/b:main", COMMIT, COMMIT)
    assert again == status["resolved"]
    long = replace(told, result=replace(told.result, validator="v" * 129))
    assert "validator" not in plan_model(observe(model, pull=long)).status["resolved"]


def test_the_types_are_the_converters() -> None:
    assert set(TYPES) == set(FILE_TYPES)


CONVERSIONS = [
    # wanted, found, chosen by the word, what follows
    ("Q8_0", "F16", False, "Q8_0"),
    ("Q4_K_M", "BF16", True, "Q4_K_M"),
    ("Q4_K", "F32", False, "Q4_K_M"),
    ("Q4_K", "Q4_K_M", False, ""),
    ("F16", "F16", False, ""),
    ("F16", "F32", False, "F16"),
    ("Q8_0", "unknown", False, "Q8_0"),
    ("Q4_K_M", "Q5_K_M", True, ""),
    ("MXFP4", "MXFP4", False, ""),
    ("MXFP4", "Q4_0", True, ""),
]


@pytest.mark.parametrize(("wanted", "found", "chosen", "to"), CONVERSIONS)
def test_conversion(wanted: str, found: str, chosen: bool, to: str) -> None:
    assert conversion(wanted, found, chosen=chosen) == to


@pytest.mark.parametrize(
    ("wanted", "found", "words"),
    [
        ("Q8_0", "Q4_K_M", "a model of Q4_K_M cannot become Q8_0: only F32, F16, BF16 are converted"),
        ("Q4_0", "Q8_0", "name the original file, or remove quantization"),
        ("IQ1_S", "F16", "nothing is converted to IQ1_S"),
    ],
)
def test_an_impossible_conversion_says_what_helps(wanted: str, found: str, words: str) -> None:
    with pytest.raises(ImpossibleConversionError, match=words):
        conversion(wanted, found, chosen=False)


def test_a_conversion_from_pull_to_pin(schemas: Schemas) -> None:
    machine = Machine(make_model(quantization="Q8_0"), quantization="F16")
    assert machine.step().pull is not None
    plan = machine.step()
    assert plan.convert == {"digest": A, "type": "Q8_0"}
    assert plan.serve is None
    assert condition(plan.status, "Ready") == ("False", "Converting")
    assert condition(plan.status, "Resolved") == condition(plan.status, "Cached") == ("Unknown", "Converting")
    assert condition(plan.status, "Reconciling") == ("True", "Converting")
    assert plan.status["conversion"]["sourceDigest"] == A, "a collector has to know it"
    assert status_problems("Model", plan.status, schemas) == ()
    plan = machine.settle()
    assert plan.serve is not None
    assert plan.serve["digest"] == C
    resolved = plan.status["resolved"]
    assert (resolved["digest"], resolved["sourceDigest"], resolved["quantization"]) == (C, A, "Q8_0")
    assert resolved["name"] == "registry.ollama.ai/library/smollm2:135m"
    assert message(plan.status, "Resolved").endswith(
        "135m (aaaaaaaaaaaa) is pinned to eeeeeeeeeeee, which is Q8_0 of it"
    )
    assert plan.status["details"]["quantization"] == "Q8_0"
    assert "conversion" not in plan.status
    assert plan.convert is None
    assert status_problems("Model", plan.status, schemas) == ()


def test_a_restart_needs_only_what_was_made() -> None:
    machine = Machine(make_model(quantization="Q8_0"), quantization="F16")
    machine.settle()
    machine.restart()
    del machine.asked[:]
    plan = machine.settle()
    assert machine.asked == [{"digest": A, "type": "Q8_0"}]
    assert condition(plan.status, "Ready") == ("True", "Serving")
    machine.restart()
    machine.lost = True
    del machine.asked[:]
    assert condition(machine.settle().status, "Ready") == ("True", "Serving")
    assert [list(asked) for asked in machine.asked] == [["source", "digest"], ["digest", "type"]]
    assert machine.asked[0]["digest"] == A


def test_a_restart_in_the_middle_goes_on() -> None:
    machine = Machine(make_model(quantization="Q8_0"), quantization="F16")
    machine.step()
    machine.step()
    machine.restart()
    plan = machine.step()
    assert (plan.pull, plan.convert) == (None, {"digest": A, "type": "Q8_0"})
    assert condition(machine.settle().status, "Ready") == ("True", "Serving")


def test_another_type_is_another_conversion_and_the_old_one_serves_meanwhile() -> None:
    machine = Machine(make_model(quantization="Q8_0"), quantization="F16")
    machine.settle()
    machine.model = make_model(2, quantization="Q4_0")
    plan = machine.step()
    assert plan.serve is not None
    assert plan.serve["digest"] == C
    assert plan.pull is not None
    machine.step()
    assert machine.asked[-1] == {"digest": A, "type": "Q4_0"}


def test_what_cannot_be_converted_stalls() -> None:
    machine = Machine(make_model(quantization="Q8_0"), quantization="Q4_1")
    plan = machine.settle()
    assert condition(plan.status, "Stalled") == ("True", "InvalidModel")
    assert "a model of Q4_1 cannot become Q8_0" in message(plan.status, "Ready")
    assert (plan.serve, plan.convert) == (None, None)
    machine.model = make_model(2, quantization="Q4_1")
    assert condition(machine.settle().status, "Ready") == ("True", "Serving")


def test_a_failed_conversion_is_told() -> None:
    model = make_model(quantization="Q8_0")
    pull = pulled(source_hash(model.spec.source, "Q8_0"), quantization="F16")
    key = plan_model(observe(model, pull=pull)).convert_key
    full = plan_model(observe(model, pull=pull, convert=failed(key, "NoSpace", retryable=True))).status
    assert condition(full, "Ready") == ("False", "NoSpace")
    assert condition(full, "Stalled") == ("", "")
    bad = plan_model(observe(model, pull=pull, convert=failed(key, "InvalidModel"))).status
    assert condition(bad, "Stalled") == ("True", "InvalidModel")
    half = plan_model(observe(model, pull=pull, convert=PullObserved("running", key, 50, 100))).status
    assert message(half, "Ready") == "aaaaaaaaaaaa is converted to Q8_0 (50 %)"
    assert half["pull"]["percent"] == 50


def test_a_digest_in_spec_is_that_of_the_source() -> None:
    machine = Machine(
        make_model(source={"ollama": {"name": "x", "digest": A}}, quantization="Q8_0"), quantization="F16"
    )
    plan = machine.settle()
    assert plan.serve is not None
    assert (plan.serve["digest"], plan.status["resolved"]["sourceDigest"]) == (C, A)
    assert condition(plan.status, "Resolved") == ("True", "DigestInSpec")


def test_the_memory_of_a_converter() -> None:
    assert memory_needed({}, 0) == MIN_BYTES
    assert memory_needed({"vocabSize": 262144, "embeddingLength": 5376}, 0) == 8 * 262144 * 5376 + (512 << 20)
    assert memory_needed({"blockCount": 32}, 90 << 30) > 5 << 30, "experts are one tensor"


VARIANT = {"source": {"model": {"name": "base"}}}


def test_a_variant_waits_for_its_base() -> None:
    machine = Machine(make_model(**VARIANT), base=Base("", "ModelNotReady", "base is not pinned yet"))
    plan = machine.settle()
    assert plan.pull is None
    for kind, status in (("Ready", "False"), ("Resolved", "Unknown"), ("Cached", "Unknown")):
        assert condition(plan.status, kind) == (status, "ModelNotReady")
    assert condition(plan.status, "Reconciling") == ("True", "ModelNotReady")
    machine.base = Base(A)
    assert machine.step().pull == {"source": {"model": {"name": "base", "digest": A}}, "digest": A}
    assert condition(machine.settle().status, "Ready") == ("True", "Serving")


def test_a_pinned_variant_stays_and_a_tracking_one_follows() -> None:
    pinned = Machine(make_model(**VARIANT), base=Base(A))
    follows = Machine(make_model(**VARIANT, updatePolicy=HOURLY), base=Base(A))
    for machine in (pinned, follows):
        machine.settle()
        machine.base = Base(B)
    plan = follows.step()
    assert plan.pull is not None
    assert plan.pull["digest"] == B
    assert plan.serve is not None
    assert plan.serve["digest"] == A, "the old pin holds until the new bytes are verified"
    assert follows.settle().status["resolved"]["digest"] == B
    assert pinned.settle().status["resolved"]["digest"] == A
    follows.base = Base(A)
    assert follows.settle().status["resolved"]["digest"] == A
    for machine in (pinned, follows):
        machine.base = Base("", "ModelNotFound", "base is gone")
        assert condition(machine.settle().status, "Ready") == ("True", "Serving"), "its bytes are its own by now"
    pinned.model = make_model(2, source={"model": {"name": "base"}, "resolve": "now"})
    pinned.base = Base(B)
    assert pinned.settle().status["resolved"]["digest"] == B


def test_a_variant_may_be_converted() -> None:
    machine = Machine(make_model(**VARIANT, quantization="Q8_0"), base=Base(A), quantization="F16")
    assert machine.settle().status["resolved"]["digest"] == C


def document(name: str, source: dict[str, Any], **status: Any) -> dict[str, Any]:
    spec = {"source": source}
    return {"kind": "Model", "metadata": {"name": name}, "spec": spec, "status": status}


def settled(name: str, source: dict[str, Any], digest: str = A) -> dict[str, Any]:
    hashed = source_hash(make_model(source=source).spec.source)
    return document(name, source, resolved={"digest": digest, "sourceHash": hashed})


OLLAMA = {"ollama": {"name": "x"}}


def test_bases() -> None:
    own = document("v", VARIANT["source"])
    assert find_base(document("v", OLLAMA), {}) is None
    base = find_base(own, {"base": settled("base", OLLAMA)})
    assert base is not None
    assert replace(base, origin=None) == Base(A)
    assert base.origin is not None
    assert (base.origin.source.ollama is not None, base.origin.digest) == (True, A)
    for others, reason in (
        ({}, "ModelNotFound"),
        ({"base": document("base", OLLAMA)}, "ModelNotReady"),
        ({"base": {**settled("base", OLLAMA), "spec": {"source": {"ollama": {"name": "y"}}}}}, "ModelNotReady"),
    ):
        found = find_base(own, others)
        assert found is not None
        assert (found.reason, found.final, found.digest) == (reason, False, "")
        assert "Model base" in found.message


@pytest.mark.parametrize(
    "others", [{"base": "v"}, {"base": "b", "b": "v"}, {"base": "b", "b": "base"}, {"base": "base"}]
)
def test_circles_are_refused(others: dict[str, str]) -> None:
    documents = {name: settled(name, {"model": {"name": other}}) for name, other in others.items()}
    found = find_base(document("v", VARIANT["source"]), documents)
    assert found is not None
    assert (found.reason, found.final) == ("InvalidSpec", True)
    assert found.message.startswith("spec.source.model: v is made from base is made from ")
    status = plan_model(observe(make_model(**VARIANT), base=found)).status
    assert condition(status, "Stalled") == ("True", "InvalidSpec")
    assert condition(status, "Ready") == ("False", "InvalidSpec")
    assert condition(status, "Reconciling") == ("", "")
