"""Confidences: the curve that made the data is found again, and places with few trials borrow a curve."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from paceline.training.batches import Batch, Vocabulary, make_batch
from paceline.training.calibrate import FEWEST, calibrate, fit_logistic
from tests.support.tiny_texts import VOCAB, make_sample


def trials(slope: float, offset: float, count: int = 40_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    odds = rng.normal(0.0, 2.0, count)
    return odds, rng.random(count) < 1 / (1 + np.exp(-(slope * odds + offset)))


@pytest.mark.parametrize(("slope", "offset"), [(1.0, 0.0), (0.5, -1.0), (1.6, 0.7), (0.0, 2.0), (-0.4, 0.1)])
def test_the_curve_that_made_the_data_is_found_again(slope: float, offset: float) -> None:
    found = fit_logistic(*trials(slope, offset))
    assert found == pytest.approx((slope, offset), abs=0.08)


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("spread", [0.0, 1.0, 14.0])
def test_a_curve_is_finite_even_where_every_guess_was_right_or_wrong(share: float, spread: float) -> None:
    odds = np.linspace(-spread, spread, 200)
    slope, offset = fit_logistic(odds, np.full(200, bool(share)))
    assert np.isfinite([slope, offset]).all()
    middle = 1 / (1 + np.exp(-(slope * 0.0 + offset)))
    assert abs(middle - share) < 0.1


def test_perfectly_separated_guesses_have_a_finite_curve() -> None:
    odds = np.concatenate([np.linspace(-13, -1, 100), np.linspace(1, 13, 100)])
    slope, offset = fit_logistic(odds, odds > 0)
    assert 1.0 < slope < 50.0
    assert abs(offset) < 1.0


VOCABULARY = Vocabulary(range(VOCAB), VOCAB)
WRONG = 5
"""Of so many rows one is guessed wrongly, with the same confidence."""


class _Known:
    """A student that says the target with a fixed chance, but for some rows."""

    network = nn.Module()

    def __init__(self, block: int, chance: float) -> None:
        self._block, self._logit = block, np.log(chance / (1 - chance) * (VOCAB - 1))

    def places(self, batch: Batch, generator: torch.Generator | None) -> Iterator[torch.Tensor]:
        assert generator is None
        chosen = batch.is_scored[..., 0]
        for place in range(self._block):
            targets = batch.targets[chosen][:, place].clone()
            targets[place::WRONG] = (targets[place::WRONG] + 1) % VOCAB
            yield torch.nn.functional.one_hot(targets, VOCAB).float() * self._logit


def samples(count: int, length: int) -> list[Batch]:
    return [make_batch([make_sample(length, 5, 0, seed=seed)], VOCABULARY, 3) for seed in range(count)]


def test_each_place_has_a_curve_of_blocks_that_were_right_so_far() -> None:
    """All places are as sure; place 0 is right in 4 of 5 rows, the next in 3 of those 4, the last in 2 of those 3."""
    curves = calibrate(_Known(3, 0.9), samples(20, 108), 3)
    odds = np.log(0.9 / 0.1)
    chances = [1 / (1 + np.exp(-(slope * odds + offset))) for slope, offset in curves]
    assert chances == pytest.approx([4 / 5, 3 / 4, 2 / 3], abs=0.02)


def test_a_place_with_few_trials_keeps_the_curve_of_the_place_before() -> None:
    few = samples(1, 5 + 1 + FEWEST)
    first, second, third = calibrate(_Known(3, 0.9), few, 3)
    assert first != (1.0, 0.0)
    assert second == third == first


def test_without_enough_trials_a_chance_is_taken_at_its_word() -> None:
    assert calibrate(_Known(2, 0.9), samples(1, 5 + FEWEST), 2) == ((1.0, 0.0), (1.0, 0.0))


def test_rows_that_are_not_scored_are_no_trials() -> None:
    batches = samples(20, 30)
    idle = [dataclasses.replace(one, is_scored=torch.zeros_like(one.is_scored)) for one in batches]
    assert calibrate(_Known(3, 0.9), idle, 3) == ((1.0, 0.0),) * 3
