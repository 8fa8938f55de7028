"""The Job that asks a source whether it moved: one for each interval, and no write unless the verdict changes."""

from __future__ import annotations

import json
from typing import Any

from tests.support import kube_objects as kube
from tests.support.kube_objects import Document
from tests.support.kube_world import A, B, World, served

from paddock_operator.core.cluster.settings import Settings
from paddock_operator.core.cluster.source_settings import Sources
from paddock_operator.core.cluster.verdict import read_verdict

DAY = 86400


def due(settings: Settings | None = None) -> World:
    """A served Model, a day later."""
    world = served()
    world.settings = settings or Settings(images=world.settings.images)
    world.step()
    world.step(DAY)
    return world


def request_of(job: Document) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(job["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"])
    return found


def checks(world: World) -> list[Document]:
    jobs = [job for (kind, _), job in world.children.items() if kind == "Job"]
    return [job for job in jobs if request_of(job).get("check")]


def answer(world: World, event: dict[str, Any], code: int = 0) -> None:
    (job,) = checks(world)
    world.put(kube.ended(world.puller(job, "c"), code, json.dumps(event)))
    if code == 0:
        world.children["Job", job["metadata"]["name"]] = kube.finished(job, world.clock)
    world.step()


def test_asked_once_and_told_once() -> None:
    world = due()
    (job,) = checks(world)
    assert request_of(job)["source"] == {"ollama": {"name": "smollm2:135m"}}
    assert world.condition("Drifted") == ("", "")
    answer(world, {"event": "checked", "digest": B, "revision": B})
    assert world.condition("Drifted") == ("True", "SourceMoved")
    assert world.condition("Ready") == ("True", "Serving")
    assert world.status()["resolved"]["digest"] == A
    writes = world.writes
    del world.pods[f"{job['metadata']['name']}-c"]
    for _ in range(20):
        world.step(3600)
    assert [item["metadata"]["name"] for item in checks(world)] == [job["metadata"]["name"]], "kept as the record"
    assert world.condition("Drifted") == ("True", "SourceMoved")
    assert world.writes == writes
    world.step(DAY / 2)
    (following,) = checks(world)
    assert following["metadata"]["name"] != job["metadata"]["name"]
    answer(world, {"event": "checked", "digest": A})
    assert world.condition("Drifted") == ("False", "UpToDate")
    assert world.writes == writes + 1


def test_a_source_that_cannot_be_asked() -> None:
    world = due()
    answer(world, {"event": "error", "reason": "NetworkError", "message": "no route", "retryable": True}, 75)
    assert world.condition("Drifted") == ("Unknown", "CheckFailed")
    assert "no route" in world.message("Drifted")
    assert world.condition("Ready") == ("True", "Serving")


def test_off_by_the_setting_and_offline() -> None:
    assert checks(due(Settings(drift_seconds=0))) == []
    assert checks(due(Settings(sources=Sources(offline=True)))) == []


def test_a_suspended_model_asks_nobody() -> None:
    world = due()
    world.edit(suspend=True)
    world.step()
    assert checks(world) == []


def test_what_a_check_says_is_believed_in_its_form_alone() -> None:
    told = {"event": "checked", "digest": "sha256:x", "revision": "a\nb", "files": [A, "../etc", 5]}
    verdict = read_verdict(json.dumps(told))
    assert verdict is not None
    assert verdict.result is not None
    assert (verdict.result.digest, verdict.result.revision) == ("", "")
    assert verdict.result.files == ({"digest": A},)
