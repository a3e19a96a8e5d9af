"""Tests of laws: Pearson's chi-square with a stated false alarm rate, and the sizes that give it a stated power."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

ALPHA = 1e-6
"""False alarms per test: a law is rejected below this p-value. Seeds are fixed, so that a pass stays a pass."""
POWER = 0.99
"""Chance that a deviation of the stated size is rejected."""
TV = 0.01
"""Total variation that must be seen."""
FEWEST = 5.0
"""Cells that expect fewer draws are pooled."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def chi_square(counts: Ints, law: Floats) -> float:
    """p-value of ``counts`` under ``law``; 0 where something impossible happened."""
    if counts[law == 0.0].any():
        return 0.0
    possible = np.flatnonzero(law > 0.0)
    order = possible[np.argsort(law[possible])]
    observed, expected = counts[order], counts.sum() * law[order] / law.sum()
    enough = int(np.searchsorted(np.cumsum(expected), FEWEST)) + 1
    pool = max(enough, int((expected < FEWEST).sum()))
    observed = np.append(observed[:pool].sum(), observed[pool:])
    expected = np.append(expected[:pool].sum(), expected[pool:])
    return float(stats.chi2.sf(((observed - expected) ** 2 / expected).sum(), len(expected) - 1))


def draws_needed(cells: int, tv: float = TV) -> int:
    """Draws with which a deviation of ``tv``, however it is spread over ``cells``, is rejected with POWER at ALPHA.

    Its noncentrality is N sum(d^2 / p) >= N sum(|d|)^2 = 4 tv^2 N, by Cauchy and Schwarz.
    """
    df = cells - 1
    critical = stats.chi2.isf(ALPHA, df)
    noncentrality = optimize.brentq(lambda nc: stats.ncx2.sf(critical, df, nc) - POWER, 1.0, 1e5)
    return math.ceil(noncentrality / (4.0 * tv**2))


def shifted(law: Floats, tv: float = TV) -> Floats:
    """Another law at distance ``tv``, spread in the way that is hardest to see: in proportion to the chances."""
    law = law / law.sum()
    order = np.argsort(-law)
    up = order[: int(np.searchsorted(np.cumsum(law[order]), 0.5)) + 1]
    share = law[up].sum()
    factors = np.full(len(law), 1.0 - tv / (1.0 - share))
    factors[up] = 1.0 + tv / share
    moved: Floats = law * factors
    return moved
