"""Compiled twin of ``sampling.noise`` for whole vocabularies: the same bits, without the intermediate arrays.

Only tokens whose noise could still win get their logarithms: those are then computed by the specification.
"""

from __future__ import annotations

import numba as nb
import numpy as np
from numba import njit
from numpy.typing import NDArray

from paceline.sampling.noise import GUMBEL_DOMAIN, gumbel, split_seed

_SLACK = 1e-6
"""Approximate scores this close to the best are compared exactly."""


@njit(nogil=True, cache=True, error_model="numpy")
def _philox_low(block, position, key0, key1):
    mask = nb.uint64(0xFFFFFFFF)
    c0, c1, c2, c3 = block & mask, position & mask, nb.uint64(0), nb.uint64(GUMBEL_DOMAIN)
    k0, k1 = key0, key1
    for _ in range(10):
        p0, p1 = c0 * nb.uint64(0xD2511F53), c2 * nb.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (
            ((p1 >> nb.uint64(32)) ^ c1 ^ k0) & mask,
            p1 & mask,
            ((p0 >> nb.uint64(32)) ^ c3 ^ k1) & mask,
            p0 & mask,
        )
        k0, k1 = (k0 + nb.uint64(0x9E3779B9)) & mask, (k1 + nb.uint64(0xBB67AE85)) & mask
    return (c0 << nb.uint64(32)) | c1, (c2 << nb.uint64(32)) | c3


@njit(nogil=True, cache=True, error_model="numpy")
def _noisy(scores, ids, position, key0, key1, out):
    """out[i] = scores[i] + noise of token ids[i], ids ascending, up to rounding in the last places."""
    last_block, low, high = nb.uint64(0xFFFFFFFFFFFFFFFF), nb.uint64(0), nb.uint64(0)
    for i in range(ids.shape[0]):
        token = nb.uint64(ids[i])
        block = token >> nb.uint64(1)
        if block != last_block:
            low, high = _philox_low(block, nb.uint64(position), key0, key1)
            last_block = block
        bits = high if token & nb.uint64(1) else low
        u = min((np.float64(bits >> nb.uint64(11)) + 0.5) * 2.0**-53, 1.0 - 2.0**-53)
        out[i] = scores[i] - np.log(-np.log1p(-u))


def gumbel_argmax(scores: NDArray[np.float64], seed: int, position: int, ids: NDArray[np.int64] | None = None) -> int:
    """The token with the largest score + noise, equal to ``sampling.accept.sample``.

    scores [vocab]; with ``ids``, ascending, ``scores[i]`` is that of token ``ids[i]``.
    """
    alive = np.flatnonzero(scores > -np.inf)
    kept = scores[alive]
    tokens = alive if ids is None else ids[alive]
    if len(alive) == 1:
        return int(tokens[0])
    approximate = with_noise(kept, seed, position, tokens)
    close = approximate >= approximate.max() - _SLACK
    exact = kept[close] + gumbel(seed, position, tokens[close])
    return int(tokens[close][np.argmax(exact)])


def with_noise(scores: NDArray[np.float64], seed: int, position: int, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """score + noise of each token [n], ids ascending, up to rounding in the last places: good enough for a guess."""
    key0, key1 = split_seed(seed)
    out = np.empty(len(scores))
    _noisy(scores, tokens, position, np.uint64(key0), np.uint64(key1), out)
    return out
