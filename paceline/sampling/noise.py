"""Counter-based noise: Philox4x32-10 (Salmon et al., SC'11), keyed by the seed, addressed by position and token.

The value for a token is the same whichever other tokens are asked for, on every machine, in every process:
that is what lets drafter and verifier share it without exchanging it, and a replay reproduce it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from paceline.core.errors import InvalidRequest

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
GUMBEL_DOMAIN, UNIFORM_DOMAIN = 0, 1
"""Last counter word: noise of different purposes never overlaps."""

Words = NDArray[np.uint64]


def philox4x32(counter: tuple[Words, Words, Words, Words], key: tuple[int, int]) -> tuple[Words, Words, Words, Words]:
    """Ten rounds over arrays of 32-bit words (held in uint64); the Random123 test vectors hold."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = (p1 >> _SHIFT) ^ c1 ^ np.uint64(k0), p1 & _LOW, (p0 >> _SHIFT) ^ c3 ^ np.uint64(k1), p0 & _LOW
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return c0, c1, c2, c3


def split_seed(seed: int) -> tuple[int, int]:
    """The two key words of a 64-bit seed."""
    if not 0 <= seed < 1 << 64:
        raise InvalidRequest(f"seed must be in [0, 2^64), got {seed}. Choose a 64-bit number.")
    return seed & 0xFFFFFFFF, seed >> 32


def bits(seed: int, position: int, tokens: NDArray[np.int64], *, domain: int = GUMBEL_DOMAIN) -> Words:
    """64 random bits per token id, [len(tokens)]. One Philox block serves two neighbouring ids."""
    ids = tokens.astype(np.uint64)
    blocks = ids >> np.uint64(1)
    contiguous = len(ids) > 1 and bool(np.all(np.diff(tokens) == 1))
    if contiguous:  # a whole vocabulary: each block once instead of twice
        blocks = np.arange(int(blocks[0]), int(blocks[-1]) + 1, dtype=np.uint64)
    fixed = np.zeros_like(blocks)
    w0, w1, w2, w3 = philox4x32(
        (blocks, fixed + np.uint64(position), fixed, fixed + np.uint64(domain)), split_seed(seed)
    )
    low, high = w0 << _SHIFT | w1, w2 << _SHIFT | w3
    if contiguous:
        first = int(ids[0]) & 1
        return np.stack((low, high), axis=1).reshape(-1)[first : first + len(ids)]
    return np.where(ids & np.uint64(1), high, low)


def uniforms(words: Words) -> NDArray[np.float64]:
    """53-bit uniforms in (0, 1): never 0, never 1, with full resolution near 0."""
    v = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return np.minimum(v, 1.0 - 2.0**-53)


def gumbel(seed: int, position: int, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """Standard Gumbel noise per token id, [len(tokens)], finite.

    Written with log1p so that the resolution lies where it decides, in the upper tail: ties have
    probability about 2^-53 even there.
    """
    out: NDArray[np.float64] = -np.log(-np.log1p(-uniforms(bits(seed, position, tokens))))
    return out


def uniform(seed: int, position: int, lane: int) -> float:
    """One uniform in (0, 1) for the ratio samplers, independent of the Gumbel noise; lanes are independent."""
    return float(uniforms(bits(seed, position, np.array([lane], np.int64), domain=UNIFORM_DOMAIN))[0])
