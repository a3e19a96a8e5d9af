"""What a guess's own probability says of its chance to be right, per place in the block: a logistic curve (Platt)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from paceline.core.ports import Drafter
from paceline.core.types import Guess, Tokens
from paceline.training.evaluate import replay
from paceline.training.generate import Sample

NEWTON_STEPS = 25
HALVINGS = 20
RIDGE = 1e-3
"""Keeps a curve finite where every guess was right."""
FEWEST = 50
"""Places with fewer trials keep the curve of the place before."""
BARE = (1.0, 0.0)
"""The curve that changes nothing."""
SMALLEST = 1e-6
"""Chances are kept this far from nothing and from certainty."""


def fit_logistic(odds: NDArray[np.float64], is_right: NDArray[np.bool_]) -> tuple[float, float]:
    """(slope, offset) of the likeliest curve sigmoid(slope * odds + offset): Newton, never past where it got worse."""
    inputs = np.stack([odds, np.ones_like(odds)], 1)
    weights = np.array([1.0, 0.0])
    loss = _loss(inputs, is_right, weights)
    for _ in range(NEWTON_STEPS):
        chance = 1.0 / (1.0 + np.exp(-np.clip(inputs @ weights, -30, 30)))
        gradient = inputs.T @ (chance - is_right) / len(odds) + RIDGE * (weights - (1.0, 0.0))
        curvature = (inputs * (chance * (1 - chance))[:, None]).T @ inputs / len(odds) + RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        candidates = [weights - step * 0.5**halving for halving in range(HALVINGS)]
        better = next((one for one in candidates if _loss(inputs, is_right, one) < loss), None)
        if better is None:
            break
        weights, loss = better, _loss(inputs, is_right, better)
    return float(weights[0]), float(weights[1])


def _loss(inputs: NDArray[np.float64], is_right: NDArray[np.bool_], weights: NDArray[np.float64]) -> float:
    scores = inputs @ weights
    distance = weights - (1.0, 0.0)
    return float(np.mean(np.logaddexp(0.0, scores) - is_right * scores) + 0.5 * RIDGE * distance @ distance)


def calibrate(drafter: Drafter, samples: Sequence[Sample], block: int) -> tuple[tuple[float, float], ...]:
    """One curve per place, from guesses along texts of one kind, as far as they were right.

    The confidences of ``drafter`` are the bare chances.
    """
    trials: list[list[tuple[float, bool]]] = [[] for _ in range(block)]

    def watch(guess: Guess, truth: Tokens) -> None:
        for place, (token, right) in enumerate(zip(guess.token_ids, truth, strict=False)):
            trials[place].append((guess.confidences[place], token == right))
            if token != right:
                return

    replay(drafter, samples, block, watch)
    curves: list[tuple[float, float]] = []
    for trial in trials:
        if len(trial) < FEWEST:
            curves.append(curves[-1] if curves else BARE)
            continue
        chances, right = (np.array(column) for column in zip(*trial, strict=True))
        chances = np.clip(chances.astype(np.float64), SMALLEST, 1.0 - SMALLEST)
        curves.append(fit_logistic(np.log(chances) - np.log1p(-chances), right.astype(np.bool_)))
    return tuple(curves)
