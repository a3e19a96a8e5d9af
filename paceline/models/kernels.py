"""Compiled row kernels for the CPU: each row is computed alone, in an order that only its own position decides.

That makes them invariant to batching by construction. One source serves bfloat16 (as uint16 bits) and float32 arrays:
``load`` widens to float32, ``store`` rounds back to the type of its second argument (round to nearest even).
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np
from numba import njit, prange
from numba.core import types
from numba.extending import intrinsic

ROW = {"fastmath": {"reassoc", "contract", "nsz"}, "nogil": True, "cache": True, "error_model": "numpy"}


@intrinsic
def _bits(typing_context, x):
    def generate(context, builder, signature, arguments):
        from llvmlite import ir

        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@intrinsic
def _float(typing_context, x):
    def generate(context, builder, signature, arguments):
        from llvmlite import ir

        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@nb.extending.register_jitable(inline="always")
def _widen(u):
    return _float(nb.uint32(u) << nb.uint32(16))


@nb.extending.register_jitable(inline="always")
def _narrow(f):
    u = _bits(f)
    return nb.uint16((u + nb.uint32(0x7FFF) + ((u >> nb.uint32(16)) & nb.uint32(1))) >> nb.uint32(16))


def load(x):
    """An array element as float32."""
    raise NotImplementedError(x)


def store(f, like):
    """A float32 as an element of the same type as ``like``."""
    raise NotImplementedError(f, like)


@nb.extending.overload(load, inline="always")
def _load(x):
    return (lambda x: _widen(x)) if x == types.uint16 else (lambda x: x)


@nb.extending.overload(store, inline="always")
def _store(f, like):
    return (lambda f, like: _narrow(f)) if like == types.uint16 else (lambda f, like: f)


@njit(**ROW)
def exp(x):
    """Cephes' single-precision exponential for x <= 0; unlike the library's it is vectorised in place."""
    x = max(x, nb.float32(-87.0))
    n = nb.int32(x * nb.float32(1.44269504) + nb.float32(128.5)) - nb.int32(128)
    f = nb.float32(n)
    r = x - f * nb.float32(0.693359375) + f * nb.float32(2.12194440e-4)
    p = nb.float32(1.9875691500e-4)
    p = p * r + nb.float32(1.3981999507e-3)
    p = p * r + nb.float32(8.3334519073e-3)
    p = p * r + nb.float32(4.1665795894e-2)
    p = p * r + nb.float32(1.6666665459e-1)
    p = p * r + nb.float32(5.0000001201e-1)
    p = p * r * r + r + nb.float32(1)
    return p * _float(nb.uint32(n + nb.int32(127)) << nb.uint32(23))


@njit(**ROW)
def rms_norm(x, weight, eps, out):
    """Root mean square norm of each row [rows, hidden], rounded where ``transformers`` rounds."""
    num_rows, size = x.shape
    for r in range(num_rows):
        total = nb.float32(0)
        for i in range(size):
            v = load(x[r, i])
            total += v * v
        inverse = nb.float32(1) / nb.float32(math.sqrt(total / nb.float32(size) + eps))
        for i in range(size):
            normed = store(load(x[r, i]) * inverse, x[r, i])
            out[r, i] = store(load(normed) * load(weight[i]), x[r, i])


@njit(**ROW)
def silu_gate(gate_up, out):
    """silu(gate) * up of each row [rows, 2 size], rounded where ``transformers`` rounds."""
    num_rows, size = out.shape
    for r in range(num_rows):
        for i in range(size):
            x = load(gate_up[r, i])
            e = exp(-abs(x))
            silu = x * (nb.float32(1) if x >= nb.float32(0) else e) / (nb.float32(1) + e)
            out[r, i] = store(load(store(silu, out[r, i])) * load(gate_up[r, size + i]), out[r, i])


@njit(**ROW)
def rope_and_store(qkv, cosine, sine, places, caches, q):
    """Rotate queries into ``q`` [rows, heads, d] (float32) and keys into the cache; values go there as they are.

    qkv [rows, (heads + 2 kv) d]; cosine, sine [rows, d]; places = (slots, positions) [rows];
    caches = keys [slots, kv, d, cap], values [slots, kv, cap, d].
    """
    slots, positions = places
    keys, values = caches
    num_rows, heads, d = q.shape
    kv, half = keys.shape[1], d // 2
    for r in range(num_rows):
        slot, position = slots[r], positions[r]
        for h in range(heads + kv):
            offset = h * d
            for i in range(d):
                own = load(qkv[r, offset + i])
                other = -load(qkv[r, offset + i + half]) if i < half else load(qkv[r, offset + i - half])
                like = qkv[r, offset]
                z = store(load(store(own * cosine[r, i], like)) + load(store(other * sine[r, i], like)), like)
                if h < heads:
                    q[r, h, i] = load(z)
                else:
                    keys[slot, h - heads, i, position] = z
        offset = (heads + kv) * d
        for h in range(kv):
            for i in range(d):
                values[slot, h, position, i] = qkv[r, offset + h * d + i]


@njit(**ROW)
def store_kv(k, v, places, caches):
    """Put keys and values [kv, rows, d] of each row at its slot and position."""
    slots, positions = places
    keys, values = caches
    kv, num_rows, d = k.shape
    for h in range(kv):
        for r in range(num_rows):
            slot, position = slots[r], positions[r]
            for i in range(d):
                keys[slot, h, i, position] = k[h, r, i]
                values[slot, h, position, i] = v[h, r, i]


@njit(**ROW)
def _scores(q, keys, end, s):
    """s[j] = q . keys[:, j] for j < end; q [d], keys [d, cap]; d is a multiple of 8."""
    for j in range(end):
        s[j] = nb.float32(0)
    for d in range(0, keys.shape[0], 8):
        q0, q1, q2, q3 = q[d], q[d + 1], q[d + 2], q[d + 3]
        q4, q5, q6, q7 = q[d + 4], q[d + 5], q[d + 6], q[d + 7]
        for j in range(end):
            s[j] += (
                (q0 * load(keys[d, j]) + q1 * load(keys[d + 1, j]))
                + (q2 * load(keys[d + 2, j]) + q3 * load(keys[d + 3, j]))
            ) + (
                (q4 * load(keys[d + 4, j]) + q5 * load(keys[d + 5, j]))
                + (q6 * load(keys[d + 6, j]) + q7 * load(keys[d + 7, j]))
            )


@njit(**ROW)
def _softmax(s, end, first):
    """exp(s - max) in place for j < end, nothing below ``first``; returns 1 / sum."""
    for j in range(first):
        s[j] = nb.float32(-np.inf)
    top = s[0]
    for j in range(end):
        top = max(top, s[j])
    total = nb.float32(0)
    for j in range(end):
        e = exp(s[j] - top)
        s[j] = e
        total += e
    for j in range(first):
        s[j] = nb.float32(0)
    return nb.float32(1) / total


@njit(**ROW)
def _mix(s, values, end, out):
    """out[d] = sum of s[j] values[j, d] for j < end."""
    size = values.shape[1]
    for d in range(size):
        out[d] = nb.float32(0)
    whole = end - end % 8
    for j in range(0, whole, 8):
        s0, s1, s2, s3 = s[j], s[j + 1], s[j + 2], s[j + 3]
        s4, s5, s6, s7 = s[j + 4], s[j + 5], s[j + 6], s[j + 7]
        for d in range(size):
            out[d] += (
                (s0 * load(values[j, d]) + s1 * load(values[j + 1, d]))
                + (s2 * load(values[j + 2, d]) + s3 * load(values[j + 3, d]))
            ) + (
                (s4 * load(values[j + 4, d]) + s5 * load(values[j + 5, d]))
                + (s6 * load(values[j + 6, d]) + s7 * load(values[j + 7, d]))
            )
    for j in range(whole, end):
        for d in range(size):
            out[d] += s[j] * load(values[j, d])


@njit(**ROW)
def _attend_group(q, keys, values, end, window, out):
    """The heads of one row that share keys and values; q [group, d], out [group * d].

    Loops start at 0 although a window may begin later: only then does the compiler know that no index is negative.
    """
    group, size = q.shape
    s, mixed = np.empty(keys.shape[1], np.float32), np.empty(size, np.float32)
    first = max(0, end - window) if window else 0
    for g in range(group):
        _scores(q[g], keys, end, s)
        inverse = _softmax(s, end, first)
        _mix(s, values, end, mixed)
        for d in range(size):
            out[g * size + d] = store(mixed[d] * inverse, out[0])


@njit(**ROW)
def _swap(keys, values, position, home_keys, home_values, home):
    """Exchange two positions of a head: keys [d, cap], values [cap, d]."""
    for i in range(keys.shape[0]):
        keys[i, position], home_keys[i, home] = home_keys[i, home], keys[i, position]
        values[position, i], home_values[home, i] = home_values[home, i], values[position, i]


@njit(parallel=True, nogil=True, cache=True)
def attention(q, caches, rows, firsts, window, out):
    """Causal attention of each row over its slot, up to and including its own position.

    q [rows, heads, d], scaled, float32; window: positions seen at most, 0 for all; out [rows, heads * d].
    rows = (slots, positions, slots and positions of homes), each [rows]: a row whose keys and values are not at its
    place takes it while it attends, so that it sees the very memory that any row there sees. Rows firsts[g] to
    firsts[g + 1] do so in turn.
    """
    keys, values = caches
    slots, positions, home_slots, home_positions = rows
    _, heads, size = q.shape
    kv, num_groups = keys.shape[1], firsts.shape[0] - 1
    group = heads // kv
    for i in prange(num_groups * kv):
        g, h = i % num_groups, i // num_groups  # rows of one step differ in length: each thread gets some of all
        low, high = h * group, (h + 1) * group
        for r in range(firsts[g], firsts[g + 1]):
            slot, position, home_slot, home = slots[r], positions[r], home_slots[r], home_positions[r]
            is_guest = slot != home_slot or position != home
            if is_guest:
                _swap(keys[slot, h], values[slot, h], position, keys[home_slot, h], values[home_slot, h], home)
            _attend_group(
                q[r, low:high], keys[slot, h], values[slot, h], position + 1, window, out[r, low * size : high * size]
            )
            if is_guest:
                _swap(keys[slot, h], values[slot, h], position, keys[home_slot, h], values[home_slot, h], home)
