"""What the cost model expects before, while and after it learns."""

from __future__ import annotations

import pytest

from paddock_runner.core.costs import CostModel, StepCosts


def test_starts_with_the_time_of_one_token_alone() -> None:
    costs = CostModel(5.0)
    assert costs.prefill_ms(1, 0) == 5.0
    assert costs.decode_ms(3, 1000) == 15.0
    assert costs.decode_ms(0, 0) == 0.0


def test_the_first_observation_replaces_the_guess() -> None:
    costs = CostModel(5.0)
    costs.observe(StepCosts(0, 0, 100, 0), 200.0)
    assert costs.prefill_ms(100, 0) == 200.0
    costs.observe(StepCosts(4, 10, 0, 0), 12.0)
    assert costs.decode_ms(4, 10) == pytest.approx(12.0)


def test_slower_counts_more_than_faster() -> None:
    costs = CostModel(1.0)
    costs.observe(StepCosts(0, 0, 10, 0), 20.0)
    costs.observe(StepCosts(0, 0, 10, 0), 40.0)
    risen = costs.prefill_ms(10, 0)
    assert 30.0 < risen <= 40.0
    costs.observe(StepCosts(0, 0, 10, 0), 20.0)
    assert 30.0 < costs.prefill_ms(10, 0) < risen


def test_a_mixed_step_teaches_prefill_what_decode_does_not_explain() -> None:
    costs = CostModel(1.0)
    costs.observe(StepCosts(2, 0, 0, 0), 20.0)
    costs.observe(StepCosts(2, 0, 40, 0), 100.0)
    assert costs.prefill_ms(40, 0) == pytest.approx(80.0)
    assert costs.decode_ms(2, 0) == pytest.approx(20.0)


def test_a_mixed_step_faster_than_decode_alone_never_gives_free_prefill() -> None:
    costs = CostModel(1.0)
    costs.observe(StepCosts(2, 0, 0, 0), 20.0)
    costs.observe(StepCosts(2, 0, 10, 0), 10.0)
    assert costs.prefill_ms(10, 0) > 0


@pytest.mark.parametrize(("tokens", "depth"), [(1, 0), (8, 5000)])
def test_untried_narrower_or_deeper_is_thought_dearer(tokens: int, depth: int) -> None:
    costs = CostModel(1.0)
    costs.observe(StepCosts(8, 0, 0, 0), 16.0)
    assert costs.decode_ms(tokens, depth) / tokens > 2.0


def test_untried_wider_is_hoped_to_cost_a_little_less_per_token() -> None:
    costs = CostModel(1.0)
    costs.observe(StepCosts(1, 0, 0, 0), 7.0)
    assert costs.decode_ms(8, 0) == pytest.approx(56.0 * 0.85)


def test_what_is_always_allowed_begins_with_the_first_measure() -> None:
    assert CostModel(7.0).always == 28
    assert CostModel(1000.0).always == 1
    assert CostModel(0.0).always > 1000


def test_what_is_always_allowed_grows_with_the_best_price_seen() -> None:
    costs = CostModel(50.0)
    costs.observe(StepCosts(1, 0, 0, 0), 10.0)
    assert costs.always == 20
    costs.observe(StepCosts(1, 0, 0, 0), 100.0)
    assert costs.always == 20


def test_a_size_that_was_too_slow_once_gets_another_chance() -> None:
    costs = CostModel(1.0)
    costs.observe(StepCosts(0, 0, 32, 0), 3200.0)
    for _ in range(200):
        costs.observe(StepCosts(0, 0, 16, 0), 80.0)
    assert costs.prefill_ms(32, 0) == pytest.approx(80.0)
