"""Many sessions at once: the specification over arrays of seeds, fast enough for statistics.

``tests/statistical/test_many.py`` compares it with ``paceline.sampling``, token by token. n sessions, k drafted tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from paceline.sampling.noise import GUMBEL_DOMAIN, UNIFORM_DOMAIN, Words, philox4x32, uniforms

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
CHUNK = 1 << 14
"""Sessions whose noise is computed together: small arrays stay in the cache."""


def seeds(n: int) -> Words:
    """Neighbours in their low word, and neighbours in their high word: both halves of a seed must count."""
    index = np.arange(n, dtype=np.uint64)
    return np.where(index % 2 == 0, index, index << np.uint64(32) | np.uint64(0x5EED))


def gumbel(keys: Words, position: int, tokens: Ints) -> Floats:
    """``noise.gumbel`` for every seed, [n, len(tokens)]."""
    out: Floats = -np.log(-np.log1p(-uniforms(_bits(keys, position, tokens, GUMBEL_DOMAIN))))
    return out


def uniform(keys: Words, position: int, lane: int) -> Floats:
    """``noise.uniform`` for every seed, [n]."""
    return uniforms(_bits(keys, position, np.array([lane]), UNIFORM_DOMAIN))[:, 0]


def _bits(keys: Words, position: int, tokens: Ints, domain: int) -> Words:
    blocks, column = np.unique(tokens >> 1, return_inverse=True)
    halves = [_halves(part, position, blocks, domain) for part in np.split(keys, range(CHUNK, len(keys), CHUNK))]
    return np.concatenate(halves)[:, column, tokens & 1]


def _halves(keys: Words, position: int, blocks: Ints, domain: int) -> Words:
    """Both 64-bit numbers of every block, [n, blocks, 2]."""
    zero = np.zeros((len(keys), len(blocks)), np.uint64)
    counter = (zero + blocks.astype(np.uint64), zero + np.uint64(position), zero, zero + np.uint64(domain))
    low, high = keys[:, None] & np.uint64(0xFFFFFFFF), keys[:, None] >> np.uint64(32)
    w0, w1, w2, w3 = philox4x32(counter, (low, high))  # type: ignore[arg-type]  # arrays of key words broadcast
    return np.stack((w0 << np.uint64(32) | w1, w2 << np.uint64(32) | w3), axis=2)


def sample(scores: Floats, keys: Words, position: int) -> Ints:
    """``accept.sample`` for scores [n or 1, vocab]; ties go to the lowest id."""
    alive = np.flatnonzero((scores > -np.inf).any(axis=0))
    out: Ints = alive[np.argmax(scores[:, alive] + gumbel(keys, position, alive), axis=1)]
    return out


def draw(weights: Floats, u: Floats) -> Ints:
    """``accept.draw`` for weights [n, vocab]."""
    cdf = np.cumsum(weights, axis=1)
    point = np.minimum(u * cdf[:, -1], np.nextafter(cdf[:, -1], 0.0))
    return (cdf <= point[:, None]).sum(axis=1)


def residual(p: Floats, q: Floats, otherwise: Floats) -> Floats:
    """``accept.residual`` for rows [n, vocab]."""
    rest = np.maximum(p - q, 0.0)
    return np.where(rest.any(axis=1, keepdims=True), rest, otherwise)


def accept_coupled(x: Ints, scores: Floats, keys: Words, position: int) -> tuple[Ints, Ints]:
    """``accept.accept_coupled`` for drafts [n, k] and scores [n, k + 1, vocab]: accepted [n], next token [n]."""
    k = x.shape[1]
    target = np.stack([sample(scores[:, i], keys, position + i) for i in range(k + 1)], axis=1)
    accepted = _leading(x == target[:, :k])
    return accepted, _at(target, accepted)


def accept_chain(x: Ints, q: Floats, p: Floats, u: Floats, v: Floats) -> tuple[Ints, Ints]:
    """``accept.accept_chain`` for x and u [n, k], q [n, k, vocab], p [n, k + 1, vocab], v [n]."""
    n, k = x.shape
    kept = [u[:, i] * _at(q[:, i], x[:, i]) < _at(p[:, i], x[:, i]) for i in range(k)]
    accepted = _leading(np.array(kept, np.bool_).reshape(k, n).T)
    return accepted, draw(_weights(accepted, q, p, np.ones(n)), v)


def accept_block(x: Ints, q: Floats, p: Floats, u: Floats, v: Floats) -> tuple[Ints, Ints]:
    """``accept.accept_block``, shapes as for the chain."""
    n, k = x.shape
    carried, carried_at, accepted = np.ones(n), np.ones(n), np.zeros(n, np.int64)
    for i in range(1, k + 1):
        mass, drafted = carried * _at(p[:, i - 1], x[:, i - 1]), _at(q[:, i - 1], x[:, i - 1])
        carried = np.where(mass < drafted, mass / np.where(mass < drafted, drafted, 1.0), mass > 0.0)
        h = carried
        if i < k:
            excess = np.maximum(carried[:, None] * p[:, i] - q[:, i], 0.0).sum(axis=1)
            rest = excess + 1.0 - carried
            h = np.where(rest > 0.0, excess / np.where(rest > 0.0, rest, 1.0), 1.0)
        passed = u[:, i - 1] < h
        accepted, carried_at = np.where(passed, i, accepted), np.where(passed, carried, carried_at)
    return accepted, draw(_weights(accepted, q, p, carried_at), v)


def _weights(accepted: Ints, q: Floats, p: Floats, carried: Floats) -> Floats:
    """Of the token after the accepted ones: the target's own law after a whole draft, else the residual."""
    here, k = _at(p, accepted), q.shape[1]
    if k == 0:
        return here
    rest = residual(carried[:, None] * here, _at(q, np.minimum(accepted, k - 1)), here)
    return np.where((accepted == k)[:, None], here, rest)


def _leading(kept: NDArray[np.bool_]) -> Ints:
    """How many are true before the first false one, per row."""
    return np.cumprod(kept, axis=1).sum(axis=1)


def _at(rows: Any, index: Ints) -> Any:
    """``rows[i, index[i]]`` for every i."""
    return rows[np.arange(len(rows)), index]
