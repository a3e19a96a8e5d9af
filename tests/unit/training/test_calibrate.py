"""Confidences: the curve that made the data is found again, and places with few trials borrow a curve."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from paceline.core.types import DrafterInfo, DraftJob, Guess, SessionSpec
from paceline.training.calibrate import BARE, calibrate, fit_logistic
from paceline.training.generate import Sample
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


WRONG = 5
"""Of so many calls one is wrong at a place, with the same confidence."""


class _Known:
    """Knows the texts; in every fifth call it is wrong at the first place, in every fifth at the second, ..."""

    info = DrafterInfo("known", vocab_size=VOCAB)

    def __init__(self, texts: Sequence[Sample], confidence: float) -> None:
        self._texts = [text.tokens for text in texts]
        self._confidence = confidence
        self._num_calls = 0

    def open(self, spec: SessionSpec) -> None:
        """No matter."""

    def close(self, session: str) -> None:
        """No matter."""

    def state_bytes(self) -> int:
        return 0

    def extend(self, jobs: Sequence[DraftJob]) -> list[Guess]:
        return [self._guess(job) for job in jobs]

    def _guess(self, job: DraftJob) -> Guess:
        text = next(text for text in self._texts if text[: job.committed] == job.context)
        tokens = [*text[job.committed : job.committed + job.max_tokens]]
        place = self._num_calls % WRONG
        if place < len(tokens):
            tokens[place] = (tokens[place] + 1) % VOCAB
        self._num_calls += 1
        return Guess(job.session, tuple(tokens), (self._confidence,) * len(tokens))


def texts(count: int, length: int) -> list[Sample]:
    return [make_sample(length, 5, 0, seed=seed) for seed in range(count)]


def test_each_place_has_a_curve_of_guesses_that_were_right_so_far() -> None:
    """All places are as sure; place 0 is right in 4 of 5 calls, the next in 3 of those 4, the last in 2 of those 3."""
    known = texts(40, 208)
    curves = calibrate(_Known(known, 0.9), known, 3)
    odds = np.log(0.9 / 0.1)
    chances = [1 / (1 + np.exp(-(slope * odds + offset))) for slope, offset in curves]
    assert chances == pytest.approx([4 / 5, 3 / 4, 2 / 3], abs=0.02)


def test_a_place_with_few_trials_keeps_the_curve_of_the_place_before() -> None:
    """Five calls commit 14 tokens: in 56 calls place 0 is tried 56 times, place 1 45 times and place 2 34 times."""
    known = texts(1, 6 + 56 * 14 // 5)
    first, second, third = calibrate(_Known(known, 0.9), known, 3)
    assert first != BARE
    assert second == third == first


def test_without_enough_trials_a_chance_is_taken_at_its_word() -> None:
    known = texts(1, 20)
    assert calibrate(_Known(known, 0.9), known, 2) == (BARE, BARE)


def test_confidences_of_nothing_and_of_certainty_have_a_curve() -> None:
    known = texts(10, 108)
    for confidence in (0.0, 1.0):
        assert np.isfinite(calibrate(_Known(known, confidence), known, 2)).all()
