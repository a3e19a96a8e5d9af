"""All layers of the Llama family in one compiled call: between two layers nothing is left to the interpreter."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from paceline.models.attend import Indices, Turn
from paceline.models.attention import attention, rope_and_store
from paceline.models.kernels import rms_norm
from paceline.models.linear import SHARED, add_product, gated_product, layer_of, multiply
from paceline.models.packed import Tiles
from paceline.models.views import Bits


class Stack(NamedTuple):
    """The weights of all layers, each array with the layers first; products as tiles and biases."""

    attention_norm: Bits
    qkv: Tiles
    qkv_bias: Bits
    out: Tiles
    out_bias: Bits
    mlp_norm: Bits
    gate_up: Tiles
    gate_up_bias: Bits
    down: Tiles
    down_bias: Bits


class Step(NamedTuple):
    """Where the rows of a step are."""

    turns: tuple[Turn, Turn]
    """Rows that attend at the same time; those of the first turn lie before those of the second."""
    homes: tuple[Indices, Indices]
    """Slots and positions [rows] where keys and values go."""
    angles: tuple[NDArray[np.float32], NDArray[np.float32]]
    """Cosine and sine [rows, d]."""
    taps: Indices
    """Numbers of layers."""


class Buffers(NamedTuple):
    """What a step needs beside ``x``; reused by all layers."""

    normed: Bits
    qkv: Bits
    q: Bits
    mixed: Bits
    gated: Bits


@njit(**SHARED)
def norm_rows(parts, x, weight, eps, out):
    """As ``rms_norm``, shared out among the threads."""
    num_rows = x.shape[0]
    for part in prange(parts):
        first, end = num_rows * part // parts, num_rows * (part + 1) // parts
        rms_norm(x[first:end], weight, eps, out[first:end])


@njit(nogil=True, cache=True)
def run_layers(parts, x, model, step, buffers, tapped):
    """x [rows, hidden] through all layers, in place; tapped [taps, rows, hidden] gets it after layers of ``step.taps``.

    model = (``Stack``, keys and values [layers, slots, kv, ...], (epsilon of norms, scale of scores)).
    """
    stack, (keys, values), (eps, scale) = model
    own, guests = step.turns
    count = own[0][0].shape[0]
    options = (0, scale)
    for layer in range(keys.shape[0]):
        cache = (keys[layer], values[layer])
        norm_rows(parts, x, stack.attention_norm[layer], eps, buffers.normed)
        multiply(parts, buffers.normed, layer_of(stack.qkv, layer), stack.qkv_bias[layer], buffers.qkv)
        rope_and_store(parts, buffers.qkv, step.angles, step.homes, cache, buffers.q)
        attention(parts, buffers.q[:count], cache, own, options, buffers.mixed[:count])
        if guests[0][0].shape[0]:
            attention(parts, buffers.q[count:], cache, guests, options, buffers.mixed[count:])
        add_product(parts, buffers.mixed, layer_of(stack.out, layer), stack.out_bias[layer], x)
        norm_rows(parts, x, stack.mlp_norm[layer], eps, buffers.normed)
        gated_product(parts, buffers.normed, layer_of(stack.gate_up, layer), stack.gate_up_bias[layer], buffers.gated)
        add_product(parts, buffers.gated, layer_of(stack.down, layer), stack.down_bias[layer], x)
        for tap in range(step.taps.shape[0]):
            if step.taps[tap] == layer + 1:
                tapped[tap] = x
