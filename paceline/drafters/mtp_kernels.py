"""The multi-token network's parts as compiled calls: a block is a dozen small steps, and each call costs its own time.

Rows [rows, width] are bfloat16 bits or float32; products are tiles with a bias of zeros, as ``models.linear`` takes
them.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from paceline.models.attention import rotate
from paceline.models.kernels import rms_norm
from paceline.models.linear import add_product, gated_product, multiply

COMPILED = {"nogil": True, "cache": True, "error_model": "numpy"}


@njit(**COMPILED)
def join_rows(parts, features, words, norms, eps, join, out):
    """out = join([norm of each tap's features, words]); features [rows, taps * hidden], norms [taps, hidden]."""
    num_rows, hidden = len(words), norms.shape[1]
    inputs = np.empty((num_rows, features.shape[1] + words.shape[1]), words.dtype)
    for tap in range(len(norms)):
        columns = slice(tap * hidden, (tap + 1) * hidden)
        rms_norm(features[:, columns], norms[tap], eps, inputs[:, columns])
    inputs[:, features.shape[1] :] = words
    multiply(parts, inputs, join[0], join[1], out)


@njit(**COMPILED)
def project(parts, x, norm, eps, qkv, angles, out):
    """out [rows, 3, heads, size]: queries, keys and values; the first two rotated by angles [rows, size]."""
    num_rows, _, heads, size = out.shape
    normed, joined = np.empty_like(x), np.empty((num_rows, 3 * heads * size), x.dtype)
    rms_norm(x, norm, eps, normed)
    multiply(parts, normed, qkv[0], qkv[1], joined)
    cosine, sine = angles
    for r in range(num_rows):
        for part in range(3):
            for h in range(heads):
                start = (part * heads + h) * size
                if part < 2:
                    rotate(joined[r, start : start + size], cosine[r], sine[r], out[r, part, h])
                else:
                    out[r, part, h] = joined[r, start : start + size]


@njit(**COMPILED)
def finish(parts, x, mixed, product, norm, eps, gated):
    """x += product(mixed), then x += down(silu(gate) * up) of x normed."""
    add_product(parts, mixed, product[0], product[1], x)
    normed = np.empty_like(x)
    rms_norm(x, norm, eps, normed)
    add_gated(parts, normed, gated, x)


@njit(**COMPILED)
def advance(parts, states, words, norm, eps, gated):
    """states += down(silu(gate) * up) of [states normed, words]."""
    width = states.shape[1]
    inputs = np.empty((len(states), width + words.shape[1]), states.dtype)
    rms_norm(states, norm, eps, inputs[:, :width])
    inputs[:, width:] = words
    add_gated(parts, inputs, gated, states)


@njit(**COMPILED)
def add_gated(parts, inputs, gated, out):
    """out += down(silu(gate) * up) of inputs; gated = (up, down, buffer of one row)."""
    up, down, inner = gated
    between = np.empty((len(inputs), len(inner)), inputs.dtype)
    gated_product(parts, inputs, up[0], up[1], between)
    add_product(parts, between, down[0], down[1], out)


@njit(**COMPILED)
def score(parts, states, norm, eps, head, out):
    """out [rows, vocab] of states."""
    normed = np.empty_like(states)
    rms_norm(states, norm, eps, normed)
    multiply(parts, normed, head[0], head[1], out)
