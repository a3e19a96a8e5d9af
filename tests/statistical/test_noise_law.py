"""The noise is standard Gumbel and uniform, and independent over tokens, positions and seeds.

Distribution: N = 2^20 per sample, Kolmogorov-Smirnov and Anderson-Darling, alpha = 10^-6 each. KS sees any distance of
.0038 between the distribution functions with power .99 (a shift by .011 is one of .0040). Independence: N = 3.1 to 4.2
million pairs per lag, alpha = 10^-6: correlations from .0041 on are seen with power .99. Seeds are fixed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize, stats
from support import many
from support.laws import ALPHA

from paceline.sampling import noise

Floats = NDArray[np.float64]
N = 1 << 20
SAMPLES = ("tokens", "positions", "low words of the seed", "high words of the seed")


@functools.cache
def sample(over: str) -> Floats:
    """N Gumbel numbers that differ in one part of their address only, or nearly so."""
    if over == "tokens":
        return noise.gumbel(1, 0, np.arange(N))
    if over == "positions":
        return np.concatenate([noise.gumbel(2, position, np.arange(64)) for position in range(N // 64)])
    shift = np.uint64(0 if over.startswith("low") else 32)
    return many.gumbel(np.arange(N, dtype=np.uint64) << shift, 3, np.array([7]))[:, 0]


def kolmogorov_smirnov(numbers: Floats) -> float:
    return float(stats.kstest(numbers, "gumbel_r").pvalue)


def anderson_darling(numbers: Floats) -> float:
    """An upper bound of the p-value, by Chernoff from the limit law's characteristic function (1952)."""
    ordered, n = np.sort(numbers), len(numbers)
    below = -np.exp(-ordered)  # log F
    above = np.log(-np.expm1(below))  # log (1 - F)
    statistic = -n - ((2 * np.arange(1, n + 1) - 1) * (below + above[::-1])).sum() / n

    def log_bound(t: float) -> float:
        return float(-t * statistic + 0.5 * np.log(-2 * np.pi * t / np.cos(0.5 * np.pi * np.sqrt(1 + 8 * t))))

    return float(np.exp(min(0.0, optimize.minimize_scalar(log_bound, bounds=(0.01, 0.9999)).fun)))


TESTS: list[Callable[[Floats], float]] = [kolmogorov_smirnov, anderson_darling]


@pytest.mark.parametrize("p_value", TESTS)
@pytest.mark.parametrize("over", SAMPLES)
def test_noise_is_standard_gumbel_whatever_part_of_its_address_varies(
    p_value: Callable[[Floats], float], over: str
) -> None:
    assert p_value(sample(over)) > ALPHA


WRONG: dict[str, Callable[[Floats], Floats]] = {
    "shifted": lambda noise: noise + 0.011,
    "wider": lambda noise: noise * 1.02,
    "the other tail": lambda noise: -noise,
    "of one decimal": lambda noise: noise.round(1),
    "normal": lambda noise: np.random.default_rng(1).normal(np.euler_gamma, np.pi / 6**0.5, len(noise)),
}


@pytest.mark.parametrize("p_value", TESTS)
@pytest.mark.parametrize("name", WRONG)
def test_a_slightly_different_law_is_rejected(p_value: Callable[[Floats], float], name: str) -> None:
    assert p_value(WRONG[name](sample("tokens"))) < ALPHA


@pytest.mark.parametrize("lane", [0, 1, 16])
def test_the_other_noise_is_uniform_and_does_not_follow_the_gumbel_noise(lane: int) -> None:
    keys = many.seeds(N)
    numbers = many.uniform(keys, 3, lane)
    assert stats.kstest(numbers, "uniform").pvalue > ALPHA
    assert correlation(numbers, np.exp(-np.exp(-many.gumbel(keys, 3, np.array([lane]))[:, 0]))) > ALPHA


# --- independence ----------------------------------------------------------------------------------------------------


@functools.cache
def field() -> Floats:
    """Uniforms behind the noise, [256 positions, 64 seeds, 256 tokens]: 32 neighbours in either word of the seed."""
    low = np.arange(32, dtype=np.uint64)
    keys = np.concatenate((low, low << np.uint64(32)))
    return np.stack([np.exp(-np.exp(-many.gumbel(keys, position, np.arange(256)))) for position in range(256)])


def correlation(one: Floats, other: Floats) -> float:
    """p-value of no correlation, two-sided."""
    a, b = one - one.mean(), other - other.mean()
    z = (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()) * np.sqrt(a.size)
    return float(2 * stats.norm.sf(abs(z)))


@pytest.mark.parametrize("axis", ["positions", "seeds", "tokens"])
@pytest.mark.parametrize("lag", [1, 2, 3, 4, 16])
def test_neighbours_are_correlated_neither_in_height_nor_in_distance_from_the_middle(axis: str, lag: int) -> None:
    numbers = np.moveaxis(field(), ["positions", "seeds", "tokens"].index(axis), 0)
    assert correlation(numbers[:-lag], numbers[lag:]) > ALPHA
    assert correlation(np.abs(numbers[:-lag] - 0.5), np.abs(numbers[lag:] - 0.5)) > ALPHA


def test_diagonal_neighbours_are_not_correlated() -> None:
    numbers = field()
    assert correlation(numbers[:-1, :, 1:], numbers[1:, :, :-1]) > ALPHA
    assert correlation(numbers[:-1, :, :-1], numbers[1:, :, 1:]) > ALPHA
    assert correlation(numbers[:-1, 1:], numbers[1:, :-1]) > ALPHA


def test_neighbours_that_share_a_little_are_found_out() -> None:
    numbers, other = field()[:-1], field()[1:]
    mixed = np.where(np.arange(256) % 200 == 0, numbers, other)
    assert correlation(numbers, mixed) < ALPHA


@pytest.mark.parametrize("part", ["seed", "position", "token"])
def test_every_bit_of_an_address_turns_every_bit_of_the_noise_half_of_the_time(part: str) -> None:
    """Binomial, n = 4096 per pair of bits, alpha = 10^-6 over all pairs together."""
    width = {"seed": 64, "position": 32, "token": 31}[part]
    rng = np.random.default_rng(5)
    tokens = rng.integers(1 << 31, size=4096)
    before = noise.bits(77, 12, tokens)
    counts = []
    for bit in range(width):
        seed = 77 ^ (1 << bit) if part == "seed" else 77
        position = 12 ^ (1 << bit) if part == "position" else 12
        after = noise.bits(seed, position, tokens ^ (1 << bit) if part == "token" else tokens)
        turned = (before ^ after)[:, None] >> np.arange(64, dtype=np.uint64) & np.uint64(1)
        counts.append(turned.sum(axis=0))
    worst = np.abs(np.array(counts, np.int64) - 2048).max()
    assert 2 * stats.binom.sf(2048 + worst - 1, 4096, 0.5) * width * 64 > ALPHA
