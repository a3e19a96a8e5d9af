"""How often shared noise makes drafter and target say the same.

Pr[same] = sum_i 1 / sum_j max(p_j / p_i, q_j / q_i) >= (1 - TV) / (1 + TV), for every pair of laws (Daliri et al.).
Binomial, N = 200 thousand seeds, two-sided alpha = 10^-6: rates that differ by .0085 are told apart with power .99.
Seeds are fixed.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from support import many, toys
from support.laws import ALPHA
from support.many import Floats

N = 200_000
POSITION = 4
PAIRS = [(vocab, distance, zeros) for vocab in (2, 5, 20) for distance in (0.1, 0.7, 2.0) for zeros in (0.0, 0.3)]


def pair(vocab: int, distance: float, zeros: float) -> tuple[Floats, Floats]:
    toy = toys.make(vocab, 1, seed=vocab, distance=distance, zeros=zeros)
    return toy.p[0][0], toy.q[0][0]


def chance_of_agreement(p: Floats, q: Floats) -> float:
    both = np.flatnonzero((p > 0.0) & (q > 0.0))
    return float(sum(1.0 / np.maximum(p / p[i], q / q[i]).sum() for i in both))


def total_variation(p: Floats, q: Floats) -> float:
    return float(0.5 * np.abs(p - q).sum())


def agreements(p: Floats, q: Floats) -> int:
    """By the rule of coupled acceptance, one drafted token each."""
    keys = many.seeds(N)
    x = many.sample(toys.logarithms(q)[None], keys, POSITION)[:, None]
    scores = np.broadcast_to(toys.logarithms(p), (N, 2, len(p)))
    return int(many.accept_coupled(x, scores, keys, POSITION)[0].sum())


@pytest.mark.parametrize(("vocab", "distance", "zeros"), PAIRS)
def test_drafts_are_accepted_as_often_as_the_theory_says(vocab: int, distance: float, zeros: float) -> None:
    p, q = pair(vocab, distance, zeros)
    accepted, chance, tv = agreements(p, q), chance_of_agreement(p, q), total_variation(p, q)
    assert stats.binomtest(accepted, N, chance).pvalue > ALPHA
    assert (1.0 - tv) / (1.0 + tv) - 1e-12 <= chance <= 1.0 - tv + 1e-12
    assert stats.binomtest(accepted, N, (1.0 - tv) / (1.0 + tv), alternative="less").pvalue > ALPHA


def test_the_same_law_always_agrees() -> None:
    p, _ = pair(20, 0.7, 0.3)
    assert agreements(p, p) == N


def test_noise_of_another_position_agrees_by_chance_only() -> None:
    p, q = pair(5, 0.7, 0.0)
    keys = many.seeds(N)
    x = many.sample(toys.logarithms(q)[None], keys, POSITION + 1)
    y = many.sample(toys.logarithms(p)[None], keys, POSITION)
    by_chance = float(p @ q)
    assert stats.binomtest(int((x == y).sum()), N, by_chance).pvalue > ALPHA
    assert stats.binomtest(int((x == y).sum()), N, chance_of_agreement(p, q)).pvalue < ALPHA
