"""The compiled draw against the specification: the same token, however close the race."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from paceline.models.noise import gumbel_argmax
from paceline.sampling.accept import sample
from paceline.sampling.noise import gumbel

SEEDS = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 2**32 - 1, 2**32, 2**64 - 1]))


def assert_same(scores: NDArray[np.float64], seed: int, position: int) -> None:
    assert gumbel_argmax(scores, seed, position) == sample(scores, seed, position, greedy=False)


@settings(deadline=None, max_examples=200)  # the kernel may be compiled first
@given(
    st.lists(st.one_of(st.floats(-60, 60), st.just(-np.inf)), min_size=1, max_size=40).filter(
        lambda row: max(row) > -np.inf
    ),
    SEEDS,
    st.integers(0, 2**32 - 1),
)
def test_it_draws_what_the_specification_draws(row: list[float], seed: int, position: int) -> None:
    assert_same(np.array(row), seed, position)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 30.0])
def test_whole_vocabularies_at_many_positions(scale: float) -> None:
    random = np.random.default_rng(1)
    for position in range(40):
        scores = scale * random.standard_normal(5_001)
        scores[random.random(5_001) < 0.3] = -np.inf
        assert_same(scores, 77, position)


@pytest.mark.parametrize("spread", [0.0, 1e-16, 1e-13, 1e-9, 1e-6])
def test_near_ties_are_decided_by_the_last_bit_of_the_specification(spread: float) -> None:
    """Scores that undo the noise: all tokens end within rounding of each other."""
    random, ids = np.random.default_rng(2), np.arange(501)
    for position in range(40):
        scores = 3.0 - gumbel(5, position, ids) + spread * random.standard_normal(501)
        assert_same(scores, 5, position)


def test_one_token_left_is_taken_without_a_draw() -> None:
    scores = np.full(100, -np.inf)
    scores[63] = -5.0
    assert gumbel_argmax(scores, 1, 1) == 63


def test_frequencies_follow_the_scores() -> None:
    """2,000 draws of 3 tokens; a deviation of 5 standard errors happens once in a million such tests."""
    p = np.array([0.6, 0.3, 0.1])
    counts = np.bincount([gumbel_argmax(np.log(p), 9, position) for position in range(2_000)], minlength=3)
    assert np.all(np.abs(counts - 2_000 * p) < 5 * np.sqrt(2_000 * p * (1 - p)))
