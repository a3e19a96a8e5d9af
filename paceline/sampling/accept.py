"""Three lossless ways from a draft to tokens.

coupled    the target's token is argmax(score + G) with noise keyed by (seed, position); a draft token is kept iff it
           equals it (Gumbel-max; Daliri et al., 2024). Output is the same whatever was drafted.
rejection  token-wise ratio test (Leviathan et al., Chen et al., 2023): equal in law.
block      joint test over the whole draft (Sun et al., 2024): equal in law, accepts at least as much.
Shared noise and a ratio test must never meet: that is biased. So is uniform noise keyed by token position under block,
which has looked at positions that it rejects: key it by the position where the round starts, and count lanes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paceline.sampling.noise import gumbel

Probs = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the target made of a draft."""

    accepted: int
    next_token: int


def sample(scores: Probs, seed: int, position: int, *, greedy: bool) -> int:
    """The target's token at ``position``: a pure function of its arguments. Ties go to the lowest id."""
    if greedy:
        return int(np.argmax(scores))
    alive = np.flatnonzero(scores > -np.inf)
    return int(alive[np.argmax(scores[alive] + gumbel(seed, position, alive))])


def accept_coupled(x: Sequence[int], scores: Probs, seed: int, position: int, *, greedy: bool) -> Verdict:
    """Walk down ``scores`` [k + 1, vocab] from ``position`` while the draft is what the target says anyway."""
    for i, token in enumerate(x):
        target = sample(scores[i], seed, position + i, greedy=greedy)
        if token != target:
            return Verdict(i, target)
    return Verdict(len(x), sample(scores[len(x)], seed, position + len(x), greedy=greedy))


def accept_chain(x: Sequence[int], q: Probs, p: Probs, u: Probs, v: float) -> Verdict:
    """Keep the longest prefix of ``x`` that leaves the output distributed as ``p``.

    ``u`` [k] decides acceptance, ``v`` draws the target's token; all independent of how ``x`` was drawn.
    """
    for i, token in enumerate(x):
        # u * q < p, not u < p / q: no division, hence no epsilon and no bias.
        if not u[i] * q[i, token] < p[i, token]:
            return Verdict(i, draw(residual(p[i], q[i]), v))
    return Verdict(len(x), draw(p[len(x)], v))


def accept_block(x: Sequence[int], q: Probs, p: Probs, u: Probs, v: float) -> Verdict:
    """Block verification: every position is tested, and a later success overrides an earlier failure."""
    k, carried, accepted, carried_at = len(x), 1.0, 0, 1.0
    for i, token in enumerate(x, start=1):
        # min(mass / q, 1) without dividing by zero: a token that the target never says carries nothing.
        mass, drafted = carried * p[i - 1, token], q[i - 1, token]
        carried = mass / drafted if mass < drafted else float(mass > 0.0)
        h = carried if i == k else _block_chance(carried, p[i], q[i])
        if u[i - 1] < h:
            accepted, carried_at = i, carried
    if accepted == k:
        return Verdict(k, draw(p[k], v))
    return Verdict(accepted, draw(residual(carried_at * p[accepted], q[accepted], p[accepted]), v))


def _block_chance(carried: float, p: Probs, q: Probs) -> float:
    """h_i of the paper: 1 where the denominator vanishes."""
    excess = float(np.maximum(carried * p - q, 0.0).sum())
    rest = excess + 1.0 - carried
    return excess / rest if rest > 0.0 else 1.0


def residual(p: Probs, q: Probs, otherwise: Probs | None = None) -> Probs:
    """The mass of ``p`` above ``q``; ``otherwise`` (or ``p``) where rounding leaves none."""
    rest = np.maximum(p - q, 0.0)
    if rest.any():
        return rest
    return p if otherwise is None else otherwise


def draw(weights: Probs, u: float) -> int:
    """Inverse-CDF draw; weights need not be normalised, zero weights are never drawn."""
    cdf = np.cumsum(weights)
    below = np.nextafter(cdf[-1], 0.0)  # u times a subnormal sum may round up to the sum
    return int(cdf.searchsorted(min(u * cdf[-1], below), side="right"))
