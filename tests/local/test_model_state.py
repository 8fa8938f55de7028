"""What the state of a runner is taken for."""

from __future__ import annotations

import pytest

from paddock_operator.executors.local.model import runner_state
from paddock_operator.executors.local.probe import Readiness


@pytest.mark.parametrize(
    ("status", "said", "state"),
    [
        (200, "ready", "ready"),
        (200, "unloaded", "unloaded"),
        (200, "loading", "unloaded"),
        (200, "starting", "unloaded"),
        (503, "loading", "loading"),
        (503, "starting", "starting"),
        (503, "crashed", "crashed"),
        (503, "draining", "starting"),
        (0, "", "starting"),
    ],
)
def test_a_model_that_wakes_up_stays_ready(status: int, said: str, state: str) -> None:
    """Else its Endpoint would refuse requests for as long as the weights are loaded."""
    assert runner_state(Readiness(status, {"state": said})) == state
