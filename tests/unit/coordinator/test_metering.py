"""Counts of speculation in vLLM's shape."""

from __future__ import annotations

from dataclasses import replace

from coordinator.metering import SpeculativeMeter
from paceline.core.requests import SpeculativeMetrics
from paceline.core.types import Commit, FeatureFrame


def step(num_tokens: int, drafted: int = 0, accepted: int = 0) -> Commit:
    return Commit("s", 0, (1,) * num_tokens, drafted, accepted)


def test_a_request_without_drafts_has_rates_of_zero() -> None:
    meter = SpeculativeMeter(2)
    meter.step(step(1))
    meter.step(step(1))
    assert meter.result() == SpeculativeMetrics(acceptance_histogram=(0, 0, 0), num_spec_tokens=2, num_steps=2)


def test_rates_count_steps_with_drafts_only_and_the_targets_own_token() -> None:
    meter = SpeculativeMeter(4)
    for one in (step(1), step(5, 4, 4), step(2, 4, 1), step(1, 2, 0), step(2, 4, 1)):
        meter.step(one)
    assert meter.result() == SpeculativeMetrics(
        mean_acceptance_length=1 + 6 / 4,
        draft_acceptance_rate=6 / 14,
        acceptance_histogram=(1, 2, 0, 0, 1),
        num_spec_steps=4,
        num_accepted_draft_tokens=6,
        num_draft_tokens=14,
        num_spec_tokens=4,
        num_steps=5,
    )


def test_hidden_states_are_counted_in_bytes() -> None:
    meter = SpeculativeMeter(4)
    meter.step(replace(step(1), features=FeatureFrame(0, 2, b"12345678")))
    meter.step(step(2, 4, 1))
    meter.step(replace(step(1), features=FeatureFrame(2, 1, b"1234")))
    assert meter.result().num_feature_bytes == 12


def test_the_histogram_adds_up() -> None:
    meter = SpeculativeMeter(3)
    for accepted in (0, 3, 2, 2, 1):
        meter.step(step(accepted + 1, 3, accepted))
    result = meter.result()
    assert sum(result.acceptance_histogram) == result.num_spec_steps == 5
    assert sum(n * count for n, count in enumerate(result.acceptance_histogram)) == result.num_accepted_draft_tokens


def test_what_counts_so_far_can_be_read_at_any_time() -> None:
    meter = SpeculativeMeter(1)
    meter.step(step(2, 1, 1))
    first = meter.result()
    meter.step(step(1, 1, 0))
    assert first.num_steps == 1
    assert meter.result().num_steps == 2
