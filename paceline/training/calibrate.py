"""What a guess's own probability says of its chance to be right, per place in the block: a logistic curve (Platt)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from paceline.training.batches import Batch
from paceline.training.students import Student

NEWTON_STEPS = 25
HALVINGS = 20
RIDGE = 1e-3
"""Keeps a curve finite where every guess was right."""
FEWEST = 50
"""Places with fewer trials keep the curve of the place before."""


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


def calibrate(student: Student, batches: Iterable[Batch], block: int) -> tuple[tuple[float, float], ...]:
    """One curve per place, from blocks that were right so far."""
    trials: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in range(block)]
    for batch in batches:
        chosen = batch.is_scored[..., 0]
        alive = torch.ones(int(chosen.sum()), dtype=torch.bool)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            for place, logits in enumerate(student.places(batch, None)):
                best = logits.float().log_softmax(-1).max(-1)
                is_scored = alive & batch.is_scored[chosen][:, place]
                alive = is_scored & (best.indices == batch.targets[chosen][:, place])
                trials[place].append((best.values[is_scored], alive[is_scored]))
    curves: list[tuple[float, float]] = []
    for trial in trials:
        logprobs, right = (torch.cat(column).numpy() for column in zip(*trial, strict=True))
        if len(right) < FEWEST:
            curves.append(curves[-1] if curves else (1.0, 0.0))
            continue
        logprobs = np.minimum(logprobs.astype(np.float64), -1e-6)
        curves.append(fit_logistic(logprobs - np.log(-np.expm1(logprobs)), right))
    return tuple(curves)
