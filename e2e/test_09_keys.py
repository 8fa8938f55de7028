"""Keys on a cluster: made, revoked, rotated without a restart."""

from __future__ import annotations

import threading
import time

from e2e.conftest import Line, make_key
from e2e.support.cluster import Cluster, eventually
from e2e.support.load import Answer, chat
from e2e.support.times import record


def test_a_new_key_works_and_a_revoked_one_is_refused_within_5_seconds(cluster: Cluster, line: Line) -> None:
    key = make_key(cluster, line.namespace, "second")
    eventually(lambda: not chat(line.url, key, "smollm2").error, "the new key works", timeout=15)
    answers: list[Answer] = []
    running = threading.Thread(
        target=lambda: answers.append(chat(line.url, key, "smollm2", "Tell a very long story.", tokens=400))
    )
    running.start()
    time.sleep(1.0)
    cluster.delete(line.namespace, "secret", "second")
    revoked = time.monotonic()
    eventually(lambda: "401" in chat(line.url, key, "smollm2", tokens=1).error, "refused", timeout=5, poll=0.1)
    record("revoked key refused", time.monotonic() - revoked)
    running.join(120)
    assert answers
    assert not answers[0].error, "the running stream ends well"
    assert not chat(line.url, line.key, "smollm2").error, "other keys go on"


def test_the_key_secret_holds_no_key(cluster: Cluster, line: Line) -> None:
    secret = cluster.get(line.namespace, "secret", "first")
    assert secret is not None
    assert secret["type"] == "paddock.dev/api-key"
    assert sorted(secret["data"]) == ["policy", "sha256"]
